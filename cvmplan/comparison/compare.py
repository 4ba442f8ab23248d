"""Everything that differs between two launches, page by page and field by field."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from typing import Final, NamedTuple, TypeAlias

from cvmplan.comparison.found import WHAT, Comparison, Cut, Difference
from cvmplan.comparison.held_calls import CallsCompared
from cvmplan.comparison.recorded import hashes_apart, not_reached, not_recorded
from cvmplan.comparison.sides import HASHED, Piece, Side, SideKind
from cvmplan.comparison.walk import (
    data,
    first_difference,
    named,
    pages,
    parting,
    shared_states,
)
from cvmplan.core.blob import Blob
from cvmplan.core.values import PAGE
from cvmplan.memory.contents import Contents, DigestAfter, Filled, Made
from cvmplan.platforms.snp.vmsa import FIELDS

MOST: Final = 10_000  # differences that are listed


def compare(
    a: Side, b: Side, held: CallsCompared | None = None, more_of: Iterable[Difference] = ()
) -> Comparison:
    """
    Return where `a` and `b` part, and all that differs.

    `held` is how calls compare where one is a plan and the other a recording, `more_of` what
    was found out before.
    """
    listed: list[Difference] = []
    more = 0
    found = (_differences(a, b), more_of, _of_calls(a, held))
    for difference in chain.from_iterable(found):
        if len(listed) < MOST:
            listed.append(difference)
        else:
            more += 1
    return Comparison(
        a, b, parting(a, b), tuple(listed), more, _calls(a, b), tuple(_unknown(a, b)), held
    )


def _of_calls(a: Side, held: CallsCompared | None) -> Iterator[Difference]:
    """Yield the calls and fields in which a recording differs from its plan."""
    for one in held.differences if held else ():
        here, there = (one.planned, one.recorded)[:: 1 if a.plan else -1]
        yield Difference("call", one.call, one.where, here, there, measured=False)


def _difference(what: str, where: str, a: str, b: str) -> Difference:
    """Return a measured difference of `WHAT` that is not one of pages."""
    return Difference(what, WHAT[what], where, a, b)


def _differences(a: Side, b: Side) -> Iterator[Difference]:
    if a.platform != b.platform:
        yield _difference("platform", "", a.platform, b.platform)
    tables = a.table(), b.table()
    rows = [*_side_by_side(*tables)]
    yield from _joined(_of_pages(rows))
    yield from _twice(a, b)
    yield from _order(a, b, rows)
    yield from _of_states(a, b)
    yield from _of_facts(a, b)


class Row(NamedTuple):
    """A run of pages, and the piece of each side that it lies in."""

    low: int
    high: int
    a: Piece | None
    b: Piece | None


def _side_by_side(
    a: list[tuple[int, int, Piece]], b: list[tuple[int, int, Piece]]
) -> Iterator[Row]:
    """Yield all pages of both by address, cut where either begins another piece."""
    edges = sorted({edge for low, high, _ in (*a, *b) for edge in (low, high)})
    i = j = 0
    for low, high in pairwise(edges):
        while i < len(a) and a[i][1] <= low:
            i += 1
        while j < len(b) and b[j][1] <= low:
            j += 1
        one = a[i][2] if i < len(a) and a[i][0] <= low else None
        two = b[j][2] if j < len(b) and b[j][0] <= low else None
        if one or two:
            yield Row(low, high, one, two)


Alike: TypeAlias = "tuple[Contents | str | None, Contents | str | None] | None"
"""What a difference is between: neighbours with the same are one; None stands alone."""


def _of_pages(rows: list[Row]) -> Iterator[tuple[Alike, Difference]]:
    for low, high, a, b in rows:
        if a is None or b is None:
            here, there = (piece.words if piece else "not added" for piece in (a, b))
            kinds = a and a.kind, b and b.kind
            yield kinds, _pages("address", low, high, here, there)
        elif a.kind != b.kind:
            kinds = a.kind, b.kind
            yield kinds, _pages("page-type", low, high, a.words, b.words)
        else:
            yield from _contents(low, high, a, b)


def _pages(what: str, low: int, high: int, a: str, b: str, *, measured: bool = True) -> Difference:
    last = max(high - PAGE, low)
    return Difference(what, WHAT[what], pages(low, high), a, b, measured, low, last)


def _joined(differences: Iterator[tuple[Alike, Difference]]) -> Iterator[Difference]:
    """Yield differences, neighbours between the same as one."""
    last: Difference | None = None
    before: Alike = None
    for between, one in differences:
        alike = last and between is not None and (last.id, before) == (one.id, between)
        before = between
        if last and alike and _follows(last, one):
            first, end = last.first or 0, (one.last or 0) + PAGE
            last = _pages(one.id, first, end, one.a, one.b, measured=one.measured)
            continue
        if last:
            yield last
        last = one
    if last:
        yield last


def _follows(last: Difference, one: Difference) -> bool:
    return last.last is not None and one.first is not None and last.last + PAGE == one.first


def _contents(low: int, high: int, a: Piece, b: Piece) -> Iterator[tuple[Alike, Difference]]:
    """Yield each run of pages whose contents differ, with the first byte that does."""
    if a.kind == "vmsa":  # the fields of the states say more
        return
    measured = a.kind in HASHED
    one, two = a.contents, b.contents
    if isinstance(one, Filled | DigestAfter) or isinstance(two, Filled | DigestAfter):
        if one is not None and two is not None and one != two:
            between = _by_whom(one), _by_whom(two)
            told = _pages("contents", low, high, _who(one), _who(two), measured=measured)
            yield between, told
        return
    if one is None or two is None:
        yield from ((None, told) for told in hashes_apart(a, b, low))
        return
    at = low
    while at < high:
        offset = first_difference(one, at - a.gpa, two, at - b.gpa, high - at)
        if offset is None:
            return
        byte = at + offset
        start = max(low, byte - byte % PAGE)
        end = _end(start, high, a, b)
        here, there = (_byte(piece, byte - piece.gpa) for piece in (a, b))
        yield None, _pages("contents", start, end, here, there, measured=measured)
        at = end


def _end(start: int, high: int, a: Piece, b: Piece) -> int:
    """Return where the run of pages that differ ends."""
    if a.contents is None or b.contents is None:
        return high
    for page in range(start, high, PAGE):
        size = min(PAGE, high - page)
        if data(a.contents, page - a.gpa, size) == data(b.contents, page - b.gpa, size):
            return page
    return high


def _byte(piece: Piece, at: int) -> str:
    """Name a byte of a piece: where it comes from, and its value."""
    contents = piece.contents
    value = data(contents, at, 1)[0] if contents is not None else 0
    if isinstance(contents, Blob) and at < len(contents):
        return f"{value:#04x} at {contents.where(at)}"
    if isinstance(contents, Made) and contents.at <= at < contents.at + len(contents.data):
        return f"{value:#04x} at {piece.gpa + at:#x}, made for the launch"
    return f"{value:#04x} at {piece.gpa + at:#x}, zeros"


def _by_whom(contents: Contents) -> Contents | None:
    """Return contents that are named, None for bytes that are known."""
    return contents if isinstance(contents, Filled | DigestAfter) else None


def _who(contents: Contents) -> str:
    match contents:
        case Filled(what):
            return f"filled by the VMM ({what})"
        case DigestAfter(digest):
            return f"known by the digest after it, {digest.hex()}"
        case _:
            return "known bytes"


def _twice(a: Side, b: Side) -> Iterator[Difference]:
    """Yield the pages that one side adds a second time and the other does not, in the same kind."""
    again = [{(low, high, piece.kind): piece for low, high, piece in s.twice()} for s in (a, b)]
    for number, side in enumerate(again):
        for key, piece in side.items():
            if key not in again[1 - number]:
                both = [f"added again ({piece.place})", ""][:: 1 if number == 0 else -1]
                yield _pages("added-twice", key[0], key[1], *both)


def _order(a: Side, b: Side, rows: list[Row]) -> Iterator[Difference]:
    """Yield runs of pages that both add, but after others than the other does."""
    common = [row for row in rows if row.a and row.b]
    orders = [_added_order(side, common) for side in (a, b)]
    place = {index: n for n, index in enumerate(orders[1])}
    moved = _moved([place[index] for index in orders[0]])
    before = [
        {index: order[n - 1] if n else None for n, index in enumerate(order)} for order in orders
    ]
    for n in moved:
        index = orders[0][n]
        row = common[index]
        here, there = (_after(previous[index], common) for previous in before)
        yield _pages("order", row.low, row.high, here, there)
    kinds = [{p.kind for p in side.pieces} for side in (a, b)]
    told = ["two-pass" if "extended" in k else "single-pass" for k in kinds]
    if a.platform == b.platform and a.platform.secure_ept and told[0] != told[1]:
        yield _difference("order", "page order", told[0], told[1])


def _added_order(side: Side, common: list[Row]) -> list[int]:
    """Return the numbers of the rows in the order in which a side adds them."""
    lows = [row.low for row in common]
    found: dict[int, None] = {}
    for piece in side.pieces:
        if piece.kind != "extended":
            first = bisect_left(lows, piece.gpa)
            last = bisect_left(lows, piece.gpa + piece.size)
            found.update(dict.fromkeys(range(first, last)))
    return list(found)


def _after(index: int | None, common: list[Row]) -> str:
    return "first of all" if index is None else f"after {pages(*common[index][:2])}"


def _moved(sequence: list[int]) -> list[int]:
    """Return the positions that are not in the longest ascending part of `sequence`."""
    tails: list[int] = []
    at: list[int] = []
    before: list[int | None] = []
    for n, value in enumerate(sequence):
        where = bisect_left(tails, value)
        before.append(at[where - 1] if where else None)
        tails[where : where + 1] = [value]
        at[where : where + 1] = [n]
    kept: set[int] = set()
    n_or_none = at[-1] if at else None
    while n_or_none is not None:
        kept.add(n_or_none)
        n_or_none = before[n_or_none]
    return [n for n in range(len(sequence)) if n not in kept]


def _of_states(a: Side, b: Side) -> Iterator[Difference]:
    counts = [sum(len(s.vcpus) for s in side.states) for side in (a, b)]
    if counts[0] != counts[1] and all(s.kind is not SideKind.RECORDED for s in (a, b)):
        yield _difference("states", "", str(counts[0]), str(counts[1]))
    for vcpus, one, two in shared_states(a.states, b.states):
        if one.gpa != two.gpa and None not in (one.gpa, two.gpa):
            yield _difference(
                "state", f"{named(vcpus)} address", hex(one.gpa or 0), hex(two.gpa or 0)
            )
        if one.page is not None and two.page is not None:
            for name, here, there in _fields(one.page, two.page):
                yield _difference("state", f"{named(vcpus)} {name}", here, there)


def _fields(one: bytes, two: bytes) -> Iterator[tuple[str, str, str]]:
    """Yield (name, value, other value) of what differs in two VMSAs."""
    left = bytearray(a ^ b for a, b in zip(one, two, strict=True)) if one != two else bytearray()
    for name, (at, size) in FIELDS.items() if left else ():
        if any(left[at : at + size]):
            here, there = (int.from_bytes(p[at : at + size], "little") for p in (one, two))
            yield name, hex(here), hex(there)
            left[at : at + size] = bytes(size)
    for at, bits in enumerate(left):
        if bits:
            yield f"byte {at:#x}", f"{one[at]:#04x}", f"{two[at]:#04x}"


def _of_facts(a: Side, b: Side) -> Iterator[Difference]:
    """Yield what both say beside pages and states; little of it is measured."""
    for name in {**a.facts, **b.facts}:
        here, there = a.facts.get(name), b.facts.get(name)
        if name == "count" and a.states and b.states:
            continue
        plans = a.kind is b.kind is SideKind.PLAN and a.platform == b.platform
        said = here or there
        if here != there and said is not None and (plans or (here and there)):
            values = [fact.value if fact else "not set" for fact in (here, there)]
            yield Difference(name, said.name, "", values[0], values[1], said.measured)


def _calls(a: Side, b: Side) -> Cut | None:
    """Return where the calls of two plans differ first, None where they do not."""
    if not a.calls or not b.calls or a.calls == b.calls:
        return None
    pairs = enumerate(zip(a.calls, b.calls, strict=False))
    number = next((n for n, (x, y) in pairs if x != y), min(len(a.calls), len(b.calls)))
    names = (str(s.calls[number][0]) if number < len(s.calls) else None for s in (a, b))
    return Cut(number, *names)


def _unknown(a: Side, b: Side) -> Iterator[str]:
    for side, name in ((a, "A"), (b, "B")):
        if side.kind is SideKind.PLAN:
            continue
        if side.recording is not None and side.recording.calls:
            yield from not_recorded(side, name)
            continue
        if side.recording is not None:
            yield from not_reached(side.recording, name)
        what = "contents of pages and vCPU states"
        by = ", but by the digests in it" if side.digest else ""
        yield f"{what}: {name} is a {side.kind}{by}"
