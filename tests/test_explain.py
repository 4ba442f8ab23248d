"""
Settings that are wrong on purpose, each found again from the digest of another program.

The digests are the peer's, the fake firmware's (whose states and order are those of the
generation in question), or known answers; never our own.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from cvmplan.platforms.snp.vmsa import FIELDS
from tests.build.evidence import intel, snp_report, td_quote
from tests.build.ovmf import CPUID, HASHES, SEC_MEM, SECRETS, SVSM_CAA, Ovmf, SevSection, good_snp
from tests.build.ovmf import good_tdx as tdx_image
from tests.oracles import shared
from tests.oracles.firmware import FakePsp, FakeTdxModule, hash_table, vmsas
from tests.oracles.peer import Boot, Machine, theirs
from tests.run import assert_refused, run
from tests.test_igvm import REFUSED, vectors

PAGE: Final = 4096
VARS: Final = 0x84000  # edk2, OvmfPkgDefines.fdf.inc: the variable store of a 4 MiB build
KERNEL: Final = b"MZ kernel" * 500
INITRD: Final = b"initrd" * 100
IMAGE: Final = good_snp().build()


def explain(*args: str) -> dict[str, Any]:
    """What `explain` answers, as a document; an explained command must be runnable."""
    result = run("explain", *args, "--format", "json", "--quiet")
    assert (result.code in (0, 1), result.err) == (True, "")
    document: dict[str, Any] = json.loads(result.out)
    assert document["explained"] is (result.code == 0)
    return document


def reproduces(document: dict[str, Any], digest: str, image: str | None = None) -> None:
    """The command that is printed measures the digest."""
    words = document["command"]
    assert words[:2] == ["cvmplan", "measure"]
    path = image or words[2]
    assert run("measure", path, *words[3:], "--bare").out == digest


@dataclass(frozen=True)
class Case:
    """What was launched (`truth`), what was given, and what the answer has to say."""

    truth: Machine
    given: tuple[str, ...]
    says: tuple[str, ...]
    gone: tuple[str, ...] = ()


def snp(**truth: Any) -> Machine:
    return Machine(mode="snp", **truth)


FULL: Final = Boot(KERNEL, INITRD, "console=ttyS0")
FILES: Final = ("--kernel", "KERNEL", "--initrd", "INITRD")
LINE: Final = ("--append", "console=ttyS0")
CASES: Final[dict[str, Case]] = {
    "vcpus": Case(snp(vcpus=4), (), ("--vcpus 4",)),
    "many vcpus": Case(snp(vcpus=256), ("--vcpus", "2"), ("--vcpus 256",)),
    "very many vcpus": Case(snp(vcpus=512), (), ("--vcpus 512",)),
    "one vcpu": Case(snp(), ("--vcpus", "8"), ("--vcpus 1",)),
    "cpu Milan": Case(snp(cpu="EPYC-Milan"), (), ("--cpu EPYC-Milan",)),
    "cpu Rome": Case(snp(cpu="EPYC-Rome"), (), ("--cpu EPYC-Rome",)),
    "cpu Genoa": Case(snp(cpu="EPYC-Genoa"), ("--cpu", "0xa00f11"), ("--cpu EPYC-Genoa",)),
    "cpu Turin": Case(snp(cpu="EPYC-Turin"), (), ("--cpu EPYC-Turin",)),
    **{
        f"features {mask:#x}": Case(snp(features=mask), (), (f"--sev-features {mask:#x}",))
        for mask in (0x0, 0x3, 0x9, 0x20, 0x21, 0x23, 0x29, 0x2B, 0x201, 0x221, 0x1001, 1 << 40)
    },
    "default features": Case(
        snp(), ("--sev-features", "0x21"), ("--sev-features 0x1",)
    ),
    "cpu, features and vcpus": Case(
        snp(cpu="EPYC-Turin", features=0x29, vcpus=250),
        ("--cpu", "EPYC-Rome", "--vcpus", "3"),
        ("--cpu EPYC-Turin", "--sev-features 0x29", "--vcpus 250"),
    ),
    "ec2": Case(snp(vmm="ec2", vcpus=2), ("--vcpus", "2"), ("--vmm ec2",)),
    "gce": Case(snp(vmm="gce"), (), ("--vmm gce",)),
    "gce, more vcpus": Case(snp(vmm="gce", vcpus=16), (), ("--vmm gce", "--vcpus 16")),
    "qemu, not ec2": Case(snp(vcpus=2), ("--vmm", "ec2"), ("--vmm qemu", "--vcpus 2")),
    "no kernel": Case(snp(), (*FILES, *LINE), (), ("--kernel", "--initrd", "--append")),
    "no initrd": Case(
        snp(boot=Boot(KERNEL, None, "console=ttyS0")), (*FILES, *LINE), (), ("--initrd",)
    ),
    "no command line": Case(snp(boot=Boot(KERNEL, INITRD)), (*FILES, *LINE), (), ("--append",)),
    "line with newline": Case(
        snp(boot=Boot(KERNEL, INITRD, "console=ttyS0\n")), (*FILES, *LINE), ("--append",)
    ),
    "line trimmed": Case(
        snp(boot=FULL), (*FILES, "--append", " console=ttyS0  "), ("--append console=ttyS0",)
    ),
    "line with two NULs": Case(
        snp(boot=Boot(KERNEL, INITRD, "console=ttyS0\0")), (*FILES, *LINE), ("--append-hash",)
    ),
    "line and vcpus": Case(
        snp(boot=Boot(KERNEL, INITRD, "console=ttyS0\n"), vcpus=7), (*FILES, *LINE),
        ("--append", "--vcpus 7"),
    ),
    "a different kernel": Case(
        snp(boot=Boot(INITRD, None, "x")),
        ("--kernel", "KERNEL", "--append", "x", "--try", "INITRD"), ("--kernel INITRD",),
    ),
    "sev-es vcpus after init2": Case(
        Machine(mode="sev-es", vcpus=3, features=0), ("--es-init", "init2"), ("--vcpus 3",)
    ),
    "sev-es init2": Case(
        Machine(mode="sev-es", vcpus=2, features=0), ("--vcpus", "2"), ("--es-init init2",)
    ),
    "sev-es cpu and init2": Case(
        Machine(mode="sev-es", vcpus=9, features=0, cpu="EPYC-Milan"), (),
        ("--es-init init2", "--cpu EPYC-Milan", "--vcpus 9"),
    ),
    "sev no kernel": Case(Machine(mode="sev"), (*FILES, *LINE), (), ("--kernel",)),
    "sev line": Case(
        Machine(mode="sev", boot=Boot(KERNEL, INITRD, "console=ttyS0\n")), (*FILES, *LINE),
        ("--append",),
    ),
}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, data in (("image.fd", IMAGE), ("KERNEL", KERNEL), ("INITRD", INITRD)):
        (tmp_path / name).write_bytes(data)
    return tmp_path


def digest_of(folder: Path, truth: Machine, image: bytes = IMAGE) -> str:
    """The peer's digest."""
    file = folder / "truth.fd"
    file.write_bytes(image)
    kernel, initrd = (truth.boot.kernel, truth.boot.initrd) if truth.boot else (None, None)
    (folder / "k").write_bytes(kernel or b"")
    (folder / "i").write_bytes(initrd or b"")
    kernel_path = "" if kernel is None else str(folder / "k")
    return theirs(str(file), kernel_path, "" if initrd is None else str(folder / "i"), truth)


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_setting_is_found_again(name: str, files: Path) -> None:
    case = CASES[name]
    digest = digest_of(files, case.truth)
    paths = [str(files / w) if w in ("KERNEL", "INITRD") else w for w in case.given]
    document = explain(
        str(files / "image.fd"), "--platform", case.truth.mode, *paths, "--expect", digest
    )
    words = " ".join(document["command"]).replace(f"{files}/", "")
    assert document["explained"], document
    assert all(option in words for option in case.says), words
    assert not any(option in document["command"] for option in case.gone), words
    assert document["changes"]
    assert all(change["why"] for change in document["changes"])
    reproduces(document, digest)


def test_what_was_given_right_is_said_to_be_right(files: Path) -> None:
    digest = digest_of(files, snp(vcpus=3))
    document = explain(str(files / "image.fd"), "--vcpus", "3", "--expect", digest)
    assert (document["explained"], document["changes"]) == (True, [])
    result = run("explain", str(files / "image.fd"), "--vcpus", "3", "--expect", digest)
    assert "the given settings produce this measurement" in result.out


# --- images --------------------------------------------------------------------------------------


def test_another_image_is_tried(files: Path) -> None:
    other = replace(good_snp(), seed="another build").build()
    (files / "other.fd").write_bytes(other)
    digest = digest_of(files, snp(vcpus=2), other)
    document = explain(
        str(files / "image.fd"), "--expect", digest, "--try", str(files / "other.fd")
    )
    assert document["command"][2] == str(files / "other.fd")
    assert "--vcpus" in document["command"]
    reproduces(document, digest)


def test_the_code_of_a_combined_file_is_found(files: Path) -> None:
    whole = replace(good_snp(), size=VARS + 0x10000).build()
    (files / "image.fd").write_bytes(whole)
    digest = digest_of(files, snp(), whole[VARS:])
    document = explain(str(files / "image.fd"), "--expect", digest)
    assert document["command"][2] == f"<(tail -c +{VARS + 1} {files}/image.fd)"
    (files / "code.fd").write_bytes(whole[VARS:])
    reproduces(document, digest, str(files / "code.fd"))
    text = run("explain", str(files / "image.fd"), "--expect", digest).out
    assert f"cvmplan measure <(tail -c +{VARS + 1} {files}/image.fd) --platform snp" in text


def test_the_combined_file_of_a_code_file_is_found(files: Path) -> None:
    whole = replace(good_snp(), size=VARS + 0x10000).build()
    (files / "vars.fd").write_bytes(whole[:VARS])
    (files / "code.fd").write_bytes(whole[VARS:])
    digest = digest_of(files, snp(vcpus=2), whole)
    document = explain(str(files / "code.fd"), "--expect", digest, "--try", str(files / "vars.fd"))
    assert document["command"][2] == f"<(cat {files}/vars.fd {files}/code.fd)"
    (files / "whole.fd").write_bytes(whole)
    reproduces(document, digest, str(files / "whole.fd"))


BEGIN: Final = (
    (0x800000, 0x9000, SEC_MEM), (0x80A000, 0x3000, SEC_MEM),
    (0x80D000, 0x1000, SECRETS), (0x80E000, 0x1000, CPUID),
)  # fmt: skip
CAA: Final = (0x80F000, 0x1000, SVSM_CAA)
HASHES_PAGE: Final = (0x810000, 0x1000, HASHES)
GENERATIONS: Final = {
    "before SVSM_CAA": ((*BEGIN, (0x80F000, 0x11000, SEC_MEM)), ("",)),
    "hashes in the middle": (
        (*BEGIN, CAA, HASHES_PAGE, (0x811000, 0xF000, SEC_MEM)), ("amdsev-202405",)
    ),
    "hashes last": ((*BEGIN, CAA, (0x811000, 0xF000, SEC_MEM), HASHES_PAGE), ("amdsev-202411",)),
}  # fmt: skip
"""
Section tables as sev-snp-measure-go's fixture, sev-snp-measure's and edk2 0bad2dc1 have them,
and the names of those with which alone a launch with a kernel measures the same.
"""


@pytest.mark.parametrize("name", GENERATIONS)
def test_the_section_table_of_firmware_known_by_its_digest_is_found(name: str, files: Path) -> None:
    rows, tables_named = GENERATIONS[name]
    image = Ovmf(sev_sections=[SevSection(*row) for row in rows]).build()
    boot = Boot(KERNEL, INITRD, "console=ttyS0") if tables_named[0] else None
    truth = snp(vcpus=4, firmware_digest="ab" * 48, boot=boot)
    digest = digest_of(files, truth, image)
    kernel = ["--kernel", str(files / "KERNEL"), "--initrd", str(files / "INITRD"), *LINE]
    given = ["--firmware-digest", "ab" * 48, "--platform", "snp", *(kernel if boot else [])]
    document = explain(*given, "--expect", digest)
    assert document["command"][2].startswith(f"edk2:{tables_named[0]}")
    assert "--vcpus" in document["command"]
    reproduces(document, digest)


@pytest.mark.parametrize(
    ("name", "fixture"),
    [("amdsev-202405", "ovmf_AmdSev_suffix.bin"), ("x64-202405", "ovmf_OvmfX64_suffix.bin")],
)
def test_section_tables_are_those_of_real_firmware(name: str, fixture: str) -> None:
    real = shared(f"vectors/snp/fixtures/{fixture}")
    assert tables(str(real)) == tables(f"edk2:{name}")


def test_the_newest_section_table_is_that_of_real_firmware() -> None:
    assert tables(str(shared("firmware/OVMF.amdsev.fd"))) == tables("edk2:202511")


def tables(path: str) -> list[list[str]]:
    """The sections that an image declares, and the other entries of its table but offsets."""
    document = json.loads(run("inspect", path, "--format", "json").out)
    found = {t["name"]: t["rows"] for t in document["tables"]}
    sections = [[r["type"], r["gpa"], r["size"]] for r in found["SEV metadata"]]
    told = ("SEV hash table", "SEV-ES reset block")
    entries = [[r["entry"], r["data"]] for r in found["GUID table"] if r["entry"] in told]
    return [*sections, *sorted(e for e in entries if set(e[1]) != {"0"})]


def test_a_section_table_alone_has_no_digest() -> None:
    result = run("measure", "edk2:202511")
    assert_refused(result, {2})
    assert "--firmware-digest" in result.err
    assert_refused(run("measure", "edk2:nonsense", "--firmware-digest", "ab" * 48), {2})


# --- earlier generations -------------------------------------------------------------------------


def state(page: bytes, **fields: int) -> bytes:
    """A VMSA with other values in some fields (AMD 24593, APM volume 2, appendix B)."""
    made = bytearray(page)
    for name, value in fields.items():
        at, size = FIELDS[name]
        made[at : at + size] = value.to_bytes(size, "little")
    return bytes(made)


def launched(
    states: list[bytes],
    gpa: int = 0xFFFFFFFFF000,
    first: bytes | None = None,
    *,
    cpuid_last: bool = False,
) -> str:
    """
    The digest of the test image with these vCPU states, by the fake firmware.

    `first`: the page of kernel hashes, added behind the firmware in place of its section.
    """
    psp = FakePsp()
    psp.launch_start(0x30000)
    for at in range(0, len(IMAGE), PAGE):
        psp.launch_update(1, 2**32 - len(IMAGE) + at, IMAGE[at : at + PAGE])
    if first is not None:
        psp.launch_update(1, 0x810000, first)
    sections = good_snp().sev_sections or []
    if cpuid_last:
        sections.sort(key=lambda section: section.type == CPUID)
    for section in sections:
        if section.type == HASHES and first is not None:
            continue
        kind = {SEC_MEM: 3, SECRETS: 5, CPUID: 6, SVSM_CAA: 3, HASHES: 3}[section.type]
        for page in range(section.gpa, section.gpa + section.length, PAGE):
            psp.launch_update(kind, page, bytes(PAGE))
    for number, vmsa in enumerate(states):
        if gpa != 0xFFFFFFFFF000 and number:
            raise ValueError("the fake firmware has one vCPU at another address")
        psp.launch_update(2, gpa, vmsa)
    psp.launch_finish()
    return psp.digest.hex()


def plain(count: int) -> list[bytes]:
    return vmsas(count, 0x80B004, 1)


EC2: Final = {"ss.attrib": 0x92, "tr.attrib": 0x83, "rdx": 0, "mxcsr": 0, "x87_fcw": 0}
EARLIER: Final[dict[str, tuple[Callable[[], str], str]]] = {
    "no FPU state": (
        lambda: launched([state(p, mxcsr=0, x87_fcw=0) for p in plain(3)]),
        "qemu-2023",
    ),
    "RDX 0 on EC2": (
        lambda: launched([state(plain(1)[0], **EC2, **{"cs.attrib": 0x9A})], cpuid_last=True),
        "ec2-rdx-0",
    ),
    "the highest address of Genoa": (
        lambda: launched([state(plain(1)[0], mxcsr=0, x87_fcw=0)], 0x7FFFFFFFFF000),
        "qemu-2023-genoa",
    ),
}


@pytest.mark.parametrize("name", EARLIER)
def test_an_earlier_generation_is_found(name: str, files: Path) -> None:
    make, profile = EARLIER[name]
    digest = make()
    document = explain(str(files / "image.fd"), "--expect", digest)
    assert document["command"][document["command"].index("--vmm") + 1] == profile
    reproduces(document, digest)


def test_hashes_behind_the_firmware_are_found(files: Path) -> None:
    table = hash_table(KERNEL, INITRD, "console=ttyS0")
    page = (bytes(0xC00) + table).ljust(PAGE, b"\0")
    digest = launched([state(p, mxcsr=0, x87_fcw=0) for p in plain(2)], first=page)
    boot = ["--kernel", str(files / "KERNEL"), "--initrd", str(files / "INITRD"), *LINE]
    document = explain(str(files / "image.fd"), *boot, "--expect", digest)
    assert document["command"][document["command"].index("--vmm") + 1] == "qemu-hashes-first"
    reproduces(document, digest)


def test_only_the_boot_vcpu_of_a_kernel_for_svsms_is_mentioned(files: Path) -> None:
    digest = launched(plain(1))
    document = explain(str(files / "image.fd"), "--vcpus", "4", "--expect", digest)
    assert "--abi kvm-svsm" in document["changes"][0]["why"]
    other = explain(
        str(files / "image.fd"), "--vcpus", "4", "--abi", "kvm-svsm", "--expect", digest
    )
    assert other["changes"] == []


# --- TDX -----------------------------------------------------------------------------------------


def mrtd(image: Ovmf, *, two_pass: bool) -> str:
    """The MRTD of a firmware by the fake module, page by page, or section by section."""
    data = image.build()
    td = FakeTdxModule()
    td.mng_init()
    td.vp_init()
    for level in (3, 2, 1):
        for section in image.tdx_sections or ():
            for gpa in range(section.gpa, section.gpa + section.mem, PAGE):
                span = 1 << (12 + 9 * level)
                td_table(td, level, gpa - gpa % span)
    for section in image.tdx_sections or ():
        pages = range(0, section.mem, PAGE)
        raw = data[section.data_offset : section.data_offset + section.raw]
        for at in pages:
            td.mem_page_add(section.gpa + at, raw[at : at + PAGE].ljust(PAGE, b"\0"))
            if section.attr & 1 and not two_pass:
                extend(td, section.gpa + at)
        for at in pages if section.attr & 1 and two_pass else ():
            extend(td, section.gpa + at)
    td.mr_finalize()
    return td.digest.hex()


def td_table(td: FakeTdxModule, level: int, gpa: int) -> None:
    if not td._has_table(level, gpa):
        td.mem_sept_add(level, gpa)


def extend(td: FakeTdxModule, gpa: int) -> None:
    for chunk in range(gpa, gpa + PAGE, 256):
        td.mr_extend(chunk)


def test_a_two_pass_mrtd_is_found(tmp_path: Path) -> None:
    (tmp_path / "td.fd").write_bytes(tdx_image().build())
    digest = mrtd(tdx_image(), two_pass=True)
    document = explain(str(tmp_path / "td.fd"), "--platform", "tdx", "--expect", digest)
    assert document["changes"][0]["typed"] == "--page-order two-pass"
    reproduces(document, digest)


def test_a_single_pass_mrtd_is_found_under_an_interface_that_is_two_pass(tmp_path: Path) -> None:
    (tmp_path / "td.fd").write_bytes(tdx_image().build())
    digest = mrtd(tdx_image(), two_pass=False)
    given = ["--platform", "tdx", "--abi", "kvm-tdx-v19", "--expect", digest]
    document = explain(str(tmp_path / "td.fd"), *given)
    assert "--page-order single-pass" in document["changes"][0]["typed"]
    reproduces(document, digest)


def test_a_platform_that_was_not_meant_is_found(files: Path) -> None:
    sections = good_snp().sev_sections
    both = replace(tdx_image(), sev_sections=sections)
    (files / "both.fd").write_bytes(both.build())
    digest = mrtd(both, two_pass=False)
    document = explain(
        str(files / "both.fd"), "--platform", "snp", "--cpu", "EPYC-Milan", "--expect", digest
    )
    assert document["platform"] == "tdx"
    reproduces(document, digest)


REAL: Final = "b90b236113eb4c0d4df4ef590568c14e6028a3a31d7e8ac63dee9845df5008d3ebf82d4f5974e933798f65d7a279b9a9"  # noqa: E501 a digest


def test_the_two_pass_mrtd_of_real_firmware_is_found() -> None:
    image = shared("firmware/OVMF.inteltdx.ms.fd")
    document = explain(str(image), "--platform", "tdx", "--expect", REAL)
    assert "--page-order two-pass" in " ".join(document["command"])


# --- IGVM ----------------------------------------------------------------------------------------


OTHER_LOADERS: Final = [
    (file, loader, digest)
    for file, platform, loader, digest in vectors()
    if platform == "snp" and loader != "hyper-v" and len(digest) == 96
]


@pytest.mark.parametrize(("file", "loader", "digest"), OTHER_LOADERS)
def test_the_digest_of_another_loader_is_explained(file: str, loader: str, digest: str) -> None:
    path = shared(f"vectors/igvm/{file}.igvm")
    if file == "overlap_page_page":  # which nobody launches
        assert_refused(run("explain", str(path), "--platform", "snp", "--expect", digest), {1})
        return
    document = explain(str(path), "--platform", "snp", "--expect", digest)
    if not document["explained"]:
        assert (file, loader) in REFUSED
    elif not any("a profile" in change["typed"] for change in document["changes"]):
        reproduces(document, digest)


# --- what is printed can be typed ----------------------------------------------------------------


def typed(text: str, folder: Path) -> str:
    """The digest that a shell gets from the command line in a text answer."""
    line = next(line for line in text.splitlines() if line.startswith("  cvmplan measure"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", f"{line} --bare"],
        cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b""), line
    return done.stdout.decode()


LINES: Final = {
    "newline": "quiet\n",
    "quotes": 'it\'s "x" $HOME \\ `x`\n',
    "letters": "häuschen ☃\n",
}


@pytest.mark.parametrize("name", LINES)
def test_a_shell_takes_the_command_line(name: str, files: Path) -> None:
    boot = Boot(KERNEL, INITRD, LINES[name])
    digest = digest_of(files, snp(boot=boot))
    given = ["--kernel", str(files / "KERNEL"), "--initrd", str(files / "INITRD")]
    given += ["--append", LINES[name].removesuffix("\n"), "--expect", digest]
    assert typed(run("explain", str(files / "image.fd"), *given).out, files) == digest


@pytest.mark.parametrize("name", ["-x.fd", "a b.fd", "new\nline.fd", "quo'te.fd", "bytes\udcff.fd"])
def test_a_shell_takes_any_name(name: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    (files / name).write_bytes(IMAGE)
    digest = digest_of(files, snp(vcpus=3))
    result = run("explain", "--expect", digest, "--", name)
    assert typed(result.out, files) == digest


def test_a_shell_takes_a_file_made_of_two(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    whole = replace(good_snp(), size=VARS + 0x10000).build()
    (files / "my vars.fd").write_bytes(whole[:VARS])
    (files / "code.fd").write_bytes(whole[VARS:])
    digest = digest_of(files, snp(), whole)
    result = run("explain", "code.fd", "--expect", digest, "--try", "my vars.fd")
    assert typed(result.out, files) == digest


# --- manifests that boot a kernel ----------------------------------------------------------------


@pytest.fixture
def manifest(files: Path) -> str:
    document = {
        "schema": "cvmplan.manifest/1",
        "platform": "snp",
        "firmware": {"file": "image.fd"},
        "boot": {"kernel": {"file": "KERNEL"}, "initrd": {"file": "INITRD"}, "append": "quiet"},
    }
    (files / "m.json").write_text(json.dumps(document))
    return str(files / "m.json")


def test_the_kernel_of_a_manifest_cannot_be_left_out_and_that_is_said(
    manifest: str, files: Path
) -> None:
    document = explain(manifest, "--expect", digest_of(files, snp()), "--budget", "2")
    assert not document["explained"]
    assert any("the manifest names one" in what for what in document["not_searched"])


@pytest.mark.parametrize("boot", [Boot(KERNEL, None, "quiet"), Boot(KERNEL, INITRD)])
def test_initrd_and_command_line_of_a_manifest_can_be_other(
    boot: Boot, manifest: str, files: Path
) -> None:
    digest = digest_of(files, snp(boot=boot))
    reproduces(explain(manifest, "--expect", digest), digest)


def test_the_kernel_of_a_manifest_is_named_where_another_was_given(
    manifest: str, files: Path
) -> None:
    digest = digest_of(files, snp(boot=Boot(KERNEL, INITRD, "quiet")))
    document = explain(manifest, "--kernel-hash", "ab" * 32, "--expect", digest)
    assert "those of the manifest" in document["changes"][0]["why"]
    reproduces(document, digest)


def test_many_vcpus_are_found_beside_two_other_changes(files: Path) -> None:
    other = replace(good_snp(), seed="another build").build()
    (files / "other.fd").write_bytes(other)
    digest = digest_of(files, snp(vmm="gce", vcpus=1000), other)
    document = explain(
        str(files / "image.fd"), "--expect", digest, "--try", str(files / "other.fd")
    )
    reproduces(document, digest)


def test_a_single_bit_beside_very_many_vcpus_is_found(files: Path) -> None:
    digest = digest_of(files, snp(features=1 | 1 << 12, vcpus=3000))
    reproduces(explain(str(files / "image.fd"), "--expect", digest, "--budget", "300"), digest)


def test_what_was_searched_says_how_far(files: Path) -> None:
    document = explain(str(files / "image.fd"), "--expect", "ab" * 48, "--budget", "1")
    told = {entry["name"]: entry["values"] for entry in document["searched"]}
    assert told["vCPUs"].startswith("1 to ")
    assert "with 0 of the above" in told["vCPUs"]


# --- what cannot be found ------------------------------------------------------------------------


def test_other_bytes_are_said_to_be_impossible(files: Path) -> None:
    other = replace(good_snp(), seed="another build").build()
    digest = digest_of(files, snp(), other)
    result = run("explain", str(files / "image.fd"), "--expect", digest, "--budget", "5")
    assert (result.code, result.err) == (1, "")
    assert result.out.startswith("not explained: none of ")
    assert "different bytes of the image" in result.out
    assert "--try FILE" in result.out
    assert "a kernel that is booted directly: none was given" in result.out


def test_an_image_that_nobody_can_launch_says_why(files: Path) -> None:
    sections = [*(good_snp().sev_sections or []), SevSection(0x80D000, 0x1000, SEC_MEM)]
    (files / "bad.fd").write_bytes(replace(good_snp(), sev_sections=sections).build())
    result = run("explain", str(files / "bad.fd"), "--expect", "ab" * 48)
    assert_refused(result, {1})
    assert "gpa-mapped-twice" in result.err


def test_a_budget_ends_the_search(files: Path) -> None:
    document = explain(str(files / "image.fd"), "--expect", "ab" * 48, "--budget", "0.1")
    assert not document["complete"]
    assert any("--budget" in what for what in document["not_searched"])
    assert document["candidates"] > 0


WRONG: Final[dict[str, tuple[list[str], int]]] = {
    "no digest": ([], 2),
    "half a digest": (["--expect", "ab" * 20], 2),
    "a digest of another platform": (["--expect", "ab" * 32], 2),
    "a report that is none": (["--report", "KERNEL"], 4),
    "a report that is absent": (["--report", "nothing"], 3),
    "a kernel and its hash": (
        ["--expect", "ab" * 48, "--kernel", "KERNEL", "--kernel-hash", "ab" * 32],
        2,
    ),
    "both": (["--expect", "ab" * 48, "--report", "KERNEL"], 2),
    "a file to try that is absent": (["--expect", "ab" * 48, "--try", "nothing"], 3),
    "a budget that is none": (["--expect", "ab" * 48, "--budget", "0"], 2),
    "another format": (["--expect", "ab" * 48, "--format", "csv"], 2),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_questions_are_refused(name: str, files: Path) -> None:
    args, code = WRONG[name]
    paths = [str(files / w) if w == "KERNEL" else w for w in args]
    assert_refused(run("explain", str(files / "image.fd"), "--platform", "snp", *paths), {code})


# --- reports and quotes --------------------------------------------------------------------------


def report(
    version: int, digest: str, *, policy: int = 0x30000, cpu: bytes = b"\x19\x01\x01"
) -> bytes:
    """An SNP attestation report without a signature."""
    at = {0x8: struct.pack("<Q", policy), **({0x188: cpu} if version >= 3 else {})}
    return snp_report(None, version, measurement=bytes.fromhex(digest), at=at)


@pytest.mark.parametrize("version", [2, 3, 5])
def test_a_report_is_explained(version: int, files: Path) -> None:
    digest = digest_of(files, snp(vcpus=2, cpu="EPYC-Milan"))
    (files / "report").write_bytes(report(version, digest, policy=0xB0000))
    document = explain(str(files / "image.fd"), "--report", str(files / "report"))
    assert "--cpu EPYC-Milan" in " ".join(document["command"])
    assert f"version {version}" in document["evidence"]
    assert "signature" in document["evidence"]
    assert document["doubts"] == ["policy is 0xb0000, the launch has 0x30000: not measured"]


def test_the_processor_of_a_report_is_tried(files: Path) -> None:
    raw = 0xC00F21  # family 27: no model that is known
    page = [state(p, rdx=raw) for p in plain(2)]
    (files / "report").write_bytes(report(3, launched(page), cpu=bytes([27, 2, 1])))
    document = explain(str(files / "image.fd"), "--report", str(files / "report"))
    assert "--cpu 0xc00f21" in " ".join(document["command"])


def quote(version: int, digest: str) -> bytes:
    """A TDX quote of a TD that may be debugged."""
    return td_quote(intel(), version, mrtd=bytes.fromhex(digest), td_attributes=b"\1")


@pytest.mark.parametrize("version", [4, 5])
def test_a_quote_is_explained(version: int, tmp_path: Path) -> None:
    (tmp_path / "td.fd").write_bytes(tdx_image().build())
    (tmp_path / "quote").write_bytes(quote(version, mrtd(tdx_image(), two_pass=True)))
    document = explain(str(tmp_path / "td.fd"), "--report", str(tmp_path / "quote"))
    assert "--page-order two-pass" in " ".join(document["command"])
    assert document["doubts"] == [
        "attributes is 0x1, the launch has 0x10000000: not measured",
        "xfam is 0x0, the launch has 0x3: not measured",
    ]


SPOILED: Final[dict[str, Callable[[], bytes]]] = {
    "a report of version 1": lambda: report(1, "ab" * 48),
    "a report of version 0": lambda: report(0, "ab" * 48),
    "a quote of version 3": lambda: quote(3, "ab" * 48),
    "a quote that ends early": lambda: quote(4, "ab" * 48)[:300],
    "a quote with a body of another size": lambda: quote(5, "ab" * 48).replace(
        struct.pack("<HI", 2, 584), struct.pack("<HI", 2, 585)
    ),
    "a short report": lambda: report(2, "ab" * 48)[:-1],
}


@pytest.mark.parametrize("name", SPOILED)
def test_spoiled_evidence_is_refused(name: str, files: Path) -> None:
    (files / "evidence").write_bytes(SPOILED[name]())
    args = ["--platform", "snp", "--report", str(files / "evidence")]
    assert_refused(run("explain", str(files / "image.fd"), *args), {3, 4})


WAS: dict[str, tuple[Machine, tuple[str, ...], str, str]] = {
    "what SEV-ES has otherwise": (
        Machine(mode="sev-es", vcpus=2, features=0), ("--sev-features", "0x20"),
        "--sev-features 0x0", "0x20",
    ),
    "numbers of a CPU": (
        snp(cpu="EPYC-Genoa"), ("--family", "25", "--model", "1", "--stepping", "1"),
        "--cpu EPYC-Genoa", "0xa00f11",
    ),
    "a VMM that was assumed": (snp(vmm="ec2"), (), "--vmm ec2", "qemu"),
    "a number that was assumed": (snp(vcpus=3), (), "--vcpus 3", "1"),
}  # fmt: skip


@pytest.mark.parametrize("name", WAS)
def test_what_a_setting_was_is_what_the_launch_had(name: str, files: Path) -> None:
    truth, given, typed_now, was = WAS[name]
    digest = digest_of(files, truth)
    image = str(files / "image.fd")
    document = explain(image, "--platform", truth.mode, *given, "--expect", digest)
    found = {change["typed"]: change["was"] for change in document["changes"]}
    assert found[typed_now] == was


def test_features_that_sev_es_has_otherwise_are_zero(files: Path) -> None:
    states = [state(p, mxcsr=0, x87_fcw=0) for p in vmsas(2, 0x80B004, 0x20)]
    digest = hashlib.sha256(IMAGE + b"".join(states)).hexdigest()
    image = str(files / "image.fd")
    document = explain(image, "--platform", "sev-es", "--vcpus", "2", "--expect", digest)
    assert [(c["typed"], c["was"]) for c in document["changes"]] == [("--sev-features 0x20", "0x0")]
    reproduces(document, digest)
