"""What others build on: exported names, and a docstring on each public thing."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import cvmplan
from tests.build.ovmf import good_snp
from tests.oracles.firmware import FakePsp, vmsas
from tests.run import run

ROOT = Path(cvmplan.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))


def test_all_names_are_sorted_and_there() -> None:
    assert cvmplan.__all__ == sorted(cvmplan.__all__)
    assert all(getattr(cvmplan, name) is not None for name in cvmplan.__all__)
    assert set(cvmplan.__all__) <= set(dir(cvmplan))


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        cvmplan.nonsense  # type: ignore[attr-defined]  # noqa: B018 the access is the test


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_things_say_what_they_are(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), path
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_bytes_and_paths_give_the_same_plan(tmp_path: Path) -> None:
    data = good_snp().build()
    (tmp_path / "x.fd").write_bytes(data)
    by_path = cvmplan.plan_image(str(tmp_path / "x.fd"), vcpus=2)
    by_bytes = cvmplan.plan_image(data, vcpus="2")
    assert len(by_path.ops) == len(by_bytes.ops)
    psp = FakePsp()
    psp.launch_start(0x30000)
    for at in range(0, len(data), 4096):
        psp.launch_update(1, 2**32 - len(data) + at, data[at : at + 4096])
    for gpa, size, kind in good_snp().sev_sections or []:
        for page in range(gpa, gpa + size, 4096):
            psp.launch_update({1: 3, 2: 5, 3: 6, 4: 3, 0x10: 3}[kind], page, bytes(4096))
    for vmsa in vmsas(2, 0x80B004, 1):
        psp.launch_update(2, 0xFFFFFFFFF000, vmsa)
    psp.launch_finish()
    assert cvmplan.measure(by_path).digest == psp.digest
    assert cvmplan.measure(by_bytes).digest == psp.digest


WRONG: dict[str, dict[str, object]] = {
    "a setting that does not exist": {"vcpu": 4},
    "a number for a text": {"append": 5},
    "an interface of another kind": {"abi": []},
    "a profile that does not exist": {"vmm": "none"},
    "a platform that does not exist": {"platform": 1},
}


@pytest.mark.parametrize("settings", WRONG.values(), ids=WRONG)
def test_what_is_no_setting_is_a_configuration_error(settings: dict[str, Any]) -> None:
    with pytest.raises(cvmplan.ConfigError):
        cvmplan.plan_image(good_snp().build(), **settings)


def test_paths_buffers_and_profile_files_are_taken(tmp_path: Path) -> None:
    data = good_snp().build()
    path = tmp_path / "x.fd"
    path.write_bytes(data)
    own = tmp_path / "own.json"
    own.write_text(run("profiles", "ec2", "--format", "json").out)
    wanted = run("measure", str(path), "--vmm", "ec2", "--bare").out
    for image in (
        path,
        data,
        bytearray(data),
        memoryview(data),
        cvmplan.Blob("x", memoryview(data)),
    ):
        plan = cvmplan.plan_image(image, vmm=str(own))
        assert cvmplan.measure(plan).digest.hex() == wanted


def test_a_file_may_be_named_as_bytes_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = good_snp().build()
    for name in ("image", "other"):
        (tmp_path / name).write_bytes(b"kernel")
    first, second = (cvmplan.plan_image(data, kernel=name) for name in ("image", "other"))
    assert len(first.inputs) == 2
    assert cvmplan.measure(first).digest == cvmplan.measure(second).digest


def test_a_wrong_setting_is_a_configuration_error() -> None:
    with pytest.raises(cvmplan.ConfigError, match="vcpus"):
        cvmplan.plan_image(good_snp().build(), vcpus=0)
