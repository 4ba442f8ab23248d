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
SECRETS_PAGE, CPUID_PAGE = 2, 3  # of which there is exactly one page


def seeds(kind: str) -> Iterator[Random]:
    for number in range(COUNT):
        yield Random(f"{kind} {number}")  # noqa: S311 launches are drawn, no keys


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
