"""The exactly-once rule on intervals, against sets of pages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvmplan.core.errors import MapError
from cvmplan.core.findings import Finding
from cvmplan.core.spans import Spans
from cvmplan.memory import gpamap, notes
from cvmplan.memory.gpamap import GpaMap, Limits, Memory, check_regions
from cvmplan.memory.regions import Region, Role

PAGE: Final = 0x1000
VMSA: Final = 0xFFFFFFFFF000
SPACE: Final = 40  # pages: small, so that regions meet
EVERYWHERE: Final = Limits(1 << 52, "the end")
many = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


def pages_of(start: int, end: int) -> set[int]:
    """The pages that [start, end) touches, by number."""
    return set(range(start // PAGE, -(-end // PAGE))) if start < end else set()


def pages(region: Region) -> set[int]:
    """The pages that a region touches."""
    return pages_of(region.gpa, region.end)


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The longest intervals [start, end) of a set of numbers, ascending."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found


def between(first: int | None, last: int | None) -> range:
    """The numbers of the pages of a finding."""
    assert first is not None
    assert last is not None
    assert first % PAGE == last % PAGE == 0
    assert first <= last
    return range(first // PAGE, last // PAGE + 1)


def of_rule(rule: str, found: Iterable[Finding]) -> list[Finding]:
    """The findings of one rule."""
    return [f for f in found if f.rule == rule]


@st.composite
def regions(draw: st.DrawFn, unit: int = PAGE, smallest: int = 1) -> tuple[Region, ...]:
    """Up to seven regions in any order; addresses and sizes are multiples of `unit`."""
    count = draw(st.integers(0, 7))
    per_page = PAGE // unit
    return tuple(
        Region(
            draw(st.integers(0, SPACE * per_page)) * unit,
            draw(st.integers(smallest, 6 * per_page)) * unit,
            Role.REGION,
            f"r{number}",
            draw(st.sampled_from(["normal", "augmented"])),
        )
        for number in range(count)
    )


ranges = st.lists(st.tuples(st.integers(0, SPACE), st.integers(0, 12)), max_size=5)
"""Pairs of first page and number of pages."""


def spans_of(drawn: Sequence[tuple[int, int]], name: str) -> tuple[tuple[int, int, str], ...]:
    """Ranges as a Memory has them."""
    return tuple((gpa * PAGE, size * PAGE, f"{name}{n}") for n, (gpa, size) in enumerate(drawn))


def sharing(drawn: Sequence[Region]) -> dict[frozenset[str], tuple[int, int]]:
    """Each pair of regions with a page in common: the first and the last such page."""
    pairs = {}
    for number, one in enumerate(drawn):
        for other in drawn[:number]:
            both = pages(one) & pages(other)
            if both:
                pairs[frozenset((one.origin, other.origin))] = (min(both), max(both))
    return pairs


# --- each page once ----------------------------------------------------------------------------


@many
@given(regions())
def test_a_map_exists_exactly_where_no_page_is_shared(drawn: tuple[Region, ...]) -> None:
    total = Counter(page for region in drawn for page in pages(region))
    if max(total.values(), default=0) <= 1:
        assert GpaMap.of(drawn, EVERYWHERE).regions == drawn
    else:
        with pytest.raises(MapError):
            GpaMap.of(drawn, EVERYWHERE)


@pytest.mark.parametrize("unit", [PAGE, 0x400])
@many
@given(data=st.data())
def test_every_pair_that_shares_a_page_is_found_with_its_pages(
    unit: int, data: st.DataObject
) -> None:
    drawn = data.draw(regions(unit, smallest=0))
    twice = of_rule("gpa-mapped-twice", check_regions(drawn, EVERYWHERE, Memory()))
    found = Counter(frozenset(f.origins) for f in twice)
    assert found == Counter(list(sharing(drawn)))
    for finding in twice:
        first, last = sharing(drawn)[frozenset(finding.origins)]
        assert (finding.first, finding.last) == (first * PAGE, last * PAGE)
    firsts = [f.first for f in twice if f.first is not None]
    assert firsts == sorted(firsts)


@many
@given(regions(0x400, smallest=0))
def test_what_is_not_whole_pages_is_found(drawn: tuple[Region, ...]) -> None:
    found = check_regions(drawn, EVERYWHERE, Memory())
    some = [r for r in drawn if r.size]
    wanted = {
        "empty-region": [r.origin for r in drawn if not r.size],
        "gpa-unaligned": [r.origin for r in some if r.gpa % PAGE],
        "size-unaligned": [r.origin for r in some if r.size % PAGE],
    }
    for rule, origins in wanted.items():
        assert [f.origins[0] for f in of_rule(rule, found)] == origins


@many
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), max_size=5))
def test_whatever_holds_the_address_of_the_vmsas_is_found(drawn: list[tuple[int, int]]) -> None:
    around = [
        Region(VMSA - below * PAGE, size * PAGE, Role.REGION, f"r{number}", "normal")
        for number, (below, size) in enumerate(drawn)
    ]
    vmsa = Region(VMSA, PAGE, Role.VMSA, "KVM", "vmsa")
    found = of_rule("gpa-reserved", check_regions([*around, vmsa], EVERYWHERE, Memory()))
    wanted = {r.origin for r in around if VMSA // PAGE in pages(r)}
    assert Counter(f.origins for f in found) == Counter((name, "KVM") for name in wanted)
    assert all((f.first, f.last) == (VMSA, VMSA) for f in found)


@many
@given(regions(), st.integers(1, 4))
def test_past_the_limit_each_region_in_conflict_is_found_once(
    drawn: tuple[Region, ...], most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpamap, "MOST_CONFLICTS", most)
        twice = of_rule("gpa-mapped-twice", check_regions(drawn, EVERYWHERE, Memory()))
    pairs = sharing(drawn)
    listed = [f for f in twice if f.origins]
    for finding in listed:
        shared = pairs[frozenset(finding.origins)]
        assert (finding.first, finding.last) == tuple(page * PAGE for page in shared)
    later = sorted(drawn, key=lambda r: r.gpa)
    in_conflict = [f.origins[1] for f in listed]
    assert set(in_conflict) == set(_with_an_earlier_opponent(later))
    assert len(listed) >= min(most, len(pairs))
    further = in_conflict[most:]
    assert len(set(further) - set(in_conflict[:most])) == len(further)
    said = [f.message for f in twice if not f.origins]
    if len(listed) < len(pairs):
        assert said == [f"{len(pairs)} pairs of regions overlap; {len(listed)} of them are listed"]
    else:
        assert said == []


def _with_an_earlier_opponent(by_address: Sequence[Region]) -> Iterator[str]:
    for number, region in enumerate(by_address):
        if any(pages(region) & pages(other) for other in by_address[:number]):
            yield region.origin


# --- addresses ---------------------------------------------------------------------------------


@many
@given(regions(), st.integers(1, SPACE + 6))
def test_what_ends_past_the_address_space_is_found(drawn: tuple[Region, ...], end: int) -> None:
    found = check_regions(drawn, Limits(end * PAGE, "the end"), Memory())
    wanted = [r.origin for r in drawn if any(page >= end for page in pages(r))]
    assert [f.origins[0] for f in of_rule("gpa-out-of-range", found)] == wanted


@many
@given(regions(), st.integers(12, 20))
def test_what_has_the_c_bit_in_an_address_is_found(drawn: tuple[Region, ...], bit: int) -> None:
    found = check_regions(drawn, Limits(1 << 52, "the end", bit), Memory())
    wanted = [r.origin for r in drawn if any(page * PAGE >> bit & 1 for page in pages(r))]
    assert [f.origins[0] for f in of_rule("gpa-out-of-range", found)] == wanted


@many
@given(st.integers(0, 8), st.integers(1, 8))
def test_what_ends_past_64_bits_wraps(below: int, size: int) -> None:
    region = Region((1 << 64) - (below + 1) * PAGE, size * PAGE, Role.REGION, "r", "normal")
    found = check_regions([region], Limits(1 << 64, "the end"), Memory())
    assert [f.rule for f in found] == (["gpa-wraps"] if size > below + 1 else [])


# --- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [PAGE, 0x400])
@many
@given(data=st.data())
def test_pages_outside_memory_are_found_for_each_region(unit: int, data: st.DataObject) -> None:
    drawn = data.draw(regions(unit))
    ram = spans_of(data.draw(ranges), "memory")
    inside = {page for gpa, size, _ in ram for page in pages_of(gpa, gpa + size)}
    vmsa = Region(VMSA, PAGE, Role.VMSA, "KVM", "vmsa")
    found = check_regions([*drawn, vmsa], EVERYWHERE, Memory(ram))
    outside = of_rule("outside-memory", found)
    wanted = {(r.origin, run) for r in drawn for run in runs(pages(r) - inside)}
    spans = [(f.origins[0], between(f.first, f.last)) for f in outside]
    assert Counter((name, (span.start, span.stop)) for name, span in spans) == Counter(wanted)


@many
@given(regions(), st.integers(1, 8 * SPACE))
def test_a_page_that_memory_holds_in_part_is_outside(
    drawn: tuple[Region, ...], eighths: int
) -> None:
    end = eighths * PAGE // 8
    found = check_regions(drawn, EVERYWHERE, Memory(((0, end, "memory0"),)))
    spans = [(f.origins[0], between(f.first, f.last)) for f in of_rule("outside-memory", found)]
    wanted = {(r.origin, page) for r in drawn for page in pages(r) if page >= end // PAGE}
    assert Counter((name, page) for name, span in spans for page in span) == Counter(wanted)


@many
@given(regions(0x400), ranges, st.integers(0, 3))
def test_required_pages_that_nothing_maps_are_found(
    drawn: tuple[Region, ...], chosen: list[tuple[int, int]], shift: int
) -> None:
    moved = [(gpa + 0x400 * shift, size, name) for gpa, size, name in spans_of(chosen, "required")]
    required = tuple(span for span in moved if span[1])
    mapped = {page for r in drawn if r.page_type != "augmented" for page in pages(r)}
    found = check_regions(drawn, EVERYWHERE, Memory(None, required))
    wanted = {
        (name, run)
        for gpa, size, name in required
        for run in runs(pages_of(gpa, gpa + size) - mapped)
    }
    spans = [
        (f.origins[0], between(f.first, f.last)) for f in of_rule("required-not-mapped", found)
    ]
    assert Counter((name, (span.start, span.stop)) for name, span in spans) == Counter(wanted)


@many
@given(regions(), ranges, ranges)
def test_a_map_with_memory_exists_exactly_where_its_pages_fit(
    drawn: tuple[Region, ...], ram: list[tuple[int, int]], required: list[tuple[int, int]]
) -> None:
    memory = Memory(spans_of(ram, "memory"), spans_of(required, "required"))
    inside = {page for first, count in ram for page in range(first, first + count)}
    needed = {page for first, count in required for page in range(first, first + count)}
    held = {page for r in drawn for page in pages(r)}
    mapped = {page for r in drawn if r.page_type != "augmented" for page in pages(r)}
    if not sharing(drawn) and held <= inside and needed <= mapped:
        assert GpaMap.of(drawn, EVERYWHERE, memory).regions == drawn
    else:
        with pytest.raises(MapError):
            GpaMap.of(drawn, EVERYWHERE, memory)


# --- notes -------------------------------------------------------------------------------------


@many
@given(st.lists(st.tuples(st.integers(0, 600), st.integers(1, 600)), max_size=6))
def test_blocks_of_2_mib_with_several_regions_are_counted(drawn: list[tuple[int, int]]) -> None:
    placed: list[Region] = []
    end = 0
    for gap, count in drawn:
        gpa = end + gap
        placed.append(Region(gpa * PAGE, count * PAGE, Role.REGION, f"r{gpa}", "normal"))
        end = gpa + count
    owners = Counter(block for r in placed for block in {page // 512 for page in pages(r)})
    wanted = [block for block, count in owners.items() if count > 1]
    found = list(notes.two_megabyte_neighbours(placed[::-1], PAGE))
    assert len(found) == bool(wanted)
    for finding in found:
        said = re.match(r"(\d+) blocks? contains? .* at (0x[0-9a-f]+)$", finding.message)
        assert said is not None
        assert (int(said[1]), int(said[2], 0)) == (len(wanted), min(wanted) << 21)


# --- sets of addresses -------------------------------------------------------------------------

bounds = st.tuples(st.integers(0, 60), st.integers(0, 60))


@many
@given(st.lists(bounds, max_size=12), bounds)
def test_spans_are_a_set(added: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    spans, numbers = Spans(added[:3]), set[int]()
    for start, end in added[:3]:
        numbers |= set(range(start, end))
    for start, end in added[3:]:
        spans.add(start, end)
        numbers |= set(range(start, end))
    assert list(spans) == runs(numbers)
    assert len(spans) == len(runs(numbers))
    held = runs(numbers & set(range(*asked)))
    assert spans.overlap(*asked) == (held[0] if held else None)
    assert list(spans.missing(*asked)) == runs(set(range(*asked)) - numbers)
