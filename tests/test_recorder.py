"""Real QEMU binaries against their plans: recordings that are kept, and the recorder itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from cvmplan import documents
from cvmplan.profiles import cpus
from tests.recorder import fake_vmm, kept
from tests.recorder.judge import compared, folded, judge, measured, simulated
from tests.recorder.kept import Kept
from tests.recorder.launches import FILES, LAUNCHES, NEW, OLD, Launch, of_models
from tests.recorder.record import (
    Recorded,
    compiled,
    compiler,
    consumers,
    models,
    package,
    record,
    started,
    write_files,
)
from tests.run import run

CONSUMERS: Final = Path(__file__).parent.parent / ".ci" / "consumers"
EVERY: Final = [(vmm, launch.name) for launch in LAUNCHES.values() for vmm in launch.vmms]
UNKNOWN: Final = frozenset[str]()
"""CPU models of QEMU that are not known here."""


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what launches are made of."""
    folder = tmp_path_factory.mktemp("launches")
    write_files(folder)
    return folder


# --- the recordings that are kept ----------------------------------------------------------------


def test_every_launch_of_the_matrix_is_kept() -> None:
    assert sorted(kept.read()) == sorted(EVERY)
    assert kept.FILE.stat().st_size < 1 << 20
    versions = {(one.vmm, one.package.partition("%3a")[2][:4]) for one in kept.read().values()}
    assert versions == {(OLD, "10.0"), (NEW, "11.1")}


@pytest.mark.parametrize(("vmm", "name"), EVERY)
def test_a_real_vmm_does_what_was_planned(vmm: str, name: str, files: Path) -> None:
    """The digest by `simulate`, `measure` and hashlib; the calls field by field."""
    verdict = judge(kept.read()[vmm, name], LAUNCHES[name], files)
    assert verdict.right, verdict.words


@pytest.mark.parametrize("name", ["snp-3", "sev-es-auto-bios", "tdx-3"])
def test_each_line_fits_the_document(name: str) -> None:
    model = documents.model("recorded-calls")
    lines = kept.read()[NEW, name].text.splitlines()
    assert len(lines) > 100
    numbers = [model.model_validate_json(line).n for line in lines]
    assert numbers == sorted(set(numbers))


def test_what_differs_is_harmless_and_has_its_reason(files: Path) -> None:
    """The only deviations of the whole matrix; the list may only shrink."""
    found: set[str] = set()
    for vmm, name in EVERY:
        launch = LAUNCHES[name]
        if not (launch.stops or launch.says):
            calls = compared(kept.read()[vmm, name], launch, files)["calls"]
            assert all(one["reason"] for one in calls["deviations"])
            found |= {one["id"] for one in calls["deviations"]}
    assert found <= {
        "asks-length", "capability", "flash", "pinned", "query", "registers", "repeated",
        "reserved", "set-up", "smm-memory", "taken-back", "zero-source",
    }  # fmt: skip


# --- the recorder --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if compiler() is None:
        pytest.skip("there is no C compiler")
    return compiled(tmp_path_factory.mktemp("recorder"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_files(tmp_path)
    return tmp_path


def of_plan(library: Path, folder: Path, launch: Launch, fault: str = "") -> Recorded:
    """What the recorder writes of a program that makes the calls of a launch's plan."""
    image, *options = launch.options
    asked = [str(folder / image), *options, "--vmm", "qemu"]
    asked += [] if "--abi" in options else ["--abi", "kvm-6.18"]
    calls = run("plan", *asked, "--format", "calls")
    assert calls.code == 0, calls.err
    (folder / "calls.jsonl").write_text(calls.out)
    ops = json.loads(run("plan", *asked, "--format", "json").out)["ops"]
    held = {op["seq"]: (op.get("source") or {}).get("hex") for op in ops}
    sources = {f"&op[{seq}].source": written for seq, written in held.items() if written}
    (folder / "sources.json").write_text(json.dumps(sources))
    program = ["env", f"LD_PRELOAD={library}", sys.executable, fake_vmm.__file__]
    return started([*program, "calls.jsonl", "sources.json", image], folder, fault=fault)


def as_kept(recorded: Recorded, launch: Launch, vmm: str = NEW) -> Kept:
    said = " ".join(recorded.said.split())
    return Kept(launch.name, vmm, "", "", said, recorded.code, tuple(recorded.lines))


PLANNED: Final = ("snp-3", "snp-host-data", "sev-off-bios", "sev-es-on-bios", "sev-es-off-bios",
                  "tdx-3", "tdx-mrconfigid")  # fmt: skip


@pytest.mark.parametrize("name", PLANNED)
def test_the_calls_of_a_plan_are_recorded_as_they_are_printed(
    name: str, library: Path, folder: Path
) -> None:
    launch = LAUNCHES[name]
    recorded = of_plan(library, folder, launch)
    assert (recorded.code, recorded.said) == (0, "")
    verdict = judge(as_kept(recorded, launch), launch, folder)
    assert verdict.right, verdict.words


@pytest.mark.parametrize("fault", ["intr", "busy", "again"])
def test_a_fault_is_what_a_program_gets(fault: str, library: Path, folder: Path) -> None:
    recorded = of_plan(library, folder, LAUNCHES["snp-1"], fault)
    number = {"intr": 4, "busy": 16, "again": 11}[fault]
    assert recorded.code == 1
    assert f"[Errno {number}]" in recorded.said
    assert recorded.lines[-1]["ret"] == -number
    assert recorded.lines[-1]["source"]["size"] == 5 * 4096


def test_other_files_are_opened_and_closed_as_ever(library: Path, folder: Path) -> None:
    program = "print(open('kernel', 'rb').read()[0x202:0x206])"
    command = ["env", f"LD_PRELOAD={library}", sys.executable, "-c", program]
    recorded = started(command, folder)
    assert (recorded.code, recorded.lines) == (0, [])


# --- real binaries -------------------------------------------------------------------------------


@pytest.fixture(params=[OLD, NEW])
def vmm(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if not package(name):
        pytest.skip(f"{consumers()} has no {name}: .ci/consumers fetches it")
    return name


POINTERS: Final = range(1 << 40, 1 << 47)  # where a process has its memory
OF_THE_HOST: Final = ("n", "cpuid", "msrs", "nent")
TIMES: Final = frozenset({"0x4030ae7b"})  # KVM_SET_CLOCK


def comparable(lines: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (descriptor, call) without what each process has of its own."""
    for line in lines:
        if line["req"] in TIMES or line["req"] == "0xae80":
            continue
        told = {key: value for key, value in line.items() if key not in OF_THE_HOST}
        if isinstance(told.get("data"), dict):  # of KVM_TDX_INIT_VM, with the host's CPUID behind
            del told["data"]
        for key in ("in", "data"):
            if isinstance(told.get(key), str):
                told[key] = masked(told[key])
        yield f"{line['on']}:{line.get('i', 0)}", told


def masked(struct: str) -> list[str]:
    """Return the words of a struct; addresses and descriptors are not compared."""
    data = bytes.fromhex(struct)
    words = (data[at : at + 8] for at in range(0, len(data), 8))
    return ["pointer" if int.from_bytes(w, "little") in POINTERS else w.hex() for w in words]


def by_descriptor(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for descriptor, line in comparable(lines):
        found.setdefault(descriptor, []).append(line)
    return found


def test_a_binary_does_again_what_is_kept(vmm: str, library: Path, folder: Path) -> None:
    """All launches of the matrix, recorded now and judged as the kept ones are."""
    for name, launch in LAUNCHES.items():
        if vmm in launch.vmms:
            now = as_kept(record(vmm, launch, library, folder), launch, vmm)
            verdict = judge(now, launch, folder)
            assert verdict.right, (name, verdict.words)
            before = kept.read()[vmm, name]
            if package(vmm) == before.package:
                assert by_descriptor([*now.lines]) == by_descriptor([*before.lines]), name


def test_every_cpu_model_that_a_binary_knows(vmm: str, library: Path, folder: Path) -> None:
    names = models(vmm, library)
    assert len(names) > 15
    for launch in of_models(names):
        model = launch.name.removeprefix("snp-model-")
        now = as_kept(record(vmm, launch, library, folder), launch, vmm)
        found = simulated(now, launch, folder)
        assert found["finalized"], (model, now.said)
        if model not in cpus.SIGNATURES:
            assert model in UNKNOWN, model
            continue
        assert found["digest"] == measured(launch, folder), model


def test_the_firmware_of_debian_is_launched_as_planned(
    vmm: str, library: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = consumers() / "firmware/usr/share/ovmf"
    if not images.exists():
        pytest.skip(f"there is no {images}")
    real = {"snp.fd": images / "OVMF.amdsev.fd", "tdx.fd": images / "OVMF.inteltdx.ms.fd"}
    for name, path in real.items():
        monkeypatch.setitem(FILES, name, path.read_bytes())
    write_files(folder)
    for name in ("snp-3", "snp-initrd", "sev-es-auto-bios", "tdx-1"):
        launch = LAUNCHES[name]
        if vmm in launch.vmms:
            now = as_kept(record(vmm, launch, library, folder), launch, vmm)
            digest = measured(launch, folder)
            assert folded(now, launch, folder) == digest, name
            assert simulated(now, launch, folder)["digest"] == digest, name
            assert not compared(now, launch, folder)["calls"]["differences"]


@pytest.mark.parametrize("name", ["snp-3", "sev-es-off-bios"])
def test_plain_calls_may_go_to_the_machines_own_kvm(
    name: str, vmm: str, library: Path, folder: Path
) -> None:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"/dev/kvm cannot be opened: {error.strerror}")
    launch = LAUNCHES[name]
    now = as_kept(record(vmm, launch, library, folder, kvm="real"), launch, vmm)
    assert not all(line.get("fake") for line in now.lines)
    verdict = judge(now, launch, folder)
    assert verdict.right, verdict.words


# --- where binaries come from --------------------------------------------------------------------


def fetched(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(CONSUMERS), str(folder)], capture_output=True, text=True, timeout=60,
        check=False, env={**os.environ, **environment},
    )  # fmt: skip


def test_what_was_fetched_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "done-8").write_text("2026-11-27\n")
    done = fetched(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["done-8"]


def test_a_machine_without_debians_tools_is_no_failure(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("mkdir", "timeout", "cat", "sh", "rm"):
        for place in ("/bin", "/usr/bin"):
            if (Path(place) / name).exists() and not (tools / name).exists():
                (tools / name).symlink_to(Path(place) / name)
    done = fetched(tmp_path / "cache", PATH=str(tools))
    assert done.returncode == 0
    assert "not all consumers are to be had" in done.stderr
    assert not (tmp_path / "cache" / "done-8").exists()
