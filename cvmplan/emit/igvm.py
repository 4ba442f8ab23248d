"""
Launches as an IGVM file: one platform and one compatibility mask for each, its headers, the data.

Source: microsoft/igvm e6c3ff1, igvm_defs/src/lib.rs (layouts), igvm/src/lib.rs (order of sections).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Final, NamedTuple
from zlib import crc32

from cvmplan.core.blob import Blob
from cvmplan.core.errors import UnsupportedError
from cvmplan.core.platform import Platform
from cvmplan.core.values import PAGE
from cvmplan.emit import identity
from cvmplan.images.igvm_headers import FIXED, FIXED_2, HEAD, LAYOUTS, MAGIC, PLATFORMS
from cvmplan.images.igvm_regions import NAMES
from cvmplan.launch.directives import Context, Directive, Directives, ErrorRange, Pages
from cvmplan.memory.contents import Contents, Filled, page_key, page_runs
from cvmplan.platforms.snp import idblock

VERSIONS: Final = (1, 2)
X64: Final = 0
MOST: Final = (1 << 32) - 1  # bytes of a file: total_file_size and offsets have 32 bits
MOST_REQUIRED: Final = (1 << 32) - PAGE  # bytes of one REQUIRED_MEMORY
TYPES: Final = {layout.name: number for number, layout in LAYOUTS.items()}


class Part(NamedTuple):
    """What the file has of one launch; `required`: (gpa, size) of memory that must be there."""

    platform: Platform
    made: Directives
    required: tuple[tuple[int, int], ...] = ()


def igvm(parts: Sequence[Part], version: int) -> list[bytes | memoryview]:
    """
    Return the bytes of the file in pieces, headers first; each different page of data once.

    parts    launches, each of a platform of its own
    version  of the format: 1 or 2

    UnsupportedError for a platform that the format has no number for, and for more than 4 GiB.
    """
    _check_platforms(parts)
    fixed = FIXED.size + (FIXED_2.size if version == VERSIONS[1] else 0)
    size = sum(_size(part) for part in parts)
    data = _Data(fixed + size)
    head = bytearray()
    for section in (_platforms, _policies, _directives):
        for number, part in enumerate(parts):
            for header in section(part, 1 << number, data):
                head += header
    total = fixed + len(head) + data.size
    start = bytearray(FIXED.pack(MAGIC, version, fixed, len(head), total, 0))
    if version == VERSIONS[1]:
        start += FIXED_2.pack(X64, PAGE)
    start[20:24] = crc32(head, crc32(start)).to_bytes(4, "little")
    return [bytes(start), bytes(head), *data.pieces()]


def _check_platforms(parts: Sequence[Part]) -> None:
    """Raise UnsupportedError where a platform has no number, or comes twice."""
    seen: set[Platform] = set()
    for part in parts:
        if part.platform not in NAMES:
            raise UnsupportedError(f"an IGVM file has no {part.platform} launches")
        if part.platform in seen:
            raise UnsupportedError(f"an IGVM file has one {part.platform} launch, not two")
        seen.add(part.platform)


def _header(name: str, *fields: int | bytes) -> bytes:
    """Return one variable header, padded to 8 bytes."""
    layout = LAYOUTS[TYPES[name]]
    packed = layout.struct.pack(*fields)
    return HEAD.pack(TYPES[name], len(packed)) + packed + bytes(-len(packed) % 8)


def _length(name: str) -> int:
    return HEAD.size + -(-LAYOUTS[TYPES[name]].struct.size // 8) * 8


# --- sections ------------------------------------------------------------------------------------


def _platforms(part: Part, mask: int, _: _Data) -> Iterator[bytes]:
    kind, made = PLATFORMS.index(NAMES[part.platform]), part.made
    boundary = made.shared_gpa_boundary
    yield _header("SUPPORTED_PLATFORM", mask, made.highest_vtl, kind, 1, boundary)


def _policies(part: Part, mask: int, _: _Data) -> Iterator[bytes]:
    if part.made.policy is not None:
        yield _header("GUEST_POLICY", part.made.policy, mask, 0)


def _directives(part: Part, mask: int, data: _Data) -> Iterator[bytes]:
    for gpa, size in _cut(part.required):
        yield _header("REQUIRED_MEMORY", gpa, mask, size, 0, 0)
    block, auth = part.made.id_block, part.made.id_auth
    if block is not None and auth is not None:
        held = idblock.read_block(Blob("id-block", memoryview(block)))
        proof = idblock.read_auth(Blob("id-auth", memoryview(auth)))
        yield identity.directive(held, proof, mask)
    for one in part.made.body:
        yield from _directive(one, mask, data)


def _directive(one: Directive, mask: int, data: _Data) -> Iterator[bytes]:
    match one:
        case Pages():
            yield _pages(one, mask, data)
        case ErrorRange(gpa, size):
            yield _header("ERROR_RANGE", gpa, mask, size)
        case Context(gpa, vp_index, state):
            yield _header("VP_CONTEXT", gpa, mask, data.whole(state), vp_index, 0)


def _pages(pages: Pages, mask: int, data: _Data) -> bytes:
    """Return one header a page."""
    layout = LAYOUTS[TYPES["PAGE_DATA"]].struct
    head = HEAD.pack(TYPES["PAGE_DATA"], layout.size)
    made = bytearray()
    gpa = pages.gpa
    for offset in data.offsets(pages.contents, pages.size):
        made += head
        made += layout.pack(gpa, mask, offset, pages.flags, pages.data_type, 0)
        gpa += PAGE
    return bytes(made)


def _cut(required: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the ranges in pieces whose size fits into 32 bits."""
    for gpa, size in required:
        for at in range(0, size, MOST_REQUIRED):
            yield gpa + at, min(size - at, MOST_REQUIRED)


def _size(part: Part) -> int:
    """Return the bytes of a part's headers, before any of them is made; UnsupportedError."""
    size = _length("SUPPORTED_PLATFORM") + _length("REQUIRED_MEMORY") * len([*_cut(part.required)])
    if part.made.policy is not None:
        size += _length("GUEST_POLICY")
    if part.made.id_block is not None:
        size += _length("SNP_ID_BLOCK")
    for one in part.made.body:
        match one:
            case Pages():
                size += one.size // PAGE * _length("PAGE_DATA")
            case ErrorRange():
                size += _length("ERROR_RANGE")
            case Context():
                size += _length("VP_CONTEXT")
    _check_fits(size)
    return size


def _check_fits(size: int) -> None:
    if size > MOST:
        raise UnsupportedError("an IGVM file has less than 4 GiB, and this would be larger")


# --- data ----------------------------------------------------------------------------------------


class _Data:
    """
    The data of a file, which begins at the file offset `start`: each different page once.

    Pages are kept as spans of what they were read from: nothing is copied.
    """

    def __init__(self, start: int) -> None:
        self._end = start
        self._start = start
        self._offsets: dict[bytes, int] = {}
        self._spans: list[tuple[memoryview, int, int]] = []

    @property
    def size(self) -> int:
        """Bytes of all data."""
        return self._end - self._start

    def pieces(self) -> Iterator[memoryview]:
        """Yield the data in its order."""
        for view, begin, end in self._spans:
            yield view[begin:end]

    def offsets(self, contents: Contents | None, size: int) -> Iterator[int]:
        """Yield the file offset of each page of a run, 0 for pages without data."""
        if contents is None or isinstance(contents, Filled):
            yield from repeat(0, size // PAGE)
            return
        for view, count in page_runs(contents, size):
            if view is None:
                yield from repeat(self._page(_ZEROS, 0), count)
            else:
                yield from (self._page(view, at) for at in range(0, len(view), PAGE))

    def whole(self, state: bytes) -> int:
        """Return the file offset of bytes that stay together, filled up to whole pages."""
        view = memoryview(state.ljust(-(-len(state) // PAGE) * PAGE, b"\0"))
        return self._page(view, 0) if len(view) == PAGE else self._append(view, 0, len(view))

    def _page(self, view: memoryview, at: int) -> int:
        key = page_key(view[at : at + PAGE])
        offset = self._offsets.get(key)
        if offset is None:
            offset = self._offsets[key] = self._append(view, at, at + PAGE)
        return offset

    def _append(self, view: memoryview, begin: int, end: int) -> int:
        """Put view[begin:end] at the end, and return where that is; UnsupportedError."""
        offset = self._end
        _check_fits(offset + end - begin)
        self._end += end - begin
        if self._spans and self._spans[-1][0] is view and self._spans[-1][2] == begin:
            begin = self._spans.pop()[1]
        self._spans.append((view, begin, end))
        return offset


_ZEROS: Final = memoryview(bytes(PAGE))
