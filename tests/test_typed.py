"""What people type: names in any case, digests in every form, bounds as they were typed."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

from cvmplan.cli import VERBS
from cvmplan.core.platform import Platform
from cvmplan.kvm.abi import ABIS
from cvmplan.profiles import PROFILES
from tests.build.evidence import snp_report
from tests.build.ovmf import good_snp
from tests.run import assert_refused, run

SNP: Final = ("measure", "--example", "snp")
EPYC: Final = {"EPYC-v4": 0x800F12, "EPYC-Milan": 0xA00F11, "EPYC-Genoa": 0xA10F10}
"""QEMU's models with their signatures (target/i386/cpu.c, builtin_x86_defs)."""


def cases(name: str) -> set[str]:
    return {name.upper(), name.title(), name.swapcase(), f" {name} "}


@pytest.fixture(scope="module")
def digest() -> str:
    guest = pytest.importorskip("sevsnpmeasure.guest", reason="sev-snp-measure is not installed")
    modes = pytest.importorskip("sevsnpmeasure.sev_mode").SevMode
    path = Path(__file__).parent.parent / "cvmplan" / "examples" / "snp.fd"
    found: bytes = guest.calc_launch_digest(
        modes.SEV_SNP, 1, EPYC["EPYC-v4"], str(path), "", "", "", 1
    )
    return found.hex()


def test_platforms_and_vmms_are_taken_in_any_case(tmp_path: Path) -> None:
    image = tmp_path / "f.fd"
    image.write_bytes(good_snp().build())
    plain = run("plan", str(image), "--platform", "snp", "--vmm", "ec2").out
    for platform in cases("snp"):
        assert run("plan", str(image), "--platform", platform, "--vmm", "EC2").out == plain


@pytest.mark.parametrize("abi", ["kvm-6.18", "map-memory"])
def test_interfaces_are_taken_in_any_case(abi: str) -> None:
    plain = run(*SNP, "--abi", abi).out
    assert all(run(*SNP, "--abi", written).out == plain for written in cases(abi))


@pytest.mark.parametrize("cpu", EPYC)
def test_cpus_are_taken_in_any_case_and_with_flags(cpu: str) -> None:
    plain = run(*SNP, "--cpu", hex(EPYC[cpu]), "--bare").out
    for written in (*cases(cpu), f"{cpu},+amd-ssbd", f"{cpu.lower()},host-phys-bits=on,-x2apic"):
        assert run(*SNP, "--cpu", written, "--bare").out == plain


def test_host_asks_for_the_signature() -> None:
    result = run(*SNP, "--cpu", "Host,+amd-ssbd")
    assert_refused(result, {2})
    for signature in ("0xa00f11", "0xa10f11", "0xaa0f02", "0xb00f21"):  # of real processors
        assert signature in result.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ((*SNP, "--platform", "snpp"), "did you mean snp?"),
        ((*SNP, "--platform", "sev_es"), "did you mean sev-es?"),
        ((*SNP, "--platform", "SEV-SNP"), "did you mean snp?"),
        ((*SNP, "--platform", "sev-snp-guest"), "did you mean snp?"),
        ((*SNP, "--platform", "Intel_TDX"), "did you mean tdx?"),
        (("sweep", "--example", "snp", "--format", "txt"), "did you mean text?"),
        (("sweep", "--example", "snp", "--format", "xml"), "choose from jsonl, csv, text, sqlite"),
        ((*SNP, "--vmm", "QMEU"), "did you mean qemu?"),
        ((*SNP, "--vmm", "hyperv"), "did you mean hyper-v?"),
        ((*SNP, "--abi", "kvm-6.8"), "did you mean kvm-6.18?"),
        ((*SNP, "--abi", "mapmemory"), "did you mean map-memory?"),
        ((*SNP, "--cpu", "EPYC-Millan"), "did you mean EPYC-Milan?"),
        ((*SNP, "--cpu", "Skylake"), "'cvmplan cpus' lists them"),
        ((*SNP, "--format", "jsn"), "did you mean json?"),
        (("measure", "--example", "tdxx"), "did you mean tdx?"),
        (("mesure", "--example", "snp"), "did you mean measure?"),
        (("schema", "manifst"), "did you mean manifest?"),
        (("profiles", "openvm"), "did you mean openvmm?"),
        (("abis", "kvm7.0"), "did you mean kvm-7.0?"),
        (("config", "--example", "snp", "--to", "libvrt"), "did you mean libvirt?"),
        (("reference", "--example", "snp", "--to", "rvsp"), "did you mean rvps?"),
        (("sweep", "--example", "snp", "--cpu", "EPYC-Millan"), "did you mean EPYC-Milan?"),
        ((*SNP, "--platform", "x" * 5000), "choose from snp, tdx"),
    ],
)
def test_a_wrong_name_gets_the_nearest(line: tuple[str, ...], said: str) -> None:
    result = run(*line)
    assert_refused(result, {2})
    assert said in result.err
    assert len(result.err) < 400


@pytest.mark.parametrize("names", [Platform, PROFILES, ABIS, VERBS])
def test_no_two_names_differ_in_case_only(names: list[str]) -> None:
    assert len({name.lower() for name in names}) == len([*names])


def test_expect_takes_a_digest_in_every_form(digest: str, tmp_path: Path) -> None:
    raw = bytes.fromhex(digest)
    spaced = " ".join(f"{byte:02X}" for byte in raw)
    lines = "\n".join(spaced[at : at + 48] for at in range(0, len(spaced), 48))
    forms = {
        "hex": digest, "0x": f"0x{digest}", "0X": f"0X{digest.upper()}", "blanks": f"  {digest}\n",
        "spaced": spaced, "display of snpguest": f"\n{lines}\n", "colons": raw.hex(":"),
        "base64 of sev-snp-measure": base64.b64encode(raw).decode(),
        "base64 of snpguest": base64.b64encode(digest.encode()).decode(),
    }  # fmt: skip
    for form, written in forms.items():
        assert run(*SNP, "--expect", written).code == 0, form
        (tmp_path / "digest").write_text(f"{written}\n")
        assert run(*SNP, "--expect", f"@{tmp_path / 'digest'}").code == 0, form
    (tmp_path / "raw").write_bytes(raw)
    assert run(*SNP, "--expect", f"@{tmp_path / 'raw'}").code == 0
    wrong = bytes([raw[0] ^ 1, *raw[1:]])
    for written in (wrong.hex(" "), base64.b64encode(wrong).decode(), f"0x{wrong.hex()}"):
        assert_refused(run(*SNP, "--expect", written), {1})


def test_pins_and_hashes_take_the_same_forms(tmp_path: Path) -> None:
    raw = bytes(range(48))
    report = tmp_path / "report"
    report.write_bytes(snp_report(None, 2, measurement=raw))
    forms: tuple[Callable[[bytes], str], ...] = (
        bytes.hex,
        lambda data: f"0X{data.hex().upper()}",
        lambda data: data.hex(" "),
        lambda data: data.hex(":"),
        lambda data: base64.b64encode(data).decode(),
        lambda data: base64.b64encode(data.hex().encode()).decode(),
    )
    for form in forms:
        line = ("verify", str(report), "--no-signature", "--measurement")
        assert run(*line, form(raw)).code == 0, form(raw)
        assert run(*line, form(raw[::-1])).code == 1, form(raw)
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"kernel")
    sha = sha256(b"kernel").digest()
    wanted = run(*SNP, "--kernel", str(kernel), "--bare").out
    for written in (f"0x{sha.hex()}", sha.hex(" "), base64.b64encode(sha.hex().encode()).decode()):
        assert run(*SNP, "--kernel-hash", written, "--bare").out == wanted


@pytest.mark.parametrize("written", ["", "0x", "0x0x" + "00" * 48, "00" * 47, "0" * 97, "=" * 64])
def test_what_is_no_value_of_48_bytes_is_refused(written: str) -> None:
    assert_refused(run(*SNP, "--firmware-digest", written), {2})
    assert_refused(run(*SNP, "--expect", written), {2})


@pytest.mark.parametrize(
    ("option", "written", "said"),
    [
        ("--vcpus", "5000", "'5000' is not between 1 and 4096"),
        ("--vcpus", "0x5000", "'0x5000' is not between 0x1 and 0x1000"),
        ("--c-bit", "60", "'60' is not between 32 and 51"),
        ("--c-bit", "0x3c", "'0x3c' is not between 0x20 and 0x33"),
        ("--reset-eip", "0", "'0' is not between 1 and 4294967295"),
        ("--cpu", "0x100000000", "is not between 0x0 and 0xffffffff"),
        ("--cpu", "4294967296", "is not between 0 and 4294967295"),
    ],
)
def test_bounds_are_in_the_base_that_was_typed(option: str, written: str, said: str) -> None:
    result = run(*SNP, option, written)
    assert_refused(result, {2})
    assert said in result.err


def test_cpus_are_those_of_the_peer_and_a_few_more() -> None:
    types = pytest.importorskip("sevsnpmeasure.vcpu_types", reason="sev-snp-measure is missing")
    listed = json.loads(run("cpus", "--format", "json").out)
    models = {one["name"]: one for one in listed if one["kind"] == "model"}
    assert {n: models[n]["signature"] for n in types.CPU_SIGS} == {
        n: hex(v) for n, v in types.CPU_SIGS.items()
    }
    for one in listed:
        numbers = [one[name] for name in ("family", "model", "stepping")]
        assert types.cpu_sig(*numbers) == int(one["signature"], 16)
    text = run("cpus").out
    assert all(one["name"] in text and one["signature"] in text for one in listed)


def test_processors_have_the_signatures_of_amds_revision_guides() -> None:
    listed = json.loads(run("cpus", "--format", "json").out)
    chips = {one["signature"]: one["name"] for one in listed if one["kind"] == "processor"}
    assert chips["0xa00f11"] == "Milan"
    assert chips["0xaa0f02"] == "Bergamo"
