"""
What was wrong, too strict or missing, with the right value and where it comes from.

Values are those of ../shared/spec/corrections.md and of sev-snp-measure, written out.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Final

import pytest

from tests.build.ovmf import Ovmf, SevSection, good_tdx
from tests.oracles import shared
from tests.run import assert_refused, run

EXAMPLE: Final = ("measure", "--example", "snp")


@pytest.mark.parametrize(
    ("name", "signature"),
    [("EPYC-Milan-v4", 0xA00F11), ("EPYC-Genoa-v3", 0xA10F10), ("Dhyana", 0x900F01),
     ("Dhyana-v1", 0x900F01), ("Dhyana-v2", 0x900F01), ("epyc-milan", 0xA00F11),
     ("EPYC-v4,+amd-ssbd", 0x800F12), ("epyc-v4", 0x800F12)],
)  # fmt: skip
def test_a_cpu_model_is_known_in_any_case_and_with_flags(name: str, signature: int) -> None:
    assert run(*EXAMPLE, "--cpu", name, "--bare") == run(
        *EXAMPLE, "--cpu", hex(signature), "--bare"
    )


def test_the_hosts_cpu_is_no_model_and_the_error_says_what_to_give() -> None:
    result = run(*EXAMPLE, "--cpu", "host")
    assert_refused(result, {2})
    assert "0xa10f11 Genoa" in result.err


def test_a_wrong_cpu_model_gets_the_nearest() -> None:
    result = run(*EXAMPLE, "--cpu", "EPYC-Milano")
    assert_refused(result, {2})
    assert "did you mean EPYC-Milan?" in result.err


def spelled(digest: str) -> dict[str, str]:
    """Return a digest as people and tools write it."""
    raw = bytes.fromhex(digest)
    pairs = [digest[n : n + 2] for n in range(0, len(digest), 2)]
    return {
        "hex": digest,
        "with 0x": f"0x{digest}",
        "upper case": digest.upper(),
        "bytes with blanks": " ".join(pairs),
        "lines of 16 bytes, as snpguest displays": "\n".join(
            " ".join(pairs[n : n + 16]) for n in range(0, len(pairs), 16)
        ),
        "bytes with colons": ":".join(pairs),
        "base64 of the bytes": base64.b64encode(raw).decode(),
        "base64 of the hex text": base64.b64encode(digest.encode()).decode(),
    }


@pytest.mark.parametrize("form", spelled("00"))
def test_an_expected_digest_is_taken_as_tools_print_it(form: str, tmp_path: Path) -> None:
    digest = run(*EXAMPLE, "--bare").out
    written = spelled(digest)[form]
    assert run(*EXAMPLE, "--expect", written).code == 0
    file = tmp_path / "digest"
    file.write_text(written + "\n")
    assert run(*EXAMPLE, "--expect", f"@{file}").code == 0
    other = spelled("00" + digest[2:])[form]
    assert_refused(run(*EXAMPLE, "--expect", other), {1})


def test_a_file_with_the_bytes_of_the_digest_is_taken(tmp_path: Path) -> None:
    digest = run(*EXAMPLE, "--bare").out
    (tmp_path / "raw").write_bytes(bytes.fromhex(digest))
    assert run(*EXAMPLE, "--expect", f"@{tmp_path / 'raw'}").code == 0


@pytest.mark.parametrize("written", ["", "00", "x" * 96, "@", "@/nowhere", "ab" * 33])
def test_anything_else_is_no_digest(written: str) -> None:
    assert_refused(run(*EXAMPLE, "--expect", written), {2, 3})


# --- firmware ------------------------------------------------------------------------------------

AB: Final = ("--platform", "snp", "--firmware-digest", "ab" * 48, "--bare")


def test_edk2_of_august_2024_still_has_its_hashes_in_the_middle() -> None:
    assert run("measure", "edk2:amdsev-202408", *AB).out.startswith("cec6d155")
    assert run("measure", "edk2:amdsev-202405", *AB).out.startswith("cec6d155")
    assert run("measure", "edk2:amdsev-202411", *AB).out.startswith("915a0da3")


@pytest.mark.parametrize(
    ("abi", "code"),
    [("map-memory", 0), ("kvm-6.11", 0), ("kvm-6.16", 0), ("kvm-6.18", 1), ("kvm-7.3", 1)],
)
def test_a_section_without_pages_adds_nothing_where_the_kernel_takes_that(
    abi: str, code: int, tmp_path: Path
) -> None:
    image = Ovmf()
    assert image.sev_sections is not None
    plain = run_on(image, tmp_path, abi)
    image.sev_sections.insert(3, SevSection(0x840000, 0, 1))
    empty = run_on(image, tmp_path, abi)
    assert plain[0] == 0
    assert empty == (plain if code == 0 else (1, ""))


def run_on(image: Ovmf, folder: Path, abi: str) -> tuple[int, str]:
    """Return code and digest; image bytes differ in the metadata, which the file holds."""
    file = folder / "image.fd"
    file.write_bytes(image.build())
    options = ("--platform", "snp", "--abi", abi, "--firmware-digest", "ab" * 48)
    result = run("measure", str(file), *options, "--bare")
    return result.code, result.out


def test_a_kernel_is_not_measured_where_the_metadata_has_no_page_for_its_hashes(
    tmp_path: Path,
) -> None:
    """QEMU launches such a guest, and adds no hashes."""
    image = Ovmf(sev_sections=[s for s in Ovmf().sev_sections or () if s.type != 0x10])
    (tmp_path / "image.fd").write_bytes(image.build())
    (tmp_path / "kernel").write_bytes(b"kernel")
    options = ("--platform", "snp", "--bare")
    plain = run("measure", str(tmp_path / "image.fd"), *options)
    boot = ("--kernel", str(tmp_path / "kernel"), "--append", "x")
    assert run("measure", str(tmp_path / "image.fd"), *options, *boot).out == plain.out
    found = run("check", str(tmp_path / "image.fd"), "--platform", "snp", *boot)
    assert (found.code, "kernel-hashes-not-measured" in found.out) == (0, True)


MULTIBOOT: Final = b"".join(
    n.to_bytes(4, "little") for n in (0x1BADB002, 0, (1 << 32) - 0x1BADB002)
)


@pytest.mark.parametrize(
    ("kernel", "hashed"),
    [(bytes(64) + MULTIBOOT, False), (b"\x7fELF" + bytes(600), False), (b"any bytes", True),
     (bytes(66) + MULTIBOOT, True), (bytes(64) + MULTIBOOT[:-1], True),
     (b"\x7fELF" + bytes(0x1FE) + b"HdrS" + bytes(600), True)],
)  # fmt: skip
def test_a_kernel_that_qemu_does_not_hash_has_no_digest(
    kernel: bytes, hashed: bool, tmp_path: Path
) -> None:
    (tmp_path / "kernel").write_bytes(kernel)
    result = run(*EXAMPLE, "--kernel", str(tmp_path / "kernel"), "--bare")
    assert result.code == (0 if hashed else 1)
    assert ("kernel-not-hashed" in result.err) is not hashed


def test_debians_sev_firmware_without_a_table_is_measured_as_it_is(tmp_path: Path) -> None:
    data = bytes(0x28) + b"_FVH" + bytes(0x4000 - 0x2C)
    (tmp_path / "OVMF.fd").write_bytes(data)
    file = str(tmp_path / "OVMF.fd")
    assert (
        run("measure", file, "--platform", "sev", "--bare").out == hashlib.sha256(data).hexdigest()
    )
    assert_refused(run("measure", file, "--platform", "snp"), {4})
    assert_refused(run("measure", file), {2})
    assert run("inspect", file).code == 0


# --- VMMs ----------------------------------------------------------------------------------------


def test_google_assumes_the_policy_that_its_reports_carry() -> None:
    plan = json.loads(run("plan", "--example", "snp", "--vmm", "gce", "--format", "json").out)
    assert plan["assumed"]["policy"] == "0x30000"


def test_all_sections_extended_are_explained_as_google_before_2024(tmp_path: Path) -> None:
    (tmp_path / "td.fd").write_bytes(good_tdx().build())
    file = str(tmp_path / "td.fd")
    digest = run("measure", file, "--platform", "tdx", "--vmm", "gce-2024", "--bare").out
    found = run("explain", file, "--platform", "tdx", "--expect", digest, "--format", "json")
    assert "gce-2024" in json.loads(found.out)["command"]


def test_libkruns_vcpus_begin_in_kvms_reset_state(tmp_path: Path) -> None:
    manifest = {
        "schema": "cvmplan.manifest/1", "platform": "snp", "vmm": "libkrun",
        "guest": {"vcpus": 2},
        "regions": [
            {"name": "qboot", "gpa": "0xffff0000", "size": "64KiB", "type": "normal",
             "source": {"hex": "f4"}, "pad": "zero"},
            {"name": "zero", "gpa": "0x0", "size": "4KiB", "type": "zero"},
            {"name": "secrets", "gpa": "0x5000", "size": "4KiB", "type": "secrets"},
            {"name": "cpuid", "gpa": "0x6000", "size": "4KiB", "type": "cpuid"},
        ],
    }  # fmt: skip
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    plan = json.loads(run("plan", str(tmp_path / "m.json"), "--format", "json").out)
    (states,) = [op["vmsas"] for op in plan["ops"] if op["op"] == "snp-launch-finish"]
    for state in states:
        page = bytes.fromhex(state["hex"])
        assert int.from_bytes(page[0x310:0x318], "little") == 0x600
        assert int.from_bytes(page[0x178:0x180], "little") == 0xFFF0


# --- explain -------------------------------------------------------------------------------------


def explained(*arguments: str) -> list[str]:
    result = run("explain", *arguments, "--quiet", "--format", "json")
    assert result.code == 0, result.err
    command: list[str] = json.loads(result.out)["command"]
    return command


@pytest.mark.parametrize("signature", ["0xa10f11", "0xb00f21", "0xa00f12", "0xaa0f02"])
def test_the_signature_of_a_real_chip_is_found(signature: str, tmp_path: Path) -> None:
    guest = pytest.importorskip("sevsnpmeasure.guest", reason="sev-snp-measure is not installed")
    modes = pytest.importorskip("sevsnpmeasure.sev_mode")
    (tmp_path / "image.fd").write_bytes(Ovmf().build())
    file = str(tmp_path / "image.fd")
    digest = guest.calc_launch_digest(
        modes.SevMode.SEV_SNP, 4, int(signature, 16), file, "", "", "", 1
    ).hex()
    command = explained(file, "--platform", "snp", "--vcpus", "4", "--expect", digest)
    assert command[command.index("--cpu") + 1] == signature


def test_vcpus_and_nr_cpus_are_one_hypothesis(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(b"kernel")
    boot = ("--example", "snp", "--kernel", str(tmp_path / "kernel"))
    digest = run("measure", *boot, "--append", "a nr_cpus=7 b", "--vcpus", "7", "--bare").out
    command = explained(*boot, "--append", "a nr_cpus=1 b", "--expect", digest)
    assert command[command.index("--append") + 1] == "a nr_cpus=7 b"
    assert command[command.index("--vcpus") + 1] == "7"


def test_several_command_lines_can_be_tried(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(b"kernel")
    (tmp_path / "line").write_bytes(b"of a file\n")
    boot = ("--example", "snp", "--kernel", str(tmp_path / "kernel"))
    for wanted in ("second", "of a file\n", "of a file"):
        digest = run("measure", *boot, "--append", wanted, "--bare").out
        lines = ("--append", "first", "--append", "second", "--append-file", str(tmp_path / "line"))
        command = explained(*boot, *lines, "--expect", digest)
        assert command[command.index("--append") + 1] == wanted


def test_a_report_in_hand_is_what_explain_is_told(tmp_path: Path) -> None:
    report = shared("cases/evidence/report-alone/turin_attestation_report.bin")
    result = run("verify", str(report), "--example", "snp")
    assert result.code == 1
    assert f"--report {report}" in result.out
    del tmp_path
