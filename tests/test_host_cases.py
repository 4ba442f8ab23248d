"""
The cases of booted kernels, asked of a host: what its kernel answers beside the simulator.

Answers are those that kernels gave when they were booted (`tests/kernels`); calls are decoded
by the kernel that `test_host` writes from ../shared/spec/kvm.md.
"""

from __future__ import annotations

import errno
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from cvmplan.core.findings import Finding
from cvmplan.host import ask as asking
from cvmplan.host.ask import ask
from cvmplan.host.cases import CASES, DEFAULT, PROTECTED, Case
from cvmplan.host.compared import Answer
from cvmplan.host.machine import Machine
from cvmplan.kvm.abi import of_release
from tests.kernels import kept
from tests.kernels.boot import compiled, kernels
from tests.kernels.compare import WIDTH
from tests.kernels.on_host import findings
from tests.recorder.record import compiler, consumers, package
from tests.test_host import ALL, FakeKernel

CAPABILITIES: Final = {**ALL, 118: 2}
NAMES: Final = sorted(kept.read())


class Host(FakeKernel):
    """A host whose answers are those that are kept of a kernel."""

    def __init__(self, name: str, capabilities: dict[int, int] = CAPABILITIES) -> None:
        super().__init__(capabilities=dict(capabilities))
        self.kept = kept.read()[name]
        self.spoiled: dict[tuple[str, int], Answer] = {}
        self.asked: list[Case] = []
        if not name.endswith("-protected"):
            self.capabilities[235] = 1

    def release(self) -> str:
        return self.kept.release

    def answers(self, case: Case) -> dict[int, Answer]:
        self.asked.append(case)
        number = CASES.index(case)
        return {
            line: self.spoiled.get((case.name, line), answer)
            for (of, line), answer in self.kept.answers.items()
            if of == number
        }


def rules(found: tuple[Finding, ...]) -> list[str]:
    return [one.rule for one in found]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a host's answers taken from what is kept, in place of calls."""

    def told(case: Case, machine: Machine) -> dict[int, Answer]:
        assert isinstance(machine.kernel, Host)
        return machine.kernel.answers(case)

    monkeypatch.setattr(asking, "answers_of", told)
    monkeypatch.setattr(asking._Asking, "_width", lambda _: WIDTH)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("answers")
def test_a_host_with_the_kernel_of_a_booted_machine_agrees(name: str) -> None:
    host = Host(name)
    left_out, agrees = ask(host)
    assert (left_out.rule, agrees.rule) == ("host-not-checked", "host-agrees")
    assert f"on Linux {host.release()}: all as simulated for kvm-" in agrees.message
    assert "a guest runs" in left_out.message
    assert ("software-protected" in left_out.message) == (not name.endswith("-protected"))
    assert {one.vm for one in host.asked} == (
        {DEFAULT, PROTECTED} if name.endswith("-protected") else {DEFAULT}
    )
    assert host.fds == {}


@pytest.mark.usefixtures("answers")
def test_another_answer_is_an_error_with_its_place() -> None:
    host = Host("7.3")
    host.spoiled["slot-overlaps", 2] = Answer(-1, errno.EINVAL)
    (wrong,) = [one for one in ask(host) if one.rule == "host-differs"]
    assert wrong.message.startswith(
        "case slot-overlaps (default): slot 1 0xff000 0x100000 - 0x0 0 new: EINVAL, simulated "
        "EEXIST for kvm-7.3, on Linux 7.3.4"
    )
    assert [one.name for one in host.asked].count("slot-overlaps") == 2
    assert "host-agrees" not in rules(ask(host))


@pytest.mark.usefixtures("answers")
def test_a_kernel_whose_mapping_does_not_return_is_not_asked_for_it() -> None:
    host = Host("6.12")
    ask(host)
    assert not {"slot-deleted", "slot-moved"} & {one.name for one in host.asked}


@pytest.mark.parametrize(
    ("capability", "why"),
    [
        (236, "the host lacks KVM_CAP_PRE_FAULT_MEMORY"),
        (233, "the host lacks KVM_CAP_MEMORY_ATTRIBUTES"),
        (234, "the host lacks KVM_CAP_GUEST_MEMFD"),
        (118, "1: the host has no memslots of system management mode (KVM_SMM)"),
    ],
)
@pytest.mark.usefixtures("answers")
def test_what_a_host_lacks_is_left_out_and_said(capability: int, why: str) -> None:
    host = Host("7.3", {**CAPABILITIES, capability: 0})
    found = ask(host)
    assert rules(found) == ["host-not-checked", "host-agrees"]
    assert why in found[0].message


@pytest.mark.usefixtures("answers")
def test_a_host_that_gives_no_huge_pages_is_not_asked_for_levels() -> None:
    host = Host("7.3")
    host.spoiled["huge-pages", 4] = Answer(0, 0, (8 << 20, 0), (0, 8 << 20, 0), (2048, 0, 0))
    found = ask(host)
    assert rules(found) == ["host-not-checked", "host-agrees"]
    assert not any("hugepage" in line for one in host.asked[1:] for line in one.lines)


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("6.11.0", "kvm-6.11"), ("6.12.117+deb13-amd64", "kvm-6.11"), ("6.17.13", "kvm-6.16"),
        ("7.0.0-rc1", "kvm-7.0"), ("7.3.4", "kvm-7.3"), ("8.0.1", "kvm-7.3"), ("6.10.14", None),
        ("", None), ("unknown", None),
    ],
)  # fmt: skip
def test_a_release_has_the_interface_of_the_newest_before_it(release: str, name: str) -> None:
    found = of_release(release)
    assert (found.name if found else None) == name


def test_an_older_kernel_is_not_asked() -> None:
    class Old(FakeKernel):
        def release(self) -> str:
            return "5.10.0"

    kernel = Old()
    (note,) = ask(kernel)
    assert (note.rule, kernel.made) == ("host-not-checked", [])


# --- calls, decoded by a kernel that is written here ---------------------------------------------


def told(*lines: str, vm: int = PROTECTED) -> list[Answer]:
    kernel = FakeKernel()
    with ExitStack() as held:
        machine = Machine(kernel, kernel.open("/dev/kvm"), held)
        assert machine.create(vm).errno == 0
        found = [machine.answer(line) for line in lines]
    assert {*kernel.fds.values()} == {"kvm"}
    assert kernel.maps == {}
    return found


def test_the_calls_of_lines_are_what_a_kernel_takes() -> None:
    found = told(
        "gmem 0 0x100000 0", "slot 0 0x100000 0x100000 0 0x0 0 new", "vcpu 0",
        "attributes 0x100000 0x4000 8", "prefault 0x100000 0x6000 0 0", "write 0x104000 0x1000 1",
        "advise 0x104000 0x1000 dontneed", "punch 0 0x0 0x1000", "capability 236",
    )  # fmt: skip
    assert [one.errno for one in found] == [0] * 9
    fault = found[4]
    assert (fault.left, fault.last) == ((0x103000, 0x3000), (0, 0x106000, 0))
    assert fault.pages == (6, 0, 0)
    assert found[8].ret == 1


def test_the_answers_of_lines_are_the_kernels() -> None:
    found = told(
        "slot 0 0x0 0x2000 - 0x0 0 new", "slot 1 0x1000 0x1000 - 0x0 0 new",
        "slot 1 0x8000 0x1001 - 0x0 0 new", "slot 1 0x8000 0x1000 7 0x0 0 new",
        "prefault 0x0 0x1000 0 0", "vcpu 0", "vcpu 0", "prefault 0x1 0x1000 0 0",
        "prefault 0x2000 0x1000 0 0", "prefault 0x1000 0x2000 0 0", "gmem 0 0x1001 0",
        "attributes 0x1 0x1000 8", "punch 3 0x0 0x1000", "write 0x100000 0x1000 1",
    )  # fmt: skip
    names = [errno.errorcode.get(one.errno, "") for one in found]
    assert names == [
        "", "EEXIST", "EINVAL", "EBADF", "EBADF", "", "EEXIST", "EINVAL", "ENOENT", "", "EINVAL",
        "EINVAL", "EBADF", "EFAULT",
    ]  # fmt: skip
    assert found[9].last == (errno.ENOENT, 0x2000, 0x1000)


def test_a_default_vm_has_no_private_memory() -> None:
    assert told("attributes 0x0 0x1000 8", vm=DEFAULT)[0].errno == errno.EINVAL


# --- the command in a booted machine -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["6.12", "6.18", "7.3", "7.3-protected"])
def test_check_on_host_agrees_in_a_booted_machine(name: str, tmp_path: Path) -> None:
    """Under emulation: the levels, the addresses and what is left are those of a real KVM."""
    if compiler() is None:
        pytest.skip("there is no C compiler")
    if name not in kernels() or not package("qemu-10.0"):
        pytest.skip(f"{consumers()} has no kernel {name}: .ci/consumers fetches it")
    try:
        found = findings(kernels()[name], compiled(tmp_path), tmp_path)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{name} was not done in time: the machine is too busy")
    host = [one for one in found if one["rule"].startswith("host-")]
    assert [one["message"] for one in host if one["rule"] == "host-differs"] == []
    agree = [one["message"] for one in host if one["rule"] == "host-agrees"]
    assert len(agree) == 2
    assert "cases on Linux" in agree[1]
