"""
Simulated VMs, whatever their type: what each call answers before memory is added to them.

One class a family of platforms; each says how its vendor calls behave.  Sources:
Documentation/virt/kvm/api.rst; linux arch/x86/kvm/mmu/mmu.c,
kvm_arch_vcpu_pre_fault_memory; the kernel's own facts are in `kvm.abi`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cvmplan.core.platform import Platform
from cvmplan.kvm.interface import Abi, Bits
from cvmplan.simulator.answers import Answer, no
from cvmplan.simulator.call import Call, State
from cvmplan.simulator.guest import Memory
from cvmplan.simulator.memslots import whole_pages
from cvmplan.simulator.source import NOTHING, Source

MOST_VCPUS = 4096  # linux arch/x86/Kconfig, KVM_MAX_NR_VCPUS
NO_SUCH_CALL = "{} has no such call"
DR7, DR7_FIXED = 0x160, 0x400  # AMD 24593, APM volume 2, appendix B; bit 10 is always set


class Vm:
    """
    A VM of type `platform` under `abi`.

    `calls` maps an operation to what answers it: a function of the operation and what its
    pages hold.  Operations that are not in it do not exist for this VM.
    """

    def __init__(self, platform: Platform, abi: Abi, gpaw: int) -> None:
        self.platform = platform
        self.abi = abi
        self.gpaw = gpaw
        self.memory = Memory(platform, abi)
        self.vcpus: int | None = None
        self.inited = False
        self.vcpus_inited = False
        self.dead = False
        self.done = False  # the call was recorded as done: its effect is taken even if refused
        self.doubts: list[str] = []  # what may be refused, and cannot be known here
        memory = self.memory
        self.calls: dict[str, Callable[[Call, Source | None], Answer]] = {
            "create-gmem": lambda op, _: memory.create_gmem(op),
            "set-memslot": lambda op, _: memory.set_memslot(op),
            "set-private": lambda op, _: memory.set_private(op),
            "set-shared": lambda op, _: memory.set_shared(op),
            "punch-hole": lambda op, _: memory.punch_hole(op),
            "madvise": lambda op, _: memory.madvise(op),
            "write": lambda op, source: memory.write(op, source or NOTHING),
            "init": lambda op, _: self.init(op),
            "create-vcpu": lambda op, _: self.create_vcpu(op),
            "map-memory": self.map_memory,
            "pre-fault-memory": self.map_memory,
        }

    @property
    def digest(self) -> bytes | None:
        """The measurement so far, None where there is none or it is not known."""
        return None

    @property
    def finalized(self) -> bool:
        """Whether the launch has come to its end; without one, whether a vCPU could run."""
        return self.memory.finalized or (not self.platform.measured and self.vcpus is not None)

    def assume_set_up(self, calls: frozenset[str], vcpus: int) -> None:
        """Take the VM as set up, with `vcpus`, where `calls` do not do so themselves."""
        self.inited = "tdx-init-vm" not in calls
        self.vcpus = None if "create-vcpu" in calls else vcpus

    def judged(self, name: str, value: int, bits: Bits | None) -> str | None:
        """Return why a mask is refused, None where it is taken; note what depends on the host."""
        what = f"{name} {value:#x}"
        if bits is None:
            if value:
                self.doubts.append(f"whether a kernel with {self.abi.name} takes {what}")
            return None
        why = bits.refuses(value)
        if why is not None:
            return f"{what}: {why}"
        if value & bits.host:
            self.doubts.append(f"whether the host has bits {value & bits.host:#x} of {what}")
        return None

    def failed(self, gpa: int) -> None:
        """Note that the add of the page at `gpa` failed after it was mapped."""

    def forget(self) -> None:
        """Note that what was measured is not known."""

    def take(self, source: Source, size: int) -> Answer:
        """Add `size` bytes whose guest address is not known: nothing is known of the digest."""
        del source, size
        self.forget()
        return Answer(why="its guest address was not recorded: not checked against other adds")

    def answer(self, op: Call, source: Source | None) -> Answer:
        """Return what the call answers, its effect taken."""
        if self.dead:
            return no("EIO", "dead", "the VM is dead")
        if op.op not in self.calls:
            return self.unknown(op)
        return self.calls[op.op](op, source)

    def unknown(self, op: Call) -> Answer:
        """Answer a call that this VM does not have."""
        errno = "ENOTTY" if self.abi.runs else None
        if self.platform.plain and op.op == "snp-launch-update" and self.abi.runs:
            errno = "EINVAL"
        return no(errno, "no-such-call", f"a {self.platform} VM has no such call")

    def init(self, op: Call) -> Answer:
        """KVM_SEV_INIT2 and its like; VMs without encryption have none."""
        return self.unknown(op)

    def create_vcpu(self, op: Call) -> Answer:
        """KVM_CREATE_VCPU of all vCPUs."""
        if self.vcpus is not None:
            return no("EEXIST", "created-before", f"{self.vcpus} vCPUs were created before")
        if not 1 <= op.count <= MOST_VCPUS:
            return no("EINVAL", "vcpus", f"{op.count} vCPUs")
        self.vcpus = op.count
        return Answer()

    def map_memory(self, op: Call, source: Source | None) -> Answer:
        """KVM_PRE_FAULT_MEMORY, or the pure mapping that was agreed on before it."""
        del source
        if not self.abi.map_call or (not self.abi.runs and op.op != self.abi.map_call):
            return no(None, "no-such-call", NO_SUCH_CALL.format(self.abi.name))
        if self.vcpus is None:
            return no("EBADF", "no-vcpu", "a vCPU call needs a vCPU, and the VM has none")
        if not whole_pages(op.gpa, op.size):
            return no(
                "EINVAL", "unaligned", f"{op.size:#x} bytes at {op.gpa:#x} are not whole pages"
            )
        if not self.finalized and self.platform not in self.abi.map_early:
            return no("EOPNOTSUPP", "too-early", "nothing is mapped before the guest is finalized")
        return self.mapped(op.gpa, op.size)

    def mapped(self, gpa: int, size: int) -> Answer:
        """Map a range by a read fault."""
        return self.memory.fault_in(gpa, size)


def states_of(
    vmsas: Iterable[State], wanted: int, *, surplus: bool
) -> tuple[list[tuple[int, bytes | None]], str | None]:
    """
    Return (gpa, page) of the initial state of each of `wanted` vCPUs, and what is doubtful.

    `vmsas` are those of a plan.  The page is None for a vCPU whose state the plan does not
    give, and for one more where it gives `surplus` states, unless that is allowed.
    """
    pages: list[tuple[int, bytes | None]] = []
    given = 0
    for vmsa in vmsas:
        count = vmsa.last - vmsa.first + 1
        if vmsa.first == given and count > 0:
            pages += [(vmsa.gpa or 0, vmsa.page)] * (min(given + count, wanted) - given)
        given += max(count, 0)
    if len(pages) == wanted and (surplus or given == wanted):
        return pages, None
    pages.append((0, None))
    return pages, f"{given} vCPU states for {wanted} vCPUs: the digest is not known"


def breakpoint_of(vmsas: Iterable[State]) -> str | None:
    """
    Return why the kernel refuses these states: DR7 has a breakpoint; None where none has.

    Source: linux arch/x86/kvm/svm/sev.c, sev_es_sync_vmsa; APM volume 2, appendix B.
    """
    for vmsa in vmsas:
        dr7 = int.from_bytes(vmsa.page[DR7 : DR7 + 8], "little")
        if dr7 & ~DR7_FIXED:
            return f"DR7 of vCPU {vmsa.vcpus} has a breakpoint: {dr7:#x}"
    return None


def unknown_states(why: str | None) -> Answer:
    """Return the answer to a call that measures vCPU states; `why`: what of them is not known."""
    return Answer() if why is None else Answer(why=why, id="unknown-states")
