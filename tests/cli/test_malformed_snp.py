"""SNP images spoiled in one place, and options out of range: refused, and never with a digest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

from tests.build.ovmf import (
    ASEV,
    HASHES,
    RESET_BLOCK,
    SECRETS,
    SEV_SECTIONS,
    SVSM_CAA,
    Ovmf,
    SevSection,
    good_snp,
)
from tests.run import Result, assert_refused, run

LAUNCH: Final = {1}  # the bytes are what they should be, the launch that they ask for is not
BYTES: Final = {3}  # a record breaks its specification, or is cut short
UNKNOWN: Final = {3, 4}  # not recognised, or malformed
EITHER: Final = {1, 3}  # a count or a layout: both readings are fair
ANY: Final = {1, 3, 4}
USAGE: Final = {2}

DIGITS: Final = 96  # of a SHA-384 in hex
KERNEL: Final = b"\x00kernel" * 100
ASEV_ROWS: Final = len(SEV_SECTIONS)
FREE: Final = 0x840000  # an address that no section of the good image has

Cli = Callable[..., Result]


@dataclass(frozen=True)
class Case:
    """An image, what it is measured with, and the exit codes that are right for it."""

    image: Ovmf | bytes
    codes: set[int]
    kernel: bool = False
    options: tuple[str, ...] = ()

    def data(self) -> bytes:
        """The bytes of the image."""
        return self.image.build() if isinstance(self.image, Ovmf) else self.image


GOOD: Final = good_snp()
IMAGE: Final = GOOD.build()
ONE_PAGE: Final = replace(GOOD, size=0x1000, zero_pages=()).build()


def with_section(index: int, **change: int) -> Ovmf:
    """The good image with one metadata section changed."""
    sections = list(SEV_SECTIONS)
    sections[index] = sections[index]._replace(**change)
    return replace(GOOD, sev_sections=sections)


def with_more(*sections: SevSection) -> Ovmf:
    """The good image with further metadata sections."""
    return replace(GOOD, sev_sections=[*SEV_SECTIONS, *sections])


def without(section_type: int) -> Ovmf:
    """The good image without its sections of one type."""
    return replace(GOOD, sev_sections=[s for s in SEV_SECTIONS if s.type != section_type])


LONG_HASHES: Final = replace(
    with_section(6, gpa=FREE, length=0x2000), hash_table=(FREE + 0xC00, 0x400)
)

FILE = {
    "empty_file": Case(b"", UNKNOWN),
    "file_of_10_bytes": Case(bytes(10), UNKNOWN),
    "file_of_49_bytes_below_the_footer": Case(IMAGE[-49:], UNKNOWN),
    "file_of_50_zero_bytes": Case(bytes(50), UNKNOWN),
    "file_of_4096_zero_bytes": Case(bytes(4096), UNKNOWN),
    "first_byte_cut": Case(IMAGE[1:], ANY),
    "last_byte_cut": Case(IMAGE[:-1], UNKNOWN),
    "first_2048_bytes_cut_with_the_table_intact": Case(ONE_PAGE[2048:], ANY),
    "one_byte_put_in_front": Case(b"\0" + ONE_PAGE, ANY),
}

TABLE = {
    "footer_guid_other": Case(replace(GOOD, footer_guid=ASEV), UNKNOWN),
    "footer_size_0": Case(replace(GOOD, footer_size=0), BYTES),
    "footer_size_17": Case(replace(GOOD, footer_size=17), BYTES),
    "footer_size_past_start_of_image": Case(replace(GOOD, footer_size=0xFFFF), BYTES),
    "entry_size_0": Case(replace(GOOD, entry_sizes={RESET_BLOCK: 0}), BYTES),
    "entry_size_17": Case(replace(GOOD, entry_sizes={RESET_BLOCK: 17}), BYTES),
    "entry_size_18": Case(replace(GOOD, entry_sizes={RESET_BLOCK: 18}), BYTES),
    "entry_size_past_start_of_table": Case(replace(GOOD, entry_sizes={RESET_BLOCK: 0x8000}), BYTES),
    "reset_block_empty": Case(replace(GOOD, reset_data=b""), EITHER),
    "reset_block_absent": Case(replace(GOOD, reset_eip=None), EITHER),
    "reset_block_absent_with_2_vcpus": Case(
        replace(GOOD, reset_eip=None), EITHER, options=("--vcpus", "2")
    ),
    "reset_eip_0": Case(replace(GOOD, reset_eip=0), EITHER),
    "reset_eip_0_with_2_vcpus": Case(replace(GOOD, reset_eip=0), EITHER, options=("--vcpus", "2")),
}

DESCRIPTOR = {
    "asev_entry_absent": Case(replace(GOOD, sev_sections=None), ANY),
    "asev_offset_0": Case(replace(GOOD, asev_offset=0), EITHER),
    "asev_offset_8_header_past_end": Case(replace(GOOD, asev_offset=8), EITHER),
    "asev_offset_past_start_of_image": Case(replace(GOOD, asev_offset=0xFFFFFFFF), EITHER),
    "asev_signature_other": Case(replace(GOOD, asev_signature=b"ASEW"), UNKNOWN),
    "asev_version_2": Case(replace(GOOD, asev_version=2), UNKNOWN),
    "asev_count_0": Case(replace(GOOD, asev_count=0), EITHER),
    "asev_count_below_length": Case(replace(GOOD, asev_count=ASEV_ROWS - 1), EITHER),
    "asev_count_above_length": Case(replace(GOOD, asev_count=ASEV_ROWS + 1), EITHER),
    "asev_count_huge": Case(replace(GOOD, asev_count=0xFFFFFFFF), EITHER),
    "asev_length_0": Case(replace(GOOD, asev_length=0), EITHER),
    "asev_length_huge": Case(replace(GOOD, asev_length=0xFFFFFFFF), EITHER),
    "asev_length_huge_and_count_200": Case(
        replace(GOOD, asev_length=0xFFFFFFFF, asev_count=200), EITHER
    ),
    "asev_without_sections": Case(replace(GOOD, sev_sections=[]), EITHER),
}

SECTION = {
    "section_type_0": Case(with_section(4, type=0), ANY),
    "section_type_5": Case(with_section(4, type=5), ANY),
    "section_type_0x101": Case(with_section(4, type=0x101), ANY),
    "section_size_0": Case(with_section(0, length=0), EITHER, options=("--abi", "kvm-6.18")),
    "section_size_not_whole_pages": Case(with_section(1, length=0x1800), EITHER),
    "section_gpa_unaligned": Case(with_section(0, gpa=0x800800), EITHER),
    "section_size_256_mib": Case(with_section(0, length=0x10000000), LAUNCH),
    "section_size_0xfffff000": Case(with_section(0, length=0xFFFFF000), LAUNCH),
    "section_past_4_gib": Case(with_section(4, gpa=0xFFFFF000, length=0x2000), LAUNCH),
    "section_over_the_firmware": Case(with_section(4, gpa=0xFFFFF000), LAUNCH),
    "sections_identical": Case(with_more(SEV_SECTIONS[0]), LAUNCH),
    "sections_overlapping": Case(with_section(1, gpa=0x808000), LAUNCH),
    "secrets_of_two_pages": Case(with_section(2, gpa=FREE, length=0x2000), EITHER),
    "secrets_twice": Case(with_more(SevSection(FREE, 0x1000, SECRETS)), EITHER),
    "cpuid_of_three_pages": Case(with_section(3, gpa=FREE, length=0x3000), EITHER),
    "cpuid_absent": Case(without(3), EITHER),
}

KERNEL_HASHES = {
    "hashes_of_two_pages": Case(LONG_HASHES, EITHER),
    "hashes_of_two_pages_with_kernel": Case(LONG_HASHES, EITHER, kernel=True),
    "hashes_twice_with_kernel": Case(
        with_more(SevSection(FREE, 0x1000, HASHES)), EITHER, kernel=True
    ),
    "hash_table_absent_with_kernel": Case(replace(GOOD, hash_table=None), ANY, kernel=True),
    "hash_table_at_0_with_kernel": Case(replace(GOOD, hash_table=(0, 0x400)), ANY, kernel=True),
    "hash_table_in_another_page_with_kernel": Case(
        replace(GOOD, hash_table=(0x900C00, 0x400)), EITHER, kernel=True
    ),
    "hash_table_of_size_0_with_kernel": Case(
        replace(GOOD, hash_table=(0x810C00, 0)), ANY, kernel=True
    ),
    "hash_table_across_its_page_with_kernel": Case(
        replace(GOOD, hash_table=(0x810FF8, 0x400)), EITHER, kernel=True
    ),
}

OPTION = {
    "vcpus_0": ("--vcpus=0",),
    "vcpus_negative": ("--vcpus=-1",),
    "vcpus_4097": ("--vcpus=4097",),
    "vcpus_100000": ("--vcpus=100000",),
    "sev_features_of_65_bits": ("--sev-features=0x10000000000000000",),
    "cpu_signature_negative": ("--cpu=-1",),
    "cpu_signature_of_41_bits": ("--cpu=0x10000000000",),
    "firmware_digest_short": ("--firmware-digest=abcd",),
    "firmware_digest_not_hex": (f"--firmware-digest={'g' * DIGITS}",),
    "family_without_model": ("--family=23",),
}

SPOILED = FILE | TABLE | DESCRIPTOR | SECTION | KERNEL_HASHES


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """A run of one verb on an image with one vCPU, unless the options say other."""

    def verb(name: str, image: bytes, *options: str) -> Result:
        file = tmp_path / "image.fd"
        file.write_bytes(image)
        vcpus = () if any(o.startswith("--vcpus") for o in options) else ("--vcpus", "1")
        bare = ("--bare",) if name == "measure" else ()
        return run(name, str(file), "--platform", "snp", *vcpus, *bare, *options)

    return verb


@pytest.fixture
def kernel(tmp_path: Path) -> tuple[str, ...]:
    """Options for a kernel that is there."""
    file = tmp_path / "bzImage"
    file.write_bytes(KERNEL)
    return ("--kernel", str(file))


@pytest.mark.parametrize("case", SPOILED.values(), ids=SPOILED)
def test_measure_refuses(case: Case, cli: Cli, kernel: tuple[str, ...]) -> None:
    options = (*kernel, *case.options) if case.kernel else case.options
    assert_refused(cli("measure", case.data(), *options), case.codes)


@pytest.mark.parametrize("case", SPOILED.values(), ids=SPOILED)
def test_check_does_not_pass(case: Case, cli: Cli, kernel: tuple[str, ...]) -> None:
    options = (*kernel, *case.options) if case.kernel else case.options
    result = cli("check", case.data(), *options)
    assert result.code in case.codes, f"{result}"
    assert "Traceback" not in result.out + result.err


@pytest.mark.parametrize("options", OPTION.values(), ids=OPTION)
def test_measure_refuses_option(options: tuple[str, ...], cli: Cli) -> None:
    assert_refused(cli("measure", IMAGE, *options), USAGE)


def test_measure_refuses_a_kernel_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    result = cli("measure", IMAGE, "--kernel", str(tmp_path / "absent"))
    assert_refused(result, BYTES)


def test_measure_refuses_an_image_that_is_not_there(tmp_path: Path) -> None:
    result = run("measure", str(tmp_path / "absent.fd"), "--platform", "snp", "--bare")
    assert_refused(result, BYTES)


def test_overlap_names_both_sections(cli: Cli) -> None:
    result = cli("check", with_section(1, gpa=0x808000).build())
    assert "SEV metadata section 0" in result.out
    assert "SEV metadata section 1" in result.out


def accepted(result: Result) -> str:
    """The digest of a run that went well."""
    assert result.code == 0, f"{result}"
    assert len(result.out) == DIGITS
    assert set(result.out) <= set("0123456789abcdef")
    return result.out


# sev-snp-measure 0.0.13: --mode snp --vcpus N --vcpu-type EPYC-v4 --guest-features 0x1
PEER = {
    1: (
        "3af4e7650248a9717a1ceb61496e5a40206060a10fefdb7c"
        "d537b0f61ec15619e73a7e8e15760bd7e463fd3ab33229b1"
    ),
    2: (
        "4090fc124e3cbb6303f9aaeb98aec8d8fd6c723a103898c8"
        "564f10a1407c3a0442dad10da54e2caf757ded05b0d55d45"
    ),
}


@pytest.mark.parametrize("vcpus", PEER)
def test_good_image_measures_as_sev_snp_measure_has_it(vcpus: int, cli: Cli) -> None:
    assert accepted(cli("measure", IMAGE, f"--vcpus={vcpus}")) == PEER[vcpus]
    assert cli("check", IMAGE, f"--vcpus={vcpus}").code == 0


def test_image_of_8_mib_is_accepted(cli: Cli) -> None:
    padding = bytes(0x800000 - len(IMAGE))
    assert accepted(cli("measure", padding + IMAGE)) == (
        "fea1a59a51dc8a6305ec32d4f5f30cadf24f11fb5495ea51"
        "63966b8550a81cf9bcb5db50d3e99ecf3ab339f44e979182"
    )


def test_sev_features_0_is_accepted(cli: Cli) -> None:
    accepted(cli("measure", IMAGE, "--sev-features", "0"))


def test_4096_vcpus_are_accepted(cli: Cli) -> None:
    accepted(cli("measure", IMAGE, "--vcpus", "4096"))


def test_empty_command_line_without_kernel_changes_nothing(cli: Cli) -> None:
    assert accepted(cli("measure", IMAGE, "--append", "")) == PEER[1]


def test_space_at_the_end_of_the_command_line_is_measured(
    cli: Cli, kernel: tuple[str, ...]
) -> None:
    plain = accepted(cli("measure", IMAGE, *kernel, "--append", "console=ttyS0"))
    spaced = accepted(cli("measure", IMAGE, *kernel, "--append", "console=ttyS0 "))
    assert plain == (
        "f41e32ba54c5439cd0517c75f86fbf41881c56b006ab9d1a"
        "17642d07bed0a0d53c7e623922b842e339353ee8f7464ca3"
    )
    assert spaced == (
        "f82fd9b817239edb6114deed2a4a89d0e24299f79177d3a6"
        "d5b4c68ebaf90eab9506c905ecd284daac0fd40517171d57"
    )


def test_image_without_a_section_that_may_be_absent_is_accepted(cli: Cli) -> None:
    accepted(cli("measure", without(SVSM_CAA).build()))
    accepted(cli("measure", without(HASHES).build()))
