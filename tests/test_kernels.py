"""
What booted kernels answered to the mapping half of a launch, held against the simulator.

../shared/vectors/kernels has the answers (errno, what was left, how many pages were mapped at
which level) of kernels that ran a list of calls; each call is put to the simulator under the
interface of that kernel.  Skipped where ../shared is absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import pytest

from cvmplan.core.platform import TDX, Platform
from cvmplan.kvm.abi import find
from cvmplan.kvm.interface import Abi
from cvmplan.kvm.releases import RELEASES
from cvmplan.simulator.answers import Answer
from cvmplan.simulator.call import Call
from cvmplan.simulator.ranges import END
from cvmplan.simulator.simulate import Host
from cvmplan.simulator.source import NOTHING
from cvmplan.simulator.vms import Vm
from tests import test_one_answer, test_one_answer_masks
from tests.oracles import kernel

RECORDED: Final = Path("../shared/vectors/kernels")
KERNELS: Final = {
    "deb-6.12.117": "kvm-6.11",
    "deb-6.18.15": "kvm-6.18",
    "deb-7.3.4": "kvm-7.3",
    "min-6.18.15": "kvm-6.18",
    "min-7.1.13": "kvm-7.1",
}
VM_TYPES: Final = {0: Platform.DEFAULT, 1: Platform.SW_PROTECTED}
NOT_CALLS_OF_A_PLAN: Final = {
    "cap", "run", "enc", "encv", "attr2", "attr2g", "memory-mapping-v19", "create-vm",
}  # fmt: skip
HOST_WIDTH: Final = "set-memslot 2 0x7ffffffff000 0x1000 - 0 0: EINVAL, simulated None"
"""Past the physical addresses of the host that ran the kernels; the simulator allows 52 bits."""


def number(text: str) -> int:
    return int(text, 0)


def memslot(words: list[str]) -> dict[str, Any] | None:
    """Return the fields of a memslot, None for flags that an operation does not have."""
    slot, gpa, size, gmem, offset, flags = words[:6]
    if number(flags) or words[6:] not in ([], ["keep"]):
        return None
    file = None if gmem == "-" else number(gmem)
    fields = {"slot": slot, "gpa": gpa, "size": size, "gmem_offset": offset}
    return {**{name: number(value) for name, value in fields.items()}, "gmem": file}


def gmem(words: list[str]) -> dict[str, Any]:
    """Return the fields of a guest_memfd."""
    names = {0: "mmap", 1: "init-shared"}
    flags = tuple(names.get(n, "unknown") for n in range(64) if number(words[2]) >> n & 1)
    return {"gmem": number(words[0]), "size": number(words[1]), "flags": flags}


def on_range(words: list[str]) -> dict[str, Any] | None:
    """Return the fields of a call on guest memory; None for flags or other attributes."""
    made: dict[str, Any] = {"gpa": number(words[0]), "size": number(words[1]), "gmem": None}
    if words[2:] in ([], ["0"], ["8"]):
        return made
    return {**made, "advice": words[2]} if words[2].isalpha() else None


def operation(row: dict[str, Any]) -> Call | None:
    """Return the operation of a recorded call, None where no plan could have it."""
    words, op = row["args"].split(), row["op"]
    made: dict[str, Any] | None = {}
    if op == "set-memslot":
        made = memslot(words)
    elif op == "create-gmem":
        made = gmem(words)
    elif op == "punch-hole":
        made = dict(zip(("gmem", "offset", "size"), map(number, words), strict=True))
    elif op == "create-vcpu":
        made = {"count": 1}
    elif op == "write":
        made = on_range(words[:2])
    else:
        made = on_range(words)
    return None if made is None else Call(0, op, **made)


def mapped(vm: Vm) -> list[int]:
    """Return how many pages of 4 KiB, 2 MiB and 1 GiB are mapped."""
    sizes = {1 << 12: 0, 1 << 21: 0, 1 << 30: 0}
    for low, high, level in vm.memory.level.runs(0, END):
        if level:
            sizes[level] += (high - low) // level
    return [*sizes.values()]


def first_call(answer: Answer, op: Call) -> tuple[str | None, tuple[int, int] | None]:
    """Return errno and rest of the first call; the simulator speaks of the whole loop."""
    if op.op == "pre-fault-memory" and answer.first_call is not None:
        return None, answer.first_call
    return answer.errno, answer.residual


def differences(rows: list[dict[str, Any]], abi: Abi) -> Iterator[str]:
    """Yield each answer of one case that is not the kernel's."""
    platform = VM_TYPES.get(rows[0]["vm"])
    if platform is None or platform not in abi.vm_types:
        return
    host = Host(platform, abi, 48)
    host.answer(Call(0, "create-vm", vm_type=platform), None)
    assert host.vm is not None
    for row in rows:
        op = None if row["op"] in NOT_CALLS_OF_A_PLAN else operation(row)
        if op is None and row["op"] == "set-memslot" and row["ret"] == 0:
            return  # what follows is about a slot that no plan can have
        if op is None:
            continue
        if op.op == "create-vcpu" and host.vm.vcpus is not None and row["args"] != "0":
            continue  # vCPUs after the first: a plan creates them in one operation
        answer = host.answer(op, NOTHING)
        errno, rest = first_call(answer, op)
        label = f"{row['case']} ({platform}): {row['op']} {row['args']}"
        if (row["ret"] < 0 and row["errno"]) != (errno or False):
            yield f"{label}: {row['errno']}, simulated {errno}"
            return
        if op.op == "pre-fault-memory":
            left = tuple(number(n) for n in row["left"])
            if row["ret"] == 0 and (left[1] or None) != (rest[1] if rest else None):
                yield f"{label}: left {left}, simulated {rest}"
            if row["pages"] and row["pages"] != mapped(host.vm):
                yield f"{label}: pages {row['pages']}, simulated {mapped(host.vm)}"
                return


@pytest.mark.parametrize(("name", "abi"), KERNELS.items(), ids=KERNELS)
def test_each_answer_is_that_of_the_booted_kernel(name: str, abi: str) -> None:
    path = RECORDED / f"{name}.jsonl"
    if not path.exists():
        pytest.skip("../shared is absent: what kernels answered is not at hand")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = [
        difference
        for _, case in groupby(rows, key=lambda r: (r["case"], r["vm"]))
        for difference in differences([*case], find(abi))
    ]
    assert [line for line in found if not line.endswith(HOST_WIDTH)] == []
    assert found != []


@pytest.mark.parametrize("abi", RELEASES, ids=lambda abi: abi.name)
def test_every_release_is_in_the_model_and_in_the_tables_of_answers(abi: Abi) -> None:
    assert abi.name in kernel.KERNELS
    assert abi.name in test_one_answer.TAKEN
    assert abi.name in test_one_answer.TAKEN_FEATURES
    assert (abi.name in test_one_answer_masks.TAKEN) == (TDX in abi.vm_types)
