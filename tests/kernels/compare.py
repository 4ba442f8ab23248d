"""What kernels answered against what the simulator says to the same calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from cvmplan.host.cases import CASES
from cvmplan.host.compared import VMS, Answer, compared
from cvmplan.kvm.abi import find

ABIS: Final = {
    "6.12": "kvm-6.11", "6.16": "kvm-6.16", "6.17": "kvm-6.16", "6.18": "kvm-6.18",
    "6.19": "kvm-6.19", "7.0": "kvm-7.0", "7.1": "kvm-7.1", "7.2": "kvm-7.2", "7.3": "kvm-7.3",
}  # fmt: skip
"""Series of a kernel to the interface that it has."""
WIDTH: Final = 40  # bits of physical addresses of the machine that QEMU emulates


class Tally(NamedTuple):
    """Answers that are equal, those that differ, and calls that no plan can have."""

    equal: int
    differing: tuple[str, ...]
    unasked: int


def compare(name: str, answers: Mapping[tuple[int, int], Answer]) -> Tally:
    """Return how the answers of a kernel are those of the simulator."""
    equal, differing, unasked = 0, [], 0
    abi = find(ABIS[name.removesuffix("-protected")])
    for number, case in enumerate(CASES):
        created = answers.get((number, 0))
        if created is None or created.errno:
            continue  # the kernel has no such VM
        told = {line: answer for (of, line), answer in answers.items() if of == number}
        for one in compared(case, abi, WIDTH, told):
            equal += one.difference == ""
            unasked += one.difference is None
            if one.difference:
                differing.append(f"{case.name} ({VMS[case.vm]}): {one.line}: {one.difference}")
    return Tally(equal, tuple(differing), unasked)
