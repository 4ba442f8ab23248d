"""
The cases asked of this machine's kernel: each answer beside the simulator's.

They are the cases of booted kernels (`cases`), as far as this host can be asked: it may lack
what a call needs, or pages of 2 MiB, and no guest runs here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from cvmplan.core.findings import Finding
from cvmplan.host.cases import CASES
from cvmplan.host.cases.words import DEFAULT, PAGE, PROTECTED, Case, slot
from cvmplan.host.compared import VMS, Compared, compared
from cvmplan.host.kernel import Kernel, Linux
from cvmplan.host.machine import Machine, answers_of
from cvmplan.kvm.abi import of_release
from cvmplan.kvm.asked import HANGS
from cvmplan.kvm.interface import WIDEST, WIDTHS, Abi
from cvmplan.kvm.layouts import CAPABILITIES, IOCTLS
from cvmplan.kvm.releases import RELEASES

DEVICE: Final = "/dev/kvm"
MULTI_ADDRESS_SPACE: Final = 118  # KVM_CAP_MULTI_ADDRESS_SPACE
MOST_NAMED: Final = 20  # differences that are listed
NEEDS: Final = {
    "prefault": "KVM_CAP_PRE_FAULT_MEMORY", "gmem": "KVM_CAP_GUEST_MEMFD",
    "attributes": "KVM_CAP_MEMORY_ATTRIBUTES",
}  # fmt: skip
"""Word of a case to the capability without which a kernel answers ENOTTY or EOPNOTSUPP."""
OF_SMM: Final = ("slot-numbers",)
"""Cases about memslots of system management mode: a kernel without KVM_SMM refuses them."""
RUNS: Final = frozenset({"run", "start", "stop", "touch", "encrypt"})
"""Words that run a guest or may end this process."""
HUGE: Final = "huge-pages"  # the case that says whether a host gives pages of 2 MiB


def ask(kernel: Kernel | None = None) -> tuple[Finding, ...]:
    """
    Ask `kernel` (this machine's) the cases, and compare each answer with the simulator's.

    Return host-differs, host-agrees and host-not-checked findings.  What differs is asked a
    second time: other work on a host may take pages away.  Whatever was opened is closed.
    """
    kernel = kernel or Linux()
    abi = of_release(kernel.release())
    if abi is None:
        problem = f"Linux {kernel.release()} is older than {RELEASES[0].name}: no case was asked"
        return (Finding("host-not-checked", problem),)
    with ExitStack() as held:
        try:
            kvm = kernel.open(DEVICE)
            held.callback(kernel.close, kvm)
            return tuple(_Asking(kernel, kvm, abi).findings())
        except OSError as error:
            problem = f"{DEVICE}: {error.strerror}: no case was asked"
            return (Finding("host-not-checked", problem),)


class _Asking:
    """The cases on one host."""

    def __init__(self, kernel: Kernel, kvm: int, abi: Abi) -> None:
        self.kernel = kernel
        self.kvm = kvm
        self.abi = abi
        self.width = self._width()
        self.lacks = {word: name for word, name in NEEDS.items() if not self._has(name)}
        self.smm = bool(self._extension(MULTI_ADDRESS_SPACE))
        types = self._has("KVM_CAP_VM_TYPES")
        self.protected = bool(types >> PROTECTED & 1)
        self.huge = self._gives_huge_pages()

    def _has(self, capability: str) -> int:
        return self._extension(CAPABILITIES[capability])

    def _extension(self, number: int) -> int:
        return self.kernel.ioctl(self.kvm, IOCTLS["KVM_CHECK_EXTENSION"].number, number)

    def _width(self) -> int:
        """Return the bits of addresses that memslots may have: the host's, 52 without TDP."""
        for bits in reversed(WIDTHS):
            with ExitStack() as held:
                machine = Machine(self.kernel, self.kvm, held)
                machine.create(DEFAULT)
                if not machine.answer(slot((1 << bits) - PAGE, PAGE)).errno:
                    return bits
        return WIDEST

    def _gives_huge_pages(self) -> bool:
        case = next(one for one in CASES if one.name == HUGE)
        return "prefault" not in self.lacks and not any(one.difference for one in self._asked(case))

    def findings(self) -> Iterator[Finding]:
        """Yield what differs, what was left out, and what agrees."""
        left_out: Counter[str] = Counter()
        cases = calls = differing = 0
        for case in CASES:
            why = self._left_out(case)
            if why:
                left_out[why] += 1
                continue
            told = self._asked(case)
            if any(one.difference for one in told):
                told = self._asked(case)
            cases += 1
            calls += sum(one.difference is not None for one in told)
            for one in told:
                differing += bool(one.difference)
                if one.difference and differing <= MOST_NAMED:
                    yield self._differs(case, one)
        if left_out:
            reasons = "; ".join(f"{n}: {why}" for why, n in left_out.items())
            yield Finding("host-not-checked", f"cases that were not asked: {reasons}")
        if cases and not differing:
            problem = f"{calls} calls of {cases} cases on Linux {self.kernel.release()}: all as"
            yield Finding("host-agrees", f"{problem} simulated for {self.abi.name}")

    def _differs(self, case: Case, one: Compared) -> Finding:
        where = f"case {case.name} ({VMS[case.vm]}): {one.line}"
        host = f"on Linux {self.kernel.release()}"
        return Finding("host-differs", f"{where}: {one.difference} for {self.abi.name}, {host}")

    def _left_out(self, case: Case) -> str:
        """Return why a case is not asked, "" where it is."""
        return next(self._reasons(case), "")

    def _reasons(self, case: Case) -> Iterator[str]:
        words = {line.split()[0] for line in case.lines}
        ends = {line.split()[-1] for line in case.lines}
        if VMS[case.vm].private and not self.protected:
            yield "the host has no software-protected VMs (KVM_SW_PROTECTED_VM)"
        yield from (f"the host lacks {name}" for word, name in self.lacks.items() if word in words)
        if case.name in OF_SMM and VMS[case.vm].plain and not self.smm:
            yield "the host has no memslots of system management mode (KVM_SMM)"
        if words & RUNS:
            yield "a guest runs"
        if case.name in HANGS.get(self.abi.name, ()):
            yield "KVM_PRE_FAULT_MEMORY of this kernel may not return"
        if ends & {"2m", "1g"} or ("hugepage" in ends and not self.huge):
            yield "they need pages of 2 MiB or 1 GiB"

    def _asked(self, case: Case) -> list[Compared]:
        """Return each line of a case, asked of the kernel, with what differs."""
        with ExitStack() as held:
            answers = answers_of(case, Machine(self.kernel, self.kvm, held))
        return [*compared(case, self.abi, self.width, answers)]
