"""
What the pages of a region or an operation hold.

Plans refer to contents, they do not embed them: a span of an input (`Blob`), a few bytes
that the planner made, zeros, something that only the host will know, or a digest given in
place of the pages.  Where contents are shorter than their pages the rest is zero.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from hashlib import sha256
from operator import itemgetter
from typing import TypeAlias

from cvmplan.core.blob import Blob
from cvmplan.core.errors import PlanError
from cvmplan.core.records import Frozen, record
from cvmplan.core.values import PAGE


@record
class Made(Frozen):
    """Bytes that the planner made, at offset `at` of the first page."""

    data: bytes
    at: int = 0


@record
class Zeros(Frozen):
    """Zeros, explicitly."""


@record
class Filled(Frozen):
    """Filled by the VMM at launch, never measured: "cpuid", "secrets", "hob", "parameters"."""

    what: str


@record
class DigestAfter(Frozen):
    """The running SNP launch digest after these pages stands in for them (48 bytes)."""

    digest: bytes

    def __post_init__(self) -> None:
        if len(self.digest) != 48:
            raise PlanError(f"a launch digest of {len(self.digest)} bytes, expected 48")


@record
class Hashed(Frozen):
    """What each page adds to the SNP chain (64 bytes) in place of its bytes, hashed elsewhere."""

    links: bytes


Contents: TypeAlias = Blob | Made | Zeros | Filled | DigestAfter | Hashed


def known_bytes(contents: Contents) -> Blob | bytes:
    """Return the bytes before the zeros; PlanError where contents are not known before launch."""
    match contents:
        case Blob():
            return contents
        case Made(data, at):
            return bytes(at) + data
        case Zeros():
            return b""
        case Filled(what):
            raise PlanError(f"the VMM fills these pages at launch ({what}): not measurable")
        case DigestAfter():
            raise PlanError("only the digest after these pages is known, not their contents")
        case Hashed():
            raise PlanError("only the digests of these pages are known, not their contents")


def check_fits(contents: Contents, size: int) -> None:
    """Raise PlanError where there are more bytes than `size`."""
    if isinstance(contents, Blob | Made):
        length = len(contents) if isinstance(contents, Blob) else contents.at + len(contents.data)
        if length > size:
            raise PlanError(f"{length:#x} bytes of contents for {size:#x} bytes of memory")


def part(contents: Contents, offset: int, size: int) -> Contents:
    """Return the contents of bytes [offset, offset + size) of a run; `at` becomes 0."""
    if isinstance(contents, Filled | Zeros):
        return contents
    data = known_bytes(contents)
    end = min(offset + size, len(data))
    if offset >= end:
        return Zeros()
    return data.slice(offset, end) if isinstance(data, Blob) else Made(data[offset:end])


def page_key(page: memoryview) -> bytes:
    """Return by what a page is found that has the same bytes: their SHA-256."""
    return sha256(page).digest()


def page_runs(contents: Contents, size: int) -> Iterator[tuple[memoryview | None, int]]:
    """
    Yield a run of `size` bytes (whole pages) as (bytes of n pages, n), or (None, n) for zeros.

    Nothing is copied but the one page where contents end inside it.
    """
    data = known_bytes(contents)
    view = data.data if isinstance(data, Blob) else memoryview(data)
    whole = len(view) // PAGE
    if whole:
        yield view[: whole * PAGE], whole
    done = whole * PAGE
    if done < len(view):
        yield memoryview(bytes(view[done:]).ljust(PAGE, b"\0")), 1
        done += PAGE
    if done < size:
        yield None, (size - done) // PAGE


def byte_string(contents: Contents, size: int) -> bytes:
    """Return exactly `size` bytes; for single commands and small runs."""
    data = known_bytes(contents)
    return bytes(data.data if isinstance(data, Blob) else data).ljust(size, b"\0")


class Held:
    """Runs of memory with what each holds; runs that are put in do not overlap."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, int, Contents]] = []

    def put(self, gpa: int, size: int, contents: Contents) -> None:
        """Note what the `size` bytes at `gpa` hold."""
        insort(self._runs, (gpa, size, contents), key=itemgetter(0))

    def cut(self, gpa: int, size: int) -> Iterator[tuple[int, int, Contents]]:
        """Yield (gpa, size, contents) of what is held in [gpa, gpa + size), upwards."""
        index = max(bisect_right(self._runs, gpa, key=itemgetter(0)) - 1, 0)
        for start, length, contents in map(self._runs.__getitem__, range(index, len(self._runs))):
            low, high = max(start, gpa), min(start + length, gpa + size)
            if (low, high) == (start, start + length):
                yield start, length, contents
            elif low < high:
                yield low, high - low, part(contents, low - start, high - low)
            if high < start + length:
                return
