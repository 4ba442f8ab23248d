"""Settings: declared in one table, and none of them is accepted and then ignored."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

import pytest

import cvmplan
from cvmplan import plan_image
from cvmplan.core.errors import ConfigError, CvmplanError
from cvmplan.core.platform import Platform
from cvmplan.documents.manifest import BootDocument, GuestDocument, Manifest
from cvmplan.launch.settings import READ_WITH, SETTINGS, TOP, Kind, Setting, Settings
from cvmplan.planning import read
from tests import manifests
from tests.build.boot import kernel, pe_image
from tests.build.ovmf import good_snp, good_tdx
from tests.run import run

HERE: Final = Path(__file__).parent
UKI: Final = "uki.efi"
UKI_PARTS: Final = pe_image(
    [
        (".linux", kernel()), (".initrd", b"initrd"), (".cmdline", b"quiet"),
        (".profile", b"ID=main"), (".profile", b"ID=debug"), (".cmdline", b"debug"),
    ]
)  # fmt: skip
# One value of each setting that is not what is assumed; "@" stands for a file.
VALUES: Final[dict[str, object]] = {
    "vcpus": 3, "cpu": "EPYC-Milan", "family": 25, "model": 17, "stepping": 1,
    "sev_features": 0x21, "policy": 0x20000, "es_init": "init2", "reset_eip": 0x80C000,
    "c_bit": 47, "firmware_digest": "11" * 48, "firmware_size": 0x10000, "kernel": "@",
    "initrd": "@", "append": "quiet", "kernel_hash": "22" * 32, "initrd_hash": "33" * 32,
    "append_hash": "44" * 32, "svsm": "@", "vars_size": 0x1000, "page_order": "two-pass",
    "gpaw": 52, "pad": "zero", "hob_gpa": 0x80A000, "backing": "guest-memfd",
    "memory": "1GiB", "prefault": ["0x1000000+4096"], "machine": "q35", "tsc_khz": 2_000_000,
    "attributes": 0x40000000, "xfam": 0x7, "mrconfigid": "55" * 48, "mrowner": "66" * 48,
    "mrownerconfig": "77" * 48, "host_data": "88" * 32, "id_block": "00" * 96,
    "id_auth": "00" * 4096, "author_key_enabled": True, "vcek_disabled": True, "gosvw": "99" * 16,
    "uki_sections": True, "uki_profile": "debug",
}  # fmt: skip
# What a setting needs beside it to mean anything.
BESIDE: Final[Mapping[str, dict[str, object]]] = {
    "family": {"model": 17, "stepping": 1}, "model": {"family": 25, "stepping": 1},
    "stepping": {"family": 25, "model": 17}, "initrd": {"kernel_hash": "22" * 32},
    "append": {"kernel_hash": "22" * 32}, "initrd_hash": {"kernel_hash": "22" * 32},
    "append_hash": {"kernel_hash": "22" * 32}, "firmware_size": {"firmware_digest": "11" * 48},
    "id_block": {"id_auth": "00" * 4096}, "id_auth": {"id_block": "00" * 96},
    "reset_eip": {"vcpus": 2},
    "uki_sections": {"kernel": UKI}, "uki_profile": {"kernel": UKI, "uki_sections": True},
    "author_key_enabled": {"id_block": "00" * 96, "id_auth": "00" * 4096},
}  # fmt: skip
REPORTED: Final = {"machine", *READ_WITH}  # in what was given: nothing else depends on it here


def image(platform: Platform, name: str = "") -> bytes:
    """An image on which the setting `name` can matter."""
    if name == "c_bit":  # a page above the firmware, whose address has the bit
        kind, contents = platform.page_types[0], {"zeros": True}
        region = manifests.region("0x800000000000", kind, source=contents, size=4096)
        return json.dumps(manifests.document(region)).encode()
    if not platform.secure_ept:
        return good_snp().build()
    made = good_tdx()
    if name == "pad":  # a measured section that is longer in memory than in the file
        sections = made.tdx_sections or []
        sections[0] = sections[0]._replace(raw=sections[0].raw - 0x1000)
    return made.build()


def made(
    platform: Platform, settings: Mapping[str, object], name: str = ""
) -> tuple[object, ...] | str:
    """Return what a launch does, or why it is none; calls are those of the newest kernel."""
    given: dict[str, Any] = {**settings, "platform": platform, "abi": newest(platform)}
    try:
        plan = plan_image(image(platform, name), **given)
    except CvmplanError as error:
        return f"{error.at}: {error}"
    from cvmplan.calls.planned import Planned
    from cvmplan.emit import PLAN

    calls = PLAN.printer("calls").plan(Planned(plan))
    return plan.ops, [*plan.lowered()], plan.findings, plan.promised, calls


def newest(platform: Platform) -> str:
    from cvmplan.kvm.abi import newest as of

    return "isolated-import" if platform.vm_type is None else of(platform).name


def value_of(name: str, folder: Path) -> object:
    file = folder / "file"
    file.write_bytes(b"contents")
    return str(file) if VALUES[name] == "@" else VALUES[name]


def changed(name: str, folder: Path) -> list[Platform]:
    """Return the platforms that know a setting on which it changes what is done."""
    value, beside = value_of(name, folder), dict(BESIDE.get(name, {}))
    if beside.get("kernel") == UKI:
        (folder / UKI).write_bytes(UKI_PARTS)
        beside["kernel"] = str(folder / UKI)
    without = {} if name in ("family", "model", "stepping") else beside
    known = SETTINGS[name].platforms or tuple(Platform)
    able = [p for p in known if p.vm_type is not None]
    return [p for p in able if made(p, without, name) != made(p, {**beside, name: value}, name)]


@pytest.mark.parametrize("name", [n for n in SETTINGS if n not in REPORTED])
def test_each_setting_changes_a_plan_or_is_refused(name: str, tmp_path: Path) -> None:
    assert changed(name, tmp_path)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_refused_where_it_means_nothing(name: str, tmp_path: Path) -> None:
    known = SETTINGS[name].platforms or tuple(Platform)
    for platform in (p for p in Platform if p not in known and p.vm_type is not None):
        given: dict[str, Any] = {name: value_of(name, tmp_path), "platform": platform}
        with pytest.raises(ConfigError, match="is not supported on") as caught:
            plan_image(image(platform), **given)
        assert caught.value.at == name


def test_what_is_only_reported_says_so() -> None:
    assert all("reported" in SETTINGS[name].help for name in REPORTED - {*READ_WITH})


def test_a_setting_that_nothing_uses_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    idle = Setting(Kind.NUMBER, SETTINGS["vcpus"].read, "N", "Nothing.")
    monkeypatch.setitem(SETTINGS, "idle", idle)
    monkeypatch.setitem(VALUES, "idle", 7)
    assert not changed("idle", tmp_path)


def test_a_setting_outside_the_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown setting") as caught:
        plan_image(good_snp().build(), vcpuz=3)  # type: ignore[call-arg]  # that is the test
    assert caught.value.at == "vcpuz"


def test_the_typed_settings_are_those_of_the_table() -> None:
    hints = get_type_hints(Settings)
    assert set(hints) == {*SETTINGS, *TOP, "allow_outside"}
    for name, setting in SETTINGS.items():
        kinds = {*get_args(hints[name])} or {hints[name]}
        wanted: set[Any] = {str, type(None)}
        if setting.kind in (Kind.NUMBER, Kind.MASK):
            wanted |= {int}
        elif setting.kind is Kind.FLAG:
            wanted = {bool}
        elif setting.kind is Kind.RANGES:
            wanted |= {list[str]}
        elif name in ("kernel", "initrd", "svsm", "pod"):
            wanted |= {PathLike[str]}
        assert kinds == wanted, name


def test_a_manifest_has_every_setting() -> None:
    """In `guest`, but for the kernel's, the firmware's and those of the memory."""
    boot = {n for n in SETTINGS if n.removesuffix("_hash") in read.BOOT}
    assert set(BootDocument.model_fields) == boot
    elsewhere = {*boot, "firmware_digest", "firmware_size", "backing", "memory", "prefault"}
    elsewhere |= {*READ_WITH}
    assert set(GuestDocument.model_fields) == {*SETTINGS} - elsewhere
    assert {"backing", "prefault", "firmware", "boot", *TOP} <= set(Manifest.model_fields)


@pytest.mark.parametrize("verb", ["measure", "plan", "check", "map", "trace"])
def test_the_command_line_has_every_setting_with_its_help(verb: str) -> None:
    shown = run(verb, "--help").out
    words = " ".join(shown.split())
    for name, setting in SETTINGS.items():
        assert f"--{name.replace('_', '-')} " in words
        assert " ".join(setting.text.split()) in words


@pytest.mark.parametrize(
    ("name", "assumed"),
    [("vcpus", 1), ("gpaw", 48), ("cpu", "EPYC-v4")],
)
def test_the_help_says_what_is_assumed(name: str, assumed: object) -> None:
    """The values that --help names are those of plans."""
    platform = "tdx" if name == "gpaw" else "snp"
    example = "tdx" if platform == "tdx" else "snp"
    told = run("plan", "--example", example, "--platform", platform, "--format", "json")
    assert json.loads(told.out)["assumed"][name] == assumed
    assert SETTINGS[name].help.endswith(f"[assumed: {assumed}]")


@pytest.mark.parametrize(
    ("settings", "at"),
    [
        ({"page_order": "backwards", "platform": "tdx"}, "page_order"),
        ({"sev_features": "x"}, "sev_features"), ({"platform": "none"}, "platform"),
        ({"abi": "none"}, "abi"), ({"backing": "vma"}, "backing"), ({"cpu": "none"}, "cpu"),
        ({"initrd_hash": "33" * 32}, "initrd_hash"),
        ({"kernel": "k", "kernel_hash": "22" * 32}, "kernel"),
    ],
)  # fmt: skip
def test_errors_name_parameters_in_python_and_options_on_the_command_line(
    settings: dict[str, Any], at: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_image(good_snp().build(), **{"platform": "snp", **settings})
    assert caught.value.at == at
    assert "--" not in caught.value.hint
    words = [w for n, v in settings.items() for w in (f"--{n.replace('_', '-')}", str(v))]
    typed = run("plan", "--example", "snp", "--platform", "snp", *words[:2], *words[2:])
    if "platform" not in settings:
        assert typed.err.startswith(f"error: --{at.replace('_', '-')}: ")


def test_a_misspelt_setting_fails_type_checking(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text('import cvmplan\ncvmplan.plan_image("x", vcpuz=3)\n')
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(program)]
    root = Path(cvmplan.__file__).parent.parent
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env={"MYPYPATH": str(root)}, check=False
    )
    assert done.returncode == 1, done.stderr
    assert 'Unexpected keyword argument "vcpuz"' in done.stdout
    program.write_text('import cvmplan\ncvmplan.plan_image("x", vcpus=3, policy="0x30000")\n')
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env={"MYPYPATH": str(root)}, check=False
    )
    assert done.returncode == 0, done.stdout
