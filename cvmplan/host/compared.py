"""
What a kernel answers to a case, beside what the simulator says to the same calls.

A line of a case is put to the simulator as the call of a plan.  Some lines no plan has: those
are not compared, and where such a line changes memory, neither are those after it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from cvmplan.core.platform import Platform
from cvmplan.host.cases.words import DEFAULT, PROTECTED, Case
from cvmplan.kvm.interface import Abi
from cvmplan.simulator.answers import Answer as Said
from cvmplan.simulator.call import Call
from cvmplan.simulator.ranges import END
from cvmplan.simulator.simulate import Host
from cvmplan.simulator.source import NOTHING
from cvmplan.simulator.vms import Vm

VMS: Final = {DEFAULT: Platform.DEFAULT, PROTECTED: Platform.SW_PROTECTED}
GMEM_FLAGS: Final = ("mmap", "init-shared")
_NO_MEMORY: Final = (
    "run", "start", "stop", "mapgmem", "touch", "capability", "encrypt", "vcpu",
)  # fmt: skip
"""Words without a call of a plan that leave memory as it is for what follows."""
_ADVICE: Final = ("hugepage", "nohugepage")


class Answer(NamedTuple):
    """
    What a kernel answers to a line.

    errno      0 where the call succeeded; `ret` is then what it returned
    left       (gpa, size) in the struct after the first KVM_PRE_FAULT_MEMORY
    last       errno and (gpa, size) after the loop over the rest
    pages      how many pages of 4 KiB, 2 MiB and 1 GiB are mapped
    """

    ret: int
    errno: int
    left: tuple[int, int] = (0, 0)
    last: tuple[int, int, int] = (0, 0, 0)
    pages: tuple[int, int, int] = (0, 0, 0)


class Compared(NamedTuple):
    """A line, and what of its answer is not the simulator's: "" nothing, None not compared."""

    line: str
    difference: str | None


def call(line: str) -> Call | None:
    """Return the call of a line, None where a plan has none that says the same."""
    word, *told = line.split()
    if word == "slot":
        return _slot(told)
    if word == "gmem":
        number, size, flags = (int(value, 0) for value in told)
        names = tuple(
            GMEM_FLAGS[n] if n < len(GMEM_FLAGS) else f"bit-{n}"
            for n in range(64)
            if flags >> n & 1
        )
        return Call(0, "create-gmem", gmem=number, size=size, flags=names)
    if word == "vcpu":
        return Call(0, "create-vcpu", count=1) if told == ["0"] else None
    if word == "code":
        return Call(0, "write", int(told[0], 0), len(told[1]) // 2)
    numbers = [int(value, 0) for value in told if value[0].isdigit()]
    if word == "punch":
        return Call(0, "punch-hole", gmem=numbers[0], offset=numbers[1], size=numbers[2])
    return None if word in _NO_MEMORY else _on_memory(word, numbers, told)


def _on_memory(word: str, numbers: list[int], told: list[str]) -> Call | None:
    if word == "attributes2":
        return Call(0, "set-private", numbers[1], numbers[2], gmem=numbers[0])
    gpa, size = numbers[:2]
    if word == "attributes":
        names = {8: "set-private", 0: "set-shared"}
        return Call(0, names[numbers[2]], gpa, size) if numbers[2] in names else None
    if word == "prefault":
        return None if numbers[3] else Call(0, "pre-fault-memory", gpa, size)
    if word == "write":
        return Call(0, "write", gpa, size)
    return Call(0, "madvise", gpa, size, advice=told[2]) if told[2] in _ADVICE else None


def _slot(told: list[str]) -> Call | None:
    number, gpa, size, gmem, offset, flags, how = told
    if int(flags) or how in ("skew", "askew", "2m", "1g"):
        return None
    file = None if gmem == "-" else int(gmem)
    place = int(offset, 0) if file is not None else None
    return Call(
        0, "set-memslot", int(gpa, 0), int(size, 0), gmem=file, gmem_offset=place, slot=int(number)
    )


def mapped(vm: Vm) -> tuple[int, int, int]:
    """Return how many pages of 4 KiB, 2 MiB and 1 GiB are mapped."""
    sizes = {1 << 12: 0, 1 << 21: 0, 1 << 30: 0}
    for low, high, level in vm.memory.level.runs(0, END):
        if level:
            sizes[level] += (high - low) // level
    small, large, largest = sizes.values()
    return small, large, largest


def compared(case: Case, abi: Abi, width: int, answers: Mapping[int, Answer]) -> Iterator[Compared]:
    """
    Yield each line of a case with what of the kernel's answer is not the simulator's.

    `answers` by the number of the line, from 1 on; `width` are the bits of the host's physical
    addresses.  It ends before lines that are about memory no plan can have.
    """
    host = Host(VMS[case.vm], abi, 48, width)
    host.answer(Call(0, "create-vm", vm_type=VMS[case.vm]), None)
    if host.vm is None:
        return
    for number, line in enumerate(case.lines, start=1):
        asked, answer = call(line), answers[number]
        if asked is None:
            yield Compared(line, None)
            if answer.errno == 0 and line.split()[0] not in _NO_MEMORY:
                return
            continue
        yield Compared(line, difference(asked, host.answer(asked, NOTHING), answer, host.vm))


def difference(asked: Call, said: Said, answer: Answer, vm: Vm) -> str:
    """Return what of an answer differs, "" where nothing does."""
    fault = asked.op == "pre-fault-memory"
    first = None if fault and said.first_call is not None else said.errno
    name = _name(answer.errno)
    if name != first:
        return f"{name}, simulated {first}"
    if not fault:
        return ""
    last = _name(answer.last[0])
    if last != said.errno:
        return f"in the end {last}, simulated {said.errno}"
    rest = said.residual[1] if said.residual else 0
    if not answer.errno and answer.last[2] != rest:
        return f"left {answer.last[2]:#x}, simulated {rest:#x}"
    if answer.pages != mapped(vm):
        return f"pages {answer.pages}, simulated {mapped(vm)}"
    return ""


def _name(number: int) -> str | None:
    return errno.errorcode.get(number, str(number)) if number else None
