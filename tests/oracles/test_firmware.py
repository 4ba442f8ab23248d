"""The models of AMD's firmware against digests made by others, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.build.ovmf import CPUID as CPUID_SECTION
from tests.build.ovmf import GIB_4, SEV_SECTIONS, Ovmf, SevSection, good_snp
from tests.build.ovmf import HASHES as HASHES_SECTION
from tests.build.ovmf import SECRETS as SECRETS_SECTION
from tests.oracles import vector
from tests.oracles.firmware import (
    CPUID,
    NORMAL,
    PAGE,
    SECRETS,
    UNMEASURED,
    VMSA,
    VMSA_GPA,
    ZERO,
    FakePsp,
    FakeSev,
    Refused,
    hash_table,
    vmsas,
)

BLANK = bytes(PAGE)
POLICY = 0x30000
EPYC_V4 = 0x800F12


# --- SNP ---------------------------------------------------------------------------------------


def psp() -> FakePsp:
    """A launch that has started."""
    fake = FakePsp()
    fake.launch_start(POLICY)
    return fake


def psp_adds(fake: FakePsp, page_type: int, gpa: int, data: bytes) -> None:
    """Add every page of `data`."""
    for offset in range(0, len(data), PAGE):
        fake.launch_update(page_type, gpa + offset, data[offset : offset + PAGE])


def snp_digest(
    image: bytes,
    sections: tuple[SevSection, ...],
    vmsas: list[bytes],
    hashes: bytes | None = None,
) -> str:
    """The launch digest as QEMU and KVM hand the pages over, page by page."""
    types = {SECRETS_SECTION: SECRETS, CPUID_SECTION: CPUID}
    fake = psp()
    psp_adds(fake, NORMAL, GIB_4 - len(image), image)
    for gpa, length, section in sections:
        if section == HASHES_SECTION and hashes is not None:
            psp_adds(fake, NORMAL, gpa, hashes)
        else:
            psp_adds(fake, types.get(section, ZERO), gpa, bytes(length))
    for vmsa in vmsas:
        fake.launch_update(VMSA, VMSA_GPA, vmsa)
    fake.launch_finish()
    return fake.digest.hex()


@pytest.mark.parametrize(
    ("page_type", "digest"),
    [
        (
            NORMAL,
            (
                "1ef58146b29937229db9c09edd5a124a1a77ffa91be387be7524e7a85fd0c2b1"
                "ed9ffd0536219fb839457a25c6f46923"
            ),
        ),
        (
            ZERO,
            (
                "5e14cb95bc5d25c06332ea13f6e879e8dc65bda502b958108c4b63d6427ea443"
                "bdb15adb5b23cc82eb76f2bb680b9122"
            ),
        ),
        (
            UNMEASURED,
            (
                "52385399f1e50f65a001cb23ab3088de70a284b931087a42533dd9d3bb6c9fe5"
                "b67e9e683541acc6a35ebc8602371595"
            ),
        ),
    ],
    ids=["normal", "zero", "unmeasured"],
)
def test_one_empty_page_of_each_type(page_type: int, digest: str) -> None:
    fake = psp()
    fake.launch_update(page_type, 0x100000, BLANK)
    fake.launch_finish()
    assert fake.digest.hex() == digest


def test_three_zero_pages_of_gce_tcb_verifier() -> None:
    fake = psp()
    psp_adds(fake, ZERO, 0x9000, bytes(3 * PAGE))
    assert fake.running.hex() == (
        "4bfe18477ba370a50329da74b9621e721c4f29663176e08fbcf088a17c1bc45f"
        "133898b86d5082acbe202a6e9419808a"
    )


def test_three_normal_pages_of_gce_tcb_verifier() -> None:
    fake = psp()
    psp_adds(fake, NORMAL, 0, vector("snp/derived/gce_update_3pages.bin"))
    assert fake.running.hex() == (
        "cba1cd767c33b30f96271837dbbae4081a945464a5af397b9b0336b5d8759ee8"
        "8cc6b62c05d915c4424a9ac5747437d4"
    )


# The fixture is the last page of an AmdSev image; its hashes section is not the last one.
SUFFIX = "snp/fixtures/ovmf_AmdSev_suffix.bin"
SUFFIX_SECTIONS = (
    *SEV_SECTIONS[:5],
    SEV_SECTIONS[6],
    SevSection(0x811000, 0xF000, 1),
)


def test_firmware_without_a_kernel_as_sev_snp_measure_has_it() -> None:
    digest = snp_digest(vector(SUFFIX), SUFFIX_SECTIONS, vmsas(1, 0x80B004, 0x21))
    assert digest == (
        "e1e1ca029dd7973ab9513295be68198472dcd4fc834bd9af9b63f6e8a1674dbf"
        "281a9278a4a2ebe0eed9f22adbcd0e2b"
    )


def test_four_vcpus_with_kernel_hashes_as_sev_snp_measure_has_them() -> None:
    hashes = (bytes(0xC00) + hash_table(b"", b"", "")).ljust(PAGE, b"\0")
    digest = snp_digest(vector(SUFFIX), SUFFIX_SECTIONS, vmsas(4, 0x80B004, 1), hashes)
    assert digest == (
        "5061fffb019493a903613d56d54b94912a1a2f9e4502385f5c194616753720a9"
        "2441310ba6c4933de877c36e23046ad5"
    )


@pytest.mark.parametrize("vcpus", [1, 3])
@pytest.mark.parametrize("image", [Ovmf(), good_snp()], ids=["default", "good_snp"])
def test_sev_snp_measure_accepts_the_built_image(image: Ovmf, vcpus: int, tmp_path: Path) -> None:
    guest = pytest.importorskip("sevsnpmeasure.guest")
    mode = pytest.importorskip("sevsnpmeasure.sev_mode").SevMode.SEV_SNP
    file = tmp_path / "image.fd"
    file.write_bytes(image.build())
    peer = guest.calc_launch_digest(mode, vcpus, EPYC_V4, str(file), "", "", "", 1)
    assert snp_digest(image.build(), SEV_SECTIONS, vmsas(vcpus, 0x80B004, 1)) == peer.hex()


SNP_REFUSED: dict[str, Callable[[FakePsp], None]] = {
    "page_added_twice": lambda p: p.launch_update(NORMAL, 0x1000, BLANK),
    "page_added_again_with_another_type": lambda p: p.launch_update(ZERO, 0x1000, BLANK),
    "vmsa_added_over_a_page": lambda p: p.launch_update(VMSA, 0x1000, BLANK),
    "page_added_over_a_vmsa": lambda p: p.launch_update(ZERO, VMSA_GPA, BLANK),
    "vmsa_added_twice_elsewhere": lambda p: p.launch_update(VMSA, 0x2000, BLANK),
    "gpa_unaligned": lambda p: p.launch_update(NORMAL, 0x3800, BLANK),
    "gpa_past_52_bits": lambda p: p.launch_update(NORMAL, 1 << 52, BLANK),
    "gpa_negative": lambda p: p.launch_update(NORMAL, -PAGE, BLANK),
    "page_short": lambda p: p.launch_update(NORMAL, 0x4000, BLANK[1:]),
    "page_type_0": lambda p: p.launch_update(0, 0x4000, BLANK),
    "page_type_7": lambda p: p.launch_update(7, 0x4000, BLANK),
    "started_twice": lambda p: p.launch_start(POLICY),
}


@pytest.mark.parametrize("command", SNP_REFUSED.values(), ids=SNP_REFUSED)
def test_psp_refuses(command: Callable[[FakePsp], None]) -> None:
    fake = psp()
    fake.launch_update(NORMAL, 0x1000, BLANK)
    fake.launch_update(VMSA, 0x2000, BLANK)
    fake.launch_update(VMSA, VMSA_GPA, BLANK)
    fake.launch_update(VMSA, VMSA_GPA, BLANK)  # of the second vCPU
    before = fake.running
    with pytest.raises(Refused):
        command(fake)
    assert fake.running == before


def test_psp_refuses_commands_out_of_order() -> None:
    fake = FakePsp()
    with pytest.raises(Refused):
        fake.launch_update(NORMAL, 0, BLANK)
    with pytest.raises(Refused):
        fake.launch_finish()
    with pytest.raises(Refused):
        fake.launch_start(0x10000)
    fake.launch_start(POLICY)
    fake.launch_finish()
    with pytest.raises(Refused):
        fake.launch_update(NORMAL, 0, BLANK)
    with pytest.raises(Refused):
        fake.launch_finish()
    assert fake.digest == bytes(48)


# --- SEV and SEV-ES ----------------------------------------------------------------------------


def sev() -> FakeSev:
    """A launch that has started."""
    fake = FakeSev()
    fake.launch_start()
    return fake


def test_sev_with_kernel_hashes_as_sev_snp_measure_has_it() -> None:
    fake = sev()
    fake.update_data(vector(SUFFIX))
    fake.update_data(hash_table(b"", b"", "console=ttyS0 loglevel=7"))
    assert fake.measure().hex() == (
        "82a3ee5d537c3620628270c292ae30cb40c3c878666a7890ee7ef2a08fb535ff"
    )


def test_sev_es_with_four_vcpus_as_sev_snp_measure_has_it() -> None:
    fake = sev()
    fake.update_data(vector(SUFFIX))
    fake.update_data(hash_table(b"", b"", ""))
    for page in vmsas(4, 0x80B004, 0):
        fake.update_vmsa(page)
    assert fake.measure().hex() == (
        "0dccbcaba8e90b261bd0d2e1863a2f9da714768b7b2a19363cd6ae35aa90de91"
    )


def test_sev_refuses_commands_out_of_order() -> None:
    fake = FakeSev()
    early: list[Callable[[], object]] = [
        lambda: fake.update_data(BLANK),
        lambda: fake.update_vmsa(BLANK),
        fake.measure,
        fake.finish,
    ]
    for command in early:
        with pytest.raises(Refused):
            command()
    fake.launch_start()
    with pytest.raises(Refused):
        fake.update_data(bytes(17))
    fake.measure()
    late: list[Callable[[], object]] = [
        lambda: fake.update_data(BLANK),
        fake.measure,
        fake.launch_start,
    ]
    for command in late:
        with pytest.raises(Refused):
            command()
    fake.finish()
    with pytest.raises(Refused):
        fake.finish()
