"""
Guest memory as KVM has it: memslots, the guest_memfd behind each, private attributes, contents.

Source: Linux Documentation/virt/kvm/api.rst, KVM_CREATE_GUEST_MEMFD,
KVM_SET_USER_MEMORY_REGION2, KVM_SET_MEMORY_ATTRIBUTES; KVM_SET_MEMORY_ATTRIBUTES2 of the
in-place conversion patches (v8, 2026-06-18).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cvmplan.core.errors import ConfigError, PlanError, UnsupportedError
from cvmplan.core.platform import Platform
from cvmplan.core.records import record
from cvmplan.core.spans import Spans
from cvmplan.core.values import PAGE
from cvmplan.kvm.interface import Abi
from cvmplan.memory.contents import Contents, Zeros
from cvmplan.memory.gpamap import Memory
from cvmplan.memory.regions import Region, Role
from cvmplan.operations.lowering import Lowering
from cvmplan.operations.plan import MapMemory, Op, PreFaultMemory, Setup
from cvmplan.operations.steps import Step

LARGE = 2 << 20  # a large page; slots that are derived begin and end where one could
MOST_SLOTS = 32764  # Linux 6.11, x86: KVM_USER_MEM_SLOTS, SHRT_MAX less 3 internal ones
SHARED_FILE = ("mmap", "init-shared")  # a guest_memfd that user space writes through a mapping


@record
class CreateGmem(Setup):
    """KVM_CREATE_GUEST_MEMFD: number `gmem`, of `size` bytes; `flags` as in `SHARED_FILE`."""

    name = "create-gmem"
    kind = "memory"
    gmem: int
    size: int
    flags: tuple[str, ...] = ()


@record
class SetMemslot(Setup):
    """KVM_SET_USER_MEMORY_REGION2; `gmem` is the file behind it, None for a VMA."""

    name = "set-memslot"
    kind = "memory"
    slot: int
    gpa: int
    size: int
    gmem: int | None = None
    gmem_offset: int | None = None

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield nothing; PlanError where a page of the file is bound twice."""
        if self.gmem is not None:
            state.bind(self.gmem, self.gmem_offset or 0, self.size)
        yield from ()


@record
class SetPrivate(Setup):
    """
    KVM_SET_MEMORY_ATTRIBUTES: the range is private.

    Where attributes live on a guest_memfd, `gmem` is its number, and `preserve` keeps what
    was written.
    """

    name = "set-private"
    kind = "memory"
    gpa: int
    size: int
    gmem: int | None = None
    preserve: bool = False

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield nothing; PlanError where contents are lost."""
        state.make_private(self.gpa, self.size, preserve=bool(self.preserve))
        yield from ()


@record
class SetShared(Setup):
    """KVM_SET_MEMORY_ATTRIBUTES: the range is shared again; what was measured stays measured."""

    name = "set-shared"
    kind = "memory"
    gpa: int
    size: int
    gmem: int | None = None

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield nothing; PlanError where a page was added."""
        state.take_back(self.gpa, self.size)
        yield from ()


@record
class PunchHole(Setup):
    """fallocate(FALLOC_FL_PUNCH_HOLE) on a guest_memfd: its pages are given back."""

    name = "punch-hole"
    kind = "memory"
    gmem: int
    offset: int
    size: int

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Raise PlanError: a launch takes no page away."""
        del state
        raise PlanError(f"{self.size:#x} bytes are taken out of guest_memfd {self.gmem}")


@record
class Madvise(Setup):
    """madvise on the memory behind the range: "hugepage" asks for a large mapping."""

    name = "madvise"
    kind = "memory"
    gpa: int
    size: int
    advice: str


@record
class Write(Setup):
    """User space writes guest memory through its own mapping, which breaks copy-on-write."""

    name = "write"
    kind = "memory"
    gpa: int
    size: int
    source: Contents

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield nothing, and note what the memory holds."""
        state.write(self.gpa, self.size, self.source)
        yield from ()


class Slot(NamedTuple):
    """A memslot [start, end), and the number of the guest_memfd behind it, None for a VMA."""

    start: int
    end: int
    gmem: int | None


def backing(platform: Platform, chosen: str | None, abi: Abi) -> str:
    """Return what the memory of the VM comes from; ConfigError, UnsupportedError."""
    possible = platform.backings
    if chosen is not None and chosen not in possible:
        raise ConfigError(
            f"the memory of {platform} guests is {possible[0]}, not {chosen}", at="--backing"
        )
    made = chosen or possible[0]
    if platform.shares_gmem and made == "guest-memfd" and not abi.gmem_default:
        raise UnsupportedError(
            f"{abi.name} gives default VMs no guest_memfd", at="--backing", hint="--backing vma"
        )
    return made


def operations(
    platform: Platform, abi: Abi, made_of: str, memory: Memory, regions: Sequence[Region]
) -> Iterator[Op]:
    """Yield the calls that give a VM its memory, private where the platform has that."""
    gmem = made_of == "guest-memfd"
    private = gmem and platform.private
    in_place = abi.in_place and private
    flags = SHARED_FILE if in_place or (gmem and not private) else ()
    held = _slots(memory, regions, gmem=gmem)
    for number, slot in enumerate(held):
        if slot.gmem is not None:
            yield CreateGmem(slot.gmem, slot.end - slot.start, flags)
        yield SetMemslot(number, slot.start, slot.end - slot.start, slot.gmem)
    if in_place:
        yield from _writes(regions, zeros=False)
    if platform.shares_gmem:
        yield from () if gmem else _advice(regions)
        yield from _writes(regions, zeros=not gmem)
    if private:
        yield from _private(held, regions, abi)


def _private(held: Iterable[Slot], regions: Iterable[Region], abi: Abi) -> Iterator[Op]:
    shared = Spans((r.gpa, r.end) for r in regions if r.page_type == "shared")
    for slot in held:
        for low, high in shared.missing(slot.start, slot.end):
            number = slot.gmem if abi.attributes == "gmem" else None
            yield SetPrivate(low, high - low, number, preserve=abi.in_place)


def _writes(regions: Iterable[Region], *, zeros: bool) -> Iterator[Op]:
    for region in regions:
        contents = region.contents or Zeros()
        is_page = region.is_mapped and region.role is not Role.VMSA
        if is_page and (zeros or not isinstance(contents, Zeros)):
            yield Write(region.gpa, region.size, contents)


def _advice(regions: Iterable[Region]) -> Iterator[Op]:
    """Ask for large mappings where a region holds a whole large page."""
    for region in regions:
        if -(-region.gpa // LARGE) * LARGE + LARGE <= region.end:
            yield Madvise(region.gpa, region.size, "hugepage")


def _slots(memory: Memory, regions: Iterable[Region], *, gmem: bool) -> list[Slot]:
    """
    Return the memslots: the memory that is declared, else derived.

    Derived slots hold the regions and what is mapped in advance, rounded outwards to 2 MiB;
    adjacent ones are one, and so are all when there would be more than a kernel takes.
    """
    if memory.ram is not None:
        ranges = list(Spans((_up(g, PAGE), (g + size) // PAGE * PAGE) for g, size, _ in memory.ram))
        if len(ranges) > MOST_SLOTS:
            raise PlanError(
                f"{len(ranges)} separate ranges of memory, of which KVM takes {MOST_SLOTS}"
            )
    else:
        held = [(r.gpa, r.end) for r in regions if r.role is not Role.VMSA]
        held += [(gpa, gpa + size) for gpa, size, _ in memory.prefault]
        ranges = list(Spans((low // LARGE * LARGE, _up(high, LARGE)) for low, high in held))
        if len(ranges) > MOST_SLOTS:
            ranges = [(ranges[0][0], ranges[-1][1])]
    return [Slot(low, high, n if gmem else None) for n, (low, high) in enumerate(ranges)]


def prefault(abi: Abi, memory: Memory, ops: Iterable[Op]) -> Iterator[Op]:
    """Yield the mappings that were asked for, without what `ops` have added or mapped."""
    done = Spans(
        (op.gpa, op.gpa + op.size)
        for op in ops
        if op.kind in ("add", "map") and hasattr(op, "gpa") and hasattr(op, "size")
    )
    wanted = Spans((gpa, gpa + size) for gpa, size, _ in memory.prefault)
    for low, high in wanted:
        for start, end in done.missing(low, high):
            yield mapping(abi, start, end - start)


def mapping(abi: Abi, gpa: int, size: int) -> Op:
    """Return the call that maps a range and does nothing else; UnsupportedError."""
    if abi.map_call == PreFaultMemory.name:
        return PreFaultMemory(gpa, size)
    if abi.map_call == MapMemory.name:
        return MapMemory(gpa, size)
    raise UnsupportedError(f"{abi.name} has no call that only maps", at="--prefault")


def _up(address: int, granule: int) -> int:
    return -(-address // granule) * granule
