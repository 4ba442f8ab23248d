"""
The map: which 4 KiB page of guest memory comes from where, each page once.

A Region only reports what an image declares, right or wrong.  `GpaMap.of` is the one place
where regions are checked, all of them, on sorted intervals; to hold a GpaMap is to know
that no page appears twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import NamedTuple

from cvmplan.core.errors import MapError
from cvmplan.core.findings import Finding, has_errors
from cvmplan.core.records import Frozen, record
from cvmplan.core.spans import Spans
from cvmplan.core.values import PAGE
from cvmplan.memory.machine import MachineMemory
from cvmplan.memory.regions import Region, Role

MOST_CONFLICTS = 10_000  # listed one by one; beyond, one for each further region


class Limits(NamedTuple):
    """
    The addresses that one platform can make private.

    `end` is the end of the address space; a page at or above it is out of range, and
    `why` says so.  `bit` is a page-table bit that no address may have (C-bit).
    """

    end: int
    why: str
    bit: int | None = None


class Memory(NamedTuple):
    """
    Where the guest has RAM, and what must be mapped in it.

    Each a sequence of (gpa, size, origin); None where the user did not say.  `prefault` is
    mapped after the launch, without being part of it; `present` must be RAM, no more.
    `machine` is the memory of the VMM's machine where it is known, and then `ram` is its.
    """

    ram: tuple[tuple[int, int, str], ...] | None = None
    required: tuple[tuple[int, int, str], ...] = ()
    prefault: tuple[tuple[int, int, str], ...] = ()
    present: tuple[tuple[int, int, str], ...] = ()
    machine: MachineMemory | None = None


@record
class GpaMap(Frozen):
    """Checked regions in launch order, and what is worth knowing about them."""

    regions: tuple[Region, ...]
    findings: tuple[Finding, ...] = ()

    @classmethod
    def of(
        cls,
        regions: Iterable[Region],
        limits: Limits,
        memory: Memory | None = None,
        findings: Iterable[Finding] = (),
    ) -> GpaMap:
        """
        Check `regions` and return their map; MapError carries every finding, not the first.

        `findings` are those of earlier stages about the same launch; an error among them
        forbids the map as well.
        """
        ordered = tuple(regions)
        found = (*findings, *check_regions(ordered, limits, memory or Memory()))
        if has_errors(found):
            raise MapError(found)
        return cls(ordered, found)


def check_regions(regions: Sequence[Region], limits: Limits, memory: Memory) -> list[Finding]:
    """Return every finding about `regions` as the pages of one launch."""
    by_address = sorted((r for r in regions if r.size > 0), key=lambda r: r.gpa)
    later = [Region(gpa, size, Role.REGION, o, at=o) for gpa, size, o in memory.prefault]
    present = [Region(gpa, size, Role.REGION, o, at=o) for gpa, size, o in memory.present]
    found = [f for r in (*regions, *later, *present) for f in _shape(r, limits)]
    found += _conflicts(by_address)
    found += _capped(_impossible(limits, memory))
    found += _capped(_outside([*by_address, *later, *present], memory))
    found += _capped(_not_mapped(by_address, memory))
    return found


def _capped(findings: Iterator[Finding]) -> Iterator[Finding]:
    """Yield no more than MOST_CONFLICTS findings of one rule, and say when there are more."""
    yield from islice(findings, MOST_CONFLICTS)
    more = next(findings, None)
    if more:
        yield Finding(more.rule, f"only the first {MOST_CONFLICTS} conflicts are listed")


def _shape(region: Region, limits: Limits) -> Iterator[Finding]:
    gpa, size, origin = region.gpa, region.size, (region.origin,)
    if size <= 0:
        yield Finding("empty-region", f"{region.origin} has no pages", origins=origin, at=region.at)
        return
    if gpa % PAGE == size % PAGE == 0 and region.end <= limits.end and limits.bit is None:
        return
    first, last = region.first_page, min(region.end_page, 1 << 64) - PAGE

    def finding(rule: str, message: str) -> Finding:
        return Finding(rule, f"{region.origin} {message}", first, last, origin, region.at)

    if gpa % PAGE:
        yield finding("gpa-unaligned", f"begins at {gpa:#x}, {gpa % PAGE:#x} bytes into a page")
    if size % PAGE:
        yield finding("size-unaligned", f"is {size:#x} bytes, not whole pages")
    if region.end > 1 << 64:
        yield finding("gpa-wraps", "ends past 2^64")
    elif region.end > limits.end:
        yield finding("gpa-out-of-range", f"ends at {region.end:#x}, beyond {limits.why}")
    elif region.role is Role.VMSA:
        return  # the kernel's address, above any C-bit
    elif limits.bit is not None and _has_bit(gpa, region.end, limits.bit):
        yield finding("gpa-out-of-range", f"has addresses with the C-bit ({limits.bit}) set")


def _has_bit(start: int, end: int, bit: int) -> bool:
    """Whether any address in [start, end) has `bit` set."""
    return bool(start >> bit & 1) or (start >> bit) != (end - 1 >> bit)


def _conflicts(by_address: Sequence[Region]) -> Iterator[Finding]:
    """Sweep the regions upwards, with heaps of those that have not ended, by end and by index."""
    open_by_end: list[tuple[int, int]] = []
    open_by_index: list[int] = []
    pairs = reported = 0
    for index, region in enumerate(by_address):
        while open_by_end and open_by_end[0][0] <= region.first_page:
            heappop(open_by_end)
        while open_by_index and by_address[open_by_index[0]].end_page <= region.first_page:
            heappop(open_by_index)
        pairs += len(open_by_end)
        room = MOST_CONFLICTS - reported
        opponents = open_by_index[:1]
        if room > 0:
            opponents = sorted(i for _, i in open_by_end)[:room]
        reported += len(opponents)
        for opponent in opponents:
            yield _conflict(by_address[opponent], region)
        heappush(open_by_end, (region.end_page, index))
        heappush(open_by_index, index)
    if pairs > reported:
        yield Finding(
            "gpa-mapped-twice", f"{pairs} pairs of regions overlap; {reported} of them are listed"
        )


def _conflict(low: Region, high: Region) -> Finding:
    first = high.first_page
    last = min(low.end_page, high.end_page) - PAGE
    vmsa, other = (low, high) if low.role is Role.VMSA else (high, low)
    if vmsa.role is Role.VMSA:
        message = f"{other.origin} contains the address of {vmsa.origin}"
        return Finding(
            "gpa-reserved", message, first, last, (other.origin, vmsa.origin), other.at or vmsa.at
        )
    owners = low.owner(first), high.owner(first)
    return Finding(
        "gpa-mapped-twice",
        f"{owners[1]} overlaps {owners[0]}",
        first,
        last,
        owners,
        high.at or low.at,
    )


def _impossible(limits: Limits, memory: Memory) -> Iterator[Finding]:
    """Yield the ranges of memory that end past the guest-physical addresses there are."""
    for gpa, size, origin in memory.ram or ():
        if gpa + size > limits.end:
            yield Finding(
                "gpa-out-of-range",
                f"{origin} ends at {gpa + size:#x}, past {limits.why}",
                at=origin,
            )


def _outside(by_address: Sequence[Region], memory: Memory) -> Iterator[Finding]:
    if memory.ram is None:
        return
    ram = Spans(
        (-(-gpa // PAGE) * PAGE, (gpa + size) // PAGE * PAGE) for gpa, size, _ in memory.ram
    )
    for region in by_address:
        if region.role in (Role.VMSA, Role.VP_CONTEXT):
            continue
        for start, end in ram.missing(region.first_page, region.end_page):
            message = f"{region.origin} is outside the guest's memory"
            yield Finding("outside-memory", message, start, end - PAGE, (region.origin,), region.at)


def _not_mapped(by_address: Sequence[Region], memory: Memory) -> Iterator[Finding]:
    if not memory.required:
        return
    mapped = Spans((r.first_page, r.end_page) for r in by_address if r.is_mapped)
    for gpa, size, origin in memory.required:
        stop = min(-(-(gpa + size) // PAGE) * PAGE, 1 << 64)
        for start, end in mapped.missing(gpa - gpa % PAGE, stop):
            message = f"{origin} requires pages that are not mapped"
            yield Finding("required-not-mapped", message, start, end - PAGE, (origin,))
