"""
Guest memory as KVM has it: memslots, the guest_memfd behind each, private attributes, contents.

Source: Linux Documentation/virt/kvm/api.rst, KVM_CREATE_GUEST_MEMFD,
KVM_SET_USER_MEMORY_REGION2, KVM_SET_MEMORY_ATTRIBUTES; KVM_SET_MEMORY_ATTRIBUTES2 of the
in-place conversion patches (v8, 2026-06-18).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from cvmplan.core.errors import ConfigError, PlanError, UnsupportedError
from cvmplan.core.platform import Platform
from cvmplan.core.records import record
from cvmplan.core.spans import Spans
from cvmplan.core.values import PAGE
from cvmplan.kvm.interface import Abi
from cvmplan.memory.contents import Contents, Zeros
from cvmplan.memory.gpamap import Memory
from cvmplan.memory.machine import MachineMemory, Shown
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
    """
    KVM_SET_USER_MEMORY_REGION2, of size 0: the slot is deleted.

    `gmem` is the file behind it, None for a VMA: a slot then shows all of one of its own, or
    `memory` of that number from byte `memory_offset` on.
    """

    name = "set-memslot"
    kind = "memory"
    slot: int
    gpa: int
    size: int
    gmem: int | None = None
    gmem_offset: int | None = None
    memory: int | None = None
    memory_offset: int | None = None
    readonly: bool = False

    @property
    def shows(self) -> tuple[int, int]:
        """The number of the memory in user space that it shows, and from which byte on."""
        if self.gmem is not None:
            return self.gmem, self.gmem_offset or 0
        return self.slot if self.memory is None else self.memory, self.memory_offset or 0

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield nothing; PlanError where a page of the file is bound twice."""
        if not self.size:
            state.unbind(self.slot)
        elif self.gmem is not None:
            state.bind(self.slot, self.gmem, self.gmem_offset or 0, self.size)
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


class MemoryCalls(NamedTuple):
    """
    The calls that give a VM its memory.

    `files` are made first, `slots` set the memslots, and `later` puts what lies over RAM into
    its place before the guest runs.
    """

    files: tuple[Op, ...] = ()
    slots: tuple[Op, ...] = ()
    later: tuple[Op, ...] = ()

    def slots_and(self, vcpus: Op, *, vcpus_first: bool) -> Iterator[Op]:
        """Yield the calls for memslots, and the one that creates vCPUs before or after them."""
        yield from (vcpus, *self.slots) if vcpus_first else (*self.slots, vcpus)


def operations(
    platform: Platform, abi: Abi, made_of: str, memory: Memory, regions: Sequence[Region]
) -> MemoryCalls:
    """Return the calls that give a VM its memory, private where the platform has that."""
    maker = _Maker(platform, abi, regions, gmem=made_of == "guest-memfd")
    if memory.machine is not None:
        return maker.of_machine(memory.machine)
    return maker.of_ranges(_ranges(memory, regions))


class _Maker:
    """Makes the calls of one VM, whose memory with `gmem` is guest_memfds."""

    def __init__(
        self, platform: Platform, abi: Abi, regions: Sequence[Region], *, gmem: bool
    ) -> None:
        self._regions = regions
        self._gmem = gmem
        self._shares = platform.shares_gmem
        self._private = gmem and platform.private
        self._in_place = abi.in_place and self._private
        self._on_file = abi.attributes == "gmem"
        self._shared = Spans((r.gpa, r.end) for r in regions if r.page_type == "shared")

    def of_ranges(self, ranges: Sequence[tuple[int, int]]) -> MemoryCalls:
        """Return the calls for ranges of memory, each a memslot of its own."""
        slots = [Shown(low, high - low, number) for number, (low, high) in enumerate(ranges)]
        pairs = ((*self._file(s.block, s.size), self._slot(s.block, s)) for s in slots)
        calls = chain.from_iterable(pairs)
        return MemoryCalls((), (*calls, *self._contents(), *self._make_private(*slots)))

    def of_machine(self, machine: MachineMemory) -> MemoryCalls:
        """Return the calls for the memory of a machine, each memslot private once it is set."""
        first, *more = machine.blocks
        ram = tuple(self._file(0, first))
        others = [op for n, size in enumerate(more, 1) for op in self._file(n, size)]
        if self._in_place:  # what is written before it is private is written at once
            slots = [self._slot(n, shown) for n, shown in enumerate(machine.final)]
            private = self._make_private(*machine.final)
            return MemoryCalls(ram, (*others, *slots, *self._contents(), *private))
        calls: list[Op] = []
        for number, shown in enumerate(machine.slots):
            if shown.block:
                calls, others = [*calls, *others], []
            calls += self._set(number, shown)
        return MemoryCalls(ram, tuple(calls), (*others, *self._split(machine)))

    def _split(self, machine: MachineMemory) -> Iterator[Op]:
        """Yield the calls that replace the first memslot; new ones get the free numbers."""
        if machine.split:
            yield SetMemslot(0, machine.slots[0].gpa, 0)
        numbers = (0, *range(len(machine.slots), len(machine.slots) + len(machine.split)))
        for number, shown in zip(numbers, machine.split, strict=False):
            yield from self._set(number, shown)

    def _set(self, number: int, shown: Shown) -> Iterator[Op]:
        yield self._slot(number, shown)
        yield from self._make_private(shown)

    def _file(self, number: int, size: int) -> Iterator[Op]:
        if self._gmem:
            flags = SHARED_FILE if self._in_place or not self._private else ()
            yield CreateGmem(number, size, flags)

    def _slot(self, number: int, shown: Shown) -> SetMemslot:
        place, offset = (number, shown.gpa, shown.size), shown.offset or None
        if self._gmem:
            return SetMemslot(*place, gmem=shown.block, gmem_offset=offset)
        memory = None if (shown.block, offset) == (number, None) else shown.block
        return SetMemslot(*place, memory=memory, memory_offset=offset, readonly=shown.readonly)

    def _make_private(self, *slots: Shown) -> Iterator[Op]:
        for shown in slots if self._private else ():
            for low, high in self._shared.missing(shown.gpa, shown.end):
                number = shown.block if self._on_file else None
                yield SetPrivate(low, high - low, number, preserve=self._in_place)

    def _contents(self) -> Iterator[Op]:
        """Yield what user space does with memory that it can write."""
        if self._in_place:
            yield from _writes(self._regions, zeros=False)
        if self._shares:
            yield from () if self._gmem else _advice(self._regions)
            yield from _writes(self._regions, zeros=not self._gmem)


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


def _ranges(memory: Memory, regions: Iterable[Region]) -> list[tuple[int, int]]:
    """
    Return where the guest has memory: as it is declared, else derived.

    Derived ranges hold the regions and what is mapped in advance, rounded outwards to 2 MiB, or
    where they would be more than a kernel takes, all that lies between.
    """
    if memory.ram is not None:
        ranges = list(Spans((_up(g, PAGE), (g + size) // PAGE * PAGE) for g, size, _ in memory.ram))
        if len(ranges) > MOST_SLOTS:
            raise PlanError(
                f"{len(ranges)} separate ranges of memory, of which KVM takes {MOST_SLOTS}"
            )
        return ranges
    held = [(r.gpa, r.end) for r in regions if r.role is not Role.VMSA]
    held += [(gpa, gpa + size) for gpa, size, _ in memory.prefault]
    ranges = list(Spans((low // LARGE * LARGE, _up(high, LARGE)) for low, high in held))
    return ranges if len(ranges) <= MOST_SLOTS else [(ranges[0][0], ranges[-1][1])]


def private_again(abi: Abi, memory: Memory, region: Region) -> Iterator[Op]:
    """Yield the call that makes the pages of an add private once more, where the VMM does that."""
    if memory.machine is not None and memory.machine.again and not abi.in_place:
        yield SetPrivate(region.gpa, region.size)


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
