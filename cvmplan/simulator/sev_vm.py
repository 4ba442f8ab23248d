"""
A simulated SEV or SEV-ES guest.

Sources: linux arch/x86/kvm/svm/sev.c, sev_launch_start, sev_launch_update_data,
sev_launch_update_vmsa, sev_launch_measure, sev_launch_finish; AMD 55766, SEV API ("Guest
State", status codes).  The kernel sees host addresses only, so it cannot tell that a page
is encrypted twice.
"""

from __future__ import annotations

from collections.abc import Callable

from cvmplan.core.platform import Platform
from cvmplan.kvm.interface import PAGE, Abi
from cvmplan.simulator.answers import Answer, no
from cvmplan.simulator.call import Call
from cvmplan.simulator.digest import SevDigest
from cvmplan.simulator.source import UNKNOWN, Source
from cvmplan.simulator.vms import Vm, breakpoint_of, states_of, unknown_states

INVALID_GUEST_STATE, INVALID_LENGTH, INVALID_ASID = 2, 4, 0xD  # AMD 55766, "Status Codes"
POLICY_ES = 1 << 2  # AMD 55766, "Guest Policy Structure"
GRANULE = 16
MXCSR = 0x408  # APM 2, appendix B, our own copy as in snp_vm; KVM_SEV_ES_INIT leaves it 0


class SevVm(Vm):
    """KVM_SEV_LAUNCH_START, _UPDATE_DATA, _UPDATE_VMSA, _MEASURE and _FINISH."""

    def __init__(self, platform: Platform, abi: Abi, gpaw: int) -> None:
        super().__init__(platform, abi, gpaw)
        self._digest = SevDigest()
        self.state = "uninit"
        self.legacy: bool | None = None
        self.calls |= {
            "sev-launch-start": lambda op, _: self._in("uninit", self.start, op),
            "sev-launch-update-data": self.update_data,
            "sev-launch-update-vmsa": lambda op, _: self._in("update", self.update_vmsa, op),
            "sev-launch-measure": lambda op, _: self._in("update", self.measure, op),
            "sev-launch-finish": lambda op, _: self._in("secret", self.finish, op),
        }

    @property
    def digest(self) -> bytes | None:
        """The launch digest since its start."""
        return None if self.state == "uninit" else self._digest.value

    def assume_set_up(self, calls: frozenset[str], vcpus: int) -> None:
        """Also take the launch as started."""
        super().assume_set_up(calls, vcpus)
        self.state = "uninit" if "sev-launch-start" in calls else "update"

    def forget(self) -> None:
        """Note that what was measured is not known."""
        self._digest.add(None)

    def init(self, op: Call) -> Answer:
        """KVM_SEV_INIT2, or KVM_SEV_ES_INIT."""
        if self.inited or self.vcpus is not None:
            return no("EINVAL", "initialised-before", "the VM is already initialised or has a vCPU")
        why = self._refuses_features(op.vmsa_features, legacy=op.legacy)
        if why is not None and not self.done:
            return no("EINVAL", "features", why)
        self.inited, self.legacy = True, op.legacy
        return Answer() if why is None else no("EINVAL", "features", why)

    def _refuses_features(self, features: int, *, legacy: bool) -> str | None:
        """Return why the VM cannot have these SEV_FEATURES, None where it can."""
        bits = self.abi.es_features
        if bits is not None and not self.platform.vmsa and features:
            return f"SEV_FEATURES {features:#x}: an SEV guest has none"
        if bits is not None and legacy and features:
            return f"SEV_FEATURES {features:#x}: KVM_SEV_ES_INIT sets none"
        return self.judged("SEV_FEATURES", features, bits)

    def _in(self, state: str, call: Callable[[Call], Answer], op: Call) -> Answer:
        """Answer through `call` in one state of the guest; the firmware refuses the others."""
        if not self.inited:
            return no("ENOTTY", "not-initialised", "the VM was not initialised as an SEV guest")
        if self.state != state:
            why = f"the launch is in state {self.state} (firmware: INVALID_GUEST_STATE)"
            return no("EIO", "launch-state", why, fw_error=INVALID_GUEST_STATE)
        return call(op)

    def start(self, op: Call) -> Answer:
        """
        KVM_SEV_LAUNCH_START, which also binds the guest to an ASID.

        SEV-ES guests have the ASIDs below those of SEV guests, and the firmware wants each
        policy in its own range (linux arch/x86/kvm/svm/sev.c sev_asid_new; AMD 55766, ACTIVATE).
        """
        policy = op.policy
        why = None if policy is None else self.judged("policy", policy, self.abi.sev_policy)
        refused = None if why is None else no("EINVAL", "policy", why)
        if not refused and policy is not None and bool(policy & POLICY_ES) != self.platform.vmsa:
            why = f"policy {policy:#x} and platform {self.platform} disagree on encrypted state"
            why += " (firmware: INVALID_ASID)"
            refused = no("EIO", "policy", why, fw_error=INVALID_ASID)
        if refused and not self.done:
            return refused
        self.state = "update"
        return refused or Answer()

    def update_data(self, op: Call, source: Source | None) -> Answer:
        """KVM_SEV_LAUNCH_UPDATE_DATA."""
        return self._in("update", lambda op: self._encrypt(op, source), op)

    def _encrypt(self, op: Call, source: Source | None) -> Answer:
        low, high = op.gpa - op.gpa % PAGE, -(-(op.gpa + op.size) // PAGE) * PAGE
        if op.size <= 0 or op.size % GRANULE or op.gpa % GRANULE:
            why = f"{op.size:#x} bytes at {op.gpa:#x} are not multiples of {GRANULE}"
            return no(
                "EIO", "unaligned", f"{why} (firmware: INVALID_LENGTH)", fw_error=INVALID_LENGTH
            )
        if op.src is None and self.memory.held_up_to(low, high) < high:
            return no(
                None, "no-memslot", "no memslot contains it, so the address to encrypt is unknown"
            )
        again = self.memory.measured.first(low, high, 0) != low
        last = op.gpa + op.size
        given = [] if source is None else [(op.gpa, last, source, op.gpa)]
        for start, stop, held, base in given or self.memory.contents(op.gpa, last):
            self._hash(UNKNOWN if again else held, start - base, stop - start)
        for start, end, times in [*self.memory.measured.runs(low, high)]:
            self.memory.measured.set(start, end, times + 1)
        why = "encrypted before: the measured data is ciphertext and not known" if again else ""
        return Answer(why=why)

    def take(self, source: Source, size: int) -> Answer:
        """KVM_SEV_LAUNCH_UPDATE_DATA of bytes whose guest address is not known."""
        if self.state != "update":
            why = f"the launch is in state {self.state} (firmware: INVALID_GUEST_STATE)"
            return no("EIO", "launch-state", why, fw_error=INVALID_GUEST_STATE)
        self._hash(source, 0, size)
        return Answer(why="no memslot contains its address: not checked against other adds")

    def _hash(self, source: Source, offset: int, size: int) -> None:
        if source.sha256 is not None and size == source.size:
            self._digest.add_hashed(source.sha256)
            return
        for piece in source.chunks(offset, size):
            self._digest.add(piece)

    def update_vmsa(self, op: Call) -> Answer:
        """KVM_SEV_LAUNCH_UPDATE_VMSA: the state of each vCPU."""
        if not self.platform.vmsa:
            return no("ENOTTY", "no-such-call", "an SEV guest has no encrypted vCPU state")
        stopped = breakpoint_of(op.vmsas)
        if stopped is not None:
            return no("EINVAL", "breakpoint", stopped)
        pages, why = states_of(op.vmsas, self.vcpus or 0, surplus=False)
        for _, page in pages:
            if page is not None and self.legacy not in (None, not any(page[MXCSR : MXCSR + 4])):
                why = "the FPU state is not that of the call that initialised the VM"
                page = None  # noqa: PLW2901 KVM measures another one
            self._digest.add(page)
        return unknown_states(why)

    def measure(self, op: Call) -> Answer:
        """KVM_SEV_LAUNCH_MEASURE."""
        del op
        self.state = "secret"
        return Answer()

    def finish(self, op: Call) -> Answer:
        """KVM_SEV_LAUNCH_FINISH."""
        del op
        self.state = "running"
        self.memory.finalized = True
        return Answer()
