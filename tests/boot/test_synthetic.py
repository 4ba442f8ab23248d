"""
Whole boots of images made here: every event is the hash of bytes that the test names itself.

The bytes are those of spec/rtmr.md (TCG PC Client Platform Firmware Profile 1.06; edk2 c5aa7e7;
qemu 10.2.2; systemd 257.13); digests that others published are written down in part.
"""

from __future__ import annotations

import json
import struct
from hashlib import sha384
from pathlib import Path
from typing import Any

import pytest

from tests.build import boot as build
from tests.run import Result, run

MEMORY = "512MiB"
LINE = "console=ttyS0"
INITRD = b"an archive" * 500
CALLING = b"Calling EFI Application from Boot Option"
EXITS = [b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success"]
# RAM of 512 MiB around the sections of the image: (start, end, is it added).
RAM = [
    (0, 0x800000, 0), (0x800000, 0x806000, 1), (0x806000, 0x809000, 0), (0x809000, 0x80B000, 1),
    (0x80B000, 0x80D000, 1), (0x80D000, 0x810000, 0), (0x810000, 0x820000, 1),
    (0x820000, 0x20000000, 0),
]  # fmt: skip


def hashed(data: bytes) -> str:
    return sha384(data).hexdigest()


def td_hob() -> bytes:
    """The hand-off blocks of RAM, by rtmr.md 2.1."""
    size = 56 + 48 * len(RAM) + 8
    head = struct.pack("<HHIIIQQQQQ", 1, 56, 0, 9, 0, 0, 0, 0, 0, 0x809000 + size)
    rows = (
        struct.pack("<HHIQQIIQQ", 3, 48, 0, 0, 0, 0 if added else 7, 7, low, high - low)
        for low, high, added in RAM
    )
    return head + b"".join(rows)


def authenticode(image: bytes) -> str:
    """The digest of an image whose sections fill the file in the order of their table."""
    optional = 0x40 + 24
    checksum, security = optional + 64, optional + 112 + 8 * 4
    parts = image[:checksum], image[checksum + 4 : security], image[security + 8 :]
    return hashed(b"".join(parts))


class Machine:
    """The files of one boot, written into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.write_bytes(data)
        return str(path)

    def rtmr(self, *args: str, firmware: build.Firmware | None = None) -> Result:
        image = self.write("OVMF.fd", (firmware or build.Firmware()).build())
        return run("rtmr", image, *args)

    def events(self, *args: str, firmware: build.Firmware | None = None) -> list[dict[str, Any]]:
        result = self.rtmr(*args, "--format", "json", firmware=firmware)
        assert result.code in (0, 5), result.err
        found: list[dict[str, Any]] = json.loads(result.out)["events"]
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def of(events: list[dict[str, Any]], register: int) -> list[str | None]:
    return [e["digest"] for e in events if e["register"] == f"RTMR{register}"]


def direct(machine: Machine, kernel: bytes | None = None, /, **more: str) -> list[str]:
    options = {
        "kernel": machine.write("bzImage", build.kernel() if kernel is None else kernel),
        "initrd": machine.write("initrd", INITRD), "append": LINE, "memory": MEMORY,
        "acpi-tables": machine.write("tables", build.acpi_tables()),
        "smbios": machine.write("dmi", build.smbios()), "qemu": "10.2", **more,
    }  # fmt: skip
    return [word for name, value in options.items() for word in (f"--{name}", value) if value]


def test_a_direct_boot_is_predicted_whole(machine: Machine) -> None:
    events = machine.events(*direct(machine))
    image = build.Firmware().build()
    tables = build.acpi_tables()
    rtmr0 = of(events, 0)
    assert rtmr0[:2] == [hashed(td_hob()), hashed(image[: build.CFV])]
    starts = ["1dd6f7b4", "53d3dbc0", "9dc3a1f8", "6f2e3cbc", "d607c0ef", "08a74f89", "18cc6e01"]
    assert [str(d)[:8] for d in rtmr0[2:9]] == starts
    assert rtmr0[9] == hashed(bytes(4))
    rsdp = b"RSD PTR \0BOCHS \0" + struct.pack("<I", tables.index(b"RSDT"))
    assert rtmr0[11:13] == [hashed(rsdp), hashed(tables)]
    assert rtmr0[13] == hashed(build.smbios())
    assert [str(d)[:8] for d in rtmr0[14:]] == ["52b9a02d", "5068e6a9", "dd424f2e"]
    assert of(events, 1) == [
        authenticode(build.kernel()), hashed(CALLING), hashed(bytes(4)), *map(hashed, EXITS)
    ]  # fmt: skip
    options = f"initrd=initrd {LINE}".encode("utf-16-le") + b"\0\0"
    assert of(events, 2) == [hashed(options), hashed(INITRD)]


def test_the_loader_has_a_command_for_each_pointer_and_checksum(machine: Machine) -> None:
    """Nine commands of the RSDP and of tables without pointers, three of FACP, three of RSDT."""
    digest = of(machine.events(*direct(machine)), 0)[10]
    tables = build.acpi_tables()

    def name(text: str) -> bytes:
        return text.encode().ljust(56, b"\0")

    def command(kind: int, rest: bytes) -> bytes:
        return (struct.pack("<I", kind) + rest).ljust(128, b"\0")

    whole = "etc/acpi/tables"
    made = command(1, name("etc/acpi/rsdp") + struct.pack("<IB", 16, 2))
    made += command(1, name(whole) + struct.pack("<IB", 64, 1))
    pointers = {b"FACP": [(36, 4), (40, 4), (140, 8)], b"RSDT": [(36, 4), (40, 4), (44, 4)]}
    for signature in (b"DSDT", b"FACP", b"APIC", b"MCFG", b"RSDT"):
        at = tables.index(signature)
        (size,) = struct.unpack_from("<I", tables, at + 4)
        for place, width in pointers.get(signature, []):
            made += command(2, name(whole) * 2 + struct.pack("<IB", at + place, width))
        made += command(3, name(whole) + struct.pack("<III", at + 9, at, size))
    made += command(2, name("etc/acpi/rsdp") + name(whole) + struct.pack("<IB", 16, 4))
    made += command(3, name("etc/acpi/rsdp") + struct.pack("<III", 8, 0, 20))
    assert digest == hashed(made.ljust(4096, b"\0"))


def patched(kernel: bytes, **fields: tuple[int, str, int]) -> str:
    """The digest of a kernel with QEMU's header, rtmr.md 3, and further fields (at, form, n)."""
    made = bytearray(kernel)
    made[0x210] = 0xB0
    made[0x211] |= 0x80
    struct.pack_into("<H", made, 0x224, 0xFE00)
    struct.pack_into("<I", made, 0x228, 0x20000)
    for at, form, number in fields.values():
        struct.pack_into(form, made, at, number)
    return authenticode(bytes(made))


@pytest.mark.parametrize(
    ("header", "memory", "highest"),
    [
        # the end of RAM less 0x28000 bytes of ACPI data, which the kernel's own limit is above
        (build.setup_header(), "512MiB", 0x20000000 - 0x28000 - 1),
        (build.setup_header(xloadflags=2), "512MiB", 0x20000000 - 0x28000 - 1),
        (build.setup_header(xloadflags=2), "4GiB", 0x80000000 - 0x28000 - 1),
        (build.setup_header(protocol=0x202), "4GiB", 0x37FFFFFF),
        (build.setup_header(protocol=0x203), "2816MiB", 0x7FFFFFFF - 0x28000),
    ],
)
def test_the_header_that_an_old_qemu_writes_is_measured(
    machine: Machine, header: bytes, memory: str, highest: int
) -> None:
    kernel = build.kernel(header=header)
    options = direct(machine, kernel, qemu="9.2", memory=memory)
    address = (highest - len(INITRD)) & ~4095
    fields = {"address": (0x218, "<I", address), "size": (0x21C, "<I", len(INITRD))}
    assert of(machine.events(*options), 1)[0] == patched(kernel, **fields)


@pytest.mark.parametrize(
    ("line", "mode"), [("vga=normal", 0xFFFF), ("vga=ext x", 0xFFFE), ("a vga=0x318,x", 0x318)]
)
def test_the_video_mode_of_the_command_line_is_in_the_header(
    machine: Machine, line: str, mode: int
) -> None:
    kernel = build.kernel()
    options = direct(machine, kernel, qemu="patched", append=line, initrd="")
    assert of(machine.events(*options), 1)[0] == patched(kernel, mode=(0x1FA, "<H", mode))


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"append": "vga=blue", "qemu": "patched"}, "not a mode"),
        ({"memory": "8MiB", "qemu": "patched"}, "not RAM"),
    ],
)
def test_a_boot_that_the_vmm_refuses_has_no_value(
    machine: Machine, more: dict[str, str], text: str
) -> None:
    result = machine.rtmr(*direct(machine, **more))
    assert (result.out, result.code != 0) == ("", True)
    assert text in result.err


@pytest.mark.parametrize(
    "header", [build.setup_header(protocol=0x201), build.setup_header(high=False)]
)
def test_what_is_written_into_an_old_kernel_is_not_predicted(
    machine: Machine, header: bytes
) -> None:
    result = machine.rtmr(*direct(machine, build.kernel(header=header), qemu="8.2"))
    assert result.code == 4
    assert "boot protocol" in result.err


def test_an_initrd_that_does_not_fit_is_refused(machine: Machine) -> None:
    header = bytearray(build.setup_header())
    struct.pack_into("<I", header, 0x3C, 0x1000)
    kernel = build.kernel(header=bytes(header))
    result = machine.rtmr(*direct(machine, kernel, qemu="8.2"))
    assert (result.code, result.out) == (4, "")
    assert "does not fit" in result.err


def test_a_kernel_before_6_9_measures_nothing(machine: Machine) -> None:
    events = machine.events(*direct(machine, build.kernel(measures=False)))
    assert of(events, 2) == []


@pytest.mark.parametrize(
    ("append", "texts", "wanted"),
    [
        (LINE, (b"etc/boot/", b" initrd=initrd\0"), f"{LINE} initrd=initrd"),
        ("", (b"etc/boot/", b"\0initrd=initrd \0"), "initrd=initrd "),
        (LINE, (b"etc/boot/",), None),  # no mark, or both: it is not known
        (LINE, (b"etc/boot/", b"\0initrd=initrd \0", b" initrd=initrd\0"), None),
    ],
)
def test_the_place_of_the_initrds_option_is_the_firmwares(
    machine: Machine, append: str, texts: tuple[bytes, ...], wanted: str | None
) -> None:
    firmware = build.Firmware(texts=texts)
    events = machine.events(*direct(machine, append=append), firmware=firmware)
    told = wanted and hashed(wanted.encode("utf-16-le") + b"\0\0")
    assert of(events, 2) == [told, hashed(INITRD)]


def test_without_an_initrd_the_command_line_stands_alone(machine: Machine) -> None:
    events = machine.events(*direct(machine, initrd=""))
    assert of(events, 2) == [hashed(LINE.encode("utf-16-le") + b"\0\0")]
    assert of(machine.events(*direct(machine, initrd="", append="")), 2) == []


def test_a_command_line_that_may_hide_the_initrd_is_not_known(machine: Machine) -> None:
    events = machine.events(*direct(machine, append="quiet noinitrd"))
    assert of(events, 2)[1] is None


def value(name: str, vendor: bytes, data: bytes) -> str:
    """The digest of a variable: UEFI_VARIABLE_DATA."""
    head = vendor + struct.pack("<QQ", len(name), len(data))
    return hashed(head + name.encode("utf-16-le") + data)


def test_variables_of_the_store_are_measured_with_their_values(machine: Machine) -> None:
    kept = build.variable(build.GLOBAL, "PK", b"key") + build.variable(build.SECURITY, "db", b"d")
    gone = build.variable(build.GLOBAL, "KEK", b"old", state=0x3D)
    late = build.variable(build.SECURITY, "dbt", b"times")
    firmware = build.Firmware(
        files=(build.TD_TCG2, build.SECURE_BOOT_CONFIG, build.UI_APP),
        variables=kept + gone + late,
    )
    options = direct(machine, smbios="", **{"secure-boot": "on"})
    events = machine.events(*options, firmware=firmware)
    names = {"SecureBoot": (build.GLOBAL, b"\1"), "PK": (build.GLOBAL, b"key")}
    names |= {"KEK": (build.GLOBAL, b""), "db": (build.SECURITY, b"d")}
    names |= {"dbx": (build.SECURITY, b""), "dbt": (build.SECURITY, b"times")}
    wanted = [value(name, vendor, data) for name, (vendor, data) in names.items()]
    assert of(events, 0)[4:10] == wanted
    assert "23ada07f" in str(of(events, 0))  # UiApp alone: the option of firmware until 202502
    unknown = [e["needs"] for e in events if e["digest"] is None]
    assert any("which key of db" in need for need in unknown)


@pytest.mark.parametrize(
    ("files", "variables", "word", "code"),
    [
        ((build.TD_TCG2,), b"", "on", 2),  # built without Secure Boot
        ((build.TD_TCG2, build.SECURE_BOOT_CONFIG), b"", "on", 2),  # no PK
        ((build.TD_TCG2, build.SECURE_BOOT_CONFIG), b"", "off", 5),
        ((build.TD_TCG2, build.SECURE_BOOT_CONFIG), b"", None, 5),
    ],
)
def test_secure_boot_that_cannot_be_is_refused(
    machine: Machine, files: tuple[bytes, ...], variables: bytes, word: str | None, code: int
) -> None:
    options = ["--secure-boot", word] if word else []
    firmware = build.Firmware(files=files, variables=variables)
    assert machine.rtmr(*options, firmware=firmware).code == code


def test_what_was_not_given_is_named_with_what_would_settle_it(machine: Machine) -> None:
    events = machine.events("--kernel", machine.write("k", build.kernel()))
    needs = " ".join(e["needs"] or "" for e in events)
    for option in ("--memory", "--acpi-tables", "--smbios", "--qemu"):
        assert option in needs


def test_old_firmware_extends_rtmr0_by_both_separators_or_does_not_tell(machine: Machine) -> None:
    old = build.Firmware(files=(build.TD_TCG2, build.UI_APP), texts=(b" initrd=initrd\0",))
    options = direct(machine, smbios="")
    events = machine.events(*options, firmware=old)
    assert None in of(events, 0)
    assert None in of(events, 1)
    told = machine.events(*options, "--separator", "rtmr0", firmware=old)
    assert of(told, 0).count(hashed(bytes(4))) == 2
    assert of(told, 1) == [
        authenticode(build.kernel()), hashed(CALLING), *map(hashed, EXITS)
    ]  # fmt: skip
    assert [str(d)[:8] for d in of(told, 0)[-3:-1]][1] == "23ada07f"
    new = machine.rtmr(*options, "--separator", "rtmr0", firmware=build.Firmware())
    assert (new.code, new.out) == (2, "")


def test_firmware_that_does_not_measure_leaves_all_unknown(machine: Machine) -> None:
    firmware = build.Firmware(files=(build.UI_APP,))
    events = machine.events("--memory", MEMORY, firmware=firmware)
    assert [(e["register"], e["digest"]) for e in events] == [(f"RTMR{n}", None) for n in range(3)]


@pytest.mark.parametrize("volumes", [0, 2])
def test_an_image_of_another_kind_is_refused(machine: Machine, volumes: int) -> None:
    result = machine.rtmr(firmware=build.Firmware(volumes=volumes))
    assert (result.code, result.out) == (4, "")
    assert "volumes of drivers" in result.err


@pytest.mark.parametrize("option", ["--smbios", "--fw-cfg"])
def test_an_input_that_this_firmware_does_not_measure_is_refused(
    machine: Machine, option: str
) -> None:
    firmware = build.Firmware(files=(build.TD_TCG2,), texts=())
    path = machine.write("x", b"12")
    word = path if option == "--smbios" else f"BootMenu={path}"
    assert machine.rtmr(option, word, firmware=firmware).code == 2


def test_items_and_boot_variables_that_are_given_are_measured(machine: Machine) -> None:
    menu = machine.write("menu", b"\1\0")
    roots = machine.write("roots", bytes(8))
    wrong = machine.write("wrong", bytes(3))  # of another size: not measured
    order = machine.write("order", b"\2\0\3\0")
    option = machine.write("option", b"an option")
    options = [
        "--fw-cfg", f"BootMenu={menu}", "--fw-cfg", f"etc/extra-pci-roots={roots}",
        "--fw-cfg", f"etc/boot-menu-wait={wrong}", "--boot-var", f"BootOrder={order}",
        "--boot-var", f"Boot0002={option}",
    ]  # fmt: skip
    events = machine.events(*options)
    digests = of(events, 0)
    assert digests[2:4] == [hashed(bytes(8)), hashed(b"\1\0")]
    assert digests[-3:] == [hashed(b"\2\0\3\0"), hashed(b"an option"), None]
    odd = machine.rtmr("--boot-var", f"BootOrder={machine.write('odd', b'abc')}")
    assert odd.code == 2
    assert "two bytes per number" in odd.err


# --- disks -------------------------------------------------------------------------------------

OSREL, RELEASE = b"ID=test\n", b"6.12"
CMDLINE = b"\x01root=/dev/vda quiet\n\0"


def parts() -> dict[str, bytes]:
    return {"osrel": OSREL, "cmdline": CMDLINE, "initrd": INITRD, "uname": RELEASE}


def cpio_of_osrel() -> bytes:
    """The archive of systemd 257's cpio.c: a folder, a file, a trailer, written out."""

    def entry(inode: int, mode: int, links: int, name: bytes, data: bytes) -> bytes:
        numbers = (inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08x" % n for n in numbers) + name + b"\0"
        head += bytes(-len(head) % 4)
        return head + data + bytes(-len(data) % 4)

    folder = entry(1, 0o040555, 1, b".extra", b"")
    file = entry(2, 0o100444, 1, b".extra/os-release", OSREL)
    trailer = entry(0, 0, 1, b"TRAILER!!!", b"").replace(b"0000000b", b"0000000B")
    return folder + file + trailer


def test_a_uki_is_predicted_behind_a_loader(machine: Machine) -> None:
    image = build.uki(build.kernel(), **parts())
    loader = build.pe_image({".text": b"loader"})
    disk, table = build.disk()
    events = machine.events(
        "--uki", machine.write("uki", image), "--esp", machine.write("disk", disk),
        "--loader", machine.write("sd-boot", loader), "--secure-boot", "absent",
    )  # fmt: skip
    assert of(events, 1) == [
        hashed(CALLING), hashed(bytes(4)), hashed(table), authenticode(loader),
        authenticode(image), authenticode(build.kernel()), *map(hashed, EXITS),
    ]  # fmt: skip
    sections: list[tuple[bytes, bytes]] = [
        (b".linux", build.kernel()), (b".osrel", OSREL), (b".cmdline", CMDLINE),
        (b".initrd", INITRD), (b".uname", RELEASE),
    ]  # fmt: skip
    wanted = [hashed(part) for name, data in sections for part in (name + b"\0", data)]
    line = "root=/dev/vda quiet".encode("utf-16-le") + b"\0\0"
    archive = INITRD + bytes(-len(INITRD) % 4) + cpio_of_osrel()
    assert of(events, 2) == [*wanted, hashed(line), hashed(archive)]


def test_one_part_of_an_initrd_is_not_padded(machine: Machine) -> None:
    image = build.uki(build.kernel(), cmdline=b"quiet", initrd=b"abc")
    events = machine.events("--uki", machine.write("uki", image))
    assert of(events, 2)[-1] == hashed(b"abc")
    bare = build.uki(build.kernel(measures=False), cmdline=b"quiet")
    names = [b".linux\0", build.kernel(measures=False), b".cmdline\0", b"quiet"]
    events = machine.events("--uki", machine.write("bare", bare))
    assert of(events, 2) == [hashed(n) for n in names]


@pytest.mark.parametrize(
    ("image", "needs"),
    [
        (build.uki(build.kernel(), "256.1", cmdline=b"x"), "a stub of systemd 257"),
        (build.uki(build.pe_image({".text": b"x"}), cmdline=b"x"), "a kernel of Linux"),
        (build.uki(build.kernel(), cmdline=b"\xc3\xa4"), "ASCII"),
        (build.uki(build.kernel(), cmdline=b"efi=x"), "ASCII"),
        (build.uki(build.kernel(), cmdline=b" \0"), "ASCII"),
        (build.uki(build.kernel()), "ASCII"),
        (build.uki(build.kernel(), cmdline=b"x", pcrpkey=b"k"), "--template"),
    ],
)
def test_what_a_stub_does_that_is_not_known_is_unknown(
    machine: Machine, image: bytes, needs: str
) -> None:
    result = machine.rtmr("--uki", machine.write("uki", image))
    assert result.code == 5
    assert needs in result.out


@pytest.mark.parametrize("section", ["profile", "dtbauto", "hwids"])
def test_sections_that_choose_by_hardware_are_refused(machine: Machine, section: str) -> None:
    image = build.uki(build.kernel(), **{section: b"x"})
    assert machine.rtmr("--uki", machine.write("uki", image)).code == 4


def test_with_secure_boot_the_kernel_of_a_uki_is_not_measured_again(machine: Machine) -> None:
    image = build.uki(build.kernel(), cmdline=b"x")
    firmware = build.Firmware(
        files=(build.TD_TCG2, build.SECURE_BOOT_CONFIG),
        variables=build.variable(build.GLOBAL, "PK", b"key"),
    )
    path = machine.write("uki", image)
    on = machine.events("--uki", path, "--secure-boot", "on", firmware=firmware)
    assert authenticode(build.kernel()) not in of(on, 1)
    unsaid = machine.events("--uki", path, firmware=firmware)
    assert of(unsaid, 1).count(None) == 2  # the table of the disk, and the kernel


def test_a_uki_as_kernel_leaves_what_it_starts_unknown(machine: Machine) -> None:
    image = build.uki(build.kernel(), cmdline=b"x")
    events = machine.events(*direct(machine, image, append="", initrd=""))
    assert of(events, 1)[0] == authenticode(image)
    assert None in of(events, 1)
    assert None in of(events, 2)


def test_an_image_that_is_no_uki_is_refused(machine: Machine) -> None:
    path = machine.write("app", build.pe_image({".text": b"x"}))
    result = machine.rtmr("--uki", path)
    assert (result.code, result.out) == (4, "")


@pytest.mark.parametrize(
    ("at", "data", "code"),
    [
        (512, b"NOT PART", 4), (512 + 12, b"\x5d", 3), (512 + 24, b"\2", 3),
        (512 + 80, b"\xff\xff", 3), (512 + 16, b"crc!", 3), (1024, b"\xee", 3),
    ],
)  # fmt: skip
def test_a_table_that_firmware_does_not_take_is_refused(
    machine: Machine, at: int, data: bytes, code: int
) -> None:
    image = bytearray(build.disk()[0])
    image[at : at + len(data)] = data
    uki = machine.write("uki", build.uki(build.kernel(), cmdline=b"x"))
    result = machine.rtmr("--uki", uki, "--esp", machine.write("disk", bytes(image)))
    assert (result.code, result.out) == (code, "")


# --- the store ---------------------------------------------------------------------------------

FLASH = 72  # bytes of the store's flash header


def text(name: bytes) -> bytes:
    """A variable with a name of these bytes."""
    made = build.variable(build.GLOBAL, "AA", b"v")
    return made.replace("AA".encode("utf-16-le") + b"\0\0", name.ljust(6, b"\0"))


@pytest.mark.parametrize(
    ("variables", "at", "data", "code"),
    [
        (b"", 16, b"x" * 16, 4), (b"", 40, b"_XXX", 4), (b"", FLASH, b"y", 4),
        (b"", FLASH + 20, b"\0", 4),
        (build.variable(build.GLOBAL, "A", b"1") * 2, 0, b"", 4),
        (build.variable(build.GLOBAL, "A", b"1", state=0x3E), 0, b"", 4),
        (b"rubbish behind the last one" + bytes(80), 0, b"", 3),
        (text(b"\x00\xd8A\0\0\0"), 0, b"", 3), (text(b"A\0B\0C\0"), 0, b"", 3),
    ],
)  # fmt: skip
def test_a_store_that_firmware_would_not_read_so_is_refused(
    tmp_path: Path, variables: bytes, at: int, data: bytes, code: int
) -> None:
    image = bytearray(build.Firmware(variables=variables).build())
    image[at : at + len(data)] = data
    path = tmp_path / "OVMF.fd"
    path.write_bytes(image)
    result = run("rtmr", str(path))
    assert (result.code, result.out) == (code, ""), result.err


# --- logs --------------------------------------------------------------------------------------


def ccel(machine: Machine, options: list[str], firmware: build.Firmware | None = None) -> str:
    log = str(machine.folder / "log")
    result = machine.rtmr(*options, "--format", "ccel", "-o", log, firmware=firmware)
    assert result.code == 0, result.err
    return log


@pytest.fixture
def whole(machine: Machine) -> list[str]:
    return direct(machine)


def test_a_predicted_log_is_read_and_replays_into_the_registers(
    machine: Machine, whole: list[str]
) -> None:
    """The registers are a fold of the events' digests, made here."""
    events = machine.events(*whole)
    log = ccel(machine, whole)
    told = run("events", log, "--format", "json")
    assert told.code == 0, told.err
    registers = json.loads(told.out)["registers"]
    for number in range(3):
        value = bytes(48)
        for digest in of(events, number):
            value = sha384(value + bytes.fromhex(str(digest))).digest()
        assert value.hex() in json.dumps(registers)


def test_a_log_has_no_room_for_an_event_that_is_not_known(machine: Machine) -> None:
    result = machine.rtmr("--memory", MEMORY, "--format", "ccel", "-o", str(machine.folder / "x"))
    assert result.code == 2
    assert not (machine.folder / "x").exists()


@pytest.mark.parametrize(
    ("change", "register", "why"),
    [
        ({"memory": "640MiB"}, "RTMR0", "equal with --memory 512MiB"),
        ({"qemu": "patched"}, "RTMR1", "equal with --qemu unpatched"),
        ({"append": f"{LINE} "}, "RTMR2", "without the blanks at its end"),
        ({"append": "other"}, "RTMR2", ""),
        ({"initrd": ""}, "RTMR2", "initrd=initrd before the rest"),
    ],
)
def test_the_input_that_explains_a_log_is_named(
    machine: Machine, whole: list[str], change: dict[str, str], register: str, why: str
) -> None:
    log = ccel(machine, whole)
    asked = machine.rtmr(*direct(machine, **change), "--log", log, "--format", "json")
    assert asked.code == 1, asked.err
    (found,) = json.loads(asked.out)["differences"]
    assert found["register"] == register
    assert why in (found["why"] or "")
    assert bool(why) == bool(found["why"])
    shown = machine.rtmr(*direct(machine, **change), "--log", log)
    assert f"{register}, event" in shown.out


def test_a_header_that_was_written_is_recognised_with_its_memory(machine: Machine) -> None:
    log = ccel(machine, direct(machine, qemu="patched", memory="1GiB"))
    options = direct(machine, memory="1GiB")
    found = json.loads(machine.rtmr(*options, "--log", log, "--format", "json").out)
    assert [d["why"] for d in found["differences"]] == ["equal with --qemu patched"]


def test_missing_and_surplus_events_are_named(machine: Machine, whole: list[str]) -> None:
    old = build.Firmware(files=(build.TD_TCG2, build.UI_APP), texts=(b"\0initrd=initrd \0",))
    options = direct(machine, smbios="")
    first = ccel(machine, [*options, "--separator", "rtmr0"], old)
    asked = machine.rtmr(
        *options, "--separator", "rtmr1", "--log", first, "--format", "json", firmware=old
    )
    found = {d["register"]: d for d in json.loads(asked.out)["differences"]}
    assert "202411" in found["RTMR0"]["why"]
    assert "202411" in found["RTMR1"]["why"]
    bare = ccel(machine, direct(machine, initrd="", append=""))
    asked = machine.rtmr(*whole, "--log", bare, "--format", "json")
    (difference,) = json.loads(asked.out)["differences"]
    assert "with a TPM" in difference["why"]
    same = machine.rtmr(*whole, "--log", ccel(machine, whole))
    assert same.code == 0
    assert "the log matches every known event" in same.out


def test_a_template_gives_what_inputs_do_not_decide(machine: Machine, whole: list[str]) -> None:
    log = ccel(machine, whole)
    other = machine.write("other", b"another archive")
    asked = ["rtmr", "--template", log, "--initrd", other]
    assert run(*asked).code == 5  # an old QEMU writes the size of the initrd into the kernel
    asked += ["--qemu", "unpatched"]
    result = run(*asked, "--format", "json")
    assert result.code == 6, result.err
    events = json.loads(result.out)["events"]
    before = machine.events(*whole)
    changed = [
        (a["digest"], b["digest"]) for a, b in zip(before, events, strict=True)
        if a["digest"] != b["digest"]
    ]  # fmt: skip
    assert changed == [(hashed(INITRD), hashed(b"another archive"))]
    assert "not independent" in run(*asked).out
