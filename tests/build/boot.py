"""
What a TD boots from, made small: firmware of OVMF's shape, kernels, UKIs, disks, tables.

Sources: UEFI PI 1.8, volume 3 (volumes, files, sections); UEFI 2.10 (PE images by the Microsoft
PE/COFF specification, partition tables, variables); Linux, Documentation/arch/x86/boot.rst;
SMBIOS 3.7; ACPI 6.5.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from lzma import FORMAT_ALONE, compress
from uuid import UUID
from zlib import crc32

from tests.build.ovmf import Ovmf, tdx_sections

DXE_VOLUME = UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1").bytes_le
TD_TCG2 = UUID("f062221e-c607-44c2-b0b4-c3886331d351").bytes_le
SMBIOS_MEASUREMENT = UUID("d27fed59-abb4-4fed-bead-2a878c7e4a7e").bytes_le
SECURE_BOOT_CONFIG = UUID("f0e6a44f-7195-41c3-ac64-54f202cd0a21").bytes_le
UI_APP = UUID("462caa21-7614-4503-836e-8ab6f4662331").bytes_le
MENU_APP = UUID("eec25bdc-67f2-4d95-b1d5-f81b2039d11d").bytes_le
FILE_SYSTEM = UUID("8c8ce578-8a3d-4f1c-9935-896185c32dd3").bytes_le
LZMA = UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf").bytes_le
NV_DATA = UUID("fff12b8d-7696-4c8b-a985-2747075b4f50").bytes_le
AUTHENTICATED = UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c").bytes_le
SECURITY = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f").bytes_le
CC_PROTOCOL = bytes.fromhex("3d1a7596f472a641")

CFV, OUTER = 0x2000, 0x8000  # bytes of the variable store, and where the volumes begin


# --- firmware ----------------------------------------------------------------------------------


def section(kind: int, body: bytes) -> bytes:
    return (4 + len(body)).to_bytes(3, "little") + bytes([kind]) + body


def compressed(sections: bytes) -> bytes:
    """A GUID-defined section of LZMA."""
    return section(0x02, LZMA + struct.pack("<HH", 24, 1) + compress(sections, FORMAT_ALONE))


def ffs_file(name: bytes, kind: int, body: bytes) -> bytes:
    size = (24 + len(body)).to_bytes(3, "little")
    made = struct.pack("<16sHBB3sB", name, 0, kind, 0, size, 0xF8) + body
    return made.ljust(-(-len(made) // 8) * 8, b"\xff")


def volume(files: bytes, name: bytes | None = None) -> bytes:
    ext = name + struct.pack("<I", 20) if name else b""
    start = -(-(72 + len(ext)) // 8) * 8
    body = (bytes(72) + ext).ljust(start, b"\0") + files
    at = 72 if name else 0
    head = struct.pack(
        "<16s16sQ4sIHHHBB", bytes(16), FILE_SYSTEM, len(body), b"_FVH", 0, 72, 0, at, 0, 2
    )
    return head + body[len(head) :]


def variable(vendor: bytes, name: str, value: bytes, state: int = 0x3F) -> bytes:
    text = name.encode("utf-16-le") + b"\0\0"
    head = struct.pack(
        "<HBBIQ16sIII16s", 0x55AA, state, 0, 7, 0, bytes(16), 0, len(text), len(value), vendor
    )
    made = head + text + value
    return made.ljust(-(-len(made) // 4) * 4, b"\xff")


def store(variables: bytes = b"") -> bytes:
    """A variable store of CFV bytes behind its flash header."""
    size = CFV - 72
    flash = struct.pack(
        "<16s16sQ4sIHHHBB", bytes(16), NV_DATA, CFV, b"_FVH", 0, 72, 0, 0, 0, 2
    ).ljust(72, b"\0")
    head = struct.pack("<16sIBBHI", AUTHENTICATED, size, 0x5A, 0xFE, 0, 0)
    return flash + (head + variables).ljust(size, b"\xff")


@dataclass
class Firmware:
    """An image of OVMF for TDX: the files of its volume of drivers, texts in them, its store."""

    files: tuple[bytes, ...] = (TD_TCG2, SMBIOS_MEASUREMENT, UI_APP, MENU_APP)
    texts: tuple[bytes, ...] = (b"etc/boot/", b"\0initrd=initrd \0", b"QEMU FW CFG\0")
    variables: bytes = b""
    volumes: int = 1  # volumes of drivers
    size: int = field(default=0x10000)

    def build(self) -> bytes:
        """The bytes of the image."""
        image = bytearray(Ovmf(self.size, tdx_sections=tdx_sections(self.size, CFV)).build())
        image[:CFV] = store(self.variables)
        body = b"".join(ffs_file(name, 7, b"driver") for name in self.files)
        body += ffs_file(b"t" * 16, 7, b"".join(self.texts))
        inner = section(0x17, volume(body, DXE_VOLUME)) * self.volumes
        outer = volume(ffs_file(b"o" * 16, 0x0B, compressed(inner)))
        image[CFV:OUTER] = bytes(OUTER - CFV)
        image[CFV : CFV + len(outer)] = outer
        return bytes(image)


# --- what is booted ----------------------------------------------------------------------------


def pe_image(
    sections: dict[str, bytes] | Sequence[tuple[str, bytes]], head: bytes = b"", tail: bytes = b""
) -> bytes:
    """An EFI application; `head` is what the headers hold beside PE (a kernel's setup header)."""
    several = [*sections.items()] if isinstance(sections, dict) else [*sections]
    size = 0x400
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, len(several), 0, 0, 0, 160, 0x22)
    optional = bytearray(160)
    struct.pack_into("<H", optional, 0, 0x20B)
    struct.pack_into("<III", optional, 56, 0x10000000, size, 0xAAAAAAAA)
    struct.pack_into("<H", optional, 68, 10)
    struct.pack_into("<I", optional, 108, 6)
    rows, body, address = b"", b"", 0x1000
    for name, data in several:
        raw = data.ljust(-(-len(data) // 512) * 512, b"\0")
        row = struct.pack("<8sIIII", name.encode(), len(data), address, len(raw), size + len(body))
        rows += row + bytes(12) + struct.pack("<I", 0)
        body += raw
        address += -(-len(raw) // 0x1000) * 0x1000
    made = bytearray((dos + coff + bytes(optional) + rows).ljust(size, b"\0"))
    if head:
        made[0x1F0 : 0x1F0 + len(head)] = head
    return bytes(made) + body + tail


def setup_header(*, protocol: int = 0x20F, high: bool = True, xloadflags: int = 0) -> bytes:
    """Bytes 0x1f0 to 0x250 of a kernel."""
    head = bytearray(0x60)
    head[0x12:0x16] = b"HdrS"
    struct.pack_into("<H", head, 0x16, protocol)
    head[0x21] = int(high)
    struct.pack_into("<I", head, 0x3C, 0x7FFFFFFF)  # initrd_addr_max
    struct.pack_into("<H", head, 0x46, xloadflags)
    return bytes(head)


def kernel(*, measures: bool = True, header: bytes | None = None) -> bytes:
    """A kernel of Linux with an EFI stub, which measures by the CC protocol or does not."""
    code = b"stub" + (CC_PROTOCOL if measures else b"") + b"\xcc" * 100
    return pe_image({".text": code}, setup_header() if header is None else header, b"tail")


def uki(linux: bytes, version: str = "257.13", /, **more: bytes) -> bytes:
    """A UKI; sections are named without their dot."""
    magic = f"#### LoaderInfo: systemd-stub {version} ####".encode()
    rest = {f".{name}": data for name, data in more.items()}
    return pe_image({".sdmagic": magic, **rest, ".linux": linux})


def disk(entries: int = 4) -> tuple[bytes, bytes]:
    """A disk image with a partition table, and what firmware hashes of the table."""
    rows = [UUID(int=n + 1).bytes_le * 2 + bytes(96) for n in range(2)]
    table = b"".join(rows).ljust(entries * 128, b"\0")
    head = bytearray(
        struct.pack(
            "<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, 1, 33, 34, 40, b"d" * 16, 2,
            entries, 128, crc32(table),
        )
    )  # fmt: skip
    struct.pack_into("<I", head, 16, crc32(bytes(head)))
    image = bytes(512) + bytes(head).ljust(512, b"\0") + table.ljust(32 * 512, b"\0")
    return image, bytes(head) + struct.pack("<Q", 2) + b"".join(rows)


# --- what the VMM hands over -------------------------------------------------------------------


def acpi_table(signature: bytes, size: int) -> bytes:
    return signature + struct.pack("<I", size) + bytes(size - 8)


def acpi_tables() -> bytes:
    """The tables of a q35 machine, shortened."""
    sizes = {b"FACS": 64, b"DSDT": 100, b"FACP": 244, b"APIC": 80, b"MCFG": 60, b"RSDT": 48}
    return b"".join(acpi_table(name, size) for name, size in sizes.items()).ljust(0x800, b"\0")


def smbios(*structures: bytes) -> bytes:
    """A table with a structure of type 0, and its end."""
    bios = bytes([0, 0x18]) + b"\0\0" + bytes([1, 2, 0, 0, 3]) + bytes(15) + b"v\0w\0d\0\0"
    return bios + b"".join(structures) + bytes.fromhex("7f04fffe0000")
