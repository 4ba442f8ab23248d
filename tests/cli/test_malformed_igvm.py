"""
IGVM files spoiled in one place: refused, and never with a digest; and each page given twice.

What is right comes from ../shared/spec/igvm.md, sections 1.3, 1.4 and 6, and from what
../shared/vectors/igvm/vectors.json expects of its malformed files.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha384
from pathlib import Path
from typing import Any, Final

import pytest

from tests.build import igvm
from tests.build.igvm import (
    AARCH64,
    CCA_POLICY,
    CORIM_DOCUMENT,
    CORIM_SIGNATURE,
    ERROR_RANGE,
    GUEST_POLICY,
    IS_2MB,
    KVM_VMSA,
    LAYOUTS,
    NATIVE,
    OPTIONAL,
    PAGE,
    PAGE_DATA,
    PAGE_TABLE_REGION,
    PARAMETER_AREA,
    PARAMETER_INSERT,
    PARAMETERS,
    RELOCATABLE_REGION,
    REQUIRED_MEMORY,
    RESERVED_DO_NOT_USE,
    SEV,
    SEV_ES,
    SEV_SNP,
    SHARED,
    SNP_ID_BLOCK,
    SNP_POLICY,
    SUPPORTED_PLATFORM,
    TDX,
    UNMEASURED,
    VBS_REGISTERS,
    VP_CONTEXT,
    VP_COUNT,
    VSM_ISOLATION,
    Igvm,
    filling,
    good_cca,
    good_everything,
    good_multi,
    good_sev,
    good_sev_es,
    good_snp,
    good_tdx,
    good_v2_native,
    good_vbs,
    native_context,
    vbs_registers,
    vmsa,
)
from tests.oracles import VECTORS, vector
from tests.run import Result, assert_refused, run

LAUNCH: Final = {1}  # the bytes are what they should be, the launch that they ask for is not
BYTES: Final = {3}  # a record breaks its specification, or is cut short
UNKNOWN: Final = {3, 4}  # not recognised, not supported, or malformed
EITHER: Final = {1, 3}  # a field or the launch: both readings are fair
ANY: Final = {1, 3, 4}

NAME: Final = "image.igvm"
SECONDS: Final = 30  # in which a file must be refused that makes other readers hang
ADDRESS_SPACE: Final = 1536 << 20  # bytes that are enough to refuse it
ROOT: Final = Path(__file__).parents[2]
MALFORMED: Final = "igvm/malformed"

Cli = Callable[..., Result]


@dataclass(frozen=True)
class Case:
    """A file, the exit codes that are right for it, and what it is launched as, by whom."""

    file: Igvm | bytes
    codes: set[int]
    platform: str = "snp"
    vmm: str = "hyper-v"

    def data(self) -> bytes:
        """The bytes of the file."""
        return self.file.build() if isinstance(self.file, Igvm) else self.file


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """A run of one verb on a file."""

    def verb(
        name: str, image: bytes | Igvm, *options: str, platform: str = "snp", vmm: str = "hyper-v"
    ) -> Result:
        file = tmp_path / NAME
        file.write_bytes(image.build() if isinstance(image, Igvm) else image)
        return run(name, str(file), "--platform", platform, "--vmm", vmm, *options)

    return verb


def limited(tmp_path: Path, image: bytes, *options: str) -> Result:
    """A run in a process of its own with little memory and little time."""
    file = tmp_path / NAME
    file.write_bytes(image)
    program = (
        "import resource, sys; "
        f"resource.setrlimit(resource.RLIMIT_AS, ({ADDRESS_SPACE}, {ADDRESS_SPACE})); "
        "from cvmplan.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    verb, *rest = options
    command = [sys.executable, "-c", program, verb, str(file), *rest]
    done = subprocess.run(
        command, cwd=ROOT, timeout=SECONDS, capture_output=True, text=True, check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)


def assert_places(result: Result, codes: set[int]) -> None:
    """Refused, in one line that names the file and gives a reason."""
    assert_refused(result, codes)
    assert re.match(rf"error: .*{re.escape(NAME)}\S*: .+", result.err), f"{result}"


def assert_not_passed(result: Result, codes: set[int]) -> None:
    """`check` prints findings with an error among them, or refuses the file."""
    assert result.code in codes, f"{result}"
    assert "Traceback" not in result.out + result.err
    if result.code != 1:
        assert_places(result, codes)


def assert_not_swallowed(result: Result, verb: str, codes: set[int]) -> None:
    """The file was refused; `inspect` may print what it declares all the same."""
    assert result.code in codes | ({0} if verb == "inspect" else set()), f"{result}"
    assert "Traceback" not in result.out + result.err


def findings(result: Result) -> list[dict[str, Any]]:
    """What `check --format json` found."""
    assert result.code in {0, 1}, f"{result}"
    found: list[dict[str, Any]] = json.loads(result.out)["findings"]
    return found


def of_rule(result: Result, rule: str) -> list[dict[str, Any]]:
    """The findings of one rule."""
    return [one for one in findings(result) if one["rule"] == rule]


def digest_of(result: Result) -> str:
    """The digest of a `measure --bare` that went well."""
    assert result.code == 0, f"{result}"
    assert re.fullmatch("[0-9a-f]{96}|[0-9a-f]{64}", result.out), f"{result}"
    return result.out


def launch_digest(file: Igvm, mask: int = 1) -> str:
    """The SNP digest in file order (specification, section 2.1, column of the crate)."""
    digest, areas = bytes(48), dict[Any, Any]()

    def add(kind: int, gpa: Any, data: bytes | None) -> None:
        nonlocal digest
        contents = sha384(data).digest() if data is not None else bytes(48)
        info = struct.pack("<HBBIQ", 0x70, kind, 0, 0, gpa)
        digest = sha384(digest + contents + info).digest()

    for header in file.headers:
        values = header.values
        if header.type == PARAMETER_AREA:
            areas[values["index"]] = values["number_of_bytes"]
        if not int(values.get("mask", 0)) & mask:
            continue
        if header.type == PARAMETER_INSERT:
            for page in range(0, areas[values["index"]], PAGE):
                add(4, int(values["gpa"]) + page, None)
        elif header.type == VP_CONTEXT:
            add(2, values["gpa"], header.data)
        elif header.type == PAGE_DATA and not int(values["flags"]) & SHARED:
            if values["data_type"] == igvm.NORMAL and not int(values["flags"]) & UNMEASURED:
                add(1, values["gpa"], header.data or bytes(PAGE))
            else:
                add({0: 4, 1: 5, 2: 6, 3: 6}[int(values["data_type"])], values["gpa"], None)
    return digest.hex()


# Files that others made.

REJECTED = {
    "bad_magic": UNKNOWN,
    "bad_crc": BYTES,
    "truncated_varhdr": BYTES,
    "empty": UNKNOWN,
    "varhdr_size_huge": BYTES,
    "hdr_length_huge": BYTES,
    "unaligned_gpa": EITHER,
    "param_area_huge": ANY,
    "insert_wraps": EITHER,
    "gpa_beyond_52bit": LAUNCH,
    "offset_past_eof": BYTES,
    "page_datatype_4": UNKNOWN,
    "platform_mask_two_bits": BYTES,
    "platform_missing": BYTES,
    "init_after_directive": BYTES,
    "unknown_type_required": UNKNOWN,
    "param_undeclared": BYTES,
    "v2_page_64k": UNKNOWN,
    "error_range_overlap_page": LAUNCH,
    "no_file_data": LAUNCH,  # and so no VMSA, without which no vCPU starts
}
ACCEPTED = ("unknown_type_optional", "padding_nonzero")
DOUBTFUL = ("page_mask_zero", "two_idblocks")  # each has a test of its own
HUGE = (
    "gpa_beyond_52bit",
    "hdr_length_huge",
    "insert_wraps",
    "offset_past_eof",
    "param_area_huge",
    "varhdr_size_huge",
)


def malformed(name: str) -> bytes:
    """One of those files; the test is skipped where it is absent."""
    return vector(f"{MALFORMED}/{name}.igvm")


def expected() -> dict[str, str]:
    """What the specification expects of each of them."""
    rows = json.loads(vector("igvm/vectors.json"))["malformed"]
    return {row["name"]: row["expected_by_spec"] for row in rows}


def test_every_malformed_vector_is_tested_as_the_specification_expects() -> None:
    wanted = expected()
    assert set(wanted) == {*REJECTED, *ACCEPTED, *DOUBTFUL}
    for name in {*REJECTED} - {"no_file_data"}:  # legal by itself, and starts nothing
        assert wanted[name].startswith("reject")
    for name in ACCEPTED:
        assert not wanted[name].startswith("reject")
    files = {file.stem for file in (VECTORS / MALFORMED).glob("*.igvm")}
    assert files == set(wanted)


@pytest.mark.parametrize("name", REJECTED)
def test_measure_refuses_vector(name: str, cli: Cli) -> None:
    assert_places(cli("measure", malformed(name)), REJECTED[name])


@pytest.mark.parametrize("name", REJECTED)
def test_check_does_not_pass_vector(name: str, cli: Cli) -> None:
    assert_not_passed(cli("check", malformed(name)), REJECTED[name])


@pytest.mark.parametrize("verb", ["inspect", "check", "map", "plan", "measure"])
@pytest.mark.parametrize("name", HUGE)
def test_vector_is_refused_in_little_memory_and_time(name: str, verb: str, tmp_path: Path) -> None:
    platform = () if verb == "inspect" else ("--platform", "snp")
    result = limited(tmp_path, malformed(name), verb, *platform)
    assert_not_swallowed(result, verb, REJECTED[name])


@pytest.mark.parametrize("name", ACCEPTED)
def test_vector_is_accepted(name: str, cli: Cli) -> None:
    digest_of(cli("measure", malformed(name), "--bare"))
    assert cli("check", malformed(name)).code == 0


def test_vector_with_padding_that_is_not_zero_measures_as_the_crate_has_it(cli: Cli) -> None:
    row = next(
        row
        for row in json.loads(vector("igvm/vectors.json"))["malformed"]
        if row["name"] == "padding_nonzero"
    )
    start = row["igvm_crate_release"].removeprefix("accept: SEV_SNP=")
    assert digest_of(cli("measure", malformed("padding_nonzero"), "--bare")).startswith(start)


def test_vector_with_padding_that_is_not_zero_has_a_warning(cli: Cli) -> None:
    (found,) = of_rule(
        cli("check", malformed("padding_nonzero"), "--format", "json"), "non-zero-padding"
    )
    assert found["severity"] == "warning"


def test_vector_with_a_page_for_no_platform_has_a_finding(cli: Cli) -> None:
    found = findings(cli("check", malformed("page_mask_zero"), "--format", "json"))
    assert any("header 7" in json.dumps(one) for one in found), f"{found}"


def test_vector_with_a_page_beyond_52_bits_is_out_of_range(cli: Cli) -> None:
    assert of_rule(
        cli("check", malformed("gpa_beyond_52bit"), "--format", "json"), "gpa-out-of-range"
    )


def test_vector_with_an_error_range_over_a_page_maps_it_twice(cli: Cli) -> None:
    data = malformed("error_range_overlap_page")
    assert_names(cli("check", data, "--format", "json"), (7, 0xB8), (18, 0x218))


def test_vector_with_two_id_blocks_is_refused_by_the_loaders_that_take_one(cli: Cli) -> None:
    data = malformed("two_idblocks")
    assert not of_rule(cli("check", data, "--format", "json"), "loader-refuses")
    digest_of(cli("measure", data, "--bare"))
    for vmm in ("qemu", "cloud-hypervisor"):
        result = cli("check", data, "--format", "json", vmm=vmm)
        refused = of_rule(result, "loader-refuses")
        assert result.code == 1
        assert any("block" in json.dumps(one).lower() for one in refused), f"{refused}"


# Good files.

GOOD: Final[dict[str, tuple[Callable[[], Igvm], str, str]]] = {
    "snp": (good_snp, "snp", "hyper-v"),
    "tdx": (good_tdx, "tdx", "hyper-v"),
    "vbs": (good_vbs, "vbs", "hyper-v"),
    "multi_as_snp": (good_multi, "snp", "hyper-v"),
    "multi_as_tdx": (good_multi, "tdx", "hyper-v"),
    "multi_as_vbs": (good_multi, "vbs", "hyper-v"),
    "sev": (good_sev, "sev", "qemu"),
    "sev_es": (good_sev_es, "sev-es", "qemu"),
    "v2_native_as_snp": (good_v2_native, "snp", "hyper-v"),
    "v2_native_as_tdx": (good_v2_native, "tdx", "hyper-v"),
    "snp_on_qemu": (good_snp, "snp", "qemu"),
    "snp_on_cloud_hypervisor": (good_snp, "snp", "cloud-hypervisor"),
    "snp_on_openvmm": (good_snp, "snp", "openvmm"),
    "everything_as_tdx": (good_everything, "tdx", "hyper-v"),
    "everything_as_vbs": (good_everything, "vbs", "hyper-v"),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_file_is_accepted(name: str, cli: Cli) -> None:
    made, platform, vmm = GOOD[name]
    result = cli("check", made(), platform=platform, vmm=vmm)
    assert result.code == 0, f"{result}"
    digest_of(cli("measure", made(), "--bare", platform=platform, vmm=vmm))


@pytest.mark.parametrize("made", [good_snp, good_multi, good_v2_native])
def test_good_file_measures_in_file_order(made: Callable[[], Igvm], cli: Cli) -> None:
    assert digest_of(cli("measure", made(), "--bare")) == launch_digest(made())


def with_id_block(**values: int | bytes) -> Igvm:
    """The good file with an ID block that is right for it, fields aside."""
    ld = bytes.fromhex(launch_digest(good_snp()))
    return good_snp().id_block(1, **{"ld": ld, **values})


def test_file_with_a_header_of_every_type_is_accepted(cli: Cli) -> None:
    file = good_everything()
    file.spoil(SNP_ID_BLOCK, ld=bytes.fromhex(launch_digest(file)))
    result = cli("check", file)
    assert result.code == 0, f"{result}"
    assert digest_of(cli("measure", file, "--bare")) == launch_digest(file)


# Spoiled files.

START: Final = good_snp().at(len(good_snp().headers))  # of the file data
FILE_SIZE: Final = len(good_snp().build())


def cut(size: int) -> bytes:
    """The good file's first bytes."""
    return good_snp().build()[:size]


FIXED = {
    "file_of_3_bytes": Case(b"IGV", UNKNOWN),
    "file_of_the_magic_alone": Case(b"IGVM", BYTES),
    "file_of_23_bytes": Case(cut(23), BYTES),
    "file_of_the_fixed_header_alone": Case(cut(24), BYTES),
    "version_2_cut_in_its_fixed_header": Case(good_v2_native().build()[:28], BYTES),
    "file_cut_in_its_headers": Case(cut(200), BYTES),
    "last_byte_cut": Case(cut(FILE_SIZE - 1), BYTES),
    "trailing_byte": Case(good_snp().build() + b"\0", BYTES),
    "trailing_page": Case(good_snp().build() + bytes(PAGE), BYTES),
    "magic_other": Case(good_snp().fixed(magic=b"IGVN"), UNKNOWN),
    "version_0": Case(good_snp().fixed(format_version=0), UNKNOWN),
    "version_3": Case(good_snp().fixed(format_version=3), UNKNOWN),
    "total_file_size_0": Case(good_snp().fixed(total_file_size=0), BYTES),
    "total_file_size_below_the_file": Case(good_snp().fixed(total_file_size=FILE_SIZE - 1), BYTES),
    "total_file_size_above_the_file": Case(good_snp().fixed(total_file_size=FILE_SIZE + 1), BYTES),
    "total_file_size_huge": Case(good_snp().fixed(total_file_size=0xFFFFFFFF), BYTES),
    "checksum_0": Case(good_snp().fixed(checksum=0), BYTES),
    "checksum_of_version_2_without_its_last_8_bytes": Case(
        igvm.with_checksum(good_v2_native().build(), 24), BYTES
    ),
    "architecture_aarch64_with_an_snp_platform": Case(
        good_v2_native().fixed(architecture=AARCH64), UNKNOWN
    ),
    "architecture_2": Case(good_v2_native().fixed(architecture=2), UNKNOWN),
    "page_size_64k": Case(good_v2_native().fixed(page_size=0x10000), UNKNOWN),
    "page_size_0": Case(good_v2_native().fixed(page_size=0), UNKNOWN),
    "page_size_no_power_of_two": Case(good_v2_native().fixed(page_size=0x1800), UNKNOWN),
    "variable_header_offset_0": Case(good_snp().fixed(variable_header_offset=0), BYTES),
    "variable_header_offset_in_the_fixed_header": Case(
        good_snp().fixed(variable_header_offset=16), BYTES
    ),
    "variable_header_offset_in_the_fixed_header_of_version_2": Case(
        good_v2_native().fixed(variable_header_offset=24), BYTES
    ),
    "variable_header_offset_past_the_file": Case(
        good_snp().fixed(variable_header_offset=FILE_SIZE + 8 & ~7), BYTES
    ),
    "variable_header_offset_huge": Case(good_snp().fixed(variable_header_offset=0xFFFFFFF8), BYTES),
    "variable_header_size_0": Case(good_snp().fixed(variable_header_size=0), BYTES),
    "variable_header_size_ends_in_a_payload": Case(
        good_snp().fixed(variable_header_size=START - 24 - 8), BYTES
    ),
    "variable_header_size_ends_in_a_type_and_length": Case(
        good_snp().fixed(variable_header_size=28), BYTES
    ),
    "variable_header_size_reaches_into_the_data": Case(
        good_snp().fixed(variable_header_size=START - 24 + 4), BYTES
    ),
    "variable_header_size_past_the_file": Case(
        good_snp().fixed(variable_header_size=FILE_SIZE), BYTES
    ),
    "variable_header_size_0xfffffff0": Case(
        good_snp().fixed(variable_header_size=0xFFFFFFF0), BYTES
    ),
    "variable_header_size_that_wraps_with_its_offset": Case(
        good_snp().fixed(variable_header_size=2**32 - 24), BYTES
    ),
}


def moved_by(gap: int) -> Igvm:
    """The good file with bytes between its headers that the checksum does not cover."""
    file = good_snp()
    file.gap = bytes(gap)
    return file


def of_length(length: int, file: Igvm | None = None, kind: int = PAGE_DATA) -> Igvm:
    """A file, the good one, where a header says that it has another length."""
    file = good_snp() if file is None else file
    file.header(kind).length = length
    return file


FRAMING = {
    "variable_header_offset_not_aligned_to_8": Case(moved_by(4), BYTES),
    "header_length_0": Case(of_length(0), BYTES),
    "header_length_of_16": Case(of_length(16), BYTES),
    "header_length_past_the_headers": Case(of_length(START), BYTES),
    "header_length_0xffffffff": Case(of_length(0xFFFFFFFF), BYTES),
    "header_length_that_wraps_with_its_head": Case(of_length(0xFFFFFFF8), BYTES),
    "header_length_that_wraps_to_its_own_start": Case(of_length(0xFFFFFFF0), BYTES),
    "optional_header_past_the_headers": Case(
        of_length(0x1000, good_snp().raw(OPTIONAL | 0x314, b""), OPTIONAL | 0x314), BYTES
    ),
}

TYPES = {
    f"type_{kind:#x}": Case(good_snp().raw(kind, bytes(8)), UNKNOWN)
    for kind in (
        0x0,
        0x2,
        0x100,
        0x107,
        0x200,
        0x201,
        0x300,
        RESERVED_DO_NOT_USE,
        0x314,
        0x400,
        0x401,
        0x7FFFFFFF,
    )
}


def home_of(kind: int) -> Igvm:
    """A good file with a header of this type."""
    return good_cca() if kind == CCA_POLICY else good_everything()


LENGTHS = {
    f"{word}_header_of_type_{kind:#x}": Case(home_of(kind).resize(kind, change), UNKNOWN)
    for kind in LAYOUTS
    for word, change in {"short": -8, "shortened": -1, "long": 8}.items()
}

ORDER = {
    "policy_after_directives": Case(good_snp().policy(SNP_POLICY, 1), BYTES),
    "platform_after_the_policy": Case(good_snp().platform(TDX, 2).move(-1, 2), BYTES),
    "platform_after_directives": Case(good_snp().platform(TDX, 2), BYTES),
}


def platform_with(**values: int) -> Igvm:
    """The good file with another platform header."""
    return good_snp().spoil(SUPPORTED_PLATFORM, **values)


PLATFORM = {
    "no_headers": Case(Igvm(), BYTES),
    "no_platform": Case(good_snp().drop(SUPPORTED_PLATFORM), BYTES),
    "platform_mask_0": Case(platform_with(mask=0), BYTES),
    "platform_mask_of_two_bits": Case(platform_with(mask=3), BYTES),
    "platform_mask_of_all_bits": Case(platform_with(mask=0xFFFFFFFF), BYTES),
    "two_platforms_with_one_mask": Case(good_snp().platform(TDX, 1).move(-1, 1), BYTES),
    "one_platform_with_two_masks": Case(good_snp().platform(SEV_SNP, 2).move(-1, 1), BYTES),
    "platform_given_twice": Case(good_snp().platform(SEV_SNP, 1).move(-1, 1), BYTES),
    "platform_vtl_1": Case(platform_with(highest_vtl=1), BYTES),
    "platform_vtl_3": Case(platform_with(highest_vtl=3), BYTES),
    "platform_vtl_255": Case(platform_with(highest_vtl=255), BYTES),
    "platform_version_0": Case(platform_with(platform_version=0), UNKNOWN),
    "platform_version_2": Case(platform_with(platform_version=2), UNKNOWN),
    "platform_type_7": Case(platform_with(platform_type=7), UNKNOWN),
    "platform_type_255": Case(platform_with(platform_type=255), UNKNOWN),
    "platform_cca_on_x64": Case(good_snp().platform(igvm.CCA, 2).move(-1, 1), UNKNOWN),
    "shared_gpa_boundary_of_native": Case(
        good_v2_native().spoil(SUPPORTED_PLATFORM, 1, shared_gpa_boundary=PAGE), BYTES
    ),
    "shared_gpa_boundary_of_vbs": Case(
        good_vbs().spoil(SUPPORTED_PLATFORM, shared_gpa_boundary=1 << 40), BYTES, "vbs"
    ),
}


def everything(kind: int, nth: int = 0, /, **values: int | bytes) -> Case:
    """A field of a header for VBS, or for every platform, is what it may not be."""
    return Case(good_everything().spoil(kind, nth, **values), BYTES, "vbs")


INITIALIZATION = {
    "policy_reserved": Case(good_snp().spoil(GUEST_POLICY, reserved=1), BYTES),
    "page_table_region_reserved": everything(PAGE_TABLE_REGION, reserved=1),
    "corim_document_reserved": everything(CORIM_DOCUMENT, reserved=1),
    "corim_signature_reserved": everything(CORIM_SIGNATURE, reserved=1),
    "cca_policy_reserved": Case(good_cca().spoil(CCA_POLICY, reserved=1), UNKNOWN),
    "cca_policy_reserved_at_its_end": Case(
        good_cca().spoil(CCA_POLICY, reserved2=b"\0\0\0\0\0\1"), UNKNOWN
    ),
    "corim_document_past_the_file": everything(CORIM_DOCUMENT, file_offset=0xFFFFFFFF),
    "corim_document_longer_than_the_file": everything(CORIM_DOCUMENT, size_bytes=0xFFFFFFFF),
    "corim_signature_in_the_headers": everything(CORIM_SIGNATURE, file_offset=24),
    "corim_document_given_twice": Case(
        good_everything().corim_document(b"again", 1).move(-1, 8), BYTES
    ),
    "corim_document_given_twice_for_one_of_its_platforms": Case(
        good_everything().corim_document(b"again", 7).move(-1, 8), BYTES
    ),
    "corim_signature_given_twice": Case(
        good_everything().corim_signature(b"again", 1).move(-1, 9), BYTES
    ),
    "corim_signature_without_a_document": Case(good_everything().drop(CORIM_DOCUMENT), BYTES),
    "corim_signature_before_its_document": Case(good_everything().move(8, 7), BYTES),
    "relocatable_region_vtl_3": everything(RELOCATABLE_REGION, vtl=3),
    "relocatable_region_without_a_vp_context": everything(RELOCATABLE_REGION, vp_index=1),
    "relocatable_region_of_a_vtl_without_registers": everything(RELOCATABLE_REGION, vtl=2),
    "page_table_region_without_a_vp_context": everything(PAGE_TABLE_REGION, vp_index=1),
    "relocatable_regions_overlap": Case(
        good_everything().relocatable_region(0x43000, 0x2000, 4).move(-1, 6), BYTES, "vbs"
    ),
    "relocatable_region_over_the_page_tables": everything(RELOCATABLE_REGION, size=0x11000),
    "relocatable_region_that_wraps": Case(
        good_everything().spoil(RELOCATABLE_REGION, gpa=2**64 - PAGE, size=2 * PAGE),
        EITHER,
        "vbs",
    ),
    "two_page_table_regions": Case(
        good_everything().page_table_region(0x70000, 0x4000, 4).move(-1, 7), BYTES, "vbs"
    ),
}


def page_with(**values: int) -> Case:
    """A field of a page is what it may not be."""
    return Case(good_snp().spoil(PAGE_DATA, **values), BYTES)


PAGES = {
    "page_at_half_a_page": page_with(gpa=0x10800),
    "page_one_byte_off": page_with(gpa=0x10001),
    "page_data_type_4": Case(good_snp().spoil(PAGE_DATA, data_type=4), UNKNOWN),
    "page_data_type_0xffff": Case(good_snp().spoil(PAGE_DATA, data_type=0xFFFF), UNKNOWN),
    "page_reserved": page_with(reserved=1),
    "page_data_at_1": page_with(file_offset=1),
    "page_data_at_the_first_header": page_with(file_offset=24),
    "page_data_begins_in_the_last_header": page_with(file_offset=START - 1),
    "page_data_ends_past_the_file": page_with(file_offset=FILE_SIZE - PAGE + 1),
    "page_data_at_the_end_of_the_file": page_with(file_offset=FILE_SIZE),
    "page_data_at_0xffffffff": page_with(file_offset=0xFFFFFFFF),
    "page_data_that_wraps_with_its_size": page_with(file_offset=2**32 - PAGE),
    "page_beyond_52_bits": Case(good_snp().spoil(PAGE_DATA, gpa=1 << 60), LAUNCH),
    "page_in_the_last_page_of_64_bits": Case(good_snp().spoil(PAGE_DATA, gpa=2**64 - PAGE), LAUNCH),
    "page_above_the_shared_bit_of_a_td": Case(
        good_tdx().spoil(PAGE_DATA, gpa=1 << 47), LAUNCH, "tdx"
    ),
    "page_of_2_mib_not_aligned_to_2_mib": Case(
        good_snp().spoil(PAGE_DATA, gpa=0x201000, flags=IS_2MB), EITHER
    ),
    "page_of_2_mib_that_wraps": Case(
        good_snp().spoil(PAGE_DATA, gpa=2**64 - 0x200000, flags=IS_2MB), EITHER
    ),
}


def area_with(**values: int) -> Igvm:
    """The good file with another parameter area."""
    return good_snp().spoil(PARAMETER_AREA, **values)


def parameter_at(byte_offset: int) -> Igvm:
    """The good file, whose area has two pages, with a parameter elsewhere in it."""
    return good_snp().spoil(VP_COUNT, byte_offset=byte_offset)


INSERT: Final = good_snp().number(PARAMETER_INSERT)
AREA: Final = good_snp().number(PARAMETER_AREA)

AREAS = {
    "area_of_half_a_page": Case(area_with(number_of_bytes=0x800), BYTES),
    "area_one_byte_off": Case(area_with(number_of_bytes=0x2001), BYTES),
    "area_of_2_to_the_62_bytes": Case(area_with(number_of_bytes=1 << 62), ANY),
    "area_of_all_of_64_bits": Case(area_with(number_of_bytes=2**64 - PAGE), ANY),
    "area_of_1_tib": Case(area_with(number_of_bytes=1 << 40), ANY),
    "area_whose_data_ends_past_the_file": Case(area_with(file_offset=FILE_SIZE - PAGE), BYTES),
    "area_whose_data_is_in_the_headers": Case(area_with(file_offset=24), BYTES),
    "area_of_2_to_the_62_bytes_of_data": Case(
        area_with(number_of_bytes=1 << 62, file_offset=START), BYTES
    ),
    "area_index_reused": Case(good_snp().area(0, PAGE).move(-1, INSERT), BYTES),
    "area_index_reused_after_its_insert": Case(good_snp().area(0, PAGE), BYTES),
    "parameter_before_its_area": Case(good_snp().parameter(VP_COUNT, 0).move(-1, AREA), BYTES),
    "parameter_of_an_area_that_is_not_there": Case(
        good_snp().parameter(VP_COUNT, 7).move(-1, INSERT), BYTES
    ),
    "parameter_after_the_insert": Case(good_snp().parameter(VP_COUNT, 0), BYTES),
    "parameter_at_the_end_of_its_area": Case(parameter_at(0x2000), BYTES),
    "parameter_past_its_area": Case(parameter_at(0x10000), BYTES),
    "parameter_at_0xffffffff": Case(parameter_at(0xFFFFFFFF), BYTES),
    "insert_before_its_area": Case(good_snp().move(INSERT, AREA), BYTES),
    "insert_of_an_area_that_is_not_there": Case(good_snp().spoil(PARAMETER_INSERT, index=7), BYTES),
    "insert_twice": Case(good_snp().insert(0x40000, 0, 1), BYTES),
    "insert_at_half_a_page": Case(good_snp().spoil(PARAMETER_INSERT, gpa=0x30800), BYTES),
    "insert_that_wraps": Case(good_snp().spoil(PARAMETER_INSERT, gpa=2**64 - PAGE), EITHER),
    "insert_beyond_52_bits": Case(good_snp().spoil(PARAMETER_INSERT, gpa=1 << 60), LAUNCH),
    "insert_that_ends_past_52_bits": Case(
        good_snp().spoil(PARAMETER_INSERT, gpa=(1 << 52) - PAGE), LAUNCH
    ),
    "insert_in_the_page_tables": Case(
        good_everything().spoil(PARAMETER_INSERT, gpa=0x51000), EITHER, "vbs"
    ),
    "insert_from_below_into_the_page_tables": Case(
        good_everything().spoil(PARAMETER_INSERT, gpa=0x4C000), EITHER, "vbs"
    ),
} | {
    f"parameter_{kind:#x}_past_its_area": Case(
        good_everything().spoil(kind, byte_offset=8 * PAGE), BYTES, "vbs"
    )
    for kind in PARAMETERS
}


def context_with(**values: int) -> Case:
    """A field of the VMSA's header is what it may not be."""
    return Case(good_snp().spoil(VP_CONTEXT, **values), BYTES)


def native(at: int) -> bytes:
    """A native vCPU state with a byte set behind it, or in it."""
    made = bytearray(native_context())
    made[at] = 1
    return bytes(made)


def vbs_context(data: bytes) -> Case:
    """The file for VBS with other registers, at its end."""
    file = good_vbs()
    file.headers.append(file.headers.pop(file.number(VP_CONTEXT)))
    file.header(VP_CONTEXT).data = data
    return Case(file, BYTES, "vbs")


def with_context(file: Igvm, data: bytes) -> Igvm:
    """The file with this for its first vCPU state."""
    file.header(VP_CONTEXT).data = data
    return file


CONTEXTS = {
    "vp_context_of_two_platforms": Case(good_multi().spoil(VP_CONTEXT, -1, mask=3), BYTES),
    "vp_context_of_a_platform_that_is_not_declared": context_with(mask=8),
    "vp_context_of_one_platform_and_one_not_declared": context_with(mask=9),
    "vp_context_of_no_platform": context_with(mask=0),
    "vp_context_of_tdx": Case(good_tdx().vp_context(0x1000, vmsa(), 2), BYTES, "tdx"),
    "vp_context_of_tdx_in_a_file_for_snp_too": Case(
        good_multi().vp_context(0x1000, vmsa(), 2), BYTES
    ),
    "vmsa_at_half_a_page": context_with(gpa=KVM_VMSA + 0x800),
    "vmsa_without_data": context_with(file_offset=0),
    "vmsa_in_the_headers": context_with(file_offset=24),
    "vmsa_that_ends_past_the_file": context_with(file_offset=FILE_SIZE - PAGE + 1),
    "vmsa_past_the_file": context_with(file_offset=0xFFFFF000),
    "vmsa_of_sev_es_at_half_a_page": Case(
        good_sev_es().spoil(VP_CONTEXT, gpa=0x800), BYTES, "sev-es", "qemu"
    ),
    "native_context_with_a_byte_behind_it": Case(
        with_context(good_v2_native(), native(0xE8)), BYTES
    ),
    "native_context_with_a_byte_at_the_end_of_its_page": Case(
        with_context(good_v2_native(), native(0xFFF)), BYTES
    ),
    "native_context_of_sev_with_a_byte_behind_it": Case(
        with_context(good_sev(), native(0xE8)), BYTES, "sev", "qemu"
    ),
    "native_context_without_data": Case(good_v2_native().spoil(VP_CONTEXT, file_offset=0), BYTES),
    "vbs_registers_without_data": Case(good_vbs().spoil(VP_CONTEXT, file_offset=0), BYTES, "vbs"),
    "vbs_registers_fewer_than_their_count": vbs_context(
        vbs_registers(count=len(VBS_REGISTERS) + 1)
    ),
    "vbs_registers_0xffffffff": vbs_context(vbs_registers(count=0xFFFFFFFF)),
    "vbs_registers_cut_in_their_count": vbs_context(b"\1\0"),
    "vbs_registers_of_two_vtls": vbs_context(
        vbs_registers((*VBS_REGISTERS, VBS_REGISTERS[0]._replace(vtl=2)))
    ),
    "vbs_registers_of_vtl_3": vbs_context(
        vbs_registers(tuple(one._replace(vtl=3) for one in VBS_REGISTERS))
    ),
}

RANGES = {
    "required_memory_at_half_a_page": Case(good_snp().spoil(REQUIRED_MEMORY, gpa=0x100800), BYTES),
    "required_memory_of_half_a_page": Case(
        good_snp().spoil(REQUIRED_MEMORY, number_of_bytes=0x800), BYTES
    ),
    "required_memory_reserved": Case(good_snp().spoil(REQUIRED_MEMORY, reserved=1), BYTES),
    "required_memory_that_wraps": Case(good_snp().spoil(REQUIRED_MEMORY, gpa=2**64 - PAGE), EITHER),
    "error_range_at_half_a_page": everything(ERROR_RANGE, gpa=0x60800),
    "error_range_of_half_a_page": everything(ERROR_RANGE, size_bytes=0x800),
    "error_range_that_wraps": Case(
        good_everything().spoil(ERROR_RANGE, gpa=2**64 - PAGE), EITHER, "vbs"
    ),
}

ID_BLOCKS = {
    "author_key_enabled_with_a_zero_key": Case(
        with_id_block(author_key_enabled=1, author_key_algorithm=1), BYTES
    ),
}

SPOILED = (
    FIXED
    | FRAMING
    | TYPES
    | LENGTHS
    | ORDER
    | PLATFORM
    | INITIALIZATION
    | PAGES
    | AREAS
    | CONTEXTS
    | RANGES
    | ID_BLOCKS
)


@pytest.mark.parametrize("case", SPOILED.values(), ids=SPOILED)
def test_measure_refuses(case: Case, cli: Cli) -> None:
    assert_places(cli("measure", case.data(), platform=case.platform, vmm=case.vmm), case.codes)


@pytest.mark.parametrize("case", SPOILED.values(), ids=SPOILED)
def test_check_does_not_pass(case: Case, cli: Cli) -> None:
    assert_not_passed(cli("check", case.data(), platform=case.platform, vmm=case.vmm), case.codes)


BOMBS = (
    "area_of_2_to_the_62_bytes",
    "area_of_all_of_64_bits",
    "area_of_1_tib",
    "area_of_2_to_the_62_bytes_of_data",
    "insert_that_wraps",
    "header_length_0xffffffff",
    "header_length_that_wraps_to_its_own_start",
    "variable_header_size_0xfffffff0",
    "variable_header_size_that_wraps_with_its_offset",
    "variable_header_offset_huge",
    "total_file_size_huge",
    "corim_document_longer_than_the_file",
    "vbs_registers_0xffffffff",
)


@pytest.mark.parametrize("verb", ["inspect", "check", "map", "plan", "measure"])
@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused_in_little_memory_and_time(name: str, verb: str, tmp_path: Path) -> None:
    case = SPOILED[name]
    platform = () if verb == "inspect" else ("--platform", case.platform)
    result = limited(tmp_path, case.data(), verb, *platform)
    assert_not_swallowed(result, verb, case.codes)


def test_empty_file_is_refused(cli: Cli) -> None:
    assert_refused(cli("measure", b""), UNKNOWN)


def test_error_names_the_place_of_the_header(cli: Cli) -> None:
    number = good_snp().number(PAGE_DATA)
    start, end = good_snp().at(number), good_snp().at(number + 1)
    for case in (PAGES["page_at_half_a_page"], PAGES["page_data_type_4"], PAGES["page_reserved"]):
        result = cli("measure", case.data())
        found = re.search(rf"{re.escape(NAME)}\+(0x[0-9a-f]+)", result.err)
        assert found, f"{result}"
        assert start <= int(found[1], 16) < end, f"{result}"


# Files that look spoiled and are not.


def padded(padding: bytes) -> Igvm:
    """The good file with these bytes behind its last header."""
    file = good_snp()
    file.header(VP_CONTEXT).padding = padding
    return file


def new_findings(result: Result, cli: Cli) -> list[dict[str, Any]]:
    """The findings that the good file does not have."""
    usual = {one["rule"] for one in findings(cli("check", good_snp(), "--format", "json"))}
    return [one for one in findings(result) if one["rule"] not in usual]


def test_padding_that_is_not_zero_is_a_warning(cli: Cli) -> None:
    file = padded(b"0000")
    result = cli("check", file, "--format", "json")
    (found,) = of_rule(result, "non-zero-padding")
    assert (result.code, found["severity"]) == (0, "warning")
    assert digest_of(cli("measure", file, "--bare")) == launch_digest(good_snp())


def test_gap_before_the_headers_is_a_warning(cli: Cli) -> None:
    file = moved_by(16)
    result = cli("check", file, "--format", "json")
    assert result.code == 0
    assert [one["severity"] for one in new_findings(result, cli)] == ["warning"]
    assert digest_of(cli("measure", file, "--bare")) == launch_digest(good_snp())


def test_page_for_no_platform_has_a_finding(cli: Cli) -> None:
    for mask in (0, 8):
        file = good_snp().spoil(PAGE_DATA, mask=mask)
        number = file.number(PAGE_DATA)
        found = findings(cli("check", file, "--format", "json"))
        assert any(f"header {number}" in json.dumps(one) for one in found), f"{found}"


@pytest.mark.parametrize("platform", ["snp", "tdx", "vbs"])
def test_file_without_data_is_accepted(platform: str, cli: Cli) -> None:
    launch = LAUNCHES[platform]
    file = Igvm().platform(launch.kind, launch.mask).policy(SNP_POLICY, launch.mask)
    file.page(0x1000, None, launch.mask)
    if platform == "snp":  # without data there is no VMSA, and no vCPU could start
        assert_refused(cli("measure", file, platform=platform), {1})
        return
    digest_of(cli("measure", file, "--bare", platform=platform))
    assert cli("check", file, platform=platform).code == 0


def test_optional_header_of_an_unknown_type_is_skipped(cli: Cli) -> None:
    for payload in (b"", b"12345", bytes(8)):
        file = good_snp().raw(OPTIONAL | 0x314, payload)
        assert digest_of(cli("measure", file, "--bare")) == launch_digest(good_snp())


def test_pages_that_share_data_are_accepted(cli: Cli) -> None:
    file = Igvm().platform(SEV_SNP, 1).policy(SNP_POLICY, 1)
    for page in range(20_000):
        file.page(0x100000 + page * PAGE, filling("all"), 1)
    file.vp_context(KVM_VMSA, vmsa(), 1)
    data = file.build()
    assert len(data) == file.at(len(file.headers)) + 2 * PAGE
    assert digest_of(cli("measure", data, "--bare")) == launch_digest(file)
    assert cli("check", data).code == 0


def test_parameter_in_the_last_bytes_of_its_area_is_accepted(cli: Cli) -> None:
    assert digest_of(cli("measure", parameter_at(0x1FFC), "--bare")) == launch_digest(good_snp())


def test_page_whose_data_ends_with_the_file_is_accepted(cli: Cli) -> None:
    data = good_snp().spoil(PAGE_DATA, file_offset=FILE_SIZE - PAGE).build()
    same = good_snp()
    same.header(PAGE_DATA).data = vmsa()  # what lies there
    assert digest_of(cli("measure", data, "--bare")) == launch_digest(same)


def test_required_memory_may_lie_over_pages(cli: Cli) -> None:
    file = good_snp().required_memory(0x10000, 0x10000, 1)
    assert cli("check", file).code == 0
    assert digest_of(cli("measure", file, "--bare")) == launch_digest(good_snp())


def test_relocatable_regions_of_two_platforms_may_overlap(cli: Cli) -> None:
    file = good_multi().relocatable_region(0x40000, 0x4000, 4).move(-1, 3)
    assert cli("check", file, platform="vbs").code == 0


def test_page_tables_in_the_last_header_do_not_hide_an_area_next_to_them(cli: Cli) -> None:
    file = good_everything().spoil(PARAMETER_INSERT, gpa=0x54000)
    assert cli("check", file, platform="vbs").code == 0


# ID blocks.


def test_two_id_blocks_are_refused_by_the_loaders_that_take_one(cli: Cli) -> None:
    file = with_id_block()
    file.headers.append(file.header(SNP_ID_BLOCK))
    result = cli("check", file, "--format", "json")
    assert not of_rule(result, "loader-refuses")
    assert result.code == 0
    for vmm in ("qemu", "cloud-hypervisor"):
        result = cli("check", file, "--format", "json", vmm=vmm)
        refused = of_rule(result, "loader-refuses")
        assert result.code == 1
        assert any("block" in json.dumps(one).lower() for one in refused), f"{refused}"


def test_id_block_that_fits_has_no_finding(cli: Cli) -> None:
    result = cli("check", with_id_block(), "--format", "json")
    assert result.code == 0
    assert new_findings(result, cli) == []


def test_id_block_of_another_digest_has_a_finding(cli: Cli) -> None:
    result = cli("check", with_id_block(ld=bytes(48)), "--format", "json")
    assert new_findings(result, cli)


@pytest.mark.parametrize(
    "values",
    [
        {"author_key_signature": filling("author", 144)},
        {"author_public_key": filling("author key", 152)},
        {"author_key_algorithm": 1},
    ],
    ids=lambda values: next(iter(values)),
)
def test_author_field_without_an_author_key_has_a_finding(
    values: dict[str, int | bytes], cli: Cli
) -> None:
    result = cli("check", with_id_block(**values), "--format", "json")
    assert result.code == 3 or new_findings(result, cli), f"{result}"


# One page given twice.


@dataclass(frozen=True)
class Launch:
    """A platform's type and bit, what it is called, and a VMM that launches it."""

    kind: int
    mask: int
    vmm: str


LAUNCHES: Final = {
    "snp": Launch(SEV_SNP, 1, "hyper-v"),
    "tdx": Launch(TDX, 2, "hyper-v"),
    "vbs": Launch(VSM_ISOLATION, 4, "hyper-v"),
    "sev": Launch(SEV, 0x10, "qemu"),
    "sev-es": Launch(SEV_ES, 0x20, "qemu"),
}
WITH_VMSA: Final = ("snp",)

Pair = Callable[[Igvm, int], Igvm]

TWICE: Final[dict[str, Pair]] = {
    "page_and_page": lambda file, mask: file.page(0x10000, filling("one"), mask).page(
        0x10000, filling("two"), mask
    ),
    "page_and_the_same_page": lambda file, mask: file.page(0x10000, filling("one"), mask).page(
        0x10000, filling("one"), mask
    ),
    "page_and_page_without_data": lambda file, mask: file.page(0x10000, None, mask).page(
        0x10000, None, mask
    ),
    "unmeasured_page_and_page": lambda file, mask: file.page(
        0x10000, None, mask, flags=UNMEASURED
    ).page(0x10000, filling("two"), mask),
    "insert_and_page": lambda file, mask: (
        file.area(0, 2 * PAGE).insert(0x10000, 0, mask).page(0x11000, filling("one"), mask)
    ),
    "page_and_insert": lambda file, mask: (
        file.area(0, 2 * PAGE).page(0x11000, filling("one"), mask).insert(0x10000, 0, mask)
    ),
    "insert_and_insert": lambda file, mask: (
        file.area(0, 2 * PAGE).area(1, PAGE).insert(0x10000, 0, mask).insert(0x11000, 1, mask)
    ),
    "page_of_2_mib_and_page": lambda file, mask: file.page(
        0x200000, filling("one"), mask, flags=IS_2MB
    ).page(0x3FF000, None, mask),
    "page_and_page_of_2_mib": lambda file, mask: file.page(0x3FF000, None, mask).page(
        0x200000, filling("one"), mask, flags=IS_2MB
    ),
    "error_range_and_page": lambda file, mask: file.error_range(0x10000, 2 * PAGE, mask).page(
        0x11000, filling("one"), mask
    ),
    "page_and_error_range": lambda file, mask: file.page(0x11000, filling("one"), mask).error_range(
        0x10000, 2 * PAGE, mask
    ),
    "error_range_and_insert": lambda file, mask: (
        file.area(0, PAGE).error_range(0x10000, 2 * PAGE, mask).insert(0x11000, 0, mask)
    ),
}
VMSA_TWICE: Final[dict[str, Pair]] = {
    "vmsa_and_page": lambda file, mask: file.vp_context(0x10000, vmsa(), mask).page(
        0x10000, filling("one"), mask
    ),
    "page_and_vmsa": lambda file, mask: file.page(0x10000, None, mask).vp_context(
        0x10000, vmsa(), mask
    ),
    "insert_and_vmsa": lambda file, mask: (
        file.area(0, 2 * PAGE).insert(0x10000, 0, mask).vp_context(0x11000, vmsa(), mask)
    ),
    "vmsa_and_page_of_2_mib": lambda file, mask: file.vp_context(0x201000, vmsa(), mask).page(
        0x200000, None, mask, flags=IS_2MB
    ),
    "vmsa_and_page_where_kvm_has_it": lambda file, mask: file.vp_context(
        KVM_VMSA, vmsa(), mask
    ).page(KVM_VMSA, filling("one"), mask),
}


def started() -> Igvm:
    """A file for all platforms, without a page."""
    file = Igvm(version=2)
    for launch in LAUNCHES.values():
        file.platform(launch.kind, launch.mask)
    return (
        file.platform(NATIVE, 8)
        .policy(SNP_POLICY, 1)
        .policy(0, 2)
        .policy(1, 0x10)
        .policy(5, 0x20)
        .vp_context(0x2000, vmsa(), 1)
        .vp_context(KVM_VMSA, vmsa(sev_features=0), 0x20)
        .page(0x1000, filling("first"), 0x37)
    )


def last_two(file: Igvm) -> Iterator[tuple[int, int]]:
    """Numbers and places of the last two headers."""
    for number in (len(file.headers) - 2, len(file.headers) - 1):
        yield number, file.at(number)


def assert_names(result: Result, *owners: tuple[int, int]) -> None:
    """One page is mapped twice, by the headers with these numbers at these places."""
    assert result.code == 1, f"{result}"
    (found,) = of_rule(result, "gpa-mapped-twice")
    for number, place in owners:
        assert any(
            re.search(rf"\bheader {number}\b", origin) and re.search(rf"\+{place:#x}\b", origin)
            for origin in found["origins"]
        ), f"{number} at {place:#x}: {found}"
    assert len(found["origins"]) == len(owners)


@pytest.mark.parametrize("platform", LAUNCHES)
@pytest.mark.parametrize("pair", TWICE)
def test_page_given_twice_names_both_headers(pair: str, platform: str, cli: Cli) -> None:
    launch = LAUNCHES[platform]
    file = TWICE[pair](started(), launch.mask)
    options = {"platform": platform, "vmm": launch.vmm}
    assert_names(cli("check", file, "--format", "json", **options), *last_two(file))
    assert_refused(cli("measure", file, **options), LAUNCH)


@pytest.mark.parametrize("platform", WITH_VMSA)
@pytest.mark.parametrize("pair", VMSA_TWICE)
def test_page_under_a_vmsa_names_both_headers(pair: str, platform: str, cli: Cli) -> None:
    launch = LAUNCHES[platform]
    file = VMSA_TWICE[pair](started(), launch.mask)
    options = {"platform": platform, "vmm": launch.vmm}
    assert_names(cli("check", file, "--format", "json", **options), *last_two(file))
    assert_refused(cli("measure", file, **options), LAUNCH)


@pytest.mark.parametrize("platform", LAUNCHES)
@pytest.mark.parametrize("pair", TWICE)
def test_page_given_twice_to_another_platform_is_fine(pair: str, platform: str, cli: Cli) -> None:
    others = 0x3F & ~LAUNCHES[platform].mask
    file = TWICE[pair](started(), others)
    result = cli("check", file, platform=platform, vmm=LAUNCHES[platform].vmm)
    if "error_range" in pair and LAUNCHES[platform].vmm == "qemu":
        assert "qemu cannot do ERROR_RANGE" in result.out  # of any platform, spec/igvm.md 2.1 f
        assert "gpa-mapped-twice" not in result.out
    else:
        assert result.code == 0, f"{result}"


@pytest.mark.parametrize("platform", LAUNCHES)
def test_page_given_once_to_each_platform_is_fine(platform: str, cli: Cli) -> None:
    file = started()
    for number, mask in enumerate((1, 2, 4, 0x10, 0x20)):
        file.page(0x10000, filling(f"platform {number}"), mask)
    options = {"platform": platform, "vmm": LAUNCHES[platform].vmm}
    result = cli("check", file, **options)
    assert result.code == 0, f"{result}"
    digest_of(cli("measure", file, "--bare", **options))


def test_pages_side_by_side_are_fine(cli: Cli) -> None:
    file = (
        started()
        .area(0, 2 * PAGE)
        .insert(0x10000, 0, 1)
        .page(0xF000, filling("below"), 1)
        .page(0x12000, filling("above"), 1)
        .page(0x200000, filling("large"), 1, flags=IS_2MB)
        .page(0x1FF000, None, 1)
        .page(0x400000, None, 1)
    )
    result = cli("check", file)
    assert result.code == 0, f"{result}"


def test_each_conflict_is_named(cli: Cli) -> None:
    file = started().page(0x10000, None, 1).page(0x10000, None, 1)
    file.page(0x20000, None, 1).page(0x20000, None, 1)
    found = of_rule(cli("check", file, "--format", "json"), "gpa-mapped-twice")
    assert len(found) == 2


# The builder, against files that the igvm crate and igvm-tooling made.


def read(blob: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Type, payload and padding of each variable header."""
    offset, size = struct.unpack_from("<II", blob, 8)
    end = offset + size
    while offset < end:
        kind, length = struct.unpack_from("<II", blob, offset)
        start, offset = offset + 8, offset + 8 + length + -length % 8
        yield kind, blob[start : start + length], blob[start + length : offset]


def add_page(file: Igvm, payload: bytes, blob: bytes) -> None:
    gpa, mask, at, flags, data_type, _ = struct.unpack("<QIIIHH", payload)
    data = blob[at : at + PAGE] if at else None
    file.page(gpa, data, mask, flags=flags, data_type=data_type)


def add_platform(file: Igvm, payload: bytes, _: bytes) -> None:
    mask, vtl, platform, _, boundary = struct.unpack("<IBBHQ", payload)
    file.platform(platform, mask, highest_vtl=vtl, boundary=boundary)


def add_policy(file: Igvm, payload: bytes, _: bytes) -> None:
    policy, mask, _ = struct.unpack("<QII", payload)
    file.policy(policy, mask)


def add_corim_document(file: Igvm, payload: bytes, blob: bytes) -> None:
    mask, at, size, _ = struct.unpack("<IIII", payload)
    file.corim_document(blob[at : at + size], mask)


def add_corim_signature(file: Igvm, payload: bytes, blob: bytes) -> None:
    mask, at, size, _ = struct.unpack("<IIII", payload)
    file.corim_signature(blob[at : at + size], mask)


def add_area(file: Igvm, payload: bytes, blob: bytes) -> None:
    size, index, at = struct.unpack("<QII", payload)
    file.area(index, size, blob[at : at + size] if at else None)


def add_insert(file: Igvm, payload: bytes, _: bytes) -> None:
    gpa, mask, index = struct.unpack("<QII", payload)
    file.insert(gpa, index, mask)


def add_vp_context(file: Igvm, payload: bytes, blob: bytes) -> None:
    gpa, mask, at, vp_index, _ = struct.unpack("<QIIHH", payload)
    of_vbs = mask == 4  # in all these files
    size = 4 + 32 * struct.unpack_from("<I", blob, at)[0] if of_vbs else PAGE
    file.vp_context(gpa, blob[at : at + size], mask, vp_index)


def add_required_memory(file: Igvm, payload: bytes, _: bytes) -> None:
    gpa, mask, size, flags, _ = struct.unpack("<QIIII", payload)
    file.required_memory(gpa, size, mask, flags)


def add_id_block(file: Igvm, payload: bytes, _: bytes) -> None:
    mask, enabled, _, ld, family, image, *numbers = struct.unpack_from(
        "<IB3s48s16s16sIIII", payload
    )
    version, guest_svn, id_key_algorithm, author_key_algorithm = numbers
    file.id_block(
        mask,
        author_key_enabled=enabled,
        ld=ld,
        family_id=family,
        image_id=image,
        version=version,
        guest_svn=guest_svn,
        id_key_algorithm=id_key_algorithm,
        author_key_algorithm=author_key_algorithm,
        id_key_signature=payload[104:248],
        id_public_key=payload[248:400],
    )


ADDERS: Final[dict[int, Callable[[Igvm, bytes, bytes], None]]] = {
    SUPPORTED_PLATFORM: add_platform,
    GUEST_POLICY: add_policy,
    CORIM_DOCUMENT: add_corim_document,
    CORIM_SIGNATURE: add_corim_signature,
    PARAMETER_AREA: add_area,
    PAGE_DATA: add_page,
    PARAMETER_INSERT: add_insert,
    VP_CONTEXT: add_vp_context,
    REQUIRED_MEMORY: add_required_memory,
    SNP_ID_BLOCK: add_id_block,
}


def rebuilt(blob: bytes) -> Igvm:
    """The same file made by the builder's methods; layouts are typed here a second time."""
    file = Igvm(struct.unpack_from("<I", blob, 4)[0])
    for kind, payload, padding in read(blob):
        if kind in PARAMETERS:
            index, place = struct.unpack("<II", payload)
            file.parameter(kind, index, place)
        else:
            ADDERS[kind](file, payload, blob)
        if padding.strip(b"\0"):
            file.headers[-1].padding = padding
    return file


VALID: Final = (
    "corim_doc",
    "flag_2mb_page",
    "igvm_c_test_data",
    "multi_v1",
    "multi_v2_native",
    "overlap_page_page",
    "overlap_page_page_diffmask",
    "sev_es",
    "shared_pages",
    "snp_all_params",
    "snp_basic",
    "snp_idblock",
    "snp_no_zero",
    "snp_param_1page",
    "snp_param_after_pages",
    "snp_vmsa_first",
    "tdx_basic",
    "tooling_bzimage_x64",
    "unmeasured_pages",
    "vbs_basic",
)


@pytest.mark.parametrize("name", VALID)
def test_builder_makes_the_file_that_others_made(name: str) -> None:
    blob = vector(f"igvm/{name}.igvm")
    assert rebuilt(blob).build() == blob


@pytest.mark.parametrize("name", ["snp_basic", "multi_v1", "snp_param_after_pages", "snp_no_zero"])
def test_own_fold_has_the_digest_that_the_crate_has(name: str) -> None:
    rows = json.loads(vector("igvm/vectors.json"))["valid"]
    wanted = next(row["expected"]["SEV_SNP"]["igvm_crate"] for row in rows if row["name"] == name)
    assert launch_digest(rebuilt(vector(f"igvm/{name}.igvm"))) == wanted
