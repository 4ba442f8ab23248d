"""What kernels answered when they were booted and asked, against the simulator."""

from __future__ import annotations

import errno
import json
import struct
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from cvmplan import simulate
from cvmplan.core.errors import ConfigError
from cvmplan.host.cases import CASES, DEFAULT, PROTECTED
from cvmplan.host.compared import Answer, compared
from cvmplan.kvm.abi import find
from cvmplan.kvm.asked import ASKED, SHOWN, known
from cvmplan.kvm.releases import RELEASES
from tests.kernels import kept
from tests.kernels.boot import archive, asked, boot, compiled, kernels
from tests.kernels.compare import ABIS, WIDTH, compare
from tests.plans import op, plan
from tests.recorder.record import compiler, consumers, package
from tests.run import run

NAMES: Final = sorted(kept.read())
RELEASED: Final = [abi.name for abi in RELEASES]
LOOP: Final = "6.12 does not return after a slot went away, until a signal arrives"
DIFFERING: Final = {
    "slot-deleted (default): prefault 0x0 0x100000 0 0: EINTR, simulated ENOENT": LOOP,
    "slot-deleted (default): prefault 0x0 0x100000 0 0: EINTR, simulated None": LOOP,
    "slot-moved (default): prefault 0x800000 0x100000 0 0: EINTR, simulated None": LOOP,
    "slot-moved (default): prefault 0x0 0x100000 0 0: EINTR, simulated ENOENT": LOOP,
}
"""Answers that are not the simulator's, with the reason; the list may only shrink."""


@pytest.mark.parametrize("name", NAMES)
def test_each_answer_is_the_simulators(name: str) -> None:
    tally = compare(name, kept.read()[name].answers)
    assert [line for line in tally.differing if line not in DIFFERING] == []
    assert tally.equal > 200


def test_nothing_is_excused_that_is_equal() -> None:
    found = {line for name in NAMES for line in compare(name, kept.read()[name].answers).differing}
    assert set(DIFFERING) <= found


def test_every_kernel_is_of_an_interface_and_the_answers_are_of_todays_cases() -> None:
    assert {"6.12", "6.18", "7.3"} <= set(NAMES)
    assert {name.removesuffix("-protected") for name in NAMES} <= set(ABIS)
    assert kept.FILE.stat().st_size < 1 << 20
    for one in kept.read().values():
        assert len({case for case, _ in one.answers}) == len(CASES)


def test_a_wrong_answer_is_seen() -> None:
    answers = dict(kept.read()["7.3"].answers)
    number = next(n for n, case in enumerate(CASES) if case.name == "a-page")
    answers[number, 3] = answers[number, 3]._replace(pages=(2, 0, 0))
    answers[number, 1] = answers[number, 1]._replace(errno=17)
    assert len(compare("7.3", answers).differing) == 2


def test_what_interfaces_say_of_asked_kernels_is_what_is_kept() -> None:
    told = {
        (abi, one.release, one.date, one.protected) for abi, rows in ASKED.items() for one in rows
    }
    held = {
        (ABIS[name.removesuffix("-protected")], one.release, one.date, name.endswith("-protected"))
        for name, one in kept.read().items()
    }
    assert told == held


@pytest.mark.parametrize("abi", ASKED)
def test_a_fact_that_was_run_has_cases_that_kernels_answered_so(abi: str) -> None:
    found = [one for one in known(find(abi)) if one.how == "run"]
    assert {one.fact.id for one in found} >= {"pre-fault", "aligned"}
    for fact in found:
        for kernel in fact.kernels:
            (held,) = (one for one in kept.read().values() if one.release == kernel.release)
            private = SHOWN[fact.fact.id].on != "any" and kernel.protected
            vm = PROTECTED if private else DEFAULT
            for name in SHOWN[fact.fact.id].cases:
                number = next(n for n, c in enumerate(CASES) if (c.name, c.vm) == (name, vm))
                told = {line: a for (of, line), a in held.answers.items() if of == number}
                lines = [*compared(CASES[number], find(abi), WIDTH, told)]
                assert [one.difference for one in lines if one.difference] == []
                assert any(one.difference == "" for one in lines), (fact.fact.id, name)


def test_abis_says_how_each_fact_is_known() -> None:
    """The kernels by release and day; what no kernel was run for is read, or inferred."""
    told = run("abis", "kvm-6.16").out
    assert "[run: 6.16.12, 6.17.13 (2026-11-27)] KVM_PRE_FAULT_MEMORY" in told
    assert "[read] SNP_LAUNCH_UPDATE" in told
    assert "[inferred] a page populated before" in told
    assert "[run" not in run("abis", "kvm-7.0").out
    facts = json.loads(run("abis", "kvm-7.3", "--format", "json").out)["facts"]
    (fault,) = (one for one in facts if one["id"] == "pre-fault")
    assert fault["known"] == "run"
    assert fault["kernels"][0] == {
        "release": "7.3.4+deb13-amd64", "date": "2026-11-27", "protected": False,
    }  # fmt: skip


@pytest.mark.parametrize("name", [*RELEASED, "map-memory", "isolated-import"])
def test_abis_speaks_no_python(name: str) -> None:
    told = run("abis", name).out
    assert not {"None", "True", "False", "()"} & {*told.replace(",", " ").split()}


# --- the seed, as kernels answered it ------------------------------------------------------------


def answer(name: str, case: str, line: int, vm: int = DEFAULT) -> Answer:
    number = next(n for n, one in enumerate(CASES) if (one.name, one.vm) == (case, vm))
    return kept.read()[name].answers[number, line]


@pytest.mark.parametrize("name", NAMES)
def test_mapping_again_is_a_nop(name: str) -> None:
    first, again = answer(name, "a-page", 3), answer(name, "a-page", 4)
    assert (first.errno, again) == (0, first)


@pytest.mark.parametrize("name", NAMES)
def test_user_space_does_not_choose_the_level(name: str) -> None:
    """One page is asked for; where the memory is a huge page, that is mapped."""
    assert answer(name, "a-page", 3).pages == (1, 0, 0)
    assert answer(name, "one-page-of-a-huge-one", 4).pages == (0, 1, 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_mapping_is_a_read_fault(name: str) -> None:
    """A page that user space writes later is mapped again: the zero page was mapped first."""
    case = "a-write-breaks-the-zero-page"
    assert answer(name, case, 3).pages == (1, 0, 0)
    assert answer(name, case, 4).pages == (0, 0, 0)
    assert answer(name, case, 5).pages == (1, 0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_dirty_logging_splits_what_was_mapped_large(name: str) -> None:
    assert answer(name, "dirty-log-later", 4).pages == (0, 4, 0)
    assert answer(name, "dirty-log-later", 5).pages == (2048, 0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_pages_of_a_gigabyte_are_mapped_whole(name: str) -> None:
    assert answer(name, "hugetlb-1g", 4).pages == (0, 0, 1)
    assert answer(name, "hugetlb-1g-askew", 4).pages == (0, 2, 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_mapping_and_a_run_of_another_vcpu_do_not_disturb_each_other(name: str) -> None:
    case = "while-another-vcpu-runs"
    assert answer(name, case, 5).errno == 0  # it began
    assert [answer(name, case, line).pages for line in (6, 7, 9)] == [
        (256, 0, 0),
        *2 * [(512, 0, 0)],
    ]
    assert answer(name, case, 8).errno == errno.EINTR  # it ran until the signal


@pytest.mark.parametrize("name", NAMES)
def test_user_space_asks_for_a_level_by_advice(name: str) -> None:
    """Advice before the first write, or MADV_COLLAPSE after it."""
    assert answer(name, "advice-before-a-write", 5).pages == (0, 1, 0)
    assert answer(name, "collapsed-later", 4).pages == (1024, 0, 0)
    assert answer(name, "collapsed-later", 7).pages == (0, 2, 0)


@pytest.mark.parametrize("name", NAMES)
def test_populated_memory_is_mapped_as_it_is(name: str) -> None:
    """A write fault after a read fault takes the zero page away: the mapping goes with it."""
    assert answer(name, "populated", 4).pages == (1, 0, 0)
    assert answer(name, "populated", 5).pages == (0, 0, 0)
    assert answer(name, "populated", 6).pages == (256, 0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_no_release_takes_attributes_of_a_guest_memfd(name: str) -> None:
    vm = PROTECTED if name.endswith("-protected") else DEFAULT
    told = answer(name, "attributes-on-the-file", 3, vm)
    assert errno.errorcode[told.errno] == "ENOTTY"


# --- what the simulator says of it ---------------------------------------------------------------


def two_answers() -> dict[str, Any]:
    ops = [
        op("create-vm", vm_type="default"), op("set-memslot", 0, 4096 * 4, slot=0),
        op("create-vcpu", count=1), op("pre-fault-memory", 0, 4096 * 6),
    ]  # fmt: skip
    return plan("default", ops, "kvm-7.3")


def test_a_pre_fault_has_the_answer_of_the_call_and_that_of_the_loop(tmp_path: Path) -> None:
    """Booted kernels: the first call past a slot's end answers 0, the next one ENOENT."""
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(two_answers()))
    found = json.loads(run("simulate", str(path), "--format", "json").out)["results"][-1]
    assert (found["errno"], found["residual"]) == ("ENOENT", {"gpa": "0x4000", "size": "0x2000"})
    assert found["first_call"] == {"result": "ok", "residual": found["residual"]}
    assert "the first call answers 0 with this rest" in " ".join(
        run("simulate", str(path)).out.split()
    )


@pytest.mark.parametrize(("width", "errno"), [("52", None), ("40", "EINVAL"), ("41", None)])
def test_no_memslot_is_beyond_the_hosts_addresses(
    width: str, errno: str | None, tmp_path: Path
) -> None:
    """Booted kernels refuse a slot past MAXPHYADDR (40 bits where QEMU emulates)."""
    ops = [op("create-vm", vm_type="default"), op("set-memslot", 1 << 40, 4096, slot=0),
           op("create-vcpu", count=1)]  # fmt: skip
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan("default", ops, "kvm-7.3")))
    told = run("simulate", str(path), "--host-width", width, "--format", "json")
    assert json.loads(told.out)["results"][1].get("errno") == errno
    assert simulate(str(path), host_width=int(width)).results[1].answer.errno == errno


def test_a_width_that_no_host_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("{}")
    refused = run("simulate", str(path), "--host-width", "53")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("error: --host-width: 53 is not 36 to 52 bits")
    with pytest.raises(ConfigError, match="35 is not 36 to 52 bits"):
        simulate(str(path), host_width=35)


# --- the machine ---------------------------------------------------------------------------------


def test_the_archive_is_what_a_kernel_unpacks() -> None:
    """linux Documentation/driver-api/early-userspace/buffer-format.rst."""
    made = archive({"init": b"abc", "cases": b""})
    assert len(made) % 4 == 0
    assert made[:6] == b"070701"
    size, name = int(made[54:62], 16), int(made[94:102], 16)
    assert (size, name, made[110:114]) == (3, 5, b"init")
    assert made[116:119] == b"abc"
    assert made.count(b"070701") == 3
    assert b"TRAILER!!!\0" in made
    assert struct.calcsize("6s104s") == 110


@pytest.mark.parametrize("console", ["", "# 7.3 0\n@ 0 0 0 0 0 0 0 0 0 0 0 0\n"])
def test_a_machine_that_did_not_end_has_no_answers(console: str) -> None:
    with pytest.raises(ValueError, match="did not end"):
        asked(console)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_answers_again_what_is_kept(name: str, tmp_path: Path) -> None:
    if compiler() is None:
        pytest.skip("there is no C compiler")
    if name not in kernels() or not package("qemu-10.0"):
        pytest.skip(f"{consumers()} has no kernel {name}: .ci/consumers fetches it")
    program, before = compiled(tmp_path), kept.read()[name]
    try:
        now = boot(kernels()[name], program, tmp_path)
        if now.answers != before.answers:  # a busy machine lets calls wait for their signal
            now = boot(kernels()[name], program, tmp_path)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{name} was not done after a minute: the machine is too busy")
    if now.release == before.release:
        assert now.answers == before.answers
    assert [line for line in compare(name, now.answers).differing if line not in DIFFERING] == []
