"""What kernels answered against what the simulator says to the same calls."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from cvmplan.core.platform import Platform
from cvmplan.kvm.abi import find
from cvmplan.simulator.answers import Answer as Said
from cvmplan.simulator.call import Call
from cvmplan.simulator.ranges import END
from cvmplan.simulator.simulate import Host
from cvmplan.simulator.source import NOTHING
from cvmplan.simulator.vms import Vm
from tests.kernels.boot import Answer
from tests.kernels.cases import CASES, DEFAULT, PROTECTED, Case

VMS: Final = {DEFAULT: Platform.DEFAULT, PROTECTED: Platform.SW_PROTECTED}
ABIS: Final = {
    "6.12": "kvm-6.11", "6.16": "kvm-6.16", "6.17": "kvm-6.16", "6.18": "kvm-6.18",
    "6.19": "kvm-6.19", "7.1": "kvm-7.1", "7.2": "kvm-7.2", "7.3": "kvm-7.3",
}  # fmt: skip
"""Series of a kernel to the interface that it has."""
WIDTH: Final = 40  # bits of physical addresses of the machine that QEMU emulates
GMEM_FLAGS: Final = ("mmap", "init-shared")


class Tally(NamedTuple):
    """Answers that are equal, those that differ, and calls that no plan can have."""

    equal: int
    differing: tuple[str, ...]
    unasked: int


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
    if word in ("run", "mapgmem", "capability") or (word == "vcpu" and told != ["0"]):
        return None
    if word == "vcpu":
        return Call(0, "create-vcpu", count=1)
    numbers = [int(value, 0) for value in told if value[0].isdigit()]
    if word == "punch":
        return Call(0, "punch-hole", gmem=numbers[0], offset=numbers[1], size=numbers[2])
    return _on_memory(word, numbers, told)


def _on_memory(word: str, numbers: list[int], told: list[str]) -> Call | None:
    gpa, size = numbers[:2]
    if word == "attributes":
        names = {8: "set-private", 0: "set-shared"}
        return Call(0, names[numbers[2]], gpa, size) if numbers[2] in names else None
    if word == "prefault":
        return None if numbers[3] else Call(0, "pre-fault-memory", gpa, size)
    if word == "write":
        return Call(0, "write", gpa, size)
    advice = told[2]
    return None if advice == "dontneed" else Call(0, "madvise", gpa, size, advice=advice)


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


def compare(name: str, answers: Mapping[tuple[int, int], Answer]) -> Tally:
    """Return how the answers of a kernel are those of the simulator."""
    equal, differing, unasked = 0, [], 0
    for number, case in enumerate(CASES):
        created = answers.get((number, 0))
        if created is None or created.errno:
            continue  # the kernel has no such VM
        for told in of_case(name, number, case, answers):
            equal += told == ""
            unasked += told == UNASKED
            differing += [told] if told not in ("", UNASKED) else []
    return Tally(equal, tuple(differing), unasked)


UNASKED: Final = "no plan has this call"


def of_case(
    name: str, number: int, case: Case, answers: Mapping[tuple[int, int], Answer]
) -> Iterator[str]:
    """Yield "" for an answer that is equal, and what differs; it ends where a plan's calls do."""
    abi = find(ABIS[name.removesuffix("-protected")])
    host = Host(VMS[case.vm], abi, 48, WIDTH)
    host.answer(Call(0, "create-vm", vm_type=VMS[case.vm]), None)
    assert host.vm is not None
    for line, told in enumerate(case.lines, start=1):
        asked, answer = call(told), answers[number, line]
        if asked is None:
            yield UNASKED
            if answer.errno == 0 and not told.startswith(("run", "mapgmem", "capability", "vcpu")):
                return  # the rest is about memory that no plan can have
            continue
        said = host.answer(asked, NOTHING)
        yield difference(f"{case.name} ({VMS[case.vm]}): {told}", asked, said, answer, host.vm)


def difference(label: str, asked: Call, said: Said, answer: Answer, vm: Vm) -> str:
    """Return what of an answer differs, "" where nothing does."""
    fault = asked.op == "pre-fault-memory"
    first = None if fault and said.first_call is not None else said.errno
    name = errno.errorcode.get(answer.errno) if answer.errno else None
    if name != first:
        return f"{label}: {name}, simulated {first}"
    if not fault:
        return ""
    last = errno.errorcode.get(answer.last[0]) if answer.last[0] else None
    if last != said.errno:
        return f"{label}: in the end {last}, simulated {said.errno}"
    rest = said.residual[1] if said.residual else 0
    if not answer.errno and answer.last[2] != rest:
        return f"{label}: left {answer.last[2]:#x}, simulated {rest:#x}"
    if answer.pages != mapped(vm):
        return f"{label}: pages {answer.pages}, simulated {mapped(vm)}"
    return ""
