"""
The first page or vCPU state in which two launches part.

Both are walked in the order of their adds, cut where either begins a new run, so that it does
not matter how a VMM cuts pages into calls.  Where one knows only the SNP launch digest after
a page, the other's is folded for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final, Literal, NamedTuple

from cvmplan.comparison.sides import Piece, Side, SideKind, State
from cvmplan.core.values import PAGE, write_span
from cvmplan.memory.contents import Contents, DigestAfter, Filled, byte_string, known_bytes, part
from cvmplan.platforms.snp.digest import NO_CONTENTS, after_update, after_vmsas
from cvmplan.platforms.snp.steps import LaunchUpdate, PageType, VmsaUpdate

CHUNK: Final = 1 << 20  # bytes that are compared at a time, at most


class Reason(NamedTuple):
    """What is otherwise where two launches part, and in words."""

    id: Literal["address", "page-type", "contents", "digest", "ended", "state", "vcpus"]
    words: str


class Parting(NamedTuple):
    """Where two launches part: the place in each, None at its end, and what is otherwise."""

    a: str | None
    b: str | None
    reason: Reason


class Cut(NamedTuple):
    """Runs of equal length, one of each side, from offset `a_at` and `b_at` of its piece."""

    a: Piece
    a_at: int
    b: Piece
    b_at: int
    size: int

    @property
    def a_gpa(self) -> int:
        """The address in the first launch."""
        return self.a.gpa + self.a_at

    @property
    def b_gpa(self) -> int:
        """The address in the second launch."""
        return self.b.gpa + self.b_at


def cuts(a: list[Piece], b: list[Piece]) -> Iterator[Cut]:
    """Yield runs of equal length until one launch ends."""
    i = j = a_at = b_at = 0
    while i < len(a) and j < len(b):
        size = min(a[i].size - a_at, b[j].size - b_at)
        yield Cut(a[i], a_at, b[j], b_at, size)
        a_at, b_at = a_at + size, b_at + size
        if a_at == a[i].size:
            i, a_at = i + 1, 0
        if b_at == b[j].size:
            j, b_at = j + 1, 0


def parting(a: Side, b: Side) -> Parting | None:
    """Return where `a` and `b` part first, None where they do not as far as is known."""
    digests = _Digests(a, b)
    length_a = sum(p.size for p in a.pieces)
    length_b = sum(p.size for p in b.pieces)
    for cut in cuts(a.pieces, b.pieces):
        reason = _apart(cut) or digests.apart(cut)
        if reason is not None:
            return Parting(cut.a.place, cut.b.place, reason)
    if length_a != length_b:
        longer = a if length_a > length_b else b
        piece = _at(longer.pieces, min(length_a, length_b))
        told = f"{pages(piece.gpa, piece.gpa + piece.size)} {piece.words}"
        reason = Reason("ended", f"{told}, where the other side ends")
        here, there = (piece.place, None) if longer is a else (None, piece.place)
        return Parting(here, there, reason)
    return _states(a, b, digests)


def _at(pieces: list[Piece], offset: int) -> Piece:
    """Return the rest of the pieces' bytes from `offset` on, as far as one piece has them."""
    for piece in pieces:
        if offset < piece.size:
            return piece._replace(gpa=piece.gpa + offset, size=piece.size - offset)
        offset -= piece.size
    raise IndexError(offset)


def _apart(cut: Cut) -> Reason | None:
    """Return what differs in a cut, None where nothing known does."""
    a, b = cut.a, cut.b
    if cut.a_gpa != cut.b_gpa:
        words = f"{cut.a_gpa:#x} {a.words} in A, {cut.b_gpa:#x} {b.words} in B"
        return Reason("address", words)
    if a.kind != b.kind:
        where = pages(cut.a_gpa, cut.a_gpa + cut.size)
        return Reason("page-type", f"{where} is {a.words} in A, {b.words} in B")
    at = first_difference(a.contents, cut.a_at, b.contents, cut.b_at, cut.size)
    if at is None:
        return None
    return Reason("contents", f"the contents of the page at {(cut.a_gpa + at) & -PAGE:#x}")


def pages(low: int, high: int) -> str:
    """Name the pages of [low, high)."""
    return f"{low:#x}" if high <= low + PAGE else write_span(low, high - low)


def first_difference(
    a: Contents | None, a_at: int, b: Contents | None, b_at: int, size: int
) -> int | None:
    """Return the offset of the first byte that differs, None where none does or none is known."""
    if a is None or b is None or (a is b and a_at == b_at):
        return None
    if isinstance(a, Filled | DigestAfter) or isinstance(b, Filled | DigestAfter):
        return None if a == b else 0
    size = min(size, max(_length(a) - a_at, _length(b) - b_at))
    at, length = 0, PAGE
    while at < size:
        length = min(length, size - at)
        one, two = data(a, a_at + at, length), data(b, b_at + at, length)
        if one != two:
            return at + _first(one, two)
        at, length = at + length, min(2 * length, CHUNK)
    return None


def _length(contents: Contents) -> int:
    """Return how many bytes there are before the zeros."""
    return len(known_bytes(contents))


def data(contents: Contents, at: int, size: int) -> bytes:
    """Return bytes of contents whose bytes are known, zeros behind them."""
    return byte_string(part(contents, at, size), size)


def _first(one: bytes, two: bytes) -> int:
    """Return where two byte strings of one length differ first, halving what is left."""
    low, high = 0, len(one)
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] != two[low:middle]:
            high = middle
        else:
            low = middle
    return low


class _Digests:
    """The SNP launch digests of both sides on the way, where one has nothing but those."""

    def __init__(self, a: Side, b: Side) -> None:
        told = [any(p.digest for p in side.pieces) for side in (a, b)]
        self._wanted = any(told) and a.platform == b.platform and a.platform.page_info
        self._known: list[bytes | None] = [NO_CONTENTS, NO_CONTENTS]

    def apart(self, cut: Cut) -> Reason | None:
        """Return how digests differ after a cut, None where they do not or are not known."""
        if not self._wanted:
            return None
        for side, (piece, at) in enumerate(((cut.a, cut.a_at), (cut.b, cut.b_at))):
            self._known[side] = _after(self._known[side], piece, at, cut.size)
        if self._equal():
            return None
        where = pages(cut.a_gpa, cut.a_gpa + cut.size)
        return Reason("digest", f"the launch digests after {where}, so its contents")

    def apart_after(self, a: State, b: State, count: int) -> bool:
        """Whether digests differ after `count` vCPUs of two states."""
        if not self._wanted:
            return False
        self._known = [
            _after_states(known, state, count)
            for known, state in zip(self._known, (a, b), strict=True)
        ]
        return not self._equal()

    def _equal(self) -> bool:
        one, two = self._known
        return one is None or two is None or one == two


def _after(before: bytes | None, piece: Piece, at: int, size: int) -> bytes | None:
    """Return the digest after a part of a piece, None where it is not known."""
    if piece.digest is not None:
        return piece.digest if at + size == piece.size else None
    if before is None or piece.contents is None:
        return None
    page_type = PageType[piece.kind.upper()]
    contents = piece.contents
    if not isinstance(contents, DigestAfter):
        contents = part(contents, at, size)
    elif at + size < piece.size:
        return None
    return after_update(before, LaunchUpdate(page_type, piece.gpa + at, size, contents))


def _after_states(before: bytes | None, state: State, count: int) -> bytes | None:
    if state.digest is not None:
        return state.digest if count == len(state.vcpus) else None
    if before is None or state.page is None or state.gpa is None:
        return None
    *_, after = after_vmsas(before, VmsaUpdate(state.gpa, state.vcpus[:count], state.page))
    return after


def shared_states(a: list[State], b: list[State]) -> Iterator[tuple[range, State, State]]:
    """Yield (vCPUs, state of each) of the vCPUs that both have, cut where either begins a run."""
    ends = sorted({0, *(s.vcpus.stop for s in (*a, *b))})
    last = min(max((s.vcpus.stop for s in side), default=0) for side in (a, b))
    for low, high in pairwise(end for end in ends if end <= last):
        one, two = _of(a, low), _of(b, low)
        if one is not None and two is not None:  # a recording may lack that of a vCPU
            yield range(low, high), one, two


def _of(states: list[State], vcpu: int) -> State | None:
    return next((s for s in states if vcpu in s.vcpus), None)


def _states(a: Side, b: Side, digests: _Digests) -> Parting | None:
    for vcpus, one, two in shared_states(a.states, b.states):
        known = one.page is not None and two.page is not None
        differ = one.page != two.page or one.gpa != two.gpa if known else False
        if differ or digests.apart_after(one, two, len(vcpus)):
            reason = Reason("state", f"the state of {named(vcpus)}")
            return Parting(one.place, two.place, reason)
    counts = [sum(len(s.vcpus) for s in side.states) for side in (a, b)]
    if counts[0] != counts[1] and all(side.kind is not SideKind.RECORDED for side in (a, b)):
        places = [side.states[-1].place if side.states else None for side in (a, b)]
        reason = Reason("vcpus", f"{counts[0]} vCPU states in A, {counts[1]} in B")
        return Parting(places[0], places[1], reason)
    return None


def named(vcpus: range) -> str:
    """Name a run of vCPUs."""
    if len(vcpus) == 1:
        return f"vCPU {vcpus.start}"
    return f"vCPUs {vcpus.start}-{vcpus.stop - 1}"
