"""
The memory of a VMM's machine, for one launch: its blocks, and the memslots that show them.

Where a machine has its memory is data of a VMM's profile (`profiles.machines`); this is what
follows from it for one size of RAM and one firmware.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cvmplan.core.findings import Finding
from cvmplan.core.values import PAGE
from cvmplan.memory.regions import Region, Role


class Shown(NamedTuple):
    """A memslot: `size` bytes at `gpa` show a block from byte `offset` on."""

    gpa: int
    size: int
    block: int
    offset: int = 0
    readonly: bool = False

    @property
    def end(self) -> int:
        """The address behind its last byte."""
        return self.gpa + self.size


class MachineMemory(NamedTuple):
    """
    All memory of a machine.

    blocks   bytes of each block of memory, RAM first; each is a guest_memfd where it is private
    slots    the memslots as they are set, in the order of their numbers
    split    what the first of them is replaced by before the guest runs; empty: it stays
    again    the pages of an add are made private once more before it
    """

    blocks: tuple[int, ...]
    slots: tuple[Shown, ...]
    split: tuple[Shown, ...] = ()
    again: bool = False

    @property
    def ram(self) -> tuple[tuple[int, int], ...]:
        """Address and bytes of RAM, the lower first."""
        return tuple((slot.gpa, slot.size) for slot in self.slots if not slot.block)

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Address and bytes of all memory, whatever it is."""
        return tuple((slot.gpa, slot.size) for slot in self.slots)

    @property
    def final(self) -> tuple[Shown, ...]:
        """The memslots with which the guest runs."""
        return (*self.split, *self.slots[1:]) if self.split else self.slots


def slots_crossed(machine: MachineMemory, regions: Iterable[Region]) -> Iterator[Finding]:
    """Yield a warning for each region that goes on where a memslot ends and another begins."""
    final = machine.final
    ends = sorted({slot.end for slot in final} & {slot.gpa for slot in final})
    for region in regions:
        if region.role in (Role.VMSA, Role.VP_CONTEXT) or not region.is_mapped:
            continue
        crossed = [hex(end) for end in ends if region.gpa < end < region.end]
        if crossed:
            problem = f"{region.origin} continues where a memslot ends: {', '.join(crossed)}"
            first, last = region.first_page, region.end_page - PAGE
            yield Finding("slot-crossed", problem, first, last, (region.origin,), region.at)
