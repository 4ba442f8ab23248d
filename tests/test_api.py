"""The Python API: each function gives its verb's answer, as a record with that document."""

from __future__ import annotations

import doctest
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import cvmplan
from cvmplan import (
    ConfigError,
    CvmplanError,
    MapError,
    Plan,
    check,
    diff,
    explain,
    map_image,
    measure,
    measure_pages,
    plan_image,
    simulate,
    sweep,
    sweep_image,
    verify,
)
from cvmplan.api import request
from cvmplan.launch.settings import SETTINGS, TOP
from cvmplan.operations import measure as operations
from cvmplan.sweep import Lists, matrix
from tests.build.evidence import amd, intel, snp_report, td_quote
from tests.build.igvm import good_snp as igvm
from tests.build.ovmf import good_snp
from tests.oracles.firmware import FakePsp, FakeTdxModule, vmsas
from tests.run import run

SNP, TDX = "example:snp", "example:tdx"
FUNCTIONS = (
    "check", "diff", "explain", "map_image", "measure", "measure_pages", "plan_image",
    "report", "simulate", "sweep_image", "verify",
)  # fmt: skip


def test_the_functions_are_public_and_say_what_they_do() -> None:
    assert set(FUNCTIONS) <= set(cvmplan.__all__)
    for name in FUNCTIONS:
        said = getattr(cvmplan, name).__doc__
        assert "Error" in said, name


@pytest.mark.parametrize("module", [request, operations, sweep], ids=lambda m: m.__name__)
def test_the_examples_of_the_docstrings_run(module: ModuleType) -> None:
    failed, tried = doctest.testmod(module)
    assert not failed
    assert tried


def test_every_function_has_an_example() -> None:
    assert all(">>> " in (getattr(cvmplan, name).__doc__ or "") for name in FUNCTIONS)


# --- the document of each answer is that of its verb --------------------------------------------


def document(*args: str) -> Any:
    return json.loads(run(*args, "--format", "json").out)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a plan, a recording and evidence, which is the current one."""
    monkeypatch.chdir(tmp_path)
    run("plan", "--example", "tdx", "--abi", "kvm-6.16", "--format", "json", "-o", "plan.json")
    call = '{"op": "tdx-init-mem-region", "gpa": "0xffffa000", "size": "0x6000", "measured": true}'
    (tmp_path / "calls.jsonl").write_text(call + "\n")
    chain = amd()
    digest = bytes.fromhex(run("measure", "--example", "snp", "--bare").out)
    (tmp_path / "report").write_bytes(snp_report(chain[0], 2, measurement=digest))
    for name, one in zip(("vcek", "ask", "ark"), chain, strict=True):
        (tmp_path / name).write_bytes(one.pem)
    return tmp_path


MEASURED = "49a7" + "00" * 46
ANSWERS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "plan": (lambda: plan_image(SNP, vcpus=3), ("plan", SNP, "--vcpus", "3")),
    "plan of a plan": (lambda: plan_image("plan.json"), ("plan", "plan.json")),
    "measure": (lambda: measure(plan_image(TDX, gpaw=52)), ("measure", TDX, "--gpaw", "52")),
    "check": (lambda: check(SNP, policy=0xB0000), ("check", SNP, "--policy", "0xb0000")),
    "check of a plan": (lambda: check(plan_image(SNP)), ("check", SNP)),
    "map": (lambda: map_image(TDX), ("map", TDX)),
    "simulate": (
        lambda: simulate("plan.json", abi="kvm-7.0"), ("simulate", "plan.json", "--abi", "kvm-7.0"),
    ),
    "simulate a plan": (
        lambda: simulate(plan_image(TDX, abi="kvm-6.16")), ("simulate", "plan.json"),
    ),
    "simulate a recording": (
        lambda: simulate("calls.jsonl", image=TDX),
        ("simulate", "calls.jsonl", "--image", TDX),
    ),
    "diff": (
        lambda: diff(SNP, SNP, vcpus=2, b_settings={"vmm": "ec2"}),
        ("diff", SNP, SNP, "--vcpus", "2", "--b", "--vmm ec2"),
    ),
    "explain": (
        lambda: explain(SNP, expect=MEASURED, cpu="EPYC-Milan", vmm="ec2", budget=0.2),
        ("explain", SNP, "--expect", MEASURED, "--cpu", "EPYC-Milan", "--vmm", "ec2",
         "--budget", "0.2"),
    ),
    "explain a report": (
        lambda: explain(SNP, report="report", vcpus=2),
        ("explain", SNP, "--report", "report", "--vcpus", "2"),
    ),
    "verify": (
        lambda: verify(
            "report", SNP, certs=["vcek", "ask", "ark"], at="2026-01-01", pins={"vmpl": 1}
        ),
        ("verify", "report", SNP, "--certs", "vcek", "--certs", "ask", "--certs", "ark", "--at",
         "2026-01-01", "--vmpl", "1"),
    ),
}  # fmt: skip
SEARCHED = {"candidates", "complete", "not_searched", "searched"}  # as far as time sufficed


@pytest.mark.parametrize(("call", "verb"), ANSWERS.values(), ids=ANSWERS)
@pytest.mark.usefixtures("files")
def test_an_answer_has_the_document_of_its_verb(
    call: Callable[[], Any], verb: tuple[str, ...]
) -> None:
    answer, told = call(), document(*verb)
    found = answer.to_dict()
    if "--budget" in verb:
        found, told = ({k: v for k, v in d.items() if k not in SEARCHED} for d in (found, told))
    if verb[0] == "simulate" or verb[:2] == ("plan", "plan.json"):
        assert found["schema"] == told["schema"]
    if verb[0] == "check":
        told = told_of_one_file(told)
    assert found == told


PLACED = {"file", "place", "owners"}  # keys of findings that only `check` of files has


def told_of_one_file(told: dict[str, Any]) -> dict[str, Any]:
    """Return what `check` prints without what it says about its file."""
    (one,) = told["files"]
    assert {finding["file"] for finding in told["findings"]} <= {one["path"]}
    findings = [{k: v for k, v in f.items() if k not in PLACED} for f in told["findings"]]
    return {"schema": told["schema"], "findings": findings}


@pytest.mark.parametrize(("call", "verb"), ANSWERS.values(), ids=ANSWERS)
@pytest.mark.usefixtures("files")
def test_an_answer_is_short_to_print_and_can_be_pickled(
    call: Callable[[], Any], verb: tuple[str, ...]
) -> None:
    del verb
    answer = call()
    assert 10 < len(repr(answer)) <= 200
    assert repr(answer).startswith(f"<{type(answer).__name__} ")
    again = pickle.loads(pickle.dumps(answer))  # noqa: S301 our own
    assert again.to_dict() == answer.to_dict()


def test_a_pickled_plan_measures_the_same_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "image.fd"
    path.write_bytes(good_snp().build())
    plan = plan_image(path, vcpus=2)
    wanted = run("measure", str(path), "--vcpus", "2", "--bare").out
    data = pickle.dumps(plan)
    path.unlink()  # the plan has what it needs
    program = (
        "import pickle, sys, cvmplan;"
        "print(cvmplan.measure(pickle.load(sys.stdin.buffer)).digest.hex())"
    )
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True)  # noqa: PLW1510
    assert done.stdout.decode().strip() == wanted


def test_an_igvm_plan_can_be_pickled_too() -> None:
    plan = plan_image(igvm().build(), platform="snp")
    again: Plan = pickle.loads(pickle.dumps(plan))  # noqa: S301 our own
    assert measure(again).digest == measure(plan).digest


# --- pages of one's own -------------------------------------------------------------------------


def test_pages_are_measured_in_their_order_as_the_psp_does() -> None:
    code = b"\x90" * 4096
    pages = [(0x3000, "normal", code), (0x1000, "zero", None), (0x2000, "normal", b"short"),
             (0x4000, "secrets", None), (0x5000, "cpuid", None)]  # fmt: skip
    psp = FakePsp()
    psp.launch_start(0x30000)
    psp.launch_update(1, 0x3000, code)
    psp.launch_update(3, 0x1000, bytes(4096))
    psp.launch_update(1, 0x2000, b"short".ljust(4096, b"\0"))
    psp.launch_update(5, 0x4000, bytes(4096))
    psp.launch_update(6, 0x5000, bytes(4096))
    for vmsa in vmsas(2, 0x80B004, 1):
        psp.launch_update(2, 0xFFFFFFFFF000, vmsa)
    psp.launch_finish()
    found = measure_pages(pages, platform="snp", vcpus=2, reset_eip=0x80B004)
    assert found.digest == psp.digest
    assert found.to_dict()["digest"] == psp.digest.hex()
    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301 our own


def test_pages_of_a_td_are_measured_as_the_module_does() -> None:
    last = 0xFFFFF000
    module = FakeTdxModule()
    module.mng_init()
    module.vp_init()
    for level in (3, 2, 1):
        span = 1 << (12 + 9 * level)
        for gpa in sorted({0x1000 - 0x1000 % span, last - last % span}):
            module.mem_sept_add(level, gpa)
    module.mem_page_add(last, b"\xf4".ljust(4096, b"\0"))
    for chunk in range(last, last + 4096, 256):
        module.mr_extend(chunk)
    module.mem_page_add(0x1000, bytes(4096))
    module.mr_finalize()
    found = measure_pages([(last, "measured", b"\xf4"), (0x1000, "unmeasured", None)],
                          platform="tdx")  # fmt: skip
    assert found.digest == module.digest


@pytest.mark.parametrize(
    ("pages", "error", "at"),
    [
        ([(0x1000, "zero", None), (0x1000, "zero", None)], MapError, "pages[1]"),
        ([(0x1001, "zero", None)], MapError, "pages[0]"),
        ([(0x1000, "vmsa2", None)], ConfigError, "pages[0]"),
        ([(0x1000, "normal", bytes(4097))], ConfigError, "pages[0]"),
        ([], CvmplanError, ""),
    ],
)
def test_wrong_pages_are_refused_at_their_place(pages: Any, error: Any, at: str) -> None:
    with pytest.raises(error) as caught:
        measure_pages(pages, platform="snp")
    assert at in caught.value.at


def test_pages_want_a_platform() -> None:
    with pytest.raises(ConfigError) as caught:
        measure_pages([(0, "zero", None)])
    assert caught.value.at == "platform"


# --- errors -------------------------------------------------------------------------------------


class Odd:
    """A value of no kind that a setting has."""


@pytest.mark.parametrize("value", [Odd(), 4.5, {"a": 1}, b"\xff", object, [Odd()], "\ud800"])
@pytest.mark.parametrize("name", [*TOP, *SETTINGS])
def test_a_value_of_another_kind_is_a_configuration_error(name: str, value: object) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(CvmplanError) as caught:
        plan_image(SNP, **given)
    assert "--" not in caught.value.at


@pytest.mark.parametrize("name", ["author_key_enabled", "vcek_disabled"])
@pytest.mark.parametrize("value", ["false", "true", 1, 0, "no"])
def test_a_flag_is_true_or_false(name: str, value: object) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match="true or false") as caught:
        plan_image(SNP, **given)
    assert caught.value.at == name
    off: dict[str, Any] = {name: False}
    plan_image(SNP, **off)


@pytest.mark.parametrize(
    ("call", "at"),
    [
        (lambda: simulate(plan_image(SNP), vcpus=2), "vcpus"),
        (lambda: simulate(plan_image(SNP), image=SNP), "image"),
        (lambda: check(plan_image(SNP), vcpus=2), "vcpus"),
        (lambda: diff(plan_image(SNP), SNP, a_settings={"vcpus": 2}), "a_settings"),
        (lambda: explain(SNP), "explain"),
        (lambda: explain(SNP, expect="xyz"), "expect"),
        (lambda: verify(snp_report(None, 2), SNP, pin=["xyz"]), "pin"),
        (lambda: verify(snp_report(None, 2), SNP, pin=["00" * 32]), "pin"),
        (lambda: verify(snp_report(None, 2), SNP, at="soon"), "at"),
        (lambda: verify(snp_report(None, 2), SNP, pins={"report_data": "00"}), "report_data"),
        (lambda: verify(snp_report(None, 2), SNP, pins={"mrseam": "00" * 48}), "mrseam"),
        (lambda: verify(snp_report(None, 2), SNP, event_log=b"x"), "event_log"),
        (lambda: verify(td_quote(intel()), TDX, pins={"vmpl": 1}), "vmpl"),
    ],
)
def test_errors_name_the_parameter(call: Callable[[], object], at: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.at == at
    assert "--" not in caught.value.hint


def test_rows_of_a_sweep_are_those_of_the_verb() -> None:
    rows = [*sweep_image(SNP, vcpus="1-2", cpu=["EPYC-Milan"])]
    told = run("sweep", SNP, "--vcpus", "1-2", "--cpu", "EPYC-Milan").out.splitlines()
    said = [{k: v for k, v in row.items() if v not in ("", 0)} for row in rows]
    assert said == [json.loads(line) for line in told]


# --- types --------------------------------------------------------------------------------------

GOOD = """
from pathlib import Path
import cvmplan
from cvmplan import (
    CvmplanError, Measurement, Plan, check, diff, explain, map_image, measure, measure_pages,
    plan_image, report, simulate, sweep_image, verify,
)
plan: Plan = plan_image(Path("x"), vcpus=3, sev_features="0x1", kernel=Path("k"))
digest: bytes = measure(plan).digest
found: Measurement = measure_pages([(0, "zero", None)], platform="snp")
print(check(plan).errors, map_image(b"x").gaps, diff("a", plan).differ, simulate(plan).refused)
print(explain("x", expect=digest).explained, verify("r", plan, pin=["00"]).holds)
print(report("x", vcpus=2).to_html(), report(b"x").is_valid)
for row in sweep_image("x", vcpus="1-4"):
    print(row["digest"])
try:
    cvmplan.plan_image("x", prefault=["0x0+4096"])
except CvmplanError as error:
    print(error.at, error.hint, plan.to_dict())
"""
BAD = {
    'plan_image("x", vcpuz=3)': "vcpuz",
    'plan_image("x", policy=None, vcpus=[1])': "vcpus",
    'plan_image("x", author_key_enabled="yes")': "author_key_enabled",
    'plan_image("x").digest': "digest",
    'measure(plan_image("x")).hex()': "hex",
    'check("x", vcpuz=3)': "vcpuz",
    'diff("a", "b", a_settings={"vcpuz": 3})': "a_settings",
    'measure("x")': "measure",
    'cvmplan.sweep_image("x", vcpuz="1-4")': "vcpuz",
    'cvmplan.no_such_name("x")': "no_such_name",
}


def test_types_are_checked_in_the_programs_of_users(tmp_path: Path) -> None:
    """As mypy --strict says of a file outside the package."""
    (tmp_path / "good.py").write_text(GOOD)
    lines = ["import cvmplan", "from cvmplan import check, diff, measure, plan_image", *BAD]
    (tmp_path / "bad.py").write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "good.py", "bad.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"MYPYPATH": str(Path(cvmplan.__file__).parent.parent), "PATH": ""},
    )  # fmt: skip
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert not [line for line in errors if line.startswith("good.py")], done.stdout
    for number, (program, word) in enumerate(BAD.items(), 3):
        found = [line for line in errors if line.startswith(f"bad.py:{number}:")]
        assert found, f"{program}\n{done.stdout}{done.stderr}"
        assert word in found[0]


@pytest.mark.parametrize("value", [4.5, Odd(), {"a": 1}, [None], b"x"])
def test_a_wrong_value_of_a_sweep_is_a_configuration_error(value: object) -> None:
    given: dict[str, Any] = {"vcpus": value}
    with pytest.raises(ConfigError) as caught:
        list(sweep_image(SNP, **given))
    assert caught.value.at == "vcpus"


def test_the_typed_lists_of_a_sweep_are_what_may_vary() -> None:
    assert set(Lists.__annotations__) == {*matrix.ORDER, "vcpus"}
