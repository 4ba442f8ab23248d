"""
A simulated TD.

Sources: linux 3829d81b and 09c6f74e arch/x86/kvm/vmx/tdx.c, tdx_td_init, tdx_vcpu_init,
tdx_vcpu_init_mem_region, tdx_gmem_post_populate, tdx_td_finalize; intel/tdx-module 72d8cff
(tdx_1.5), TDH.MEM.PAGE.ADD, TDH.MEM.PAGE.AUG; kvm mailing list, TDX v19.
"""

from __future__ import annotations

from collections.abc import Iterator

from cvmplan.core.platform import Platform
from cvmplan.kvm.interface import LARGE, PAGE, Abi
from cvmplan.simulator.answers import Answer, Reason, no
from cvmplan.simulator.call import Call
from cvmplan.simulator.digest import Bytes, TdxDigest
from cvmplan.simulator.memslots import Frame, Slot, whole_pages
from cvmplan.simulator.ranges import END, Ranges
from cvmplan.simulator.secure_ept import STATE, UNMAPPED, Tables, augmented
from cvmplan.simulator.source import NOTHING, Source
from cvmplan.simulator.td_masks import refused_masks
from cvmplan.simulator.vms import NO_SUCH_CALL, Vm

SHARED_BIT = {48: 47, 52: 51}  # Intel TDX Module base specification, "GPAW"
METADATA = "TDX_OPERAND_PAGE_METADATA_INCORRECT"


class TdxVm(Vm):
    """KVM_TDX_INIT_VM, _INIT_VCPU, _INIT_MEM_REGION, _FINALIZE_VM, and what came before them."""

    def __init__(self, platform: Platform, abi: Abi, gpaw: int) -> None:
        super().__init__(platform, abi, gpaw)
        self._digest = TdxDigest()
        self._bit = SHARED_BIT[gpaw]
        self._unfinished = Ranges(value=False)
        self._tables = Tables(gpaw)
        self.calls |= {
            "tdx-init-vm": lambda op, _: self.init_vm(op),
            "tdx-init-vcpu": lambda op, _: self.init_vcpu(op),
            "tdx-finalize": lambda op, _: self.finalize(op),
            "tdx-add": self.add,
            "tdx-init-mem-region": self.init_mem_region,
            "tdx-extend": lambda op, _: self.extend(op),
            "tdx-page-aug": lambda op, _: self.augment(op),
        }

    @property
    def digest(self) -> bytes | None:
        """MRTD since the TD was initialised."""
        return self._digest.value if self.inited else None

    def assume_set_up(self, calls: frozenset[str], vcpus: int) -> None:
        """Also take its vCPUs as initialised."""
        super().assume_set_up(calls, vcpus)
        self.vcpus_inited = "tdx-init-vcpu" not in calls

    def failed(self, gpa: int) -> None:
        """Note that the add of the page at `gpa` failed after it was mapped."""
        self._unfinished.set(gpa, gpa + PAGE, value=True)

    def forget(self) -> None:
        """Note that what was measured is not known."""
        self._digest.forget()

    def init_vm(self, op: Call) -> Answer:
        """KVM_TDX_INIT_VM."""
        if self.inited:
            return no("EINVAL", "initialised-before", "the TD was initialised before")
        xfam = op.xfam
        why = refused_masks(self.abi, op.attributes, xfam)
        if why is not None and not self.done:
            return no("EINVAL", "masks", why)
        if self.abi.td_xfam is not None:
            self.judged("XFAM", xfam, self.abi.td_xfam)
        self.inited = True
        return Answer() if why is None else no("EINVAL", "masks", why)

    def create_vcpu(self, op: Call) -> Answer:
        """KVM_CREATE_VCPU, which needs an initialised TD."""
        if not self.inited:
            return no("EIO", "not-initialised", "the TD is not initialised")
        return super().create_vcpu(op)

    def init_vcpu(self, op: Call) -> Answer:
        """KVM_TDX_INIT_VCPU of vCPUs 0 to count - 1."""
        if self.vcpus is None or op.count > self.vcpus:
            return no("EBADF", "no-vcpu", f"{self.vcpus or 0} vCPUs were created")
        if self.finalized or self.vcpus_inited:
            return no(
                "EINVAL",
                "initialised-before",
                "the vCPUs were initialised before, or the TD is finalized",
            )
        self.vcpus_inited = True
        return Answer()

    def _not_ready(self, op: Call) -> Answer | None:
        """Return what every call refuses that adds or extends pages."""
        if op.op not in self.abi.tdx_add:
            return no(None, "no-such-call", NO_SUCH_CALL.format(self.abi.name))
        if self.vcpus is None:
            return no("EBADF", "no-vcpu", "a vCPU call needs a vCPU, and the VM has none")
        pages = f"{op.size:#x} bytes at {op.gpa:#x} are not whole pages"
        shared = f"an address at or above {op.gpa:#x} has the shared bit"
        wrong: tuple[tuple[bool, Reason, str], ...] = (
            (self.finalized, "finalized", "the TD is finalized"),
            (not self.inited, "not-initialised", "the TD is not initialised"),
            (not self.vcpus_inited, "not-initialised", "the vCPU is not initialised"),
            (not whole_pages(op.gpa, op.size), "unaligned", pages),
            (self._is_shared(op.gpa, op.size), "shared-bit", shared),
        )
        return next((no("EINVAL", one, why) for is_so, one, why in wrong if is_so), None)

    def _is_shared(self, gpa: int, size: int) -> bool:
        """Whether an address in [gpa, gpa + size) has the shared bit."""
        first, last = gpa >> self._bit, gpa + size - 1 >> self._bit
        return first != last or bool(first & 1)

    # --- released kernels ----------------------------------------------------------------------

    def init_mem_region(self, op: Call, source: Source | None) -> Answer:
        """KVM_TDX_INIT_MEM_REGION: secure EPT, add, and where measured extend, page by page."""
        refused = self._not_ready(op)
        if refused is None and op.measured and self.abi.tdx_extend == "separate":
            refused = no(None, "no-such-call", f"{self.abi.name} extends in a separate call")
        if refused is None and source is None and not self.memory.in_place:
            refused = no(
                dict(self.abi.no_source).get(self.platform), "no-source", "no source address"
            )
        if refused is not None:
            return refused
        at, end = op.gpa, op.gpa + op.size
        while at < end:
            slot = self.memory.slot_at(at)
            if slot is None or slot.gmem is None:
                why = f"no memslot with a guest_memfd contains {at:#x}"
                return no("EINVAL", "no-memslot", why, residual=(at, end - at))
            stop, answer = self._first_refused(slot, at, min(end, slot.end))
            self._take(slot, at, stop, op.gpa, source, measured=op.measured)
            if answer is not None:
                self.dead = self.abi.dies and answer.seamcall_status is not None
                return answer._replace(residual=(stop, end - stop))
            at = stop
        return Answer(mapped=(op.gpa, op.size, PAGE))

    def _first_refused(self, slot: Slot, low: int, high: int) -> tuple[int, Answer | None]:
        """Return the first page of [low, high) that cannot be added (`high`: none), and why."""
        found = [(high, 9, None), *self._refused_frames(slot, low, high)]
        shared = self.memory.private.first(low, high, value=False)
        if shared is not None:
            found.append((shared, 1, no("EINVAL", "not-private", f"{shared:#x} is not private")))
        for start, _, leaf in self.memory.leaf.runs(low, high):
            if leaf == "augmented":
                why = f"{start:#x} was augmented: it is in the TD, unmeasured"
                found.append((start, 2, no("EIO", "mapped-before", why, seamcall_status=STATE)))
            elif leaf == "added":
                why = f"{start:#x} was added before"
                found.append((start, 3, no(self._double_add, "added-before", why)))
        stop, _, answer = min(found, key=lambda entry: entry[:2])
        return stop, answer

    @property
    def _double_add(self) -> str | None:
        return dict(self.abi.double_add).get(self.platform)

    def _refused_frames(self, slot: Slot, low: int, high: int) -> Iterator[tuple[int, int, Answer]]:
        """Yield (page, rank, answer): populated before, or in use at another address."""
        frames = self.memory.frames[slot.gmem or 0]
        for start, _, frame in frames.runs(low - slot.delta, high - slot.delta):
            gpa = start + slot.delta
            if frame.populated and self.abi.folio_check:
                yield gpa, 0, no(self._double_add, "added-before", f"{gpa:#x} was added before")
            elif frame.delta not in (None, slot.delta):
                why = f"the page at {gpa:#x} is in the TD at a different address"
                yield gpa, 4, no("EIO", "in-use-elsewhere", why, seamcall_status=METADATA)

    def _take(
        self, slot: Slot, low: int, high: int, base: int, source: Source | None, *, measured: bool
    ) -> None:
        """Add [low, high) with what `source` has from `base` on; where `measured`, extend it."""
        if low >= high:
            return
        frame = Frame(populated=True, delta=slot.delta)
        self.memory.frames[slot.gmem or 0].set(low - slot.delta, high - slot.delta, frame)
        self._unfinished.set(low, high, value=False)
        self._tables.add(low, high)
        self.memory.leaf.set(low, high, "added")
        self.memory.level.set(low, high, PAGE)
        self._count(low, high)
        runs = self.memory.contents(low, high) if source is None else [(low, high, source, base)]
        for start, end, held, begin in runs:
            for gpa, page in self._pages(start, end, held, begin):
                self._digest.add(gpa)
                if measured:
                    self._digest.extend(gpa, page)
            if "tdx-extend" in self.abi.tdx_add:
                zeros = held is NOTHING  # whose pages are alike wherever they begin
                self.memory.written.set(start, end, (held, 0 if zeros else begin))

    def _count(self, low: int, high: int) -> None:
        for start, end, times in [*self.memory.measured.runs(low, high)]:
            self.memory.measured.set(start, end, times + 1)

    @staticmethod
    def _pages(start: int, end: int, held: Source, base: int) -> Iterator[tuple[int, Bytes]]:
        pages = held.pages((start - base) // PAGE, (end - start) // PAGE)
        return zip(range(start, end, PAGE), pages, strict=True)

    # --- the agreement of 2024, and the forms that it turned down --------------------------------

    def mapped(self, gpa: int, size: int) -> Answer:
        """Map a range; before the end its pages wait for their add, after it they are augmented."""
        if self._is_shared(gpa, size):
            return no("EINVAL", "shared-bit", f"an address at or above {gpa:#x} has the shared bit")
        if self.abi.map_adds:
            if not self.vcpus_inited:
                return no(None, "not-initialised", "the vCPU is not initialised")
            return self._coupled(gpa, gpa + size, measured=True, source=NOTHING)
        answer = super().mapped(gpa, size)
        done = answer.residual[0] if answer.residual else gpa + size
        leaf = "augmented" if self.finalized else "mapped"
        pages = tables = 0
        for low, high, private in [*self.memory.private.runs(gpa, max(done, gpa))]:
            for start, end, now in [*self.memory.leaf.runs(low, high)]:
                if private and now == "free":
                    self.memory.leaf.set(start, end, leaf)
                    tables += self._tables.add(start, end)
                    pages += end - start
        told = pages and self.finalized and not answer.why
        return answer._replace(why=augmented(pages, tables)) if told else answer

    def add(self, op: Call, source: Source | None) -> Answer:
        """Add pages that were mapped (map-memory), or map and add them at once (coupled)."""
        refused = self._not_ready(op)
        if refused is not None:
            return refused
        if self.abi.map_adds:
            held = source or NOTHING
            return self._coupled(op.gpa, op.gpa + op.size, measured=op.measured, source=held)
        at, end = op.gpa, op.gpa + op.size
        while at < end:
            slot = self.memory.slot_at(at)
            if slot is None or slot.gmem is None:
                return no(None, "no-memslot", f"no memslot at {at:#x}", residual=(at, end - at))
            stop, answer = self._first_unmapped(slot, at, min(end, slot.end))
            self._take(slot, at, stop, op.gpa, source, measured=op.measured)
            if answer is not None:
                return answer._replace(residual=(stop, end - stop))
            at = stop
        return Answer()

    def _first_unmapped(self, slot: Slot, low: int, high: int) -> tuple[int, Answer | None]:
        """Return the first page of [low, high) that does not wait for its add, and why."""
        for start, _, leaf in self.memory.leaf.runs(low, high):
            if leaf != "mapped":
                one, words, status = UNMAPPED[leaf]
                return start, no(None, one, f"{start:#x} {words}", seamcall_status=status)
        frames = self.memory.frames[slot.gmem or 0]
        for start, _, frame in frames.runs(low - slot.delta, high - slot.delta):
            if frame.delta not in (None, slot.delta):
                gpa = start + slot.delta
                why = f"the page at {gpa:#x} is in the TD at a different address"
                return gpa, no(None, "in-use-elsewhere", why, seamcall_status=METADATA)
        return high, None

    def _coupled(self, gpa: int, end: int, *, measured: bool, source: Source) -> Answer:
        """Map and add at once: a large page takes its neighbours in as zeros."""
        at, early = gpa, 0
        while at < end:
            slot = self.memory.slot_at(at)
            if slot is None or slot.gmem is None:
                return no(None, "no-memslot", f"no memslot at {at:#x}", residual=(at, end - at))
            low, high = self._block(slot, at)
            _, answer = self._first_refused(slot, at, at + PAGE)
            if answer is not None:
                return answer._replace(errno=None, seamcall_status=None, residual=(at, end - at))
            for page in range(low, high, PAGE):
                inside = gpa <= page < end
                base, held = (gpa, source) if inside else (page, NOTHING)
                self._take(slot, page, page + PAGE, base, held, measured=measured)
            early += high - low - (min(end, high) - max(gpa, low))
            at = high
        why = f"{early // PAGE} pages around the range were added and measured, as zeros"
        return Answer(why=why if early else "", mapped=(gpa, end - gpa, self.abi.map_level))

    def _block(self, slot: Slot, at: int) -> tuple[int, int]:
        low, high = at // LARGE * LARGE, at // LARGE * LARGE + LARGE
        fits = self.abi.map_level >= LARGE and slot.gpa <= low and high <= slot.end
        free = fits and self._first_refused(slot, low, high) == (high, None)
        return (low, high) if free else (at, at + PAGE)

    def extend(self, op: Call) -> Answer:
        """TDH.MR.EXTEND of pages that were added; the module does not refuse a second time."""
        refused = self._not_ready(op)
        if refused is not None:
            return refused
        end = op.gpa + op.size
        leaves = self.memory.leaf.runs(op.gpa, end)
        stop = next((low for low, _, leaf in leaves if leaf != "added"), end)
        for start, high, held, base in self.memory.contents(op.gpa, stop):
            for gpa, page in self._pages(start, high, held, base):
                self._digest.extend(gpa, page)
        if stop < end:
            return no("EIO", "not-added", f"{stop:#x} was not added", residual=(stop, end - stop))
        return Answer()

    def augment(self, op: Call) -> Answer:
        """TDH.MEM.PAGE.AUG, which the module allows before the end too: nothing is measured."""
        if not self.inited or not whole_pages(op.gpa, op.size):
            why = (
                f"{op.size:#x} bytes at {op.gpa:#x}: the TD is not initialised, or not whole pages"
            )
            return no(None, "unaligned" if self.inited else "not-initialised", why)
        end = op.gpa + op.size
        held = self.memory.held_up_to(op.gpa, end) == end
        if not held or self.memory.private.first(op.gpa, end, value=False) is not None:
            return no(None, "not-private", "it has no private memory")
        if any(leaf != "free" for _, _, leaf in self.memory.leaf.runs(op.gpa, end)):
            return no(None, "mapped-before", "a page already exists", seamcall_status=STATE)
        self._tables.add(op.gpa, end)
        self.memory.leaf.set(op.gpa, end, "augmented")
        self.memory.level.set(op.gpa, end, PAGE)
        return Answer(why="augmented: in the TD, not measured")

    def finalize(self, op: Call) -> Answer:
        """KVM_TDX_FINALIZE_VM."""
        del op
        if self.finalized:
            return no("EINVAL", "finalized", "the TD is finalized")
        if not self.inited:
            return no("EINVAL", "not-initialised", "it is not initialised")
        page = self._unfinished.first(0, END, value=True)
        if page is not None and self.abi.counts_mapped:
            return no(
                "EINVAL",
                "add-failed",
                f"{page:#x} is mapped, its add failed, and it was not tried again",
            )
        waiting = self.memory.leaf.first(0, 1 << self._bit, "mapped")
        if waiting is not None:
            return no("EINVAL", "never-added", f"{waiting:#x} is mapped, and was never added")
        if self.vcpus is None:
            self.dead = True
            return no("EIO", "no-vcpu", "the TD has no vCPU", seamcall_status="TDX_NO_VCPUS")
        self.memory.finalized = True
        return Answer()
