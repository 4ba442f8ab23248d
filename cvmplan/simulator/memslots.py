"""
A simulated guest's memslots and guest_memfds: which memory there is, and what backs it.

Sources: Linux Documentation/virt/kvm/api.rst; linux 01f492e1 virt/kvm/guest_memfd.c;
virt/kvm/kvm_main.c, kvm_set_memory_region, of 6.12 to 7.3; the answers were also got from
booted kernels (6.12.107 to 7.3.4).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable
from operator import attrgetter
from typing import Final, NamedTuple

from cvmplan.core.findings import Finding
from cvmplan.core.platform import Platform
from cvmplan.kvm.interface import PAGE, WIDEST, Abi
from cvmplan.simulator.answers import Answer, no
from cvmplan.simulator.call import Call
from cvmplan.simulator.ranges import END, Ranges

MOST_FINDINGS = 1000  # of one simulation
MOST_SLOTS = 32764  # linux 6.11, x86: KVM_USER_MEM_SLOTS
SMM = 1 << 16  # in a slot's number: the address space of system management mode
MOST_GMEM: Final = 1 << 63  # bytes; loff_t is signed


class Slot(NamedTuple):
    """Memslot `number`: [gpa, end), and where in which guest_memfd it begins."""

    number: int
    gpa: int
    end: int
    gmem: int | None
    offset: int = 0

    @property
    def delta(self) -> int:
        """What to add to an offset in the guest_memfd for the guest-physical address."""
        return self.gpa - self.offset


class Frame(NamedTuple):
    """A page of a guest_memfd: populated (folio uptodate), in use at offset + `delta`."""

    populated: bool = False
    delta: int | None = None


def whole_pages(gpa: int, size: int) -> bool:
    """Whether [gpa, gpa + size) is one or more whole pages that end below 2^64."""
    return size > 0 and gpa % PAGE == 0 and size % PAGE == 0 and gpa + size < END


class Memslots:
    """The memslots of one VM, and the guest_memfds behind them."""

    def __init__(self, platform: Platform, abi: Abi) -> None:
        self.platform = platform
        self.abi = abi
        self.host_width = WIDEST
        self.findings: list[Finding] = []
        self.slots: list[Slot] = []
        self._writable: set[int] = set()  # guest_memfds that user space maps, and that begin shared
        self._numbered: dict[int, Slot] = {}
        self._bound: dict[int, Ranges[int | None]] = {}  # guest_memfd offset to slot number
        self.gmems: dict[int, int] = {}  # number to bytes
        self.frames: dict[int, Ranges[Frame]] = {}

    def tell(self, rule: str, why: str, first: int, last: int) -> None:
        """Note a finding about the pages from `first` to `last`."""
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(Finding(rule, why, first, last))

    def unmapped(self, low: int, high: int) -> None:
        """Remove the mappings of [low, high): its memslot was deleted or moved."""

    # --- guest_memfds --------------------------------------------------------------------------

    def create_gmem(self, op: Call) -> Answer:
        """KVM_CREATE_GUEST_MEMFD."""
        flags, number = set(op.flags), op.gmem or 0
        if not 0 < op.size < MOST_GMEM or op.size % PAGE:
            return no(
                "EINVAL", "unaligned", f"{op.size:#x} bytes are not whole pages, or 2^63 and more"
            )
        if flags - set(self.abi.gmem_flags):
            return no(
                "EINVAL", "unknown-flag", f"the kernel knows no flag {', '.join(sorted(flags))}"
            )
        if "init-shared" in flags and self.platform.private and not self.abi.in_place:
            return no(
                "EINVAL",
                "cannot-begin-shared",
                "memory of VMs with private memory cannot begin shared",
            )
        if number in self.gmems:
            return no(None, "created-before", f"guest_memfd {number} was created before")
        self.new_gmem(number, op.size)
        if {"mmap", "init-shared"} <= flags:
            self._writable.add(number)
        return Answer()

    def new_gmem(self, number: int, size: int) -> None:
        """Create guest_memfd `number` of `size` bytes."""
        self.gmems[number] = size
        self.frames[number] = Ranges(Frame())
        self._bound[number] = Ranges(None)

    def is_writable(self, slot: Slot) -> bool:
        """Whether user space can write into the slot's memory."""
        return slot.gmem is None or slot.gmem in self._writable

    def bound_runs(self, gmem: int, low: int, high: int) -> list[tuple[int, int, int]]:
        """Return (start, end, delta) of what memslots show of [low, high) of a guest_memfd."""
        runs = self._bound[gmem].runs(low, high)
        return [(a, b, self._numbered[n].delta) for a, b, n in runs if n is not None]

    # --- memslots ------------------------------------------------------------------------------

    def set_memslot(self, op: Call) -> Answer:
        """KVM_SET_USER_MEMORY_REGION2: a new slot, a slot again, or with size 0 its end."""
        number = op.slot
        if not self.platform.private and number >= SMM and number - SMM < MOST_SLOTS:
            return Answer(why="memory of system management mode: not modelled")
        if op.gmem is not None and not self._may_have_gmem():
            return no(
                "EINVAL",
                "no-gmem-here",
                f"a {self.platform} VM has no guest_memfd under {self.abi.name}",
            )
        if number >= MOST_SLOTS or op.size % PAGE or op.gpa % PAGE:
            return no("EINVAL", "unaligned", f"{op.size:#x} bytes at {op.gpa:#x}, slot {number}")
        if op.gpa + op.size > 1 << self.host_width:
            why = (
                f"{op.gpa + op.size:#x} is past the {self.host_width} bits of the host's addresses"
            )
            return no("EINVAL", "past-the-end", why)
        slot = Slot(number, op.gpa, op.gpa + op.size, op.gmem, op.gmem_offset or 0)
        if number in self._numbered or not op.size:
            return self._set_again(slot, self._numbered.get(number))
        return self._set_new(slot)

    def _set_new(self, slot: Slot) -> Answer:
        other = self._overlapping(slot)
        if other is not None:
            return no("EEXIST", "slot-taken", f"slot {other.number} already exists")
        if slot.gmem is not None:
            refused = self._refuses_binding(slot)
            if refused is not None:
                return refused
        self.bind(slot)
        return Answer()

    def _set_again(self, slot: Slot, before: Slot | None) -> Answer:
        """Set a slot that is in use, or delete it: `slot` has size 0 then."""
        refused = self._refuses_change(slot, before)
        if refused is not None or before is None:
            return refused or Answer()
        if slot.gpa == before.gpa and slot.end == before.end:
            return Answer("nop", why="the slot already has this state")
        self._unbind(before)
        if slot.gpa == slot.end:
            return Answer(why=f"slot {slot.number} is deleted")
        self.bind(slot)
        return Answer(why=f"slot {slot.number} is moved")

    def _refuses_change(self, slot: Slot, before: Slot | None) -> Answer | None:
        """Return why a slot in use cannot become `slot`, None where it can."""
        if before is None:
            return no(
                "EINVAL",
                "no-memslot",
                f"slot {slot.number} does not exist, so it cannot be deleted",
            )
        if slot.gpa == slot.end:
            return None
        if before.gmem is not None or slot.gmem is not None:
            return no(
                "EINVAL",
                "slot-fixed",
                f"slot {slot.number} is in use; one with a guest_memfd is fixed",
            )
        if slot.end - slot.gpa != before.end - before.gpa:
            return no(
                "EINVAL", "slot-fixed", f"slot {slot.number} is in use, and its size is fixed"
            )
        other = self._overlapping(slot)
        return no("EEXIST", "slot-taken", f"slot {other.number} already exists") if other else None

    def _overlapping(self, slot: Slot) -> Slot | None:
        """Return a slot of another number that holds an address of `slot`, None where none does."""
        index = bisect_right(self.slots, slot.gpa, key=attrgetter("gpa"))
        near = self.slots[max(index - 2, 0) : index + 2]
        near = [s for s in near if s.number != slot.number]
        return next((s for s in near if s.gpa < slot.end and slot.gpa < s.end), None)

    def _may_have_gmem(self) -> bool:
        return self.platform.private or (self.platform.shares_gmem and self.abi.gmem_default)

    def _refuses_binding(self, slot: Slot) -> Answer | None:
        size, end = slot.end - slot.gpa, slot.offset + slot.end - slot.gpa
        if slot.gmem is None or slot.gmem not in self.gmems:
            return no("EBADF", "no-gmem", f"guest_memfd {slot.gmem} does not exist")
        if slot.offset % PAGE or end > self.gmems[slot.gmem]:
            return no(
                "EINVAL",
                "past-the-end",
                f"{size:#x} bytes at {slot.offset:#x} are not in the guest_memfd",
            )
        for low, high, number in self._bound[slot.gmem].runs(slot.offset, end):
            if number is not None:
                why = f"these pages of the guest_memfd are bound by slot {number}"
                first, last = low + slot.delta, high + slot.delta - PAGE
                self.tell("page-backs-two-gpas", why, first, last)
                return no(self.abi.bound_twice, "bound-twice", why)
        return None

    def bind(self, slot: Slot) -> None:
        """Note a slot, and what it shows of its guest_memfd."""
        insort(self.slots, slot, key=attrgetter("gpa"))
        self._numbered[slot.number] = slot
        if slot.gmem is not None:
            self._bound[slot.gmem].set(slot.offset, slot.offset + slot.end - slot.gpa, slot.number)

    def _unbind(self, slot: Slot) -> None:
        self.slots.remove(slot)
        self.unmapped(slot.gpa, slot.end)
        del self._numbered[slot.number]
        if slot.gmem is not None:
            self._bound[slot.gmem].set(slot.offset, slot.offset + slot.end - slot.gpa, None)

    def slot_at(self, gpa: int) -> Slot | None:
        """Return the slot that holds `gpa`, None where none does."""
        index = bisect_right(self.slots, gpa, key=attrgetter("gpa")) - 1
        if index >= 0 and gpa < self.slots[index].end:
            return self.slots[index]
        return None

    def held_up_to(self, gpa: int, end: int) -> int:
        """Return where memslots stop holding [gpa, end)."""
        while gpa < end and (slot := self.slot_at(gpa)) is not None:
            gpa = slot.end
        return min(gpa, end)

    def all_slots(self, low: int, high: int, accept: Callable[[Slot], bool]) -> bool:
        """Whether slots hold all of [low, high), and each is accepted."""
        while low < high:
            slot = self.slot_at(low)
            if slot is None or not accept(slot):
                return False
            low = slot.end
        return True
