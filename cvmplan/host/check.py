"""
The mapping half of a plan on this machine: each call made, each answer compared.

What needs no SNP or TDX hardware is memory: memslots, guest_memfds, private attributes, and
KVM_PRE_FAULT_MEMORY.  A software-protected VM (type 1) has all of it; where the host has none,
a default VM takes the calls that need no private memory.  The bytes are those of `calls`; only
what the VMM alone knows (addresses, file descriptors) is filled in.
Sources: Linux Documentation/virt/kvm/api.rst; for the loop around KVM_PRE_FAULT_MEMORY
tools/testing/selftests/kvm/pre_fault_memory_test.c.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from platform import machine
from typing import Final, NamedTuple

from cvmplan.calls.make import calls
from cvmplan.calls.record import SystemCall
from cvmplan.core.findings import Finding
from cvmplan.core.platform import DEFAULT, SW_PROTECTED, UNMEASURED, Platform
from cvmplan.core.spans import Spans
from cvmplan.core.values import PAGE
from cvmplan.host.half import Offer, mapping_half, runs
from cvmplan.host.kernel import Kernel, Linux
from cvmplan.kvm.abi import earliest, find, of_release
from cvmplan.kvm.interface import Abi
from cvmplan.kvm.layouts import CAPABILITIES, IOCTLS
from cvmplan.kvm.memory import SetMemslot
from cvmplan.operations.plan import CreateVm, Op, Plan, PreFaultMemory, is_run
from cvmplan.readers.calls import of_operations
from cvmplan.simulator.answers import Answer
from cvmplan.simulator.simulate import simulate

DEVICE: Final = "/dev/kvm"
MOST_MEMORY: Final = 64 << 30  # bytes of memslots: address space only
MOST_MAPPED: Final = 1 << 30  # bytes of pages that a guest_memfd really allocates
MOST_REPEATS: Final = 100  # of a call that was interrupted
MOST_NAMED: Final = 20  # differences that are listed
NAMES: Final = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EAGAIN: "EAGAIN"}
NO_ROOM: Final = ("ENOMEM", "EMFILE", "ENFILE", "ENOSPC", "EBUSY")  # the host's state, no rule
NO_FD: Final = -1  # what stands for one that was never made; a kernel answers EBADF


class NotChecked(Exception):  # noqa: N818 - it says why a check ends, and is no error
    """The host has no room for more of it, or was not asked to."""


class Said(NamedTuple):
    """What the host answers: an errno or None, and the (gpa, size) that it left undone."""

    errno: str | None = None
    left: tuple[int, int] | None = None


def check(plan: Plan, kernel: Kernel | None = None) -> tuple[Finding, ...]:
    """
    Execute the mapping half of `plan` on `kernel` (this machine's) and compare the answers.

    Return host-differs, host-agrees and host-not-checked findings.  Whatever was opened is
    closed.  ConfigError where the plan's kernel interface is not known.
    """
    if kernel is None and machine() != "x86_64":
        return (_not_checked(f"plans are for x86-64, and this machine is {machine()}"),)
    kernel = kernel or Linux()
    with ExitStack() as held:
        try:
            kvm = _open(kernel, held)
            offer = _offer(kernel, kvm, plan)
            made = mapping_half(plan, offer, _interface(kernel, offer.vm_type))
            _bounded(made)
        except NotChecked as why:
            return (_not_checked(str(why)),)
        found = _Session(kernel, kvm, made, held).compare()
    if offer.lacks:
        skipped = "private memory is" if offer.prefault else "private memory and mappings are"
        lacks = ", ".join(offer.lacks)
        return (_not_checked(f"{skipped} left out: {DEVICE} lacks {lacks}"), *found)
    return found


def _not_checked(why: str) -> Finding:
    return Finding("host-not-checked", why)


def _open(kernel: Kernel, held: ExitStack) -> int:
    try:
        kvm = kernel.open(DEVICE)
    except OSError as error:
        raise NotChecked(f"{DEVICE} cannot be opened: {_name(error)}") from error
    held.callback(kernel.close, kvm)
    return kvm


def _offer(kernel: Kernel, kvm: int, plan: Plan) -> Offer:
    """Return the VM that the host can have, by the capabilities that its calls ask for."""
    answers: dict[Platform, list[str]] = {}
    for kind in UNMEASURED:
        alone = Plan(kind, plan.vmm, earliest(kind).name, (CreateVm(kind),))
        asked = [(c, c.wants) for _, c in calls(alone) if c.wants is not None]
        answers[kind] = [
            call.capability if wants.bit is None else f"{call.capability} (bit {wants.bit})"
            for call, wants in asked
            if not wants.holds(_ask(kernel, kvm, CAPABILITIES[call.capability]))
        ]
    lacks = tuple(answers[SW_PROTECTED])
    if not lacks:
        return Offer(SW_PROTECTED, prefault=True)
    needed = [name for name in answers[DEFAULT] if name != "KVM_CAP_PRE_FAULT_MEMORY"]
    if needed:
        raise NotChecked(f"{DEVICE} lacks {', '.join(needed)}")
    return Offer(DEFAULT, not answers[DEFAULT], lacks)


def _interface(kernel: Kernel, vm_type: Platform) -> Abi:
    """Return the interface of the kernel's release; of an older one, the first that maps."""
    own = of_release(kernel.release())
    return own if own is not None and vm_type in own.vm_types else earliest(vm_type)


def _ask(kernel: Kernel, kvm: int, capability: int) -> int:
    try:
        return kernel.ioctl(kvm, IOCTLS["KVM_CHECK_EXTENSION"].number, capability)
    except OSError as error:
        raise NotChecked(f"KVM_CHECK_EXTENSION answers {_name(error)}") from error


def _bounded(made: Plan) -> None:
    """Raise NotChecked for a plan without memory, and for one that is too large to try."""
    memory = sum(op.size for op in made.ops if isinstance(op, SetMemslot))
    mapped = sum(
        high - low
        for low, high in Spans(runs(op for op in made.ops if isinstance(op, PreFaultMemory)))
    )
    if not memory:
        raise NotChecked("the plan has no memslots")
    if memory > MOST_MEMORY:
        raise NotChecked(f"memslots of {memory:#x} bytes are more than {MOST_MEMORY:#x}")
    if mapped > MOST_MAPPED:
        raise NotChecked(f"{mapped:#x} bytes would be allocated, more than {MOST_MAPPED:#x}")


class _Session:
    """One plan on one host; `held` gives back what it takes."""

    def __init__(self, kernel: Kernel, kvm: int, made: Plan, held: ExitStack) -> None:
        self.kernel = kernel
        self.plan = made
        self.held = held
        self.fds = {"kvm": kvm}
        self.sizes: dict[int, int] = {}  # of the memory of user space, in bytes
        for op in made.ops:
            if isinstance(op, SetMemslot):
                number, offset = op.shows
                self.sizes[number] = max(offset + op.size, self.sizes.get(number, PAGE))
        self.memory: dict[int, int] = {}  # number to address
        self.made = 0  # calls

    def compare(self) -> tuple[Finding, ...]:
        """
        Make the calls and compare each answer with the simulator's.

        It ends at the first call of the set-up that differs: two states that are not the
        same have nothing to compare.
        """
        found: list[Finding] = []
        mapped = Spans()
        wanted = _simulated(self.plan)
        try:
            for seq, group in groupby(calls(self.plan), itemgetter(0)):
                op, said = self.plan.ops[seq], self._operation(call for _, call in group)
                if is_run(op) and said.errno is None and said.left is not None:
                    mapped.add(op.gpa, said.left[0])
                if _differs(op, wanted[seq], said):
                    found.append(self._difference(op, wanted[seq], said))
                    if op.kind != "map" or len(found) == MOST_NAMED:
                        break
        except NotChecked as why:
            return (*found, _not_checked(str(why)))
        return tuple(found) or (self._agreement(sum(high - low for low, high in mapped)),)

    def _difference(self, op: Op, wanted: Answer, said: Said) -> Finding:
        where = f" of {op.size:#x} bytes at {op.gpa:#x}" if is_run(op) else ""
        simulated = _told(wanted.errno, wanted.residual)
        problem = f"{op.name}{where}: {_told(*said)} on Linux {self.kernel.release()}"
        return Finding("host-differs", f"{problem}, {simulated} simulated for {self.plan.abi}")

    def _agreement(self, mapped: int) -> Finding:
        problem = (
            f"{self.made} calls on Linux {self.kernel.release()}, VM type {self.plan.platform}: "
            f"all as simulated for {self.plan.abi}; {mapped:#x} bytes mapped"
        )
        return Finding("host-agrees", problem)

    def _operation(self, group: Iterable[SystemCall]) -> Said:
        """Make the calls of one operation, up to one that is refused; NotChecked."""
        said = Said()
        for call in group:
            argument = self._argument(call)
            if call.wants is not None or argument is None:
                continue
            self.made += 1
            said = self._call(self.fds[call.fd], call, argument)
            if said.errno in NO_ROOM:
                raise NotChecked(f"{call.name} answers {said.errno}: the host has no room")
            if said.errno is not None:
                break
        return said

    def _argument(self, call: SystemCall) -> int | bytearray | None:
        """Return the argument of a call, None where it is of what only a VMM has."""
        if call.struct is None:
            return call.argument if isinstance(call.argument, int) else None
        data = bytearray(call.struct.data)
        sizes = {field.offset: field.size for field in call.struct.layout.fields}
        for at, symbol in call.struct.relocations:
            name, _, offset = symbol.partition("+")
            kind, _, number = name.rstrip("]").partition("[")
            value = self.fds.get(f"{kind}:{number}", NO_FD)
            if kind == "&memory":
                value = self._address(int(number)) + int(offset or "0", 16)
            data[at : at + sizes[at]] = value.to_bytes(sizes[at], "little", signed=value < 0)
        return data

    def _address(self, number: int) -> int:
        """Return where user space has a piece of memory; NotChecked."""
        if number not in self.memory:
            try:
                self.memory[number] = self.kernel.map(self.sizes[number])
            except OSError as error:
                raise NotChecked(f"mmap answers {_name(error)}: the host has no room") from error
            self.held.callback(self.kernel.unmap, self.memory[number])
        return self.memory[number]

    def _call(self, fd: int, call: SystemCall, argument: int | bytearray) -> Said:
        """Make a call: again where it was interrupted, and for what it has left undone."""
        again = call.repeat is not None and isinstance(argument, bytearray)
        left = _left(call, argument) if again else None
        repeats = 0
        while True:
            try:
                value = self.kernel.ioctl(fd, call.number or 0, argument)
            except OSError as error:
                name = _name(error)
                repeats += 1
                if name in ("EINTR", "EAGAIN") and repeats <= MOST_REPEATS:
                    continue
                return Said(name, _left(call, argument) if again else None)
            if call.returns:
                self.held.callback(self.kernel.close, value)
                self.fds[call.returns] = value
            before, left = left, _left(call, argument) if again else None
            if left is None or before is None or not 0 < left[1] < before[1]:
                return Said(None, left)


def _left(call: SystemCall, data: int | bytearray) -> tuple[int, int] | None:
    """Return the (gpa, size) that KVM_PRE_FAULT_MEMORY wrote back."""
    if call.struct is None:
        return None
    at = {field.name: field for field in call.struct.layout.fields}
    gpa, size = (
        int.from_bytes(bytes(data)[at[n].offset :][: at[n].size], "little") for n in ("gpa", "size")
    )
    return gpa, size


def _simulated(made: Plan) -> list[Answer]:
    """Return what the simulator answers to each operation."""
    told = [(call, None) for call, _ in of_operations(made.ops)]
    outcome = simulate(made.platform, find(made.abi), told, 48)
    return [result.answer for result in outcome.results]


def _differs(op: Op, wanted: Answer, said: Said) -> bool:
    if wanted.result == "error":
        return said.errno != wanted.errno or wanted.residual not in (None, said.left)
    done = (op.gpa + op.size, 0) if is_run(op) else None
    return said.errno is not None or said.left not in (None, done)


def _told(errno_name: str | None, left: tuple[int, int] | None) -> str:
    result = errno_name or "success"
    return result if left is None else f"{result} with {left[1]:#x} bytes left at {left[0]:#x}"


def _name(error: OSError) -> str:
    return NAMES.get(error.errno or 0, str(error.errno))
