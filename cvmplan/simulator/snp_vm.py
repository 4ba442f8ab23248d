"""
A simulated SNP guest.

Sources: linux 0097f9df arch/x86/kvm/svm/sev.c, snp_launch_start, snp_launch_update,
sev_gmem_post_populate, snp_launch_finish; 01f492e1 virt/kvm/guest_memfd.c,
kvm_gmem_populate; AMD 56860, SEV-SNP Firmware ABI (status codes, ID block).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cvmplan.core.platform import Platform
from cvmplan.kvm.interface import LARGE, PAGE, Abi
from cvmplan.simulator.answers import Answer, Reason, no
from cvmplan.simulator.call import Call, State
from cvmplan.simulator.digest import SnpDigest
from cvmplan.simulator.memslots import Frame, Slot
from cvmplan.simulator.source import NOTHING, Source
from cvmplan.simulator.vms import Vm, breakpoint_of, states_of, unknown_states

# The simulator has its own copies, so that an error in the planner's is not in both.
VMSA_GPA = 0xFFFFFFFFF000  # linux arch/x86/kvm/svm/sev.c, INITIAL_VMSA_GPA
CR0, SEV_FEATURES = 0x158, 0x3B0  # AMD 24593, APM volume 2, appendix B
INVALID_GUEST_STATE, POLICY_FAILURE, BAD_MEASUREMENT = 2, 7, 0xB  # AMD 56860, "Status Codes"


class Stop(NamedTuple):
    """The first page that an add refuses, and why."""

    gpa: int
    id: Reason
    why: str
    fw_error: int | None = None


class SnpVm(Vm):
    """KVM_SEV_SNP_LAUNCH_START, _UPDATE and _FINISH."""

    def __init__(self, platform: Platform, abi: Abi, gpaw: int) -> None:
        super().__init__(platform, abi, gpaw)
        self._digest = SnpDigest()
        self.started = self._finished = False
        self.features: int | None = None
        self.policy = 0
        self.calls |= {
            "snp-launch-start": lambda op, _: self.start(op),
            "snp-launch-update": self.update,
            "snp-launch-finish": lambda op, _: self.finish(op),
        }

    @property
    def digest(self) -> bytes | None:
        """The launch digest since its start."""
        return self._digest.value if self.started else None

    def assume_set_up(self, calls: frozenset[str], vcpus: int) -> None:
        """Also take the launch as started."""
        super().assume_set_up(calls, vcpus)
        self.started = "snp-launch-start" not in calls

    def forget(self) -> None:
        """Note that what was measured is not known."""
        self._digest.value = None

    def init(self, op: Call) -> Answer:
        """KVM_SEV_INIT2."""
        if self.inited:
            return no("EINVAL", "initialised-before", "the VM was initialised before")
        if self.vcpus is not None:
            return no("EINVAL", "created-before", "a vCPU was created before")
        bits = self.abi.snp_features
        features = op.vmsa_features | (bits.must if bits else 0)
        why = self.judged("SEV_FEATURES", features, bits)
        if why is not None and not self.done:
            return no("EINVAL", "features", why)
        self.inited, self.features = True, op.vmsa_features
        return Answer() if why is None else no("EINVAL", "features", why)

    def unknown(self, op: Call) -> Answer:
        """Answer a call that this VM does not have; SEV's are EPERM once it is initialised."""
        if op.op.startswith("sev-") and self.inited and self.abi.runs:
            return no("EPERM", "no-such-call", "an SNP guest does not accept SEV commands")
        return super().unknown(op)

    def start(self, op: Call) -> Answer:
        """KVM_SEV_SNP_LAUNCH_START."""
        if not self.inited:
            return no("ENOTTY", "not-initialised", "the VM was not initialised as an SNP guest")
        if self.started:
            return no("EINVAL", "started-before", "the launch was started before")
        why = self.judged("policy", op.policy or 0, self.abi.snp_policy)
        if why is not None and not self.done:
            return no("EINVAL", "policy", why)
        self.started, self.policy = True, op.policy or 0
        return Answer() if why is None else no("EINVAL", "policy", why)

    def update(self, op: Call, source: Source | None) -> Answer:
        """KVM_SEV_SNP_LAUNCH_UPDATE, called again while the kernel leaves something over."""
        refused = self._refuses_arguments(op, source)
        if refused is not None:
            return refused
        if self.abi.map_adds:
            return self._coupled(op.gpa, op.gpa + op.size, op.page_type, source or NOTHING)
        return self._populate(op, source)

    def _refuses_arguments(self, op: Call, source: Source | None) -> Answer | None:
        if not self.started:
            return no("EINVAL", "not-started", "the launch was not started")
        if op.gpa % PAGE or op.size % PAGE:
            return no(
                "EINVAL", "unaligned", f"{op.size:#x} bytes at {op.gpa:#x} are not whole pages"
            )
        if op.page_type == "vmsa":
            return no(
                "EINVAL",
                "vmsa-from-user-space",
                "the kernel adds VMSAs, user space cannot",
            )
        if not op.size:
            return self._empty()
        if source is None and not self.memory.in_place and op.page_type != "zero":
            errno = dict(self.abi.no_source).get(self.platform)
            return no(errno, "no-source", "no source address", residual=(op.gpa, op.size))
        return None

    def _empty(self) -> Answer:
        """Answer an add of no page."""
        if self.abi.empty_add:
            return no(self.abi.empty_add, "no-page", "no page is added")
        return Answer("nop", why="no page is added")

    def _populate(self, op: Call, source: Source | None) -> Answer:
        at, end, crossed = op.gpa, op.gpa + op.size, 0
        while at < end:
            slot = self.memory.slot_at(at)
            if slot is None or slot.gmem is None:
                why = f"no memslot with a guest_memfd contains {at:#x}"
                return no("EINVAL", "no-memslot", why, residual=(at, end - at))
            stop = self._first_refused(slot, at, min(end, slot.end))
            high = stop.gpa if stop else min(end, slot.end)
            self._take(slot, at, high)
            self._measure(op, source, at, high)
            if stop:
                left = (stop.gpa, end - stop.gpa)
                return no("EIO", stop.id, stop.why, fw_error=stop.fw_error, residual=left)
            crossed = crossed or (high if high < end else 0)
            at = high
        if not crossed:
            return Answer()
        why = f"called again for the rest: a memslot ends at {crossed:#x}"
        self.memory.tell("slot-crossed", why, op.gpa, end - PAGE)
        return Answer(why=why)

    def _first_refused(self, slot: Slot, low: int, high: int) -> Stop | None:
        """Return the first page of [low, high), inside `slot`, that cannot be added."""
        memory, delta = self.memory, slot.delta
        found = []
        shared = memory.private.first(low, high, value=False)
        if shared is not None:
            found.append(
                Stop(shared, "not-private", f"{shared:#x} is not private (inner error EINVAL)")
            )
        frames = memory.frames[slot.gmem or 0]
        for start, _, frame in frames.runs(low - delta, high - delta):
            if frame.delta is not None or (frame.populated and self.abi.folio_check):
                gpa = start + delta
                one, what = self._owned(gpa, elsewhere=frame.delta not in (None, delta))
                found.append(Stop(gpa, one, f"{gpa:#x} {what} (inner error EEXIST)"))
                break
        if self.finalized:
            why = f"{low:#x}: the launch is over (firmware: INVALID_GUEST_STATE)"
            found.append(Stop(low, "launch-over", why, INVALID_GUEST_STATE))
        return min(found, key=lambda stop: stop.gpa, default=None)

    def _owned(self, gpa: int, *, elsewhere: bool) -> tuple[Reason, str]:
        """Return why the frame of a page cannot be added: what it is used for."""
        if elsewhere:
            return "in-use-elsewhere", "backs a different page"
        if next(self.memory.measured.runs(gpa, gpa + 1))[2]:
            return "added-before", "was added before"
        return "mapped-before", "already belongs to the guest"

    def _take(self, slot: Slot, low: int, high: int) -> None:
        frame = Frame(populated=True, delta=slot.delta)
        self.memory.frames[slot.gmem or 0].set(low - slot.delta, high - slot.delta, frame)
        self.memory.level.set(low, high, PAGE)
        for start, end, times in [*self.memory.measured.runs(low, high)]:
            self.memory.measured.set(start, end, times + 1)

    def _measure(self, op: Call, source: Source | None, low: int, high: int) -> None:
        """Chain the pages of [low, high) with what they hold."""
        runs = self.memory.contents(low, high) if source is None else [(low, high, source, op.gpa)]
        for start, end, held, base in runs:
            if held.digest_after is not None:
                whole = start == base and end - start == held.size and op.page_type == "normal"
                first = self._digest.value == bytes(48)
                self._digest.value = held.digest_after if whole and first else None
            else:
                pages = held.pages((start - base) // PAGE, (end - start) // PAGE)
                self._digest.add(op.page_type, start, pages)

    def _coupled(self, gpa: int, end: int, page_type: str, source: Source) -> Answer:
        """Map with a source, as the RFC had it: a large page takes its neighbours in as zeros."""
        at, early = gpa, 0
        while at < end:
            slot = self.memory.slot_at(at)
            if slot is None or slot.gmem is None:
                return no(None, "no-memslot", f"no memslot at {at:#x}", residual=(at, end - at))
            low, high = self.block(slot, at)
            stop = self._first_refused(slot, at, min(high, end))
            if stop:
                return no(None, stop.id, stop.why, residual=(stop.gpa, end - stop.gpa))
            self._take(slot, low, high)
            before, after = max(gpa, low), min(end, high)
            early += high - low - (after - before)
            self._digest.add(page_type, low, NOTHING.pages(0, (before - low) // PAGE))
            inside = source.pages((before - gpa) // PAGE, (after - before) // PAGE)
            self._digest.add(page_type, before, inside)
            self._digest.add(page_type, after, NOTHING.pages(0, (high - after) // PAGE))
            at = high
        why = f"{early // PAGE} pages around the range were added and measured, as zeros"
        return Answer(why=why if early else "", mapped=(gpa, end - gpa, self.abi.map_level))

    def block(self, slot: Slot, at: int) -> tuple[int, int]:
        """Return the [low, high) that is mapped for `at`: a large page where all of it is free."""
        low, high = at // LARGE * LARGE, at // LARGE * LARGE + LARGE
        fits = self.abi.map_level >= LARGE and slot.gpa <= low and high <= slot.end
        free = fits and self._first_refused(slot, low, high) is None
        return (low, high) if free else (at, at + PAGE)

    def mapped(self, gpa: int, size: int) -> Answer:
        """Map a range: after the launch its pages become the guest's (RMP entry assigned)."""
        if self.abi.map_adds:
            if not self.started:
                return no(None, "not-started", "the launch was not started")
            return self._coupled(gpa, gpa + size, "normal", NOTHING)
        runs = self.memory.level.runs(gpa, gpa + size)
        unmapped = [(low, high) for low, high, level in runs if not level]
        answer = super().mapped(gpa, size)
        done = answer.residual[0] if answer.residual else gpa + size
        if self.finalized:
            for low, high in unmapped:
                self._assign(low, min(high, done))
        return answer

    def _assign(self, low: int, high: int) -> None:
        """Make private pages the guest's where they are not."""
        while low < high and (slot := self.memory.slot_at(low)) is not None:
            end = min(high, slot.end)
            for a, b, private in [*self.memory.private.runs(low, end)]:
                if private and slot.gmem is not None:
                    frames = self.memory.frames[slot.gmem]
                    for start, stop, frame in [*frames.runs(a - slot.delta, b - slot.delta)]:
                        if frame.delta is None:
                            frames.set(start, stop, Frame(populated=True, delta=slot.delta))
            low = end

    def finish(self, op: Call) -> Answer:
        """KVM_SEV_SNP_LAUNCH_FINISH, with the VMSA of each vCPU before it."""
        early = self._too_early()
        if early is not None:
            return early
        self._finished = True
        stopped = breakpoint_of(op.vmsas)
        if stopped is not None:
            return no("EINVAL", "breakpoint", stopped)
        unknown = self._measure_vcpus(op.vmsas)
        if op.id_block is not None and op.id_auth is None:
            return no("EINVAL", "id-block-alone", "an ID block without an ID authentication")
        refused = self._refuses_id_block(op.id_block)
        if refused is not None:
            return refused
        self.memory.finalized = True
        return unknown_states(unknown)

    def _too_early(self) -> Answer | None:
        """Return why the launch cannot be finished now, None where it can."""
        if not self.inited:
            return no("ENOTTY", "not-initialised", "the VM was not initialised as an SNP guest")
        if self._finished:
            why = "the launch was finished before, or failed to"
            return no("EINVAL", "finished-before", why)
        if not self.started:
            return no("EINVAL", "not-started", "the launch was not started")
        return None

    def _measure_vcpus(self, vmsas: Iterable[State]) -> str | None:
        """Measure the states of the vCPUs; return what is not known of them, None for nothing."""
        boot_only = self.abi.vmsa_scope == "boot-vcpu"
        wanted = min(self.vcpus or 0, 1) if boot_only else self.vcpus or 0
        pages, why = states_of(vmsas, wanted, surplus=boot_only)
        for gpa, page in pages:
            if page is not None and gpa != VMSA_GPA:
                why = f"a VMSA at {gpa:#x}, KVM has it at {VMSA_GPA:#x}: the digest is not known"
                page = None  # noqa: PLW2901 KVM measures another one
            elif page is not None and self._has_other_features(page):
                why = "a VMSA with SEV_FEATURES different from the VM: the digest is not known"
                page = None  # noqa: PLW2901 KVM measures another one
            self._digest.add("vmsa", VMSA_GPA, [page])
        return why

    def _has_other_features(self, page: bytes) -> bool:
        """Tell whether a VMSA has SEV_FEATURES that are not those of the VM, with what KVM sets."""
        features = int.from_bytes(page[SEV_FEATURES : SEV_FEATURES + 8], "little")
        if self.features is None:
            return False
        bits = self.abi.snp_features
        if bits is not None and any(page[CR0 : CR0 + 8]) and bits.must & ~features:
            return True  # a page without CR0 stands for a state that is not described
        return features | 1 != self.features | 1

    def _refuses_id_block(self, block: bytes | None) -> Answer | None:
        """Compare what the firmware compares (AMD 56860, "Structure of the ID Block")."""
        if block is None or self.digest is None:
            return None
        if block[:48] != self.digest:
            why = "the ID block is for a different launch digest (firmware: BAD_MEASUREMENT)"
            return no("EIO", "id-block-digest", why, fw_error=BAD_MEASUREMENT)
        if int.from_bytes(block[88:96], "little") != self.policy:
            why = "the ID block is for a different policy (firmware: POLICY_FAILURE)"
            return no("EIO", "id-block-policy", why, fw_error=POLICY_FAILURE)
        return None
