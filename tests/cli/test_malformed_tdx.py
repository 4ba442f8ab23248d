"""TDX images spoiled in one place: refused, in bounded time, and never with a measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

from tests.build.ovmf import (
    ASEV,
    BFV,
    GIB_4,
    MR_EXTEND,
    PAGE_AUG,
    RESET_BLOCK,
    TD_HOB,
    TDX,
    Ovmf,
    TdxSection,
    good_tdx,
    tdx_sections,
)
from tests.oracles.firmware import CHUNK, PAGE, FakeTdxModule
from tests.run import Result, assert_refused, run

LAUNCH: Final = {1}  # the bytes are what they should be, the launch that they ask for is not
BYTES: Final = {3}  # a record breaks its specification, or is cut short
UNKNOWN: Final = {3, 4}  # not recognised, or malformed
EITHER: Final = {1, 3}  # a count or a layout: both readings are fair
ANY: Final = {1, 3, 4}

DIGITS: Final = 96  # of a SHA-384 in hex
SECONDS: Final = 10  # a page each would take minutes
FREE: Final = 0x1000000  # an address that no section of the good image has
TIB: Final = 1 << 40

GOOD: Final = good_tdx()
IMAGE: Final = GOOD.build()
CFV_SIZE: Final = 0x2000
SECTIONS: Final = tdx_sections(GOOD.size, CFV_SIZE)
CODE, VARS, HEAP, MAILBOX, HOB, PAGE_TABLES = range(6)
ROWS: Final = len(SECTIONS)

Cli = Callable[..., Result]


@dataclass(frozen=True)
class Case:
    """An image and the exit codes that are right for it."""

    image: Ovmf | bytes
    codes: set[int]

    def data(self) -> bytes:
        """The bytes of the image."""
        return self.image.build() if isinstance(self.image, Ovmf) else self.image


def with_section(index: int, **change: int) -> Ovmf:
    """The good image with one section changed."""
    sections = list(SECTIONS)
    sections[index] = sections[index]._replace(**change)
    return replace(GOOD, tdx_sections=sections)


def with_more(section: TdxSection) -> Ovmf:
    """The good image with one more section."""
    return replace(GOOD, tdx_sections=[*SECTIONS, section])


def without(section_type: int) -> Ovmf:
    """The good image without its sections of one type."""
    return replace(GOOD, tdx_sections=[s for s in SECTIONS if s.type != section_type])


FILE = {
    "code_split_from_its_variables": Case(IMAGE[CFV_SIZE:], EITHER),
    "empty_file": Case(b"", UNKNOWN),
    "file_of_49_bytes": Case(IMAGE[-49:], UNKNOWN),
    "one_byte_put_in_front": Case(b"\0" + IMAGE, EITHER),
}

TABLE = {
    "footer_guid_other": Case(replace(GOOD, footer_guid=ASEV), UNKNOWN),
    "footer_size_0": Case(replace(GOOD, footer_size=0), BYTES),
    "footer_size_17": Case(replace(GOOD, footer_size=17), BYTES),
    "first_entry_size_0": Case(replace(GOOD, entry_sizes={RESET_BLOCK: 0}), BYTES),
    "tdx_entry_size_0": Case(replace(GOOD, entry_sizes={TDX: 0}), BYTES),
    "tdx_entry_size_18": Case(replace(GOOD, entry_sizes={TDX: 18}), BYTES),
    "tdx_entry_absent": Case(replace(GOOD, tdx_sections=None), ANY),
}

DESCRIPTOR = {
    "tdvf_offset_past_start_of_image": Case(replace(GOOD, tdvf_offset=0xFFFFFFFF), EITHER),
    "tdvf_offset_0": Case(replace(GOOD, tdvf_offset=0), EITHER),
    "tdvf_signature_other": Case(replace(GOOD, tdvf_signature=b"TDVG"), UNKNOWN),
    "tdvf_version_2": Case(replace(GOOD, tdvf_version=2), UNKNOWN),
    "tdvf_length_0": Case(replace(GOOD, tdvf_length=0), EITHER),
    "tdvf_length_huge": Case(replace(GOOD, tdvf_length=0xFFFFFFFF), EITHER),
    "tdvf_count_below_length": Case(replace(GOOD, tdvf_count=ROWS - 1), EITHER),
    "tdvf_count_above_length": Case(replace(GOOD, tdvf_count=ROWS + 1), EITHER),
    "tdvf_count_huge": Case(replace(GOOD, tdvf_count=0xFFFFFFFF), EITHER),
    "tdvf_count_0": Case(replace(GOOD, tdvf_count=0), EITHER),
    "tdvf_without_sections": Case(replace(GOOD, tdx_sections=[]), EITHER),
    "legacy_pointer_past_end": Case(replace(GOOD, legacy=True, tdvf_offset=0xFFFFFFF0), UNKNOWN),
    "legacy_pointer_from_the_end": Case(replace(GOOD, legacy=True, tdvf_offset=PAGE - 16), UNKNOWN),
}

CONFLICT = {
    "sections_identical": (with_more(SECTIONS[HEAP]), HEAP, ROWS),
    "sections_overlapping": (with_section(HOB, gpa=0x80A000), MAILBOX, HOB),
    "section_over_the_firmware": (with_section(HEAP, gpa=GIB_4 - PAGE, mem=PAGE), CODE, HEAP),
    "temp_mem_of_1_tib_over_the_others": (with_section(HEAP, mem=TIB), VARS, HEAP),
}

SECTION = {
    "td_hob_twice": Case(with_more(TdxSection(0, 0, FREE, PAGE, TD_HOB, 0)), EITHER),
    "td_hob_absent": Case(without(TD_HOB), EITHER),
    "code_absent": Case(without(BFV), EITHER),
    "type_9": Case(with_section(HEAP, type=9), ANY),
    "code_augmented": Case(with_section(CODE, attr=PAGE_AUG), EITHER),
    "variables_augmented": Case(with_section(VARS, attr=PAGE_AUG), EITHER),
    "code_extended_and_augmented": Case(with_section(CODE, attr=MR_EXTEND | PAGE_AUG), EITHER),
    "code_not_measured": Case(with_section(CODE, attr=0), EITHER),
    "code_raw_below_memory": Case(with_section(CODE, raw=0x5000), EITHER),
    "code_raw_above_memory": Case(with_section(CODE, mem=0x5000), EITHER),
    "code_raw_0": Case(with_section(CODE, raw=0), EITHER),
    "code_past_end": Case(with_section(CODE, data_offset=0x3000), EITHER),
    "code_offset_wraps_32_bits": Case(with_section(CODE, data_offset=0xFFFFF000), EITHER),
    "temp_mem_measured": Case(with_section(HEAP, attr=MR_EXTEND), EITHER),
    "temp_mem_with_raw_data": Case(with_section(HEAP, raw=PAGE), EITHER),
    "temp_mem_of_1_tib": Case(with_section(HEAP, gpa=TIB, mem=TIB), ANY),
    "memory_0": Case(with_section(HEAP, mem=0), EITHER),
    "memory_not_whole_pages": Case(with_section(HEAP, mem=0x1800), EITHER),
    "gpa_unaligned": Case(with_section(HEAP, gpa=FREE + 0x800), EITHER),
    "gpa_at_the_shared_bit": Case(with_section(HEAP, gpa=1 << 47), LAUNCH),
    "gpa_reaches_the_shared_bit": Case(
        with_section(HEAP, gpa=(1 << 47) - PAGE, mem=2 * PAGE), LAUNCH
    ),
    "gpa_of_53_bits": Case(with_section(HEAP, gpa=1 << 52), LAUNCH),
    "gpa_wraps": Case(with_section(HEAP, gpa=(1 << 64) - PAGE, mem=2 * PAGE), LAUNCH),
}

SPOILED = (
    FILE
    | TABLE
    | DESCRIPTOR
    | SECTION
    | {name: Case(image, LAUNCH) for name, (image, _, _) in CONFLICT.items()}
)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """A run of one verb on an image with one vCPU."""

    def verb(name: str, image: bytes, *options: str) -> Result:
        file = tmp_path / "image.fd"
        file.write_bytes(image)
        bare = ("--bare",) if name == "measure" else ()
        return run(name, str(file), "--platform", "tdx", "--vcpus", "1", *bare, *options)

    return verb


@pytest.mark.parametrize("case", SPOILED.values(), ids=SPOILED)
def test_measure_refuses(case: Case, cli: Cli) -> None:
    data = case.data()
    start = time.monotonic()
    result = cli("measure", data)
    assert time.monotonic() - start < SECONDS
    assert_refused(result, case.codes)


@pytest.mark.parametrize("case", SPOILED.values(), ids=SPOILED)
def test_check_does_not_pass(case: Case, cli: Cli) -> None:
    data = case.data()
    start = time.monotonic()
    result = cli("check", data)
    assert time.monotonic() - start < SECONDS
    assert result.code in case.codes, f"{result}"
    assert "Traceback" not in result.out + result.err


@pytest.mark.parametrize(("image", "first", "second"), CONFLICT.values(), ids=CONFLICT)
def test_a_conflict_names_both_sections(image: Ovmf, first: int, second: int, cli: Cli) -> None:
    message = cli("measure", image.build()).err
    assert f"TDX metadata section {first}" in message
    assert f"TDX metadata section {second}" in message


def accepted(result: Result) -> str:
    """The measurement of a run that went well."""
    assert result.code == 0, f"{result}"
    assert len(result.out) == DIGITS
    assert set(result.out) <= set("0123456789abcdef")
    return result.out


def mrtd(image: bytes, sections: list[TdxSection], gpaw: int = 48) -> str:
    """The measurement of these sections, added and extended page by page."""
    fake = FakeTdxModule(gpaw)
    fake.mng_init()
    fake.vp_init()
    tables: set[tuple[int, int]] = set()
    for section in sections:
        data = image[section.data_offset : section.data_offset + section.raw]
        data = data.ljust(section.mem, b"\0")
        for offset in range(0, section.mem, PAGE):
            gpa = section.gpa + offset
            for level in (3, 2, 1) if gpaw == 48 else (4, 3, 2, 1):
                start = gpa >> (12 + 9 * level) << (12 + 9 * level)
                if (level, start) not in tables:
                    fake.mem_sept_add(level, start)
                    tables.add((level, start))
            fake.mem_page_add(gpa, data[offset : offset + PAGE])
            if section.attr & MR_EXTEND:
                for chunk in range(gpa, gpa + PAGE, CHUNK):
                    fake.mr_extend(chunk)
    fake.mr_finalize()
    return fake.digest.hex()


@pytest.mark.parametrize("image", [GOOD, replace(GOOD, legacy=True)], ids=["guid_table", "legacy"])
def test_good_image_measures_as_the_module_has_it(image: Ovmf, cli: Cli) -> None:
    data = image.build()
    assert accepted(cli("measure", data)) == mrtd(data, SECTIONS)
    assert cli("check", data).code == 0


def test_shared_bit_moves_with_the_address_width(cli: Cli) -> None:
    image = with_section(HEAP, gpa=1 << 47)
    data = image.build()
    digest = accepted(cli("measure", data, "--gpaw", "52"))
    assert digest == mrtd(data, image.tdx_sections or [], gpaw=52)


def test_padding_of_raw_data_is_zeros_or_the_file(cli: Cli) -> None:
    image = with_section(CODE, raw=0x5000)
    data = image.build()
    zeros = accepted(cli("measure", data, "--pad", "zero"))
    file = accepted(cli("measure", data, "--pad", "file"))
    assert zeros == mrtd(data, image.tdx_sections or [])
    assert file == mrtd(data, SECTIONS)
    assert zeros != file


def test_padding_of_a_section_that_is_not_measured_needs_no_choice(cli: Cli) -> None:
    data = with_section(VARS, raw=PAGE).build()
    assert accepted(cli("measure", data)) == mrtd(data, SECTIONS)
