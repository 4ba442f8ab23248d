"""
A simulated guest's memory: guest_memfd pages, attributes, mappings.

Which page of a guest_memfd is populated, and which is in use by trusted firmware (RMP entry,
PAMT), belongs to that page; private or shared, mapped, present in the secure EPT belongs to
the guest-physical address.  Sources: Linux Documentation/virt/kvm/api.rst; linux 01f492e1,
virt/kvm/guest_memfd.c; virt/kvm/kvm_main.c of 6.12 to 6.14.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cvmplan.core.platform import Platform
from cvmplan.core.values import write_span
from cvmplan.kvm.interface import LARGE, PAGE, Abi
from cvmplan.simulator.answers import Answer, no
from cvmplan.simulator.call import Call
from cvmplan.simulator.memslots import Frame, Memslots, Slot, whole_pages
from cvmplan.simulator.ranges import END, Ranges
from cvmplan.simulator.source import NOTHING, UNKNOWN, Source


class Memory(Memslots):
    """The memory of one VM, and the calls that shape it."""

    def __init__(self, platform: Platform, abi: Abi) -> None:
        super().__init__(platform, abi)
        self.finalized = False
        self.in_place = abi.in_place  # pages are added as they are in the guest_memfd
        self.private = Ranges(value=False)
        self.large = Ranges(value=False)  # a large page was asked for
        self._small = Ranges(value=False)  # 2 MiB blocks of user space that hold 4 KiB pages
        self.level = Ranges(0)  # of the mapping, in bytes
        self.leaf = Ranges("free")  # secure EPT: free, mapped, augmented, added
        self.measured = Ranges(0)  # times
        self.written: Ranges[tuple[Source, int] | None] = Ranges(None)  # contents, and where from

    def unmapped(self, low: int, high: int) -> None:
        """Remove the mappings of [low, high): its memslot was deleted or moved."""
        self._zap(low, high, leaves=True)

    def assume_all(self, pages: Iterable[tuple[int, int, Source]], *, private: bool) -> None:
        """
        Give the guest memory everywhere, `private` or not: a recording without set-up calls.

        Pages hold what `pages` (gpa, size, contents) say, and are added as they are there.
        """
        self.new_gmem(0, 1 << 52)
        self.bind(Slot(0, 0, 1 << 52, 0))
        self.private.set(0, 1 << 52, value=private)
        self.hold(pages)

    def hold(self, pages: Iterable[tuple[int, int, Source]]) -> None:
        """Let pages hold what `pages` (gpa, size, contents) say, and be added as they are there."""
        self.in_place = True
        self.written.set(0, END, (UNKNOWN, 0))
        for gpa, size, source in pages:
            self.written.set(gpa, gpa + size, (source, gpa))

    # --- guest_memfd pages that are given back ---------------------------------------------------

    def punch_hole(self, op: Call) -> Answer:
        """fallocate(FALLOC_FL_PUNCH_HOLE) of a guest_memfd."""
        if op.gmem not in self.gmems:
            return no("EBADF", "no-gmem", f"guest_memfd {op.gmem} does not exist")
        if not whole_pages(op.offset, op.size):
            return no(
                "EINVAL", "unaligned", f"{op.size:#x} bytes at {op.offset:#x} are not whole pages"
            )
        end = min(op.offset + op.size, self.gmems[op.gmem])
        self.frames[op.gmem].set(op.offset, end, Frame())
        for low, high, delta in self.bound_runs(op.gmem, op.offset, end):
            self._zap(low + delta, high + delta, leaves=True)
        return Answer(why="the measurement of these pages stays")

    # --- attributes --------------------------------------------------------------------------

    def set_private(self, op: Call) -> Answer:
        """KVM_SET_MEMORY_ATTRIBUTES, or _ATTRIBUTES2 on a guest_memfd: private."""
        return self._set_attribute(op, private=True)

    def set_shared(self, op: Call) -> Answer:
        """The same: shared."""
        return self._set_attribute(op, private=False)

    def _refuses_attribute(self, op: Call, *, private: bool) -> Answer | None:
        end = op.gpa + op.size
        elsewhere = self._refuses_place(op)
        if elsewhere is not None:
            return elsewhere
        if private and not self.platform.private:
            why = f"a {self.platform} VM has no private memory"
            return no("EINVAL", "no-private-memory", why)
        if not whole_pages(op.gpa, op.size):
            return no(
                "EINVAL", "unaligned", f"{op.size:#x} bytes at {op.gpa:#x} are not whole pages"
            )
        mine = op.gmem is None or self.all_slots(op.gpa, end, lambda slot: slot.gmem == op.gmem)
        if not mine:
            why = f"the range is not memory of guest_memfd {op.gmem}"
            return no("EINVAL", "not-in-gmem", why)
        if op.preserve and (not self.abi.in_place or self.finalized):
            return no("EINVAL", "no-preserve", "contents cannot be preserved here")
        return None

    def _refuses_place(self, op: Call) -> Answer | None:
        """Return why attributes are not set on what `op` names: the VM, or a guest_memfd."""
        place = "vm" if op.gmem is None else "gmem"
        if op.gmem is not None and op.gmem not in self.gmems:
            return no("EBADF", "no-gmem", f"guest_memfd {op.gmem} does not exist")
        if place == self.abi.attributes or not self.abi.runs:
            return None
        return no(
            "ENOTTY",
            "attributes-elsewhere",
            f"{self.abi.name} has its attributes on the {self.abi.attributes}",
        )

    def _set_attribute(self, op: Call, *, private: bool) -> Answer:
        refused = self._refuses_attribute(op, private=private)
        if refused is not None:
            return refused
        end = op.gpa + op.size
        changed = [(a, b) for a, b, now in self.private.runs(op.gpa, end) if now != private]
        for low, high in changed:
            self._zap(low, high, leaves=not private)
            if self.abi.in_place and not op.preserve:
                self.written.set(low, high, None)
        self.private.set(op.gpa, end, private)
        if not changed:
            return Answer("nop", why="already in this state")
        return Answer()

    def _zap(self, low: int, high: int, *, leaves: bool) -> None:
        """Remove mappings; a TD's pages leave the secure EPT, and MRTD keeps what it has."""
        for edge in (low, high - 1):  # of a large page that is cut nothing stays mapped
            if next(self.level.runs(edge, edge + 1))[2] >= LARGE:
                self.level.set(edge // LARGE * LARGE, edge // LARGE * LARGE + LARGE, 0)
        self.level.set(low, high, 0)
        if leaves and self.platform.secure_ept:
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

    def madvise(self, op: Call) -> Answer:
        """MADV_HUGEPAGE or MADV_NOHUGEPAGE on the memory behind a range."""
        if not self._is_held(op):
            return no("EFAULT", "no-memslot", "no memslot contains the range")
        self.large.set(op.gpa, op.gpa + op.size, op.advice == "hugepage")
        return Answer()

    def write(self, op: Call, source: Source) -> Answer:
        """User space writes into guest memory."""
        if not self._is_held(op):
            return no("EFAULT", "no-memslot", "no memslot contains the range")
        end = op.gpa + op.size
        if self.abi.in_place and not self.all_slots(op.gpa, end, self.is_writable):
            return no("EFAULT", "not-writable", "user space cannot write this guest_memfd (SIGBUS)")
        self._break_up(op.gpa, end)
        if self.private.first(op.gpa, end, value=True) is not None:
            return Answer(why="a part is private: the guest does not see what is written there")
        self.written.set(op.gpa, end, (source, op.gpa))
        return Answer()

    def _break_up(self, low: int, high: int) -> None:
        """Note that user space's memory of [low, high) gets small pages where none is advised."""
        first, last = low // LARGE * LARGE, -(-high // LARGE) * LARGE
        for start, end, large in [*self.large.runs(first, last)]:
            if not large:
                self._small.set(start // LARGE * LARGE, -(-end // LARGE) * LARGE, value=True)

    def contents(self, low: int, high: int) -> Iterator[tuple[int, int, Source, int]]:
        """Yield (start, end, contents, address of their begin) of memory as it was written."""
        for start, end, written in self.written.runs(low, high):
            source, base = written or (NOTHING, start)
            yield start, end, source, base

    def _is_held(self, op: Call) -> bool:
        end = op.gpa + op.size
        return op.size > 0 and self.held_up_to(op.gpa, end) == end

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
                refused = refused or no("ENOENT", "no-memslot", "no memslot")
                rest = (at, end - at)
                return refused._replace(residual=rest, first_call=None if at == gpa else rest)
            stop = min(end, slot.end)
            if slot.gmem is None:
                stop = self.private.first(at, stop, value=True) or stop
            for low, high, _ in [*self.private.runs(at, stop)]:
                done, level = self._fault_alike(slot, low, high)
                new, largest = new or done, max(largest, level)
            at = stop
        if not new and self.abi.map_again != "nop":
            return no(
                self.abi.map_again, "mapped-before", "all of it is mapped", residual=(gpa, size)
            )
        return Answer(
            "ok" if new else "nop", why=self._why_small(gpa, end), mapped=(gpa, size, largest)
        )

    def _why_small(self, gpa: int, end: int) -> str:
        """
        Say why memory behind a user-space address is mapped by 4 KiB pages, "" where none is.

        The first reason of the lowest such block.  Source: linux arch/x86/kvm/mmu/mmu.c,
        kvm_mmu_max_mapping_level, hugepage_has_attrs; x86.c kvm_alloc_memslot_metadata.
        """
        for low, high, level in self.level.runs(gpa, end):
            slot = self.slot_at(low)
            if level == PAGE and slot is not None and not self._in_gmem(slot, low):
                block = low // LARGE * LARGE
                why = self._why_not_large(slot, block)
                pages = write_span(low, min(high, block + LARGE) - low)
                return f"4 KiB pages at {pages}: {why} {write_span(block, LARGE)}"
        return ""

    def _why_not_large(self, slot: Slot, block: int) -> str:
        """Return why the 2 MiB from `block` on are no large page, to be followed by the block."""
        end = block + LARGE
        if block < slot.gpa or slot.end < end:
            return f"slot {slot.number} does not contain all of"
        if self.private.first(block, end, value=True) is not None:
            return "there is private memory in"
        if self.large.first(block, end, value=False) is not None:
            return "no huge page is advised (MADV_HUGEPAGE) for all of"
        return "there were 4 KiB pages, written or mapped before the advice, in"

    def _fault_alike(self, slot: Slot, low: int, high: int) -> tuple[bool, int]:
        """Map a run that is private or shared as a whole; return whether any was not mapped."""
        new, largest = False, 0
        for start, end, level in [*self.level.runs(low, high)]:
            new = new or not level
            largest = max(largest, level or self._fault_run(slot, start, end))
        return new, largest

    def _refuses_fault(self, slot: Slot | None, at: int) -> Answer | None:
        """Return why a fault at a page is refused; booted kernels look at private memory first."""
        private = next(self.private.runs(at, at + PAGE))[2]
        if private and (slot is None or slot.gmem is None):
            why = f"{at:#x} is private, and no memslot with a guest_memfd contains it"
            return no("EFAULT", "private-without-gmem", why)
        return None if slot is not None else no("ENOENT", "no-memslot", f"no memslot at {at:#x}")

    def _fault_run(self, slot: Slot, low: int, high: int) -> int:
        """Map an unmapped run inside one slot, and return its largest page in bytes."""
        first, last = low // LARGE * LARGE, -(-high // LARGE) * LARGE
        if self.abi.shared_level >= LARGE and not self._in_gmem(slot, low):
            self._map_large(max(first, slot.gpa), min(last, slot.end))
            self._break_up(low, high)
        largest = 0
        for start, end, level in [*self.level.runs(low, high)]:
            largest = max(largest, level or PAGE)
            if not level:
                self.level.set(start, end, PAGE)
        return largest

    def _in_gmem(self, slot: Slot, gpa: int) -> bool:
        """Whether a fault at `gpa` is served from the guest_memfd, by single pages."""
        if slot.gmem is None:
            return False
        return slot.gmem in self._writable or next(self.private.runs(gpa, gpa + PAGE))[2]

    def _map_large(self, low: int, high: int) -> None:
        """Map each 2 MiB block that is advised and shared as a whole, and has no small page."""
        for start, end, large in [*self.large.runs(low, high)]:
            begin, stop = -(-start // LARGE) * LARGE, end // LARGE * LARGE
            for block in range(begin, stop, LARGE) if large else ():
                mixed = self.private.first(block, block + LARGE, value=True) is not None
                if not mixed and self._small.first(block, block + LARGE, value=True) is None:
                    self.level.set(block, block + LARGE, LARGE)
