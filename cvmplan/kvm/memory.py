"""
Guest memory as KVM has it: memslots, the guest_memfd behind each, private attributes.

Source: Linux Documentation/virt/kvm/api.rst, KVM_CREATE_GUEST_MEMFD,
KVM_SET_USER_MEMORY_REGION2, KVM_SET_MEMORY_ATTRIBUTES.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cvmplan.errors import PlanError
from cvmplan.gpamap import Memory, Region, Role
from cvmplan.order import PAGE
from cvmplan.plan import Op, Setup
from cvmplan.spans import Spans

GRANULE = 2 << 20  # slots that are derived begin and end where a large page could
MOST_SLOTS = 32764  # Linux 6.11, x86: KVM_USER_MEM_SLOTS, SHRT_MAX less 3 internal ones
WITHOUT_GMEM = frozenset({"default", "sev", "sev-es"})


@dataclass(frozen=True, slots=True)
class CreateGmem(Setup):
    """KVM_CREATE_GUEST_MEMFD: number `gmem`, of `size` bytes."""

    name = "create-gmem"
    kind = "memory"
    gmem: int
    size: int


@dataclass(frozen=True, slots=True)
class SetMemslot(Setup):
    """KVM_SET_USER_MEMORY_REGION2; `gmem` is the file behind it from offset 0, None for a VMA."""

    name = "set-memslot"
    kind = "memory"
    slot: int
    gpa: int
    size: int
    gmem: int | None = None


@dataclass(frozen=True, slots=True)
class SetPrivate(Setup):
    """KVM_SET_MEMORY_ATTRIBUTES: the range is private."""

    name = "set-private"
    kind = "memory"
    gpa: int
    size: int


def slots(memory: Memory, regions: Iterable[Region]) -> list[tuple[int, int]]:
    """
    Return the [start, end) of each memslot: the memory that is declared, else derived.

    Derived slots hold the regions, rounded outwards to 2 MiB; adjacent ones are one, and
    so are all when there would be more than a kernel takes.
    """
    if memory.ram is not None:
        ram = Spans((_up(g, PAGE), (g + size) // PAGE * PAGE) for g, size, _ in memory.ram)
        if len(ram) > MOST_SLOTS:
            raise PlanError(
                f"{len(ram)} separate ranges of memory, of which KVM takes {MOST_SLOTS}"
            )
        return list(ram)
    held = (r for r in regions if r.role is not Role.VMSA)
    ranges = list(Spans((r.gpa // GRANULE * GRANULE, _up(r.end, GRANULE)) for r in held))
    return ranges if len(ranges) <= MOST_SLOTS else [(ranges[0][0], ranges[-1][1])]


def operations(platform: str, memory: Memory, regions: Sequence[Region]) -> Iterator[Op]:
    """Yield the calls that give a VM its memory, private where the platform has that."""
    shared = Spans((r.gpa, r.end) for r in regions if r.page_type == "shared")
    for number, (start, end) in enumerate(slots(memory, regions)):
        if platform in WITHOUT_GMEM:
            yield SetMemslot(number, start, end - start)
            continue
        yield CreateGmem(number, end - start)
        yield SetMemslot(number, start, end - start, number)
        for low, high in shared.missing(start, end):
            yield SetPrivate(low, high - low)


def _up(address: int, granule: int) -> int:
    return -(-address // granule) * granule
