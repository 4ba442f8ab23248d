"""
Guest memory as it is drawn: one band below the other, from address 0 upwards.

A band is a region, a gap, regions that overlap, or a run of regions that are alike.  However
many regions there are, their bands fit on a page: `MOST_BANDS` of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final, NamedTuple

from cvmplan.core.spans import Spans
from cvmplan.core.values import PAGE
from cvmplan.memory.owners import Coverage, Owner, Owners

MOST_BANDS: Final = 80
"""Bands of regions without errors that are drawn, but for those between bands with errors."""
MOST_WRONG: Final = 100  # bands with errors that are drawn each
MOST_LANES: Final = 8  # regions that overlap and are drawn next to each other
FEWEST: Final = 4  # neighbours that are alike and become one
SEVERAL: Final = "several"  # in place of a page type
OTHER: Final = "other"  # of a region that has no page type
TWICE: Final = "gpa-mapped-twice"
_DIGITS: Final = re.compile(r"(?<![0-9a-f])[a-f]*+[0-9][0-9a-f]*+")


class Shape(NamedTuple):
    """
    A region, or `regions` of them: bytes [first, end), of which `size` belong to them.

    `kind` is their page type, `measured` what is measured of them, None where they differ;
    `owners` names the first of them and the last.  `wrong` are the rules that they break.
    """

    first: int
    end: int
    size: int
    kind: str
    measured: Coverage | None
    owners: tuple[str, str]
    regions: int = 1
    kinds: tuple[tuple[str, int], ...] = ()
    wrong: tuple[str, ...] = ()


class Band(NamedTuple):
    """Bytes [first, end) and what is there: nothing, one shape, or some that overlap."""

    first: int
    end: int
    shapes: tuple[Shape, ...]

    @property
    def is_wrong(self) -> bool:
        """Whether any of its shapes breaks a rule."""
        return any(shape.wrong for shape in self.shapes)


def shapes_of(owners: Owners, marked: Spans | None = None, mark: str = "") -> Iterator[Shape]:
    """
    Yield each region as a shape, in address order, with the rules that it breaks.

    Shapes with bytes in `marked` have `mark` among those.
    """
    blamed: dict[str, dict[str, None]] = {}
    for finding in owners.findings:
        if finding.severity == "error":
            for origin in finding.origins:
                blamed.setdefault(origin, {})[finding.rule] = None
    for row in owners.rows:
        region = row.region
        wrong = tuple(blamed.get(region.origin, ()))
        if marked is not None and marked.overlap(region.first_page, region.end_page) is not None:
            wrong = (*wrong, mark)
        yield _shape(row, wrong)


def _shape(row: Owner, wrong: tuple[str, ...]) -> Shape:
    region = row.region
    size = max(region.size, 0)
    kind = region.page_type or OTHER
    owners = (region.origin, region.origin)
    return Shape(region.gpa, region.gpa + size, size, kind, row.measured, owners, wrong=wrong)


def bands(shapes: Sequence[Shape]) -> tuple[Band, ...]:
    """Return what is drawn of `shapes`, which are in address order, with the gaps between."""
    found = [*_alike(_clusters(shapes))]
    if len(found) > MOST_BANDS:
        alone = sum(band.is_wrong for band in found) <= MOST_WRONG
        found = [*_chunks(found, -(-len(found) // MOST_BANDS), alone=alone)]
    return tuple(_with_gaps(found))


def _clusters(shapes: Sequence[Shape]) -> Iterator[Band]:
    """Yield each shape, and shapes of which pages overlap together."""
    held: list[Shape] = []
    end = 0
    for shape in shapes:
        if held and _page(shape.first) >= end:
            yield _cluster(held)
            held, end = [], 0
        held.append(shape)
        end = max(end, _page(shape.end + PAGE - 1))
    if held:
        yield _cluster(held)


def _page(address: int) -> int:
    return address - address % PAGE


def _cluster(shapes: list[Shape]) -> Band:
    """Return shapes that overlap as a band; as one shape where they are too many to tell apart."""
    twice: set[int] = set()
    reach = 0  # the shape that ends last
    for number, shape in enumerate(shapes):
        end = _page(shapes[reach].end + PAGE - 1)
        if number and shape.size and shapes[reach].size and _page(shape.first) < end:
            twice |= {number, reach}
        if shape.end > shapes[reach].end:
            reach = number
    marked = [
        s._replace(wrong=(TWICE,)) if n in twice and not s.wrong else s
        for n, s in enumerate(shapes)
    ]
    if len(marked) > MOST_LANES:
        marked = [_merged(marked)]
    return Band(marked[0].first, max(s.end for s in marked), tuple(marked))


def _alike(found: Iterable[Band]) -> Iterator[Band]:
    """Yield bands, a run of them that are alike as one: of one kind, and with equal gaps."""
    run: list[Band] = []
    key, gap = None, -1
    for band in found:
        mine = _key(band)
        between = band.first - run[-1].end if run else 0
        if run and mine is not None and mine == key and (len(run) == 1 or between == gap):
            gap = between
            run.append(band)
            continue
        yield from _run(run)
        run, key = [band], mine
    yield from _run(run)


def _key(band: Band) -> tuple[str, str | None, str] | None:
    """Return what bands of a run have in common, None for one that is of no run."""
    if len(band.shapes) != 1 or band.is_wrong or band.first == band.end:
        return None
    shape = band.shapes[0]
    return shape.kind, shape.measured, _DIGITS.sub("#", shape.owners[0])


def _run(run: list[Band]) -> Iterable[Band]:
    return [_joined(run)] if len(run) >= FEWEST else run


def _joined(several: Sequence[Band]) -> Band:
    """Return bands as one that has one shape."""
    merged = _merged([shape for band in several for shape in band.shapes])
    return Band(several[0].first, max(band.end for band in several), (merged,))


def _merged(shapes: Sequence[Shape]) -> Shape:
    """Return shapes as one."""
    count: Counter[str] = Counter()
    for shape in shapes:
        count.update(dict(shape.kinds or ((shape.kind, shape.regions),)))
    measured = {shape.measured for shape in shapes}
    return Shape(
        shapes[0].first,
        max(shape.end for shape in shapes),
        sum(shape.size for shape in shapes),
        next(iter(count)) if len(count) == 1 else SEVERAL,
        measured.pop() if len(measured) == 1 else None,
        (shapes[0].owners[0], shapes[-1].owners[1]),
        sum(shape.regions for shape in shapes),
        tuple(count.items()),
        tuple(dict.fromkeys(chain.from_iterable(shape.wrong for shape in shapes))),
    )


def _chunks(found: Sequence[Band], length: int, *, alone: bool) -> Iterator[Band]:
    """Yield `length` bands as one; where `alone`, those that break a rule stay what they are."""
    held: list[Band] = []
    for band in found:
        stays = alone and band.is_wrong
        if held and (stays or len(held) == length):
            yield _joined(held) if len(held) > 1 else held[0]
            held = []
        if stays:
            yield band
        else:
            held.append(band)
    if held:
        yield _joined(held) if len(held) > 1 else held[0]


def _with_gaps(found: Iterable[Band]) -> Iterator[Band]:
    """Yield the bands from address 0 on, and a band without shapes where nothing is."""
    end = 0
    for band in found:
        if band.first > end:
            yield Band(end, band.first, ())
        yield band
        end = max(end, band.end)
