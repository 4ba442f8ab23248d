"""`cvmplan igvm`: what is written measures as others say, read back and by the crate `igvm`."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest

from tests.build.igvm import good_multi, good_sev_es, good_vbs
from tests.build.ovmf import example
from tests.consumers import rust
from tests.oracles.peer import Boot, Machine, theirs
from tests.run import Result, assert_refused, run
from tests.test_igvm import path_of, vectors

PAGE: Final = 0x1000
TYPES: Final = {"snp": 2, "tdx": 3, "vbs": 1}
"""IgvmPlatformType of the platforms that the crate measures."""
APART: Final = ("overlap_page_page",)
"""Vectors that are no launch: one page twice."""
KNOWN: Final = [row for row in vectors() if row[2] == "hyper-v" and row[0] not in APART]
SNP: Final = ("--platform", "snp", "--vcpus", "3", "--cpu", "EPYC-v4")


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "made.igvm")


def written(file: str, *arguments: str) -> Result:
    made = run("igvm", *arguments, "-o", file)
    assert (made.code, made.out) == (0, ""), made.err
    return made


def digest(file: str, platform: str, loader: str, *more: str) -> str:
    told = run("measure", file, "--platform", platform, "--vmm", loader, "--bare", *more)
    assert told.code == 0, told.err
    return told.out.strip()


def headers(file: str) -> list[dict[str, Any]]:
    (table,) = json.loads(run("inspect", file, "--format", "json").out)["tables"]
    rows: list[dict[str, Any]] = table["rows"]
    return rows


def crate(file: str) -> dict[int, str]:
    """What the crate measures, by the number of the platform."""
    told = rust("igvm", file)
    assert told.returncode == 0, told.stdout
    return {int(kind): value for kind, value in (line.split() for line in told.stdout.splitlines())}


# --- the same measurement ------------------------------------------------------------------------


@pytest.mark.skipif(not KNOWN, reason="../shared/vectors/igvm is absent")
@pytest.mark.parametrize(("name", "platform", "loader", "expected"), KNOWN)
def test_files_written_anew_measure_as_the_vectors(
    name: str, platform: str, loader: str, expected: str, file: str
) -> None:
    written(file, path_of(name), "--platform", platform, "--vmm", loader)
    assert digest(file, platform, loader) == expected


@pytest.mark.skipif(not KNOWN, reason="../shared/vectors/igvm is absent")
@pytest.mark.parametrize(("name", "platform", "loader", "expected"), KNOWN)
def test_the_crate_measures_what_was_written_as_the_vectors(
    name: str, platform: str, loader: str, expected: str, file: str
) -> None:
    written(file, path_of(name), "--platform", platform, "--vmm", loader)
    assert crate(file) == {TYPES[platform]: expected}


@pytest.mark.parametrize("mode", ["snp", "sev", "sev-es"])
def test_firmware_measures_as_sev_snp_measure_has_it(mode: str, tmp_path: Path, file: str) -> None:
    """Cloud Hypervisor adds pages without data as ZERO; flat hashes have no page types."""
    image = tmp_path / "image.fd"
    image.write_bytes(example("snp"))
    boot = []
    for name in ("kernel", "initrd") if mode == "snp" else ():
        (tmp_path / name).write_bytes(name.encode() * 1000)
        boot += [f"--{name}", str(tmp_path / name)]
    options = ("--es-init", "init2") if mode == "sev-es" else ()
    written(file, str(image), "--platform", mode, *SNP[2:], *options, *boot)
    features = int(mode == "snp")
    machine = Machine(mode=mode, vcpus=3, features=features, boot=Boot(b"") if boot else None)
    kernel, initrd = boot[1::2] or ("", "")
    expected = theirs(str(image), kernel, initrd, machine)
    loader, again = ("cloud-hypervisor", ()) if mode == "snp" else ("qemu", options)
    assert digest(file, mode, loader, *again) == expected


def test_the_crate_measures_a_td_as_its_firmware(file: str) -> None:
    told = written(file, "--example", "tdx")
    assert "TD HOB at 0x809000" in told.err
    mrtd = "616d3193"  # of `measure`, whose digests other tools confirm
    assert crate(file)[3].startswith(mrtd)
    assert digest(file, "tdx", "hyper-v").startswith(mrtd)


# --- the same map --------------------------------------------------------------------------------


def pages(result: Result) -> dict[int, str]:
    """Page type by address, of a map."""
    assert result.code == 0, result.err
    regions = json.loads(result.out)["regions"]
    return {
        gpa: region["type"]
        for region in regions
        for gpa in range(
            int(region["gpa"], 0), int(region["gpa"], 0) + int(region["size"], 0), PAGE
        )
    }


@pytest.mark.parametrize(
    ("platform", "loader"), [("snp", "cloud-hypervisor"), ("tdx", "hyper-v"), ("sev", "qemu")]
)
def test_the_map_is_that_of_the_launch(platform: str, loader: str, file: str) -> None:
    image = ("--example", "tdx" if platform == "tdx" else "snp", "--platform", platform)
    written(file, *image)
    made = run("map", file, "--platform", platform, "--vmm", loader, "--format", "json")
    assert pages(made) == pages(run("map", *image, "--format", "json"))


# --- several platforms ---------------------------------------------------------------------------


def plan_of(folder: Path, *arguments: str) -> str:
    made = folder / f"{len([*folder.iterdir()])}.json"
    made.write_text(run("plan", *arguments, "--format", "json").out)
    return str(made)


def test_several_platforms_have_masks_of_their_own(tmp_path: Path, file: str) -> None:
    multi = tmp_path / "multi.igvm"
    multi.write_bytes(good_multi().build())
    others = [
        word
        for platform in ("tdx", "vbs")
        for word in ("--beside", plan_of(tmp_path, str(multi), "--platform", platform))
    ]
    written(file, str(multi), "--platform", "snp", *others)
    masks = [row["fields"].split()[0] for row in headers(file)[:3]]
    assert masks == ["compatibility_mask=0x1", "compatibility_mask=0x2", "compatibility_mask=0x4"]
    expected = crate(str(multi))
    assert crate(file) == {TYPES[p]: expected[TYPES[p]] for p in TYPES}
    for platform, kind in TYPES.items():
        assert digest(file, platform, "hyper-v") == expected[kind]


def test_a_platform_comes_once(tmp_path: Path, file: str) -> None:
    plan = plan_of(tmp_path, "--example", "snp")
    refused = run("igvm", "--example", "snp", "--beside", plan, "-o", file)
    assert_refused(refused, {4})
    assert not Path(file).exists()


# --- what is in the file -------------------------------------------------------------------------


def test_each_page_of_data_is_there_once(file: str) -> None:
    written(file, "--example", "snp", *SNP[2:])
    data = Path(file).read_bytes()
    start = 24 + int.from_bytes(data[12:16], "little")
    assert (len(data) - start) % PAGE == 0
    held = [data[at : at + PAGE] for at in range(start, len(data), PAGE)]
    assert len({sha256(page).digest() for page in held}) == len(held) > 1


def test_an_id_block_is_in_the_file(tmp_path: Path, file: str) -> None:
    key = tmp_path / "id.pem"
    subprocess.run(
        ["openssl", "ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", key], check=True
    )
    folder = tmp_path / "identity"
    assert run("idblock", "--example", "snp", "--id-key", str(key), "-o", str(folder)).code == 0
    names = {"--id-block": "id-block.bin", "--id-auth": "id-auth.bin"}
    words = [
        word for name, path in names.items() for word in (name, (folder / path).read_bytes().hex())
    ]
    written(file, "--example", "snp", *words)
    told = run("idblock", file, "--verify", "--vmm", "cloud-hypervisor", "--format", "json")
    assert told.code == 0, told.out
    other = run("igvm", "--example", "snp", "--vcpus", "2", *words, "-o", str(tmp_path / "no"))
    assert_refused(other, {1})
    assert not (tmp_path / "no").exists()


def test_required_memory_stays(tmp_path: Path, file: str) -> None:
    image = tmp_path / "multi.igvm"
    image.write_bytes(good_multi().build())
    written(file, str(image), "--platform", "snp")

    def required(path: str) -> set[tuple[str, str]]:
        found = (row["fields"] for row in headers(path) if row["name"] == "REQUIRED_MEMORY")
        fields = [dict(word.split("=") for word in text.split()) for text in found]
        return {
            (one["gpa"], one["number_of_bytes"])
            for one in fields
            if int(one["compatibility_mask"], 0) & 1
        }

    assert required(file) == required(str(image)) != set()


def test_both_versions(file: str, tmp_path: Path) -> None:
    second = str(tmp_path / "second.igvm")
    written(file, "--example", "snp")
    written(second, "--example", "snp", "--igvm-version", "2")
    one, two = Path(file).read_bytes(), Path(second).read_bytes()
    assert (one[4], one[8], two[4], two[8]) == (1, 24, 2, 32)
    assert two[24:32] == bytes(4) + PAGE.to_bytes(4, "little")
    assert crate(file) == crate(second)


def test_the_crate_refuses_a_spoiled_file(file: str) -> None:
    written(file, "--example", "snp")
    data = bytearray(Path(file).read_bytes())
    data[0x40] ^= 1
    Path(file).write_bytes(data)
    assert rust("igvm", file).returncode == 1
    assert_refused(run("measure", file), {3})


def test_an_input_is_not_written_over(tmp_path: Path) -> None:
    image = tmp_path / "snp.fd"
    image.write_bytes(example("snp"))
    (tmp_path / "link").symlink_to(image)
    for output in (image, tmp_path / "link"):
        words = ("igvm", str(image), "--platform", "snp", "-o", str(output))
        assert_refused(run(*words), {2})
    assert image.read_bytes() == example("snp")


def test_standard_output(file: str) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "cvmplan", "igvm", "--example", "snp", "-o", "-"], check=True,
        capture_output=True,
    ).stdout  # fmt: skip
    written(file, "--example", "snp")
    assert made == Path(file).read_bytes()


# --- what it has no word for ---------------------------------------------------------------------


def test_what_the_file_does_not_say_is_told(file: str) -> None:
    told = written(
        file, "--example", "snp", "--host-data", "11" * 32, "--gosvw", "22" * 16, "--vcek-disabled"
    ).err.splitlines()
    start = "warning: snp: not in the file: "
    assert all(line.startswith(start) for line in told)
    assert {line.removeprefix(start).split(":")[0] for line in told} == {
        "the page type ZERO", "GOSVW", "HOST_DATA", "VCEK_DIS",
    }  # fmt: skip
    td = written(file, "--example", "tdx", "--mrowner", "33" * 48, "--attributes", "0x50000000").err
    assert "ATTRIBUTES.PKS" in td
    assert "MROWNER" in td


@pytest.mark.parametrize(
    ("arguments", "codes"),
    [
        (("--example", "tdx", "--page-order", "two-pass"), {4}),
        (("--example", "snp", "--platform", "sw-protected"), {4}),
        (("--example", "snp", "--igvm-version", "3"), {2}),
        (("--example", "snp", "--beside", "absent.json"), {3}),
    ],
)
def test_refused(arguments: tuple[str, ...], codes: set[int], file: str) -> None:
    assert_refused(run("igvm", *arguments, "-o", file), codes)
    assert not Path(file).exists()


@pytest.mark.parametrize(
    ("image", "platform"), [(good_vbs(), "vbs"), (good_sev_es(), "sev-es")], ids=["vbs", "sev-es"]
)
def test_other_platforms(image: Any, platform: str, tmp_path: Path, file: str) -> None:
    path = tmp_path / "image.igvm"
    path.write_bytes(image.build())
    loader = "hyper-v" if platform == "vbs" else "qemu"
    written(file, str(path), "--platform", platform, "--vmm", loader)
    names = {row["name"] for row in headers(file)}
    assert {"SUPPORTED_PLATFORM", "PAGE_DATA", "VP_CONTEXT"} <= names
    assert digest(file, platform, loader) == digest(str(path), platform, loader)
