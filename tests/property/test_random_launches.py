"""
Random launches against sev-snp-measure and models of our own, written from the specifications.

A few of each kind in the suite; CVMPLAN_RANDOM=2000 makes as many of each kind as it says.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import pytest

from tests.build.igvm import (
    CPUID_DATA,
    KVM_VMSA,
    NORMAL,
    SECRETS,
    SEV_SNP,
    SHARED,
    UNMEASURED,
    Igvm,
    filling,
    vmsa,
)
from tests.build.ovmf import (
    GIB_4,
    MR_EXTEND,
    PAGE,
    SEV_SECTIONS,
    TEMP_MEM,
    Ovmf,
    SevSection,
    TdxSection,
    good_tdx,
)
from tests.oracles.firmware import CHUNK, vmsas
from tests.run import run

COUNT: Final = int(os.environ.get("CVMPLAN_RANDOM", "40"))
LOADERS: Final = ("hyper-v", "qemu", "openvmm", "cloud-hypervisor", "igvmmeasure")
KVM: Final = ("qemu", "openvmm", "cloud-hypervisor")
SECRETS_PAGE, CPUID_PAGE = 2, 3  # of which there is exactly one page
# What Cloud Hypervisor does not set, and KVM's reset values of it (offset, format, value).
KEPT: Final = (
    (0x268, "<Q", 0x7040600070406), (0x3E8, "<Q", 1), (0x168, "<Q", 0xFFFF0FF0),
    (0x160, "<Q", 0x400), (0x408, "<I", 0x1F80), (0x410, "<H", 0x37F),
)  # fmt: skip


def seeds(kind: str) -> Iterator[Random]:
    for number in range(COUNT):
        yield Random(f"{kind} {number}")  # noqa: S311 launches are drawn, no keys


def folded(digest: bytes, page_type: int, gpa: int, page: bytes) -> bytes:
    """Return the launch digest after a page (AMD 56860, PAGE_INFO)."""
    contents = hashlib.sha384(page).digest() if page_type in (1, 2) else bytes(48)
    info = digest + contents + struct.pack("<HBBIQ", 0x70, page_type, 0, 0, gpa)
    return hashlib.sha384(info).digest()


# --- firmware ------------------------------------------------------------------------------------


def firmware(random: Random) -> Ovmf:
    """Return an image whose sections are in a random order, some of them cut in two or empty."""
    sections: list[SevSection] = []
    for gpa, length, kind in random.sample(SEV_SECTIONS, len(SEV_SECTIONS)):
        cut = random.randrange(0, length, PAGE) if kind == 1 else 0
        empty = random.random() < 0.1 and kind not in (SECRETS_PAGE, CPUID_PAGE)
        sections += [SevSection(gpa, cut, kind)] if cut or empty else []
        sections.append(SevSection(gpa + cut, length - cut, kind))
    size = random.choice((2, 4, 8, 33)) * PAGE
    return Ovmf(
        size=size,
        seed=str(random.random()),
        zero_pages=tuple(random.sample(range(size // PAGE - 1), 1)),
        sev_sections=sections,
        reset_eip=random.choice((0x80B004, 0x1234, 0xFFFFF000)),
    )


@pytest.mark.parametrize("mode", ["snp", "sev", "sev-es"])
def test_random_firmware_measures_as_the_peer_says(mode: str, tmp_path: Path) -> None:
    peer = pytest.importorskip("tests.oracles.peer", reason="sev-snp-measure is not installed")
    file = tmp_path / "image.fd"
    for random in seeds(mode):
        file.write_bytes(firmware(random).build())
        machine = peer.Machine(
            mode,
            random.choice(("qemu", "ec2", "gce")) if mode == "snp" else "qemu",
            random.choice((1, 2, 3, 16)),
            random.choice(("EPYC-v4", "EPYC-Milan", "EPYC-Genoa", "EPYC-Rome")),
            random.choice((0x1, 0x21)) if mode == "snp" else 0,
        )
        options = ["--platform", mode, "--vmm", machine.vmm]
        if mode != "sev":
            options += ["--vcpus", str(machine.vcpus), "--cpu", machine.cpu]
            options += ["--sev-features", hex(machine.features)]
        options += ["--es-init", "init2"] if mode == "sev-es" else []
        ours = run("measure", str(file), *options, "--bare")
        assert (ours.out, ours.err) == (peer.theirs(str(file), "", "", machine), "")


def mrtd(image: bytes, sections: list[TdxSection], *, all_extended: bool) -> str:
    """Return MRTD, page by page (Intel 348551, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND)."""
    register = hashlib.sha384()
    for section in sections:
        data = image[section.data_offset : section.data_offset + section.raw]
        data = data.ljust(section.mem, b"\0")
        for at in range(0, section.mem, PAGE):
            gpa = section.gpa + at
            register.update(struct.pack("<16sQ104x", b"MEM.PAGE.ADD", gpa))
            if section.attr & MR_EXTEND or all_extended:
                for chunk in range(0, PAGE, CHUNK):
                    register.update(struct.pack("<16sQ104x", b"MR.EXTEND", gpa + chunk))
                    register.update(data[at + chunk : at + chunk + CHUNK])
    return register.hexdigest()


def test_random_td_firmware_measures_as_the_model_says(tmp_path: Path) -> None:
    file = tmp_path / "image.fd"
    for random in seeds("tdx"):
        image = good_tdx()
        image.seed = str(random.random())
        assert image.tdx_sections is not None
        more = [
            TdxSection(0, 0, 0x100000 + n * 0x10000, PAGE * random.randint(1, 5), TEMP_MEM,
                       random.choice((0, MR_EXTEND)))
            for n in range(random.randrange(4))
        ]  # fmt: skip
        image.tdx_sections = random.sample(
            [*image.tdx_sections, *more], len(image.tdx_sections) + len(more)
        )
        data = image.build()
        assert len(data) <= GIB_4
        file.write_bytes(data)
        for vmm, extended in (("qemu", False), ("gce", False), ("gce-2024", True)):
            options = ("--platform", "tdx", "--vmm", vmm, "--pad", "zero")
            ours = run("measure", str(file), *options, "--bare")
            wanted = mrtd(data, image.tdx_sections, all_extended=extended)
            assert (ours.out, ours.err) == (wanted, "")


def test_random_files_without_any_table_are_their_own_sev_digest(tmp_path: Path) -> None:
    file = tmp_path / "rom.fd"
    for random in seeds("rom"):
        data = b"\0" + random.randbytes(PAGE * random.randint(1, 20) - 1)
        file.write_bytes(data)
        ours = run("measure", str(file), "--platform", "sev", "--bare")
        assert (ours.out, ours.err) == (hashlib.sha256(data).hexdigest(), "")
        count = random.randint(1, 4)
        options = ("--vcpus", str(count), "--reset-eip", "0x80b004", "--es-init", "init2")
        ours = run("measure", str(file), "--platform", "sev-es", *options, "--bare")
        states = b"".join(vmsas(count, 0x80B004, 0))
        assert (ours.out, ours.err) == (hashlib.sha256(data + states).hexdigest(), "")


# --- IGVM ----------------------------------------------------------------------------------------


def as_kvm(page: bytes, loader: str) -> bytes:
    """Return the VMSA that KVM builds: SVME and MCE set, and what the loader leaves alone kept."""
    made = bytearray(page)
    if loader == "cloud-hypervisor":
        for offset, form, value in KEPT:
            struct.pack_into(form, made, offset, value)
    efer, cr4 = (struct.unpack_from("<Q", made, at)[0] for at in (0xD0, 0x148))
    struct.pack_into("<Q", made, 0xD0, efer | 0x1000)
    struct.pack_into("<Q", made, 0x148, cr4 | 0x40)
    return bytes(made)


def type_of(loader: str, data: bytes | None, flags: int, data_type: int) -> int | None:
    """Return the SNP page type, None for a page that is left out (spec/igvm.md 2.1)."""
    shared = flags & SHARED
    if shared and loader == "hyper-v":
        return None
    if data_type == SECRETS:
        return 5
    if data_type == CPUID_DATA:
        return 6
    if flags & UNMEASURED:
        return 4
    if shared and loader == "openvmm":
        return None
    return 3 if data is None and loader == "cloud-hypervisor" else 1


def state(random: Random) -> bytes:
    """Return a VMSA with random values where loaders and KVM differ; KVM can set all of them."""
    page = bytearray(vmsa())
    for offset in (0xD0, 0x148, 0x160, 0x168, 0x170, 0x178, 0x1D8, 0x1F8, 0x268, 0x308, 0x3E8):
        struct.pack_into("<Q", page, offset, random.getrandbits(32))
    struct.pack_into("<I", page, 0x408, random.getrandbits(16))
    return bytes(page)


def test_random_igvm_files_measure_as_the_model_says(tmp_path: Path) -> None:
    path = tmp_path / "image.igvm"
    for random in seeds("igvm"):
        file = Igvm().platform(SEV_SNP, 1).policy(0x30000, 1)
        wanted = dict.fromkeys(LOADERS, bytes(48))
        gpa = 0x1000 * random.randint(1, 64)
        for number in range(random.randint(1, 12)):
            data = filling(f"{random.random()}") if random.random() < 0.7 else None
            flags = random.choice((0, 0, 0, UNMEASURED, SHARED))
            data_type = random.choice((NORMAL,) * 6 + (SECRETS, CPUID_DATA)) if not flags else 0
            file = file.page(gpa, data, 1, flags=flags, data_type=data_type)
            for loader in LOADERS:
                kind = type_of(loader, data, flags, data_type)
                if kind is not None:
                    wanted[loader] = folded(wanted[loader], kind, gpa, data or bytes(PAGE))
            gpa += PAGE * random.randint(1, 3)
            del number
        page = state(random)
        path.write_bytes(file.vp_context(KVM_VMSA, page, 1).build())
        for loader in LOADERS:
            last = as_kvm(page, loader) if loader in KVM else page
            digest = folded(wanted[loader], 2, KVM_VMSA, last)
            abi = ("--abi", "kvm-7.3") if loader in KVM else ()
            ours = run("measure", str(path), "--platform", "snp", "--vmm", loader, *abi, "--bare")
            if wanted[loader] == bytes(48):  # no page is added: nothing could start
                assert ours.code == 1
                continue
            assert (loader, ours.out, ours.err) == (loader, digest.hex(), "")
