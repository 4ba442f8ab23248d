"""
TD_PARAMS, TDINFO and the identities of a TD.

Offsets are those of Intel's TDX Module ABI specification (348551), "TD_PARAMS" and
"TDINFO_STRUCT", as Intel's own module has them (intel/tdx-module include/tdx_api_defs.h);
digests are OpenSSL's; masks that are accepted are those of a quote of real hardware.
"""

from __future__ import annotations

import base64
import json
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cvmplan import documents
from cvmplan.core.blob import Blob, pack
from cvmplan.core.errors import ConfigError, CvmplanError
from cvmplan.core.field import names
from cvmplan.platforms.tdx import bits, modules
from cvmplan.platforms.tdx.params import OFFSETS, TdParams, findings, made, read
from cvmplan.platforms.tdx.quote import TdInfo
from cvmplan.platforms.tdx.report import ServiceTd, servtd_hash
from tests.build.ovmf import good_tdx
from tests.manifests import document, region, run_on, write
from tests.oracles import shared, vector
from tests.run import Result, assert_refused, run
from tests.test_startup import HEAVY, modules_loaded

QUOTE = "tdx/gtg-tdx_prod_quote_SPR_E4.dat"
# MRTD of mini-guid.fd: four other implementations agree (vectors/tdx/vectors.json).
MRTD = (
    "911cef10c4df517531891c7877a9cb2b7570cb304e679817"
    "09483ebf3986da66de3dbd577134185099bcc49a1c6f9162"
)
RTMRS = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")


def openssl(data: bytes) -> str:
    """SHA-384 as OpenSSL's command line computes it."""
    done = subprocess.run(
        ["openssl", "dgst", "-sha384", "-r"], input=data, capture_output=True, check=True
    )
    return done.stdout.split()[0].decode()


def answer(result: Result) -> Any:
    """The document that a verb printed, once its model has taken it."""
    printed = json.loads(result.out)
    name = printed["schema"].removeprefix("cvmplan.").removesuffix("/1")
    documents.model(name).model_validate(printed)
    return printed


def rules(result: Result) -> list[tuple[str, str]]:
    """Severity and rule of every finding."""
    return [(f["severity"], f["rule"]) for f in answer(result)["findings"]]


def td_params(*args: str) -> Result:
    return run("td-params", *args, "--format", "json")


# --- TD_PARAMS ---------------------------------------------------------------------------------


def params_of_the_specification(**fields: Any) -> bytearray:
    """TD_PARAMS that a module accepts, field by field at the offsets of the specification."""
    data = bytearray(1024)
    values: dict[str, int] = {
        "xfam": 0x61AE7, "max_vcpus": 4, "eptp": 6 | 3 << 3, "config_flags": 4, "tsc": 100,
    }  # fmt: skip
    places = {
        "attributes": ("<Q", 0), "xfam": ("<Q", 8), "max_vcpus": ("<H", 16), "l2": ("<B", 18),
        "msr": ("<B", 19), "eptp": ("<Q", 24), "config_flags": ("<Q", 32), "tsc": ("<H", 40),
        "arch": ("<Q", 224),
    }  # fmt: skip
    for name, value in (values | fields).items():
        form, at = places[name]
        struct.pack_into(form, data, at, value)
    return data


def checked(folder: Path, data: bytes, *args: str) -> Result:
    """What `td-params --read` says of these bytes."""
    path = folder / "params.bin"
    path.write_bytes(data)
    return td_params("--read", str(path), *args)


def test_td_params_are_1024_bytes_and_fields_lie_where_the_specification_puts_them() -> None:
    assert TdParams.LAYOUT.size == 1024
    assert {n: at for n, at in OFFSETS.items() if not n.startswith("reserved")} == {
        "attributes": 0, "xfam": 8, "max_vcpus": 16, "num_l2_vms": 18, "msr_config_ctls": 19,
        "eptp_controls": 24, "config_flags": 32, "tsc_frequency": 40, "mrconfigid": 80,
        "mrowner": 128, "mrownerconfig": 176, "ia32_arch_capabilities_config": 224,
        "cpuid_config": 256,
    }  # fmt: skip


def test_every_option_sets_its_bytes_and_no_others(tmp_path: Path) -> None:
    out = tmp_path / "td_params.bin"
    result = run(
        "td-params", "--vcpus", "513", "--attributes", "0x8000000010000000", "--xfam", "0x61ae7",
        "--gpaw", "52", "--tsc-khz", "2500000", "--mrconfigid", "11" * 48, "--mrowner", "22" * 48,
        "--mrownerconfig", "33" * 48, "--l2-vms", "2", "--msr-config", "1", "--config-flags", "0x6",
        "--arch-capabilities", "0x1122334455667788", "--cpuid", "0x1=11,0x12,13,14",
        "--cpuid", "7:0=0,0,0,ffffffff", "--format", "raw", "-o", str(out),
    )  # fmt: skip
    assert (result.code, result.out, result.err) == (0, "", "")
    wanted = bytearray(1024)
    struct.pack_into("<QQHBB", wanted, 0, 1 << 63 | 1 << 28, 0x61AE7, 513, 2, 1)
    struct.pack_into("<QQH", wanted, 24, 6 | 4 << 3, 0x7, 100)
    wanted[80:224] = b"\x11" * 48 + b"\x22" * 48 + b"\x33" * 48
    struct.pack_into("<Q", wanted, 224, 0x1122334455667788)
    struct.pack_into("<8I", wanted, 256, 0x11, 0x12, 0x13, 0x14, 0, 0, 0, 0xFFFFFFFF)
    assert out.read_bytes() == bytes(wanted)


def test_what_is_not_given_is_what_kvm_would_set() -> None:
    # Linux arch/x86/kvm/vmx/tdx.c: setup_tdparams, setup_tdparams_eptp_controls; ATTRIBUTES as a
    # recorded QEMU 11.1.3 passes them (../shared/spec/recording-vmms.md, Differences 1)
    printed = answer(td_params())
    data = bytes.fromhex(printed["hex"])
    wanted = bytearray(1024)
    struct.pack_into("<QQH", wanted, 0, 0x10000000, 0x3, 1)
    struct.pack_into("<QQH", wanted, 24, 0x1E, 0x4, 40)
    assert data == bytes(wanted)
    assert printed["given"] == {}
    assert printed["assumed"]["xfam"] == "0x3"
    assert printed["assumed"]["module"] == "1.5.28"


def test_raw_hex_and_base64_are_the_same_bytes(tmp_path: Path) -> None:
    out = tmp_path / "p"
    assert run("td-params", "--vcpus", "2", "--format", "raw", "-o", str(out)).code == 0
    data = out.read_bytes()
    assert run("td-params", "--vcpus", "2", "--format", "hex").out == data.hex() + "\n"
    encoded = run("td-params", "--vcpus", "2", "--format", "base64").out
    assert base64.b64decode(encoded) == data
    assert answer(td_params("--vcpus", "2"))["hex"] == data.hex()


def test_what_is_made_reads_back_as_the_same_fields(tmp_path: Path) -> None:
    told = answer(td_params("--xfam", "0x61ae7", "--mrowner", "ab" * 48, "--cpuid", "1=1,2,3,4"))
    again = answer(checked(tmp_path, bytes.fromhex(told["hex"])))
    for cpuid in told["td_params"]["cpuid_config"]:
        del cpuid["leaf"], cpuid["subleaf"]  # which TD_PARAMS do not hold
    assert again["td_params"] == told["td_params"]
    assert again["hex"] == told["hex"]


def test_masks_of_a_quote_of_real_hardware_are_accepted(tmp_path: Path) -> None:
    body = vector(QUOTE)[48:]
    attributes, xfam = struct.unpack_from("<QQ", body, 120)
    assert (attributes, xfam) == (1 << 30, 0x61AE7)
    data = params_of_the_specification(attributes=attributes, xfam=xfam)
    for module in modules.MODULES:
        result = checked(tmp_path, bytes(data), "--module", module)
        assert (result.code, rules(result)) == (0, [])


def test_text_names_the_bits_and_says_what_was_given_and_assumed() -> None:
    result = run("td-params", "--attributes", "0x50000000", "--xfam", "0x60007")
    assert result.code == 0
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert "attributes 0x50000000 given" in lines
    assert "vcpus 1 assumed" in lines
    assert "0 attributes 0x50000000 SEPT_VE_DISABLE PKS" in lines
    assert "8 xfam 0x60007 X87 SSE AVX XTILECFG XTILEDATA" in lines
    assert "24 eptp_controls 0x1e write-back, 4 levels" in lines
    assert lines[-1] == "0 errors, 0 warnings, 0 notes"


# One thing spoiled at a time: what, the rule that sees it, and the module if it matters.
SPOILED: list[tuple[dict[str, int], str, str]] = [
    ({"attributes": 1 << 1}, "td-attributes", "1.5"),  # no such bit
    ({"attributes": 1 << 31}, "td-attributes", "1.5"),  # KL: no module has it
    ({"attributes": 1 << 27}, "td-attributes", "1.5.01"),  # LASS: later modules do
    ({"attributes": 1 << 62}, "td-attributes", "1.5.28"),  # TPA: 2.0 has it
    ({"attributes": 1 << 6}, "td-attributes", "1.5.28"),  # PMT_PROF: 2.0 has it
    ({"attributes": 1 << 29 | 1 << 63}, "td-attributes", "1.5"),  # MIGRATABLE, PERFMON
    ({"attributes": 1 << 16 | 1 << 63}, "td-attributes", "1.5"),  # ICSSD, PERFMON
    ({"xfam": 0x2}, "td-xfam", "1.5"),  # no X87
    ({"xfam": 0x1}, "td-xfam", "1.5"),  # no SSE
    ({"xfam": 0x3 | 1 << 3}, "td-xfam", "1.5"),  # BNDREGS
    ({"xfam": 0x3 | 1 << 10}, "td-xfam", "1.5"),  # PASID
    ({"xfam": 0x3 | 1 << 63}, "td-xfam", "1.5"),
    ({"xfam": 0x3 | 0xE0}, "td-xfam", "1.5"),  # AVX-512 without AVX
    ({"xfam": 0x7 | 0x60}, "td-xfam", "1.5"),  # half of AVX-512
    ({"xfam": 0x3 | 1 << 11}, "td-xfam", "1.5"),  # half of CET
    ({"xfam": 0x3 | 1 << 18}, "td-xfam", "1.5"),  # half of AMX
    ({"max_vcpus": 0}, "td-max-vcpus", "1.5.01"),
    ({"max_vcpus": 577}, "td-max-vcpus", "1.5.06"),
    ({"l2": 4}, "td-l2-vms", "1.5"),
    ({"msr": 2}, "td-params-reserved", "1.5"),
    ({"eptp": 0 | 3 << 3}, "td-eptp-controls", "1.5"),  # uncacheable
    ({"eptp": 6 | 2 << 3}, "td-eptp-controls", "1.5"),  # 3 levels
    ({"eptp": 6 | 5 << 3}, "td-eptp-controls", "1.5"),  # 6 levels
    ({"eptp": 6 | 3 << 3 | 1 << 6}, "td-eptp-controls", "1.5"),  # accessed and dirty flags
    ({"eptp": 6 | 3 << 3 | 1 << 12}, "td-eptp-controls", "1.5"),  # an address
    ({"config_flags": 1}, "td-eptp-controls", "1.5"),  # 52 bits, 4 levels
    ({"config_flags": 1 << 3}, "td-config-flags", "1.5.01"),
    ({"config_flags": 1 << 4}, "td-config-flags", "1.5.06"),
    ({"config_flags": 3 << 3}, "td-config-flags", "1.5"),  # MAXPA_VIRT, MAXGPA_VIRT
    ({"config_flags": 1 << 63}, "td-config-flags", "2.0"),
    ({"tsc": 3}, "td-tsc-frequency", "1.5"),
    ({"tsc": 401}, "td-tsc-frequency", "1.5"),
]


@pytest.mark.parametrize(("fields", "rule", "module"), SPOILED)
def test_what_the_module_refuses_is_an_error(
    tmp_path: Path, fields: dict[str, int], rule: str, module: str
) -> None:
    result = checked(tmp_path, bytes(params_of_the_specification(**fields)), "--module", module)
    assert (result.code, rules(result)) == (1, [("error", rule)])
    assert answer(result)["hex"] is None


# The same values at the edge, which the module takes.
FINE: list[tuple[dict[str, int], str]] = [
    ({"attributes": 1 << 28 | 1 << 29 | 1 << 30}, "1.5.01"),
    ({"attributes": 1 << 63 | 1 << 27}, "1.5.06"),
    ({"attributes": 1 << 62 | 1 << 6}, "2.0"),
    ({"xfam": 0x6DBE7}, "1.5"),  # all that any module has
    ({"xfam": 0x3}, "1.5"),
    ({"max_vcpus": 576}, "1.5"),
    ({"l2": 3}, "1.5"),
    ({"eptp": 6 | 4 << 3}, "1.5"),  # 48 bits with 5 levels
    ({"eptp": 6 | 4 << 3, "config_flags": 1}, "1.5"),
    ({"eptp": 6 | 4 << 3, "config_flags": 0x7}, "1.5.01"),
    ({"config_flags": 1 << 4}, "1.5.28"),
    ({"tsc": 4}, "1.5"),
    ({"tsc": 400}, "1.5"),
    ({"msr": 1, "arch": 1}, "1.5"),
]


@pytest.mark.parametrize(("fields", "module"), FINE)
def test_what_the_module_takes_is_no_finding(
    tmp_path: Path, fields: dict[str, int], module: str
) -> None:
    result = checked(tmp_path, bytes(params_of_the_specification(**fields)), "--module", module)
    assert (result.code, rules(result)) == (0, [])


RESERVED = [*range(20, 24), *range(42, 80), *range(232, 256)]


@pytest.mark.parametrize("at", [20, 23, 42, 79, 232, 255])
def test_a_reserved_byte_is_an_error(tmp_path: Path, at: int) -> None:
    data = params_of_the_specification()
    data[at] = 1
    assert rules(checked(tmp_path, bytes(data))) == [("error", "td-params-reserved")]


def test_every_bit_flip_of_a_reserved_byte_is_seen() -> None:
    module = modules.find("1.5")
    for at in RESERVED:
        for bit in range(8):
            data = params_of_the_specification()
            data[at] ^= 1 << bit
            found = findings(read(Blob("p", memoryview(bytes(data)))), module)
            assert [f.rule for f in found] == ["td-params-reserved"], (at, bit)


def test_debug_is_a_warning_and_excludes_migration(tmp_path: Path) -> None:
    debug = checked(tmp_path, bytes(params_of_the_specification(attributes=1)))
    assert (debug.code, rules(debug)) == (0, [("warning", "policy-debug")])
    both = checked(tmp_path, bytes(params_of_the_specification(attributes=1 | 1 << 29)))
    assert both.code == 1
    assert ("error", "td-attributes") in rules(both)


def test_capabilities_that_do_not_count_are_a_warning(tmp_path: Path) -> None:
    result = checked(tmp_path, bytes(params_of_the_specification(arch=1)))
    assert (result.code, rules(result)) == (0, [("warning", "td-arch-capabilities")])


# MAX_NUM_CPUID_CONFIG of intel/tdx-module 72d8cff, 1e63698, 30d2218 and 1666adc.
COUNTS = {"1.5.01": 12, "1.5.06": 18, "1.5.28": 28, "2.0.12": 28}


@pytest.mark.parametrize(("module", "count"), COUNTS.items())
def test_cpuid_configurations_past_the_modules_list_are_an_error(
    tmp_path: Path, module: str, count: int
) -> None:
    last, past = params_of_the_specification(), params_of_the_specification()
    last[256 + 16 * count - 1] = past[256 + 16 * count] = 1
    assert rules(checked(tmp_path, bytes(last), "--module", module)) == []
    error = [("error", "td-cpuid-config")]
    assert rules(checked(tmp_path, bytes(past), "--module", module)) == error


def test_a_cpuid_configuration_of_zeros_past_the_list_is_an_error_too() -> None:
    entries = [w for n in range(13) for w in ("--cpuid", f"{n:x}=0,0,0,0")]
    assert td_params("--module", "1.5.01", *entries[:24]).code == 0
    result = td_params("--module", "1.5.01", *entries)
    assert (result.code, rules(result)) == (1, [("error", "td-cpuid-config")])


@pytest.mark.parametrize("length", [*range(0, 1024, 31), 1023, 1025, 2048])
def test_td_params_of_another_length_are_malformed(tmp_path: Path, length: int) -> None:
    path = tmp_path / "p"
    path.write_bytes(bytes(length))
    assert_refused(run("td-params", "--read", str(path)), {3})


@pytest.mark.parametrize("encoding", ["raw", "hex", "base64"])
def test_bytes_that_the_module_refuses_are_not_printed(tmp_path: Path, encoding: str) -> None:
    out = tmp_path / "p"
    result = run("td-params", "--xfam", "0x1", "--format", encoding, "-o", str(out))
    assert_refused(result, {1})
    assert "--xfam: td-xfam" in result.err
    assert not out.exists()


WRONG: dict[str, tuple[str, ...]] = {
    "a TSC between two steps": ("--tsc-khz", "2500001"),
    "a TSC that has no field": ("--tsc-khz", "99999999999"),
    "a width": ("--gpaw", "57"),
    "two widths": ("--gpaw", "48", "--config-flags", "0x5"),
    "too many vCPUs for 16 bits": ("--vcpus", "65536"),
    "too many nested VMs for 8 bits": ("--l2-vms", "256"),
    "a mask of 9 bits": ("--msr-config", "0x100"),
    "a mask of 65 bits": ("--attributes", "0x1ffffffffffffffff"),
    "no module": ("--module", "1.4"),
    "an empty module": ("--module", ""),
    "half a version": ("--module", "1.5.0"),
    "47 bytes": ("--mrowner", "00" * 47),
    "no file name": ("--mrowner", "file:"),
    "three registers": ("--cpuid", "1=1,2,3"),
    "five registers": ("--cpuid", "1=1,2,3,4,5"),
    "no registers": ("--cpuid", "1"),
    "a register of 33 bits": ("--cpuid", "1=100000000,0,0,0"),
    "an empty subleaf": ("--cpuid", "1:=0,0,0,0"),
    "one leaf twice": ("--cpuid", "1=0,0,0,0", "--cpuid", "1:0=0,0,0,0"),
    "49 leaves": tuple(w for n in range(49) for w in ("--cpuid", f"{n:x}=0,0,0,0")),
    "a file and options": ("--read", "x", "--vcpus", "1"),
    "a file and leaves": ("--read", "x", "--cpuid", "1=0,0,0,0"),
    "an unknown format": ("--format", "yaml"),
    "a format of other verbs": ("--format", "csv"),
}


@pytest.mark.parametrize("args", WRONG.values(), ids=WRONG)
def test_a_wrong_option_is_a_configuration_error(args: tuple[str, ...]) -> None:
    assert_refused(run("td-params", *args), {2})


def test_a_file_that_is_not_there_is_an_input_error() -> None:
    assert_refused(run("td-params", "--read", "/nowhere"), {3})
    assert_refused(run("td-params", "--mrowner", "file:/nowhere"), {3})


def test_td_params_are_read_from_standard_input() -> None:
    data = bytes(params_of_the_specification())
    assert run("td-params", "--read", "-", stdin=data).code == 0


def test_values_that_no_field_holds_are_refused() -> None:
    fields: list[dict[str, Any]] = [
        {"max_vcpus": 1 << 16}, {"num_l2_vms": -1}, {"attributes": 1 << 64}, {"mrowner": b"short"},
        {"mrowner": bytes(49)},
    ]  # fmt: skip
    for settings in fields:
        with pytest.raises(ConfigError, match="does not fit"):
            made(settings)
    assert len(pack(made({}))) == 1024


def test_the_newest_of_a_line_of_modules_is_what_its_short_name_means() -> None:
    assert [modules.find(n).name for n in ("1.5", "2.0", "1", "1.5.01")] == [
        "1.5.28", "2.0.12", "1.5.28", "1.5.01",
    ]  # fmt: skip


def test_bits_are_named_and_those_without_a_name_are_numbered() -> None:
    assert names(0, bits.XFAM) == "none"
    assert names(1 | 1 << 9 | 1 << 40, bits.XFAM) == "X87 PKRU bit 40"
    # Linux arch/x86/include/asm/shared/tdx.h: TDX_TD_ATTR_…_BIT
    assert bits.ATTRIBUTES[28] == "SEPT_VE_DISABLE"
    assert bits.ATTRIBUTES[63] == "PERFMON"


# --- TDINFO ------------------------------------------------------------------------------------


def tdinfo(fields: Mapping[int, bytes]) -> bytes:
    """512 bytes with these at their offsets, zero elsewhere."""
    data = bytearray(512)
    for at, value in fields.items():
        data[at : at + len(value)] = value
    return bytes(data)


def mini() -> str:
    return str(shared("vectors/tdx/mini-guid.fd"))


def test_tdinfo_is_512_bytes() -> None:
    assert TdInfo.LAYOUT.size == 512


def test_every_field_of_tdinfo_lies_where_the_specification_puts_it(tmp_path: Path) -> None:
    out = tmp_path / "tdinfo"
    rtmrs = [w for n, name in enumerate(RTMRS) for w in (f"--{name}", f"{n + 0xA0:02x}" * 48)]
    args = (
        mini(), "--attributes", "0x40000000", "--xfam", "0x61ae7", "--mrconfigid", "11" * 48,
        "--mrowner", "22" * 48, "--mrownerconfig", "33" * 48, *rtmrs,
        "--servtd", f"{'44' * 48}:0:0x123",
    )  # fmt: skip
    assert run("td-info", *args, "--format", "raw", "-o", str(out)).code == 0
    servtd = openssl(b"\x44" * 48 + struct.pack("<H", 0) + struct.pack("<Q", 0x123))
    wanted = tdinfo(
        {
            0: struct.pack("<QQ", 0x40000000, 0x61AE7),
            16: bytes.fromhex(MRTD),
            64: b"\x11" * 48, 112: b"\x22" * 48, 160: b"\x33" * 48,
            208: b"\xa0" * 48, 256: b"\xa1" * 48, 304: b"\xa2" * 48, 352: b"\xa3" * 48,
            400: bytes.fromhex(servtd),
        }
    )  # fmt: skip
    assert out.read_bytes() == wanted
    printed = answer(run("td-info", *args, "--format", "json"))
    assert printed["hex"] == wanted.hex()
    assert printed["tee_info_hash"] == openssl(wanted)
    assert printed["tdinfo"]["mrtd"] == MRTD
    assert printed["tdinfo"]["servtd_hash"] == servtd
    assert printed["rtmrs_given"] == list(RTMRS)
    assert run("td-info", *args, "--format", "hex").out == wanted.hex() + "\n"


def test_registers_of_a_quote_of_real_hardware_lead_to_the_hash_of_its_tdinfo() -> None:
    # body of a version 4 quote: attributes at 120, MRTD at 136, RTMRs at 328 (Intel DCAP)
    body = vector(QUOTE)[48 : 48 + 584]
    rtmrs = {name: body[328 + 48 * n :][:48] for n, name in enumerate(RTMRS)}
    info = bytearray(tdinfo({0: body[120:136], 16: body[136:184], 208: body[328:520]}))
    info[16:64] = bytes.fromhex(MRTD)  # the quote's firmware is not ours
    printed = answer(
        run(
            "td-info", mini(), "--attributes", "0x40000000", "--xfam", "0x61ae7",
            *[w for name, value in rtmrs.items() for w in (f"--{name}", value.hex())],
            "--format", "json",
        )
    )  # fmt: skip
    assert printed["tdinfo"]["rtmr0"].startswith("2927da70461cd63266f43230cc1849c0")
    assert printed["tee_info_hash"] == openssl(bytes(info))


def test_registers_that_are_not_given_are_zero_and_said_to_be() -> None:
    result = run("td-info", mini(), "--rtmr1", "55" * 48)
    info = tdinfo({3: b"\x10", 8: b"\x03", 16: bytes.fromhex(MRTD), 256: b"\x55" * 48})
    assert result.code == 0
    assert result.out.splitlines()[-1] == f"TEE_INFO_HASH (SHA-384)  {openssl(info)}"
    assert "RTMR0 RTMR2 RTMR3: not given, so zero" in result.out
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert "xfam 0x3 assumed" in lines
    assert "module 1.5.28 assumed" in lines


def test_what_the_module_wants_set_is_added_to_what_is_given_and_said() -> None:
    result = run("td-info", mini(), "--xfam", "0x4")
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert "8 xfam 0x7 X87 SSE AVX (added because the module requires it: X87 SSE)" in lines


@pytest.mark.parametrize("order", ["single-pass", "two-pass"])
def test_the_plan_and_its_document_have_one_tdinfo(tmp_path: Path, order: str) -> None:
    plan = tmp_path / "plan.json"
    args = (mini(), "--page-order", order, "--mrowner", "77" * 48, "--xfam", "0x7")
    assert run("plan", *args, "--format", "json", "-o", str(plan)).code == 0
    direct, read = (run("td-info", *a, "--format", "hex").out for a in (args, (str(plan),)))
    measured = run("measure", *args, "--bare").out
    assert direct == read
    assert direct[32 : 32 + 96] == measured


def test_expected_hash_is_compared() -> None:
    wanted = openssl(tdinfo({3: b"\x10", 8: b"\x03", 16: bytes.fromhex(MRTD)}))
    assert run("td-info", mini(), "--expect", wanted).code == 0
    assert run("td-info", mini(), "--expect", f"0x{wanted.upper()}").code == 0
    assert_refused(run("td-info", mini(), "--expect", wanted[:-1] + "0"), {1})
    assert_refused(run("td-info", mini(), "--expect", wanted[:64]), {2})
    assert_refused(run("td-info", mini(), "--expect", wanted[:-2]), {2})


def test_masks_that_no_module_takes_have_no_bytes() -> None:
    args = ("td-info", mini(), "--xfam", "0x23")
    for form in ("json", "hex", "text"):
        result = run(*args, "--format", form)
        assert_refused(result, {1})
        assert "td-xfam: xfam 0x23 sets only some of AVX512_OPMASK" in result.err


WRONG_INFO: dict[str, tuple[str, ...]] = {
    "a short register": ("--rtmr0", "00" * 47),
    "no service TD": ("--servtd", ""),
    "two parts": ("--servtd", f"{'00' * 48}:0"),
    "four parts": ("--servtd", f"{'00' * 48}:0:0:0"),
    "a short hash": ("--servtd", f"{'00' * 32}:0:0"),
    "a type of 17 bits": ("--servtd", f"{'00' * 48}:0x10000:0"),
    "attributes of 65 bits": ("--servtd", f"{'00' * 48}:0:0x10000000000000000"),
    "no module": ("--module", "3"),
    "an unknown format": ("--format", "nonsense"),
}


@pytest.mark.parametrize("args", WRONG_INFO.values(), ids=WRONG_INFO)
def test_a_wrong_option_of_td_info_is_a_configuration_error(args: tuple[str, ...]) -> None:
    assert_refused(run("td-info", "--example", "tdx", *args), {2})


@pytest.mark.parametrize("platform", ["snp", "sev", "default"])
def test_tdinfo_of_another_platform_is_not_supported(platform: str) -> None:
    result = run("td-info", "--example", "snp", "--platform", platform)
    assert_refused(result, {4})
    assert platform in result.err


def test_no_service_td_is_zeros_and_several_are_sorted_by_type_then_hash() -> None:
    # intel/tdx-module src/vmm_dispatcher/api_calls/tdh_mr_finalize.c: 58 bytes each
    assert servtd_hash([]) == bytes(48)
    a, b, c = (ServiceTd(bytes([n]) * 48, t, 7) for n, t in ((9, 0), (1, 1), (2, 1)))
    rows = b"".join(h + struct.pack("<H", t) + struct.pack("<Q", 7) for h, t, _ in (a, b, c))
    assert len(rows) == 3 * 58
    assert servtd_hash([c, b, a]).hex() == openssl(rows)


# --- identities from files ---------------------------------------------------------------------

IDENTITIES = ("mrconfigid", "mrowner", "mrownerconfig")


@pytest.mark.parametrize("name", IDENTITIES)
def test_an_identity_is_the_hash_of_a_file_and_the_plan_says_so(tmp_path: Path, name: str) -> None:
    file = tmp_path / "owner.json"
    file.write_bytes(b'{"owner": 1}\n')
    wanted = openssl(file.read_bytes())
    args = ("--example", "tdx", f"--{name}", f"file:{file}", "--format", "json")
    plan = json.loads(run("plan", *args).out)
    assert plan["given"] == {name: wanted}
    assert {i["role"]: i.get("path") for i in plan["inputs"]}[name] == str(file)
    made_by = next(op for op in plan["ops"] if op["op"] == "tdx-init-vm")
    assert made_by[name] == wanted
    assert answer(run("td-info", *args))["tdinfo"][name] == wanted
    assert answer(td_params(f"--{name}", f"file:{file}"))["td_params"][name] == wanted


@pytest.mark.parametrize("name", IDENTITIES)
def test_a_manifest_names_the_file_of_an_identity_beside_itself(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "id.bin").write_bytes(b"identity")
    (tmp_path / "id.bin").write_bytes(b"another")
    manifest = document(
        region("0x1000", "measured", source={"zeros": True}, size=4096),
        platform="tdx",
        guest={name: "file:id.bin"},
    )
    plan = json.loads(run_on(inner, "plan", manifest, "--format", "json").out)
    assert plan["given"][name] == openssl(b"identity")
    assert name in [i["role"] for i in plan["inputs"]]


def test_a_manifest_may_not_name_an_identity_outside_its_folder(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "id.bin").write_bytes(b"another")
    pages = region("0x1000", "measured", source={"zeros": True}, size=4096)
    manifest = document(pages, platform="tdx", guest={"mrowner": "file:../id.bin"})
    path = write(inner, manifest)
    result = run("plan", path)
    assert_refused(result, {2})
    assert "is outside the manifest's folder" in result.err
    plan = json.loads(run("plan", path, "--allow-outside", "--format", "json").out)
    assert plan["given"]["mrowner"] == openssl(b"another")


def test_an_option_beats_the_identity_of_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "id.bin").write_bytes(b"identity")
    pages = region("0x1000", "measured", source={"zeros": True}, size=4096)
    manifest = document(pages, platform="tdx", guest={"mrowner": "file:id.bin"})
    result = run_on(tmp_path, "plan", manifest, "--mrowner", "ab" * 48, "--format", "json")
    assert json.loads(result.out)["given"]["mrowner"] == "ab" * 48


def test_an_identity_in_base64_is_the_same_as_in_hex() -> None:
    data = bytes(range(48))
    written = base64.b64encode(data).decode()
    plans = [
        run("plan", "--example", "tdx", "--mrowner", w, "--format", "json").out
        for w in (written, data.hex())
    ]
    assert plans[0] == plans[1]
    assert json.loads(plans[0])["given"]["mrowner"] == data.hex()


def test_the_hash_of_an_empty_file_is_that_of_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    printed = answer(td_params("--mrowner", f"file:{tmp_path / 'empty'}"))
    # FIPS 180-4 example of the empty message
    assert printed["td_params"]["mrowner"].startswith("38b060a751ac96384cd9327eb1b1e36a")


def test_a_sha256_in_hex_is_not_taken_for_base64_of_48_bytes() -> None:
    result = run("plan", "--example", "tdx", "--mrconfigid", "e3b0c442" * 8)
    assert_refused(result, {2})
    assert "32 bytes in hex, not 48" in result.err


def test_48_zeros_may_be_base64() -> None:
    zeros = base64.b64encode(bytes(48)).decode()
    plan = json.loads(run("plan", "--example", "tdx", "--mrowner", zeros, "--format", "json").out)
    assert plan["given"]["mrowner"] == "00" * 48


@pytest.mark.parametrize(
    ("written", "code"), [("file:", 2), ("00" * 47, 2), ("zz" * 48, 2), ("file:/nowhere/x", 3)]
)
def test_a_wrong_identity_is_refused(written: str, code: int) -> None:
    result = run("plan", "--example", "tdx", "--mrconfigid", written)
    assert_refused(result, {code})


def test_a_wrong_identity_of_a_manifest_is_refused_at_its_place(tmp_path: Path) -> None:
    manifest = document(platform="tdx", guest={"mrowner": "file:"})
    result = run_on(tmp_path, "plan", manifest)
    assert_refused(result, {3})
    assert "guest.mrowner" in result.err


def test_an_identity_means_nothing_on_other_platforms(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    assert_refused(run("plan", "--example", "snp", "--mrowner", f"file:{tmp_path / 'x'}"), {2})


def test_any_1024_bytes_are_read_and_judged(tmp_path: Path) -> None:
    good = good_tdx().build()
    for start in range(0, len(good) - 1024, 512):
        assert checked(tmp_path, good[start : start + 1024]).code in (0, 1)


@pytest.mark.parametrize("args", [("td-info", "--example", "tdx"), ("td-params",)])
def test_neither_verb_loads_a_document_library(args: tuple[str, ...]) -> None:
    assert not modules_loaded(*args) & HEAVY


def test_no_bytes_are_no_td_params() -> None:
    with pytest.raises(CvmplanError):
        read(Blob("x", memoryview(b"")))
