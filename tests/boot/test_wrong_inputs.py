"""Inputs that firmware would refuse, or that decide nothing: refused or unknown, never a value."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha384
from lzma import FORMAT_ALONE, compress
from pathlib import Path

import pytest

from cvmplan.boot import acpi, direct, event_data, smbios
from cvmplan.boot.inputs import Inputs
from cvmplan.boot.node import Node, fold, registers
from cvmplan.boot.predict import header_rule, predict
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, CvmplanError, InputError, UnsupportedError
from cvmplan.images import firmware_volume, gpt, pe, variable_store
from cvmplan.platforms.tdx.hob import hob_list
from tests.run import run


def blob(data: bytes, name: str = "input") -> Blob:
    return Blob(name, memoryview(data))


def application(
    *, machine: int = 0x8664, subsystem: int = 10, raw: int = 0x200, certificate: int = 0,
    headers: int = 0x200, pointer: int = 0x200, tail: bytes = b"",
) -> bytes:  # fmt: skip
    """Return a PE image of one section, `.text`, of 512 bytes."""
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", machine, 1, 0, 0, 0, 112 + 8 * 6, 0x22)
    optional = bytearray(112 + 8 * 6)
    struct.pack_into("<H", optional, 0, 0x20B)
    struct.pack_into("<III", optional, 56, 0x2000, headers, 0xAAAAAAAA)
    struct.pack_into("<H", optional, 68, subsystem)
    struct.pack_into("<I", optional, 108, 6)
    struct.pack_into("<II", optional, 112 + 8 * 4, 0x400, certificate)
    section = struct.pack("<8sIIIIIIHHI", b".text", 0x100, 0x1000, raw, pointer, 0, 0, 0, 0, 0)
    head = (dos + coff + bytes(optional) + section).ljust(0x200, b"\0")
    return head + b"code".ljust(0x200, b"\xcc") + tail


def test_the_digest_leaves_out_checksum_directory_and_certificates_and_nothing_else() -> None:
    plain = pe.authenticode(pe.read(blob(application())))
    signed = application(certificate=16, tail=bytes(range(16)))
    assert pe.authenticode(pe.read(blob(signed))) == plain, "signing changes no digest"
    other = bytearray(application())
    other[0x58 + 64 : 0x58 + 68] = b"sums"
    assert pe.authenticode(pe.read(blob(bytes(other)))) == plain
    other[0x3FF] ^= 1
    assert pe.authenticode(pe.read(blob(bytes(other)))) != plain
    assert pe.authenticode(pe.read(blob(application(tail=b"abc")))) != plain, "no padding to 8"


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (application(machine=0x14C), UnsupportedError),
        (application(subsystem=3), UnsupportedError),
        (application(raw=0x300), InputError),
        (application(pointer=0x100), InputError),
        (application(certificate=8), InputError),
        (application(headers=0x10), InputError),
        (application(headers=0x1000), InputError),
        (b"bzImage without a stub", UnsupportedError),
        (application()[:0x90], InputError),
    ],
)
def test_an_image_that_firmware_refuses_has_no_digest(
    image: bytes, error: type[CvmplanError]
) -> None:
    with pytest.raises(error):
        pe.authenticode(pe.read(blob(image)))


@pytest.mark.parametrize("text", ["gr\u00fc\u00dfe", "quiet\0"])
def test_a_command_line_that_firmware_would_change_is_refused(text: str) -> None:
    with pytest.raises(UnsupportedError):
        direct.load_options(text, initrd=False, initrd_first=True)


def test_nothing_to_pass_on_is_no_event() -> None:
    assert direct.load_options("", initrd=False, initrd_first=True) == b""


@pytest.mark.parametrize(
    ("word", "named", "rule"),
    [
        (None, True, None), ("10.1", None, None), ("10.1", False, "patched"),
        ("10.0.13", True, "unpatched"), ("9.2.1", True, "patched"), ("11.1.3", None, "unpatched"),
        ("10.2", False, "unpatched"), ("patched", True, "patched"),
    ],
)  # fmt: skip
def test_the_kernels_header_follows_version_and_firmware(
    word: str | None, named: bool | None, rule: str | None
) -> None:
    from cvmplan.profiles.boot import header

    assert header(word, named) == rule


@pytest.mark.parametrize("word", ["ten", "10", "v10.2", "10.x", ""])
def test_a_version_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(ConfigError):
        header_rule(Inputs(header=word))


def test_a_register_with_an_unknown_event_has_no_value() -> None:
    known = Node(1, 4, "separator", "separator", event_data.digest(bytes(4)))
    found = registers([known, Node(1, 4, "x", "x", None, needs="y"), known])
    assert found[1].value is None
    assert found[1].unknown is not None
    assert found[1].unknown.needs == "y"
    assert found[0].value == bytes(48) == fold([])


def test_without_inputs_every_register_but_rtmr3_is_unknown() -> None:
    values = [one.value for one in registers(predict(Inputs()))]
    assert values == [None, None, None, bytes(48)]


@pytest.mark.parametrize(
    "args",
    [
        ["--kernel", "K", "--uki", "K"], ["--append", "quiet"], ["--initrd", "K"],
        ["--secure-boot", "yes"], ["--separator", "rtmr2"], ["--fw-cfg", "opt/other=K"],
        ["--boot-var", "Boot1=K"], ["--extend", "zz"], ["--extend", "00"], ["--quote", "K"],
        ["--expect", "RTMR4=00"],
        ["--loader", "K"], ["--esp", "K"], ["--acpi-tables", "K"], ["--smbios", "K"],
        ["--fw-cfg", "bootorder=K"], ["--boot-var", "BootOrder=K"],
        ["--memory", "-1"], ["--qemu", "new"],
    ],
)  # fmt: skip
def test_a_wrong_option_is_exit_2(args: list[str], tmp_path: Path) -> None:
    kernel = tmp_path / "K"
    kernel.write_bytes(application())
    result = run("rtmr", *(a.replace("K", str(kernel)) if "K" in a else a for a in args))
    assert (result.code, result.out) == (2, ""), result.err


def test_an_application_that_is_no_kernel_leaves_its_registers_unknown() -> None:
    found = registers(predict(Inputs(kernel=blob(application()), header="10.2", separator=1)))
    assert [one.value is None for one in found] == [True, True, True, False]


def test_rtmr3_is_what_it_is_extended_by_and_a_difference_is_exit_1() -> None:
    digest = "11" * 48
    args = ["rtmr", "--extend", digest, "--format", "json"]
    value = fold([bytes.fromhex(digest)]).hex()
    result = run(*args, "--expect", f"RTMR3={value}")
    assert result.code == 0, result.err
    assert json.loads(result.out)["registers"][3]["value"] == value
    assert run(*args, "--expect", f"RTMR3={'00' * 48}").code == 1
    assert run(*args).code == 5


def volume(files: bytes) -> bytes:
    system = bytes.fromhex("78e58c8c3d8a1c4f9935896185c32dd3")
    body = bytearray(72) + bytearray(files)
    struct.pack_into(
        "<16s16sQ4sIHHHBB", body, 0, bytes(16), system, len(body), b"_FVH", 0, 72, 0, 0, 0, 2
    )
    return bytes(body)


def file(kind: int, body: bytes) -> bytes:
    size = (24 + len(body)).to_bytes(3, "little")
    return struct.pack("<16sHBB3sB", b"f" * 16, 0, kind, 0, size, 0xF8) + body


def lzma(data: bytes) -> bytes:
    packed = compress(data, FORMAT_ALONE)
    guid = bytes.fromhex("98584eee143959429d6edc7bd79403cf")
    size = (24 + len(packed)).to_bytes(3, "little")
    return size + b"\x02" + guid + struct.pack("<HH", 24, 1) + packed


def test_a_volume_that_decompresses_without_bound_is_refused() -> None:
    image = volume(file(0x0B, lzma(bytes(firmware_volume.MOST_BYTES + 1))))
    with pytest.raises(InputError, match="more than 64 MiB"):
        firmware_volume.volumes(blob(image))


def test_volumes_inside_compressed_sections_are_found() -> None:
    inner = volume(file(7, b"driver"))
    section = (4 + len(inner)).to_bytes(3, "little") + b"\x17" + inner
    found = firmware_volume.volumes(blob(volume(file(0x0B, lzma(section)))))
    assert [(v.compressed, list(v.files)) for v in found] == [
        (x, [b"f" * 16]) for x in (False, True)
    ]


READERS: dict[str, Callable[[Blob], object]] = {
    "pe": lambda b: pe.authenticode(pe.read(b)),
    "variables": variable_store.read,
    "volumes": firmware_volume.volumes,
    "gpt": gpt.event,
    "acpi": acpi.derive,
    "smbios": lambda b: smbios.measured(smbios.installed(b, None)),
}


@pytest.mark.parametrize("name", READERS)
def test_bytes_of_any_kind_are_refused_and_nothing_else_escapes(name: str) -> None:
    numbers = random.Random(name)  # noqa: S311 not for secrets
    seeds = [application(), volume(file(0x0B, lzma(bytes(64)))), b"\0" * 4096, b"\xff" * 4096]
    for _ in range(300):
        data = bytearray(numbers.choice(seeds))
        for _ in range(numbers.randrange(1, 8)):
            data[numbers.randrange(len(data))] = numbers.randrange(256)
        with suppress(CvmplanError):
            READERS[name](blob(bytes(data[: numbers.randrange(len(data))])))


def test_ram_that_does_not_hold_a_section_is_refused() -> None:
    with pytest.raises(UnsupportedError):
        hob_list([(2, 0x809000, 0x2000)], [(0, 0x800000)])
    with pytest.raises(UnsupportedError):
        hob_list([(3, 0x809000, 0x2000)], [(0, 1 << 30)])


def test_smbios_whose_filter_was_never_seen_is_refused() -> None:
    table = bytes([0x16, 0x1A]) + bytes(0x18) + b"\0\0"
    with pytest.raises(UnsupportedError):
        smbios.measured(table)


V2 = (  # spec/corrections.md 1.5: version 2, name compose-hash, payload abcd
    "9dde1673f544faa94b921825209593ddde08d0baf9cd6990"
    "175dffaf3081f1bb10311d56de189491feb33842a050ad7b"
)


@pytest.mark.parametrize(
    ("written", "digest"),
    [
        ("dstack2:compose-hash:abcd", V2),
        ("dstack:a:b:00ff", sha384(b"\1\0\0\x08:a:b:\0\xff").hexdigest()),
        ("aael:a b c", sha384(b"LEAA\5\0\0\0a b c").hexdigest()),
    ],
)  # fmt: skip
def test_events_of_user_space_have_the_digests_of_their_projects(written: str, digest: str) -> None:
    result = run("rtmr", "--extend", written, "--format", "json")
    (event,) = (e for e in json.loads(result.out)["events"] if e["register"] == "RTMR3")
    assert event["digest"] == digest


@pytest.mark.parametrize("written", ["dstack:a:zz", "aael:", "dstack2:a:1"])
def test_an_event_of_user_space_that_is_none_is_refused(written: str) -> None:
    assert run("rtmr", "--extend", written).code == 2


def processor(at: int, number: int) -> bytes:
    """A structure of type 4 with one string, which the number at `at` names."""
    fixed = bytearray(0x30)
    fixed[:4] = bytes([4, 0x30, 0, 0])
    fixed[at] = number
    fixed[0x23] = 8  # cores: set to zero
    return bytes(fixed) + b"serial\0\0"


def test_what_differs_between_machines_is_blank_in_smbios() -> None:
    fixed = bytearray(processor(0x20, 0)[:0x30])
    fixed[0x23] = 0
    assert smbios.measured(processor(0x20, 1)) == bytes(fixed) + b" " * 6 + b"\0\0"
    whole = bytes([0x0B, 5, 1, 0, 1]) + b"text\0\0"
    assert smbios.measured(whole) == whole[:4] + bytes(7)
    with pytest.raises(InputError, match="no string 3"):
        smbios.measured(processor(0x20, 3))


def test_a_table_without_type_0_needs_the_firmwares() -> None:
    table = blob(processor(0x20, 1))
    with pytest.raises(UnsupportedError, match="type 0"):
        smbios.installed(table, None)
    made = smbios.installed(table, ("Vendor", "1.0", "01/02/2026"))
    assert b"Vendor\x001.0\x0001/02/2026\0\0" in made
    assert made.endswith(bytes.fromhex("7f04fffe0000"))
