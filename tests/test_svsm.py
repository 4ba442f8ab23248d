"""The older SVSM boot, and firmware of which only the end and a digest are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.build.ovmf import good_snp
from tests.build.svsm import good_svsm
from tests.manifests import document, region, run_on
from tests.run import assert_refused, run

VARS = 0x20000


@pytest.fixture
def files(tmp_path: Path) -> Path:
    data = good_snp().build()
    (tmp_path / "whole.fd").write_bytes(data)
    (tmp_path / "end.fd").write_bytes(data[-4096:])
    (tmp_path / "svsm.bin").write_bytes(good_svsm().build())
    return tmp_path


def options(files: Path, *more: str) -> list[str]:
    svsm = ["--vmm", "svsm-qemu", "--svsm", str(files / "svsm.bin"), "--vars-size", hex(VARS)]
    return ["--platform", "snp", *svsm, *more]


def firmware_digest(files: Path) -> str:
    """Return the digest after the firmware pages, from the plan of the whole file."""
    plan = run("plan", str(files / "whole.fd"), *options(files), "--format", "json").out
    return str(next(op["digest_after"] for op in json.loads(plan)["ops"] if op["kind"] == "add"))


def test_the_end_and_a_digest_stand_in_for_the_firmware(files: Path) -> None:
    wanted = run("measure", str(files / "whole.fd"), *options(files), "--bare").out
    size = str((files / "whole.fd").stat().st_size)
    known = ("--firmware-digest", firmware_digest(files), "--firmware-size", size)
    assert run("measure", str(files / "end.fd"), *options(files, *known), "--bare").out == wanted


def test_a_firmware_size_needs_a_digest_and_must_fit(files: Path) -> None:
    end = str(files / "end.fd")
    assert_refused(run("measure", end, "--firmware-size", "32KiB"), {2})
    seed = ("--firmware-digest", "00" * 48)
    assert_refused(run("measure", end, *seed, "--firmware-size", "2KiB"), {2})
    assert_refused(run("measure", end, *seed, "--firmware-size", "8GiB"), {2})


def test_unseen_firmware_is_on_the_map(files: Path) -> None:
    manifest = document(
        region(0xFFFF9000), firmware={"file": "end.fd", "digest": "00" * 48, "size": "32KiB"}
    )
    result = run_on(files, "check", manifest)
    assert result.code == 1
    assert "page 0xffff9000" in result.out


def test_the_variable_store_is_on_the_map(files: Path) -> None:
    top = 2**32 - (files / "whole.fd").stat().st_size
    svsm = {"svsm": "svsm.bin", "vars_size": VARS}
    firmware = {"file": "whole.fd"}
    inside = document(region(top - VARS), vmm="svsm-qemu", guest=svsm, firmware=firmware)
    result = run_on(files, "check", inside)
    assert result.code == 1
    assert "variable store" in result.out
    plan = run("plan", str(files / "whole.fd"), *options(files)).out
    assert f"{top - VARS:#x}-{top:#x}" not in plan


def test_an_svsm_binary_needs_its_place_and_its_profile(files: Path) -> None:
    image = str(files / "whole.fd")
    svsm = ("--svsm", str(files / "svsm.bin"))
    assert_refused(run("measure", image, "--vmm", "svsm-qemu", *svsm), {2})
    assert_refused(run("measure", image, "--vars-size", "4KiB"), {2})
    assert_refused(
        run("measure", image, "--vmm", "svsm-qemu", "--svsm", image, "--vars-size", "0"), {4}
    )
