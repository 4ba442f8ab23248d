"""
What a kernel would answer to each call of a plan, and the measurement that it reaches.

The simulator takes calls and nothing else of the planner: its state, its rules and its digest
are its own.  Every call is tried, also after one that was refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from cvmplan.core.errors import UnsupportedError
from cvmplan.core.findings import Finding
from cvmplan.core.platform import Platform
from cvmplan.kvm.interface import PAGE, WIDEST, Abi
from cvmplan.simulator.answers import Answer, Result, Simulation, no
from cvmplan.simulator.call import Call
from cvmplan.simulator.memslots import MOST_FINDINGS
from cvmplan.simulator.ranges import END
from cvmplan.simulator.sev_vm import SevVm
from cvmplan.simulator.snp_vm import SnpVm
from cvmplan.simulator.source import UNKNOWN, Source
from cvmplan.simulator.tdx_vm import TdxVm
from cvmplan.simulator.vms import Vm

VMS: Final[Mapping[str, type[Vm]]] = {
    "snp": SnpVm,
    "tdx": TdxVm,
    "sev": SevVm,
    "": Vm,
}
MOST_NAMED: Final = 20  # doubles of which the first owner is looked for


class Host:
    """
    A host kernel: it creates one VM, and answers the calls on it.

    `width`: bits of the host's physical addresses, beyond which no memslot can be.
    """

    def __init__(self, platform: Platform, abi: Abi, gpaw: int, width: int = WIDEST) -> None:
        if not abi.simulates:
            raise UnsupportedError(
                f"{abi.name} supports plans only; its refusals are not public", at="--abi"
            )
        self.platform = platform
        self.abi = abi
        self.gpaw = gpaw
        self.width = width
        self.vm: Vm | None = None
        self._hashed = 0

    def assume_set_up(
        self, calls: frozenset[str], vcpus: int, pages: Iterable[tuple[int, int, Source]]
    ) -> None:
        """
        Begin with a VM of `vcpus` that is set up as far as `calls` do not set it up themselves.

        Its memory is private where no call makes it so.

        `pages` are (gpa, size, contents) where those are known.
        """
        self.vm = VMS[self.platform.calls](self.platform, self.abi, self.gpaw)
        self.vm.memory.assume_all(pages, private="set-private" not in calls)
        self.vm.assume_set_up(calls, vcpus)

    def forget(self) -> None:
        """Note that what the VM has measured is not known."""
        if self.vm is not None:
            self.vm.forget()

    def answer(self, op: Call, source: Source | None) -> Answer:
        """Return what the kernel answers; where it is none that runs, refusals have no errno."""
        if op.op in HASHING or (self.abi.map_adds and op.op == self.abi.map_call):
            around = 2 * self.abi.map_level if self.abi.map_adds else 0
            self._hashed += (op.size + around) // PAGE
        if self._hashed > MOST_HASHED:
            raise UnsupportedError(
                f"the calls add more than {MOST_HASHED} pages (64 GiB)", at=f"op {op.seq}"
            )
        answer = self._answer(op, source)
        return answer if self.abi.runs else answer._replace(errno=None)

    def _answer(self, op: Call, source: Source | None) -> Answer:
        if op.op == "create-vm":
            return self._create(op)
        if self.vm is None:
            return no("EBADF", "no-vm", "the VM does not exist")
        return self.vm.answer(op, source)

    def _create(self, op: Call) -> Answer:
        if self.vm is not None:
            return no(None, "created-before", "the plan creates a second VM")
        platform = op.vm_type
        if platform is None or platform not in self.abi.vm_types:
            return no("EINVAL", "vm-type", f"{self.abi.name} has no VMs of type {op.vm_type}")
        self.vm = VMS[platform.calls](platform, self.abi, self.gpaw)
        self.vm.memory.host_width = self.width
        return Answer()


def simulate(
    platform: Platform,
    abi: Abi,
    calls: Sequence[tuple[Call, Source | None]],
    gpaw: int,
    width: int = WIDEST,
) -> Simulation:
    """
    Try each of `calls` (operation, what its pages hold) under `abi`.

    `gpaw` is the width of a TD's addresses, `width` that of the host's.  UnsupportedError where
    `abi` is for plans only.
    """
    host = Host(platform, abi, gpaw, width)
    results = []
    twice = 0
    for number, (op, source) in enumerate(calls):
        answer = host.answer(op, source)
        if answer.id == "added-before" and twice < MOST_NAMED:
            answer = named(answer, op, (c for c, _ in calls[:number]), "op")
            twice += 1
        results.append(Result(op.seq, op.op, answer))
    return finished(host, results)


def first_refusal(
    platform: Platform, abi: Abi, ops: Iterable[Call], gpaw: int
) -> tuple[Call, Answer] | None:
    """
    Return the first of `ops` that `abi` refuses, or that leads to states that nobody knows.

    No contents are looked at, so it costs what the calls cost.  None where all are taken,
    and for interfaces that are not simulated.
    """
    if not abi.simulates:
        return None
    host = Host(platform, abi, gpaw)
    for op in ops:
        answer = host.answer(op, UNKNOWN if op.has_source else None)
        if answer.result == "error" or answer.id == "unknown-states":
            return op, answer
    return None


def mapped(
    platform: Platform, abi: Abi, ops: Iterable[Call], gpaw: int
) -> Iterator[tuple[Call, tuple[int, int, int], str]]:
    """
    Yield each of `ops` that only maps, its (gpa, size, largest page), and why that is small.

    As `first_refusal`, no contents are looked at.
    """
    host = Host(platform, abi, gpaw)
    for op in ops:
        answer = host.answer(op, UNKNOWN if op.has_source else None)
        if op.op == abi.map_call and answer.mapped is not None:
            yield op, answer.mapped, answer.why


def finished(host: Host, results: Iterable[Result], extra: Iterable[Finding] = ()) -> Simulation:
    """Return the outcome of the calls that `host` has answered."""
    answered = tuple(results)
    vm = host.vm
    return Simulation(
        host.platform,
        host.abi.name,
        answered,
        vm.digest if vm else None,
        bool(vm and vm.finalized),
        (*extra, *(vm.memory.findings if vm else ()), *measured_twice(vm), *not_checked(host)),
    )


def not_checked(host: Host) -> Iterable[Finding]:
    """Yield a note for what the interface may refuse and is not modelled, or is the host's."""
    abi, doubts = host.abi, host.vm.doubts if host.vm else []
    unread = (f"{what} ({abi.name})" for p, what in abi.not_modelled if p == host.platform)
    for what in (*unread, *dict.fromkeys(doubts)):
        yield Finding("not-checked", f"not checked: {what}")


def compared(outcome: Simulation, wanted: str, origin: str) -> Simulation:
    """Return `outcome` with an error where it reaches a different digest than `wanted` (hex)."""
    if outcome.digest is None or not outcome.finalized or outcome.digest.hex() == wanted:
        return outcome
    problem = (
        f"the calls produce {outcome.digest.hex()} under {outcome.abi}, {origin} states {wanted}"
    )
    return outcome._replace(findings=(*outcome.findings, Finding("digest-differs", problem)))


def measured_twice(vm: Vm | None) -> Iterable[Finding]:
    """Yield an error for each run of pages that the measurement holds more than once."""
    if vm is None:
        return
    runs = ((low, high, n) for low, high, n in vm.memory.measured.runs(0, END) if n > 1)
    for low, high, times in islice(runs, MOST_FINDINGS):
        problem = f"measured {times} times: the kernel accepted them again"
        yield Finding("gpa-mapped-twice", problem, low, high - PAGE)


def named(answer: Answer, op: Call, earlier: Iterable[Call], word: str) -> Answer:
    """Say which earlier call added the page at which `answer` stopped."""
    gpa = answer.residual[0] if answer.residual else op.gpa
    for call in earlier:
        if call.op in ADDS and call.gpa <= gpa < call.gpa + call.size:
            return answer._replace(why=f"{answer.why}, by {word} {call.seq}")
    return answer


ADDS: Final = frozenset(
    {"snp-launch-update", "tdx-add", "tdx-init-mem-region", "sev-launch-update-data"}
)
HASHING: Final = ADDS | {"tdx-extend"}
MOST_HASHED: Final = 1 << 24  # pages; the time that a simulation takes is linear in them
