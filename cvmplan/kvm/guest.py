"""
A simulated guest's memory: memslots, guest_memfd pages, attributes, mappings.

Which page of a guest_memfd is populated, and which is in use by trusted firmware (RMP entry,
PAMT), belongs to that page; private or shared, mapped, present in the secure EPT belongs to
the guest-physical address.  Sources: Linux Documentation/virt/kvm/api.rst; linux 01f492e1,
virt/kvm/guest_memfd.c; virt/kvm/kvm_main.c of 6.12 to 6.14.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any, NamedTuple

from cvmplan.findings import Finding
from cvmplan.kvm.answers import Answer, no
from cvmplan.kvm.interface import LARGE, PAGE, Abi
from cvmplan.kvm.ranges import END, Ranges
from cvmplan.kvm.source import NOTHING, UNKNOWN, Source

MOST_FINDINGS = 1000  # of one simulation
MOST_SLOTS = 32764  # linux 6.11, x86: KVM_USER_MEM_SLOTS
OWN_MEMORY = ("snp", "tdx", "sw-protected")  # VM types with private memory


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
    """Whether [gpa, gpa + size) is one or more whole pages below 2^64."""
    return size > 0 and gpa % PAGE == 0 and size % PAGE == 0 and gpa + size <= END


class Memory:
    """The memory of one VM, and the calls that shape it."""

    def __init__(self, platform: str, abi: Abi) -> None:
        self.platform = platform
        self.abi = abi
        self.finalized = False
        self.findings: list[Finding] = []
        self.in_place = abi.in_place  # pages are added as they lie there
        self.slots: list[Slot] = []
        self._writable: set[int] = set()  # guest_memfds that user space maps, and that begin shared
        self._numbered: dict[int, Slot] = {}
        self._bound: dict[int, Ranges[int | None]] = {}  # guest_memfd offset to slot number
        self.gmems: dict[int, int] = {}  # number to bytes
        self.frames: dict[int, Ranges[Frame]] = {}
        self.private = Ranges(value=False)
        self.large = Ranges(value=False)  # a large page was asked for
        self.level = Ranges(0)  # of the mapping, in bytes
        self.leaf = Ranges("free")  # secure EPT: free, mapped, augmented, added
        self.measured = Ranges(0)  # times
        self.written: Ranges[tuple[Source, int] | None] = Ranges(None)  # contents, and where from

    def assume_all(self, pages: Iterable[tuple[int, int, Source]]) -> None:
        """
        Give the guest private memory everywhere: a recording without set-up calls.

        Pages hold what `pages` (gpa, size, contents) say, and are added as they lie there.
        """
        self.in_place = True
        self._create_gmem(0, 1 << 52)
        self._bind(Slot(0, 0, 1 << 52, 0))
        self.private.set(0, 1 << 52, value=True)
        self.written.set(0, END, (UNKNOWN, 0))
        for gpa, size, source in pages:
            self.written.set(gpa, gpa + size, (source, gpa))

    # --- memslots and guest_memfds -----------------------------------------------------------

    def create_gmem(self, op: Any) -> Answer:
        """KVM_CREATE_GUEST_MEMFD."""
        flags = set(op.flags or ())
        if op.size <= 0 or op.size % PAGE:
            return no("EINVAL", f"{op.size:#x} bytes are not whole pages")
        if flags - set(self.abi.gmem_flags):
            return no("EINVAL", f"the kernel knows no flag {', '.join(sorted(flags))}")
        if "init-shared" in flags and self.platform in OWN_MEMORY and not self.abi.in_place:
            return no("EINVAL", "memory of VMs with private memory cannot begin shared")
        if op.gmem in self.gmems:
            return no(None, f"guest_memfd {op.gmem} was created before")
        self._create_gmem(op.gmem, op.size)
        if {"mmap", "init-shared"} <= flags:
            self._writable.add(op.gmem)
        return Answer()

    def _create_gmem(self, number: int, size: int) -> None:
        self.gmems[number] = size
        self.frames[number] = Ranges(Frame())
        self._bound[number] = Ranges(None)

    def set_memslot(self, op: Any) -> Answer:
        """KVM_SET_USER_MEMORY_REGION2 of a new slot."""
        slot = Slot(op.slot, op.gpa, op.gpa + op.size, op.gmem, op.gmem_offset or 0)
        if op.gmem is not None and not self._may_have_gmem():
            return no("EINVAL", f"a {self.platform} VM has no guest_memfd under {self.abi.name}")
        if not whole_pages(op.gpa, op.size) or op.slot >= MOST_SLOTS:
            return no("EINVAL", f"{op.size:#x} bytes at {op.gpa:#x}, slot {op.slot}")
        if op.slot in self._numbered:
            return no("EINVAL", f"slot {op.slot} is in use, and cannot be changed")
        other = self._overlapping(slot)
        if other is not None:
            return no("EEXIST", f"slot {other.number} is there already")
        if op.gmem is not None:
            refused = self._refuses_binding(slot)
            if refused is not None:
                return refused
        self._bind(slot)
        return Answer()

    def _overlapping(self, slot: Slot) -> Slot | None:
        """Return a slot that holds an address of `slot`, None where none does."""
        index = bisect_right(self.slots, slot.gpa, key=attrgetter("gpa"))
        near = self.slots[max(index - 1, 0) : index + 1]
        return next((s for s in near if s.gpa < slot.end and slot.gpa < s.end), None)

    def _may_have_gmem(self) -> bool:
        return self.platform in OWN_MEMORY or (self.platform == "default" and self.abi.gmem_default)

    def _refuses_binding(self, slot: Slot) -> Answer | None:
        size, end = slot.end - slot.gpa, slot.offset + slot.end - slot.gpa
        if slot.gmem not in self.gmems:
            return no("EBADF", f"there is no guest_memfd {slot.gmem}")
        if slot.offset % PAGE or end > self.gmems[slot.gmem]:
            return no("EINVAL", f"{size:#x} bytes at {slot.offset:#x} are not in the guest_memfd")
        for low, high, number in self._bound[slot.gmem].runs(slot.offset, end):
            if number is not None:
                why = f"these pages of the guest_memfd are bound by slot {number}"
                first, last = low + slot.delta, high + slot.delta - PAGE
                self.tell("page-backs-two-gpas", why, first, last)
                return no("EINVAL", why)
        return None

    def tell(self, rule: str, why: str, first: int, last: int) -> None:
        """Note a finding about the pages from `first` to `last`."""
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(Finding(rule, why, first, last))

    def _bind(self, slot: Slot) -> None:
        insort(self.slots, slot, key=attrgetter("gpa"))
        self._numbered[slot.number] = slot
        if slot.gmem is not None:
            self._bound[slot.gmem].set(slot.offset, slot.offset + slot.end - slot.gpa, slot.number)

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

    def punch_hole(self, op: Any) -> Answer:
        """fallocate(FALLOC_FL_PUNCH_HOLE) of a guest_memfd."""
        if op.gmem not in self.gmems:
            return no("EBADF", f"there is no guest_memfd {op.gmem}")
        if not whole_pages(op.offset, op.size):
            return no("EINVAL", f"{op.size:#x} bytes at {op.offset:#x} are not whole pages")
        end = min(op.offset + op.size, self.gmems[op.gmem])
        self.frames[op.gmem].set(op.offset, end, Frame())
        for low, high, number in self._bound[op.gmem].runs(op.offset, end):
            if number is not None:
                delta = self._numbered[number].delta
                self._zap(low + delta, high + delta, leaves=True)
        return Answer(why="what was measured of these pages stays measured")

    # --- attributes --------------------------------------------------------------------------

    def set_private(self, op: Any) -> Answer:
        """KVM_SET_MEMORY_ATTRIBUTES, or _ATTRIBUTES2 on a guest_memfd: private."""
        return self._set_attribute(op, private=True)

    def set_shared(self, op: Any) -> Answer:
        """The same: shared."""
        return self._set_attribute(op, private=False)

    def _refuses_attribute(self, op: Any) -> Answer | None:
        place = "vm" if op.gmem is None else "gmem"
        end = op.gpa + op.size
        if place != self.abi.attributes and self.abi.runs:
            return no("ENOTTY", f"{self.abi.name} has its attributes on the {self.abi.attributes}")
        wrong = {
            f"a {self.platform} VM has no private memory": self.platform not in OWN_MEMORY,
            f"{op.size:#x} bytes at {op.gpa:#x} are no pages": not whole_pages(op.gpa, op.size),
            f"the range is not memory of guest_memfd {op.gmem}": op.gmem is not None
            and not self._all_slots(op.gpa, end, lambda slot: slot.gmem == op.gmem),
            "contents cannot be preserved here": bool(getattr(op, "preserve", None))
            and (not self.abi.in_place or self.finalized),
        }
        return next((no("EINVAL", why) for why, is_so in wrong.items() if is_so), None)

    def _set_attribute(self, op: Any, *, private: bool) -> Answer:
        refused = self._refuses_attribute(op)
        if refused is not None:
            return refused
        end = op.gpa + op.size
        changed = [(a, b) for a, b, now in self.private.runs(op.gpa, end) if now != private]
        for low, high in changed:
            self._zap(low, high, leaves=not private)
            if self.abi.in_place and not getattr(op, "preserve", None):
                self.written.set(low, high, None)
        self.private.set(op.gpa, end, private)
        if not changed:
            return Answer("nop", why="it was so already")
        return Answer()

    def _zap(self, low: int, high: int, *, leaves: bool) -> None:
        """Remove mappings; a TD's pages leave the secure EPT, and MRTD keeps what it has."""
        self.level.set(low, high, 0)
        if leaves and self.platform == "tdx":
            for start, end, leaf in [*self.leaf.runs(low, high)]:
                if leaf != "free":
                    self.leaf.set(start, end, "free")
                    self._release(start, end)

    def _release(self, low: int, high: int) -> None:
        """Give pages that leave the secure EPT back to the host; folios stay populated."""
        while low < high:
            slot = self.slot_at(low)
            end = min(high, slot.end if slot else high)
            if slot and slot.gmem is not None:
                frames = self.frames[slot.gmem]
                for a, b, frame in [*frames.runs(low - slot.delta, end - slot.delta)]:
                    if frame.delta == slot.delta:
                        frames.set(a, b, frame._replace(delta=None))
            low = end

    # --- what user space does to its own memory -----------------------------------------------

    def madvise(self, op: Any) -> Answer:
        """MADV_HUGEPAGE or MADV_NOHUGEPAGE on the memory behind a range."""
        if not self._is_held(op):
            return no("EFAULT", "no memslot holds the range")
        self.large.set(op.gpa, op.gpa + op.size, op.advice == "hugepage")
        return Answer()

    def write(self, op: Any, source: Source) -> Answer:
        """User space writes into guest memory."""
        if not self._is_held(op):
            return no("EFAULT", "no memslot holds the range")
        end = op.gpa + op.size
        if self.abi.in_place and not self._all_slots(op.gpa, end, self._is_writable):
            return no("EFAULT", "user space cannot write this guest_memfd (SIGBUS)")
        if self.private.first(op.gpa, op.gpa + op.size, value=True) is not None:
            return Answer(why="a part is private: the guest does not see what is written there")
        self.written.set(op.gpa, op.gpa + op.size, (source, op.gpa))
        return Answer()

    def _all_slots(self, low: int, high: int, accept: Callable[[Slot], bool]) -> bool:
        """Whether slots hold all of [low, high), and each is accepted."""
        while low < high:
            slot = self.slot_at(low)
            if slot is None or not accept(slot):
                return False
            low = slot.end
        return True

    def _is_writable(self, slot: Slot) -> bool:
        return slot.gmem is None or slot.gmem in self._writable

    def contents(self, low: int, high: int) -> Iterator[tuple[int, int, Source, int]]:
        """Yield (start, end, contents, address of their begin) of memory as it was written."""
        for start, end, written in self.written.runs(low, high):
            source, base = written or (NOTHING, start)
            yield start, end, source, base

    def _is_held(self, op: Any) -> bool:
        end = op.gpa + op.size
        return bool(op.size > 0 and self.held_up_to(op.gpa, end) == end)

    # --- mapping -----------------------------------------------------------------------------

    def fault_in(self, gpa: int, size: int) -> Answer:
        """
        Map what a read fault would, upwards, at the level that the kernel chooses.

        The cursor goes on from the end of the page that is mapped, and not past the range.
        """
        at, end, new, largest = gpa, gpa + size, False, 0
        while at < end:
            slot = self.slot_at(at)
            refused = self._refuses_fault(slot, at)
            if slot is None or refused is not None:
                left = (at, end - at)
                return (refused or no("ENOENT", "no memslot"))._replace(residual=left)
            stop = min(end, slot.end)
            if slot.gmem is None:
                stop = self.private.first(at, stop, value=True) or stop
            for low, high, level in [*self.level.runs(at, stop)]:
                if not level:
                    new = True
                    largest = max(largest, self._fault_run(slot, low, high))
                else:
                    largest = max(largest, level)
            at = stop
        if not new and self.abi.map_again != "nop":
            return no(self.abi.map_again, "all of it is mapped", residual=(gpa, size))
        return Answer("ok" if new else "nop", mapped=(gpa, size, largest))

    def _refuses_fault(self, slot: Slot | None, at: int) -> Answer | None:
        if slot is None:
            return no("ENOENT", f"no memslot holds {at:#x}")
        private = next(self.private.runs(at, at + PAGE))[2]
        if private and slot.gmem is None:
            return no("EFAULT", f"{at:#x} is private, and its memslot has no guest_memfd")
        return None

    def _fault_run(self, slot: Slot, low: int, high: int) -> int:
        """Map an unmapped run inside one slot, and return its largest page in bytes."""
        first, last = low // LARGE * LARGE, -(-high // LARGE) * LARGE
        if slot.gmem is None and self.abi.shared_level >= LARGE:
            within = max(first, slot.gpa), min(last, slot.end)
            for start, end, large in [*self.large.runs(*within)]:
                if large:  # every block that lies in the advised memory as a whole
                    self.level.set(-(-start // LARGE) * LARGE, end // LARGE * LARGE, LARGE)
        largest = 0
        for start, end, level in [*self.level.runs(low, high)]:
            largest = max(largest, level or PAGE)
            if not level:
                self.level.set(start, end, PAGE)
        return largest
