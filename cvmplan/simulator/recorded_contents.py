"""
What the pages of a recorded add hold: bytes of the recording, or those of an image that fit.

An image's bytes are taken where their SHA-256 is the recorded one, and nowhere else.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from cvmplan.core.findings import Finding
from cvmplan.kvm.interface import PAGE
from cvmplan.kvm.recorded import Taken
from cvmplan.simulator.memslots import MOST_FINDINGS
from cvmplan.simulator.source import UNKNOWN, ZERO_CHUNK, Source

if TYPE_CHECKING:
    from cvmplan.simulator.attempts import Attempt

HASHED: Final = ("normal", "vmsa", "")
"""Page types whose contents are measured; "" is a TDX or SEV add."""
MOST_ZEROS: Final = 1 << 30  # bytes
MOST_NAMED: Final = 5  # lines that are named of contents that are not known


class RecordedContents:
    """The contents of the adds of one recording; `pages` are (gpa, size, contents) of an image."""

    def __init__(self, pages: Sequence[tuple[int, int, Source]]) -> None:
        self._pages = sorted(pages, key=lambda page: page[0])
        self._starts = [gpa for gpa, _, _ in self._pages]
        self._unknown: list[tuple[int, str]] = []
        self._others: list[Finding] = []

    def of(self, attempt: Attempt) -> Source | None:
        """Return what an add took; None where it took nothing from user space."""
        taken = attempt.taken
        if taken is None or taken.size != attempt.size:
            if not attempt.src:
                return None
            if _counts(attempt):
                self._unknown.append((attempt.seq, "not recorded"))
            return UNKNOWN
        if taken.data is not None:
            return Source(memoryview(taken.data))
        if taken.zeros and _counts(attempt) and taken.sha256 == _hash_of_zeros(taken.size):
            return Source()
        return self._found(attempt, taken)

    def _found(self, attempt: Attempt, taken: Taken) -> Source:
        """Return the image's bytes at the address of an add where they are those recorded."""
        held = self._held(attempt.gpa, taken.size) if attempt.placed else None
        if held is not None:
            made = sha256()
            for piece in held.chunks(0, taken.size):
                made.update(b"" if piece is None else piece)
            if made.digest() == taken.sha256:
                return held
        if not _counts(attempt):
            return UNKNOWN
        if held is not None:
            low, last = attempt.gpa, attempt.gpa + taken.size - PAGE
            problem = f"line {attempt.seq} added other contents than the image has there, "
            problem += f"SHA-256 {taken.sha256.hex()}"
            self._others.append(Finding("contents-differ", problem, low, last))
        else:
            why = f"only a hash was recorded, SHA-256 {taken.sha256.hex()}"
            self._unknown.append((attempt.seq, why))
        return Source(known=False, size=taken.size, sha256=taken.sha256)

    def _held(self, gpa: int, size: int) -> Source | None:
        """Return the image's contents from `gpa` on, None where no region holds all of it."""
        index = bisect_right(self._starts, gpa) - 1
        if index < 0:
            return None
        start, length, source = self._pages[index]
        if gpa + size > start + length or not source.known or source.digest_after is not None:
            return None
        return source._replace(at=source.at - (gpa - start))

    def unknown(self) -> Iterator[Finding]:
        """Yield an error for contents that the image has otherwise, a note on those not known."""
        yield from self._others[:MOST_FINDINGS]
        for seq, why in self._unknown[:MOST_NAMED]:
            yield Finding("not-checked", f"contents of line {seq} are not known: {why}")
        more = len(self._unknown) - MOST_NAMED
        if more > 0:
            yield Finding("not-checked", f"contents of {more} more lines are not known")


def _counts(attempt: Attempt) -> bool:
    """Whether the contents of an add are measured."""
    measured = attempt.measured or not attempt.op.startswith("tdx-")
    return attempt.page_type in HASHED and measured


@cache
def _hash_of_zeros(size: int) -> bytes:
    """Return the SHA-256 of `size` zeros, b"" where finding out would take too long."""
    made = sha256()
    for at in range(0, min(size, MOST_ZEROS), len(ZERO_CHUNK)):
        made.update(ZERO_CHUNK[: min(len(ZERO_CHUNK), size - at)])
    return made.digest() if size <= MOST_ZEROS else b""
