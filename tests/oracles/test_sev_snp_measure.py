"""Our digests equal those of virtee/sev-snp-measure, the peer that is installed from PyPI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

from tests.build.ovmf import HASHES, SEV_SECTIONS, Ovmf, good_snp
from tests.build.svsm import good_svsm
from tests.oracles import AMDSEV, firmware_image
from tests.oracles.peer import (
    EPYC_V4,
    MODES,
    VMMS,
    Boot,
    Machine,
    guest,
    theirs,
    vcpu_types,
)
from tests.run import run

Compare = Callable[[bytes, Machine], None]
KERNEL: Final = b"MZ kernel" * 1000
INITRD: Final = b"initrd" * 333


@pytest.fixture
def compare(tmp_path: Path) -> Compare:
    """Assert that both programs give the same digest for an image."""

    def write(name: str, data: bytes | None) -> str:
        if data is None:
            return ""
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    def both(image: bytes, machine: Machine) -> None:
        file = write("image.fd", image)
        boot = machine.boot
        kernel = write("kernel", boot.kernel if boot else None)
        initrd = write("initrd", boot.initrd if boot else None)
        assert ours(file, kernel, initrd, machine) == theirs(file, kernel, initrd, machine)

    return both


# --- both programs -----------------------------------------------------------------------------


def ours(file: str, kernel: str, initrd: str, machine: Machine) -> str:
    """Our digest, from the command line."""
    args = ["--platform", machine.mode, "--vmm", machine.vmm, *machine.options]
    if machine.mode != "sev":
        args += ["--vcpus", str(machine.vcpus), "--cpu", machine.cpu]
        args += ["--sev-features", hex(machine.features)]
    for name, value in (("--kernel", kernel), ("--initrd", initrd)):
        args += [name, value] if value else []
    if machine.boot and machine.boot.append is not None:
        args += ["--append", machine.boot.append]
    if machine.firmware_digest:
        args += ["--firmware-digest", machine.firmware_digest]
    result = run("measure", file, *args, "--bare")
    assert (result.code, result.err) == (0, "")
    return result.out


# --- SNP, SEV, SEV-ES --------------------------------------------------------------------------


def hashes_amid() -> Ovmf:
    """A firmware with the hashes section amid the others, as edk2 had it until 2024."""
    hashes = [s for s in SEV_SECTIONS if s.type == HASHES]
    others = [s for s in SEV_SECTIONS if s.type != HASHES]
    return replace(good_snp(), sev_sections=[*others[:2], *hashes, *others[2:]])


IMAGES: Final[dict[str, Callable[[], bytes]]] = {
    "good_snp": lambda: good_snp().build(),
    "hashes_amid": lambda: hashes_amid().build(),
    "debian": lambda: firmware_image(AMDSEV, "OVMF.amdsev.fd").read_bytes(),
}
BOOTS: Final = {
    "no_kernel": None,
    "kernel_alone": Boot(KERNEL),
    "kernel_empty": Boot(b"", b"", ""),
    "append_empty": Boot(KERNEL, INITRD, ""),
    "append": Boot(KERNEL, INITRD, "console=ttyS0 loglevel=7"),
    "append_without_initrd": Boot(KERNEL, None, "quiet"),
    "append_with_spaces_around": Boot(KERNEL, INITRD, "  console=ttyS0  "),
    "append_of_one_space": Boot(KERNEL, INITRD, " "),
    "append_with_newline_at_end": Boot(KERNEL, INITRD, "quiet\n"),
    "append_like_an_option": Boot(KERNEL, INITRD, "--debug"),
    "append_not_ascii": Boot(KERNEL, INITRD, "root=/dev/häuschen ☃ 𝄞"),
}
FULL: Final = BOOTS["append"]


@pytest.mark.parametrize("vcpus", [1, 2, 4, 64, 4096])
@pytest.mark.parametrize("vmm", VMMS)
@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_snp_digest_is_the_peers(
    compare: Compare, image: Callable[[], bytes], vmm: str, vcpus: int
) -> None:
    compare(image(), Machine(vmm=vmm, vcpus=vcpus))
    compare(image(), Machine(vmm=vmm, vcpus=vcpus, features=0x21, boot=FULL))


@pytest.mark.parametrize("boot", BOOTS.values(), ids=BOOTS)
@pytest.mark.parametrize("mode", ["snp", "sev", "sev-es"])
def test_direct_boot_is_measured_to_the_byte(
    compare: Compare, mode: str, boot: Boot | None
) -> None:
    options = ("--es-init", "init2") if mode == "sev-es" else ()
    features = 1 if mode == "snp" else 0
    compare(good_snp().build(), Machine(mode=mode, features=features, boot=boot, options=options))


def test_hashes_of_files_measure_as_the_files(tmp_path: Path) -> None:
    image, kernel, initrd = (tmp_path / name for name in ("image.fd", "kernel", "initrd"))
    for file, data in ((image, good_snp().build()), (kernel, KERNEL), (initrd, INITRD)):
        file.write_bytes(data)
    append = "console=ttyS0"
    hashes = {"kernel": KERNEL, "initrd": INITRD, "append": append.encode() + b"\0"}
    options = [part for n, d in hashes.items() for part in (f"--{n}-hash", sha256(d).hexdigest())]
    with_files = Machine(boot=Boot(KERNEL, INITRD, append))
    assert ours(str(image), "", "", Machine(options=tuple(options))) == theirs(
        str(image), str(kernel), str(initrd), with_files
    )


@pytest.mark.parametrize("vmm", VMMS)
@pytest.mark.parametrize("features", [0x0, 0x1, 0x21, 0x3F, 1 << 63 | 1])
def test_sev_features_are_measured(compare: Compare, vmm: str, features: int) -> None:
    compare(good_snp().build(), Machine(vmm=vmm, vcpus=2, features=features))


@pytest.mark.parametrize("cpu", vcpu_types.CPU_SIGS)
@pytest.mark.parametrize("mode", ["snp", "sev-es"])
def test_each_cpu_model_of_the_peer_is_known(compare: Compare, mode: str, cpu: str) -> None:
    options = ("--es-init", "init2") if mode == "sev-es" else ()
    features = 1 if mode == "snp" else 0
    machine = Machine(mode=mode, vcpus=2, cpu=cpu, features=features, options=options)
    compare(good_snp().build(), machine)


@pytest.mark.parametrize("vmm", ["ec2", "gce"])
def test_cpu_model_means_nothing_on_these_clouds(compare: Compare, vmm: str) -> None:
    compare(good_snp().build(), Machine(vmm=vmm, vcpus=2, cpu="EPYC-Genoa"))


NEWER: Final = {
    "EPYC-v5": "EPYC",
    "EPYC-Rome-v4": "EPYC-Rome",
    "EPYC-Rome-v5": "EPYC-Rome",
    "EPYC-Milan-v3": "EPYC-Milan",
    "EPYC-Genoa-v2": "EPYC-Genoa",
    "EPYC-Turin-v1": "EPYC-Turin",
    "EPYC-Turin-v2": "EPYC-Turin",
}  # QEMU's versions that the peer does not list; versions of a model share its signature


@pytest.mark.parametrize(("version", "model"), NEWER.items())
def test_a_newer_version_measures_as_its_model(version: str, model: str, tmp_path: Path) -> None:
    image = tmp_path / "image.fd"
    image.write_bytes(good_snp().build())
    measured = ours(str(image), "", "", Machine(cpu=version))
    assert measured == theirs(str(image), "", "", Machine(cpu=model))


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("boot", [None, FULL], ids=["no_kernel", "kernel"])
def test_sev_digest_is_the_peers(
    compare: Compare, image: Callable[[], bytes], boot: Boot | None
) -> None:
    compare(image(), Machine(mode="sev", boot=boot))


@pytest.mark.parametrize("gpa", [0x810000, 0x810010, 0x810C00, 0x810F50])
@pytest.mark.parametrize("mode", ["sev", "sev-es"])
def test_the_hash_table_is_measured_to_the_byte_wherever_it_lies(
    compare: Compare, mode: str, gpa: int
) -> None:
    image = replace(good_snp(), hash_table=(gpa, 0x400))
    options = ("--es-init", "init2") if mode == "sev-es" else ()
    compare(image.build(), Machine(mode=mode, features=0, boot=FULL, options=options))


def test_sev_needs_neither_metadata_nor_an_entry_for_processors(compare: Compare) -> None:
    image = replace(good_snp(), sev_sections=None, reset_eip=None)
    compare(image.build(), Machine(mode="sev"))
    compare(image.build(), Machine(mode="sev", boot=FULL))


@pytest.mark.parametrize("vcpus", [1, 2, 4, 64])
@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_sev_es_digest_after_init2_is_the_peers(
    compare: Compare, image: Callable[[], bytes], vcpus: int
) -> None:
    machine = Machine(mode="sev-es", vcpus=vcpus, features=0, options=("--es-init", "init2"))
    compare(image(), machine)
    compare(image(), replace(machine, boot=FULL))


@pytest.mark.parametrize("vmm", VMMS)
@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_firmware_digest_replaces_the_firmware_in_both(
    compare: Compare, image: Callable[[], bytes], vmm: str, tmp_path: Path
) -> None:
    file = tmp_path / "firmware.fd"
    file.write_bytes(image())
    digest = guest.calc_snp_ovmf_hash(str(file)).hex()
    machine = Machine(vmm=vmm, vcpus=2, boot=FULL)
    compare(image(), replace(machine, firmware_digest=digest))
    compare(image(), replace(machine, firmware_digest="5a" * 48))
    assert theirs(str(file), "", "", Machine(vmm=vmm, firmware_digest=digest)) == ours(
        str(file), "", "", Machine(vmm=vmm)
    )


# --- SVSM --------------------------------------------------------------------------------------


@pytest.mark.parametrize("vcpus", [1, 4])
@pytest.mark.parametrize("cpu", [EPYC_V4, "EPYC-Genoa"])
@pytest.mark.parametrize(("vars_size", "length"), [("0x84000", 0x84000), ("4KiB", 0x1000)])
@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_svsm_digest_is_the_peers(
    image: Callable[[], bytes], vars_size: str, length: int, cpu: str, vcpus: int, tmp_path: Path
) -> None:
    file, svsm = tmp_path / "image.fd", tmp_path / "svsm.bin"
    file.write_bytes(image())
    svsm.write_bytes(good_svsm().build())
    peer: bytes = guest.calc_launch_digest(
        MODES["svsm"],
        vcpus,
        vcpu_types.CPU_SIGS[cpu],
        str(file),
        "",
        "",
        "",
        1,
        svsm_file=str(svsm),
        ovmf_vars_size=length,
    )
    below = ("--svsm", str(svsm), "--vars-size", vars_size)
    machine = Machine(vmm="svsm-qemu", vcpus=vcpus, cpu=cpu, options=below)
    assert ours(str(file), "", "", machine) == peer.hex()
