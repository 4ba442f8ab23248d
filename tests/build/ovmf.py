"""
A firmware image in OVMF's layout: good as it stands, to be spoiled one field at a time.

    0              contents, every page different, some all zero
    -0x1000        TDVF descriptor, the GUID that marks it before it
    -0x600         ASEV descriptor
    ...            GUID table, growing downwards from its footer
    -0x20          reset vector (legacy: its first four bytes point at the TDVF descriptor)

A field that is None or absent from `entry_sizes` takes the value that is right for the image.
Sources: edk2 c5aa7e7, OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.nasm.inc (table),
X64/OvmfSevMetadata.nasm.inc and X64/IntelTdxMetadata.nasm.inc (descriptors).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

PAGE = 0x1000
GIB_4 = 0x1_0000_0000

FOOTER = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
RESET_BLOCK = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
HASH_TABLE = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
ASEV = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
TDX = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
TDVF = UUID("e9eaf9f3-168e-44d5-a8eb-7f4d8738f6ae")

FOOTER_END = 0x20  # bytes after the table
POINTER = 0x20  # legacy: the pointer to the TDVF descriptor, from the end of the image
ASEV_AT = 0x600  # the descriptors, from the end of the image
TDVF_AT = PAGE - 16
RESET_VECTOR = bytes(16) + b"\xf4" * 16  # hlt

SEC_MEM, SECRETS, CPUID, SVSM_CAA, HASHES = 1, 2, 3, 4, 0x10
BFV, CFV, TD_HOB, TEMP_MEM = 0, 1, 2, 3
MR_EXTEND, PAGE_AUG = 1, 2


class SevSection(NamedTuple):
    """One row of the ASEV descriptor."""

    gpa: int
    length: int
    type: int


class TdxSection(NamedTuple):
    """One row of the TDVF descriptor."""

    data_offset: int
    raw: int
    gpa: int
    mem: int
    type: int
    attr: int


SEV_SECTIONS = (
    SevSection(0x800000, 0x9000, SEC_MEM),
    SevSection(0x80A000, 0x3000, SEC_MEM),
    SevSection(0x80D000, 0x1000, SECRETS),
    SevSection(0x80E000, 0x1000, CPUID),
    SevSection(0x80F000, 0x1000, SVSM_CAA),
    SevSection(0x811000, 0x1F000, SEC_MEM),
    SevSection(0x810000, 0x1000, HASHES),
)


def tdx_sections(size: int, cfv: int) -> list[TdxSection]:
    """The sections of an image of `size` bytes whose first `cfv` bytes hold the variables."""
    base = GIB_4 - size
    return [
        TdxSection(cfv, size - cfv, base + cfv, size - cfv, BFV, MR_EXTEND),
        TdxSection(0, cfv, base, cfv, CFV, 0),
        TdxSection(0, 0, 0x810000, 0x10000, TEMP_MEM, 0),
        TdxSection(0, 0, 0x80B000, 0x2000, TEMP_MEM, 0),
        TdxSection(0, 0, 0x809000, 0x2000, TD_HOB, 0),
        TdxSection(0, 0, 0x800000, 0x6000, TEMP_MEM, 0),
    ]


@dataclass
class Ovmf:
    """What the image says. `sev_sections` or `tdx_sections` None: without that metadata."""

    size: int = 0x4000  # a multiple of 4096
    seed: str = "ovmf"
    zero_pages: tuple[int, ...] = (1,)
    reset_eip: int | None = 0x80B004
    hash_table: tuple[int, int] | None = (0x810C00, 0x400)
    sev_sections: list[SevSection] | None = field(default_factory=lambda: list(SEV_SECTIONS))
    tdx_sections: list[TdxSection] | None = None
    legacy: bool = False  # a pointer to the TDVF descriptor in place of the whole table

    footer_guid: UUID = FOOTER
    footer_size: int | None = None
    entry_sizes: dict[UUID, int] = field(default_factory=dict)
    reset_data: bytes | None = None
    asev_signature: bytes = b"ASEV"
    asev_length: int | None = None
    asev_version: int = 1
    asev_count: int | None = None
    asev_offset: int | None = None  # from the end of the image
    tdvf_guid: UUID = TDVF
    tdvf_signature: bytes = b"TDVF"
    tdvf_length: int | None = None
    tdvf_version: int = 1
    tdvf_count: int | None = None
    tdvf_offset: int | None = None  # from the end of the image; legacy: from its start

    def build(self) -> bytes:
        """The bytes of the image."""
        image = bytearray()
        for number in range(self.size // PAGE):
            image += bytes(PAGE) if number in self.zero_pages else self._page(number)
        image[-FOOTER_END:] = RESET_VECTOR
        _put(image, ASEV_AT, self._asev())
        _put(image, TDVF_AT + 16, self._tdvf())
        if self.legacy:
            _put(image, POINTER, struct.pack("<I", _chosen(self.tdvf_offset, self.size - TDVF_AT)))
        else:
            table = self._table()
            _put(image, FOOTER_END + len(table), table)
        return bytes(image)

    def _page(self, number: int) -> bytes:
        return hashlib.shake_128(f"{self.seed} page {number}".encode()).digest(PAGE)

    def _asev(self) -> bytes:
        if self.sev_sections is None:
            return b""
        rows = b"".join(struct.pack("<III", *section) for section in self.sev_sections)
        length = _chosen(self.asev_length, 16 + len(rows))
        count = _chosen(self.asev_count, len(self.sev_sections))
        return self.asev_signature + struct.pack("<III", length, self.asev_version, count) + rows

    def _tdvf(self) -> bytes:
        if self.tdx_sections is None:
            return b""
        rows = b"".join(struct.pack("<IIQQII", *section) for section in self.tdx_sections)
        length = _chosen(self.tdvf_length, 16 + len(rows))
        count = _chosen(self.tdvf_count, len(self.tdx_sections))
        header = self.tdvf_signature + struct.pack("<III", length, self.tdvf_version, count)
        return self.tdvf_guid.bytes_le + header + rows

    def _table(self) -> bytes:
        """The entries, the last one being the first that a reader meets, then the footer."""
        entries = b"".join(self._entry(guid, data) for guid, data in self._entries().items())
        size = _chosen(self.footer_size, len(entries) + 18)
        return entries + struct.pack("<H", size) + self.footer_guid.bytes_le

    def _entries(self) -> dict[UUID, bytes]:
        found: dict[UUID, bytes] = {}
        if self.tdx_sections is not None:
            found[TDX] = struct.pack("<I", _chosen(self.tdvf_offset, TDVF_AT))
        if self.sev_sections is not None:
            found[ASEV] = struct.pack("<I", _chosen(self.asev_offset, ASEV_AT))
        if self.hash_table is not None:
            found[HASH_TABLE] = struct.pack("<II", *self.hash_table)
        if self.reset_eip is not None:
            found[RESET_BLOCK] = struct.pack("<I", self.reset_eip)
        if self.reset_data is not None:
            found[RESET_BLOCK] = self.reset_data
        return found

    def _entry(self, guid: UUID, data: bytes) -> bytes:
        size = self.entry_sizes.get(guid, len(data) + 18)
        return data + struct.pack("<H", size) + guid.bytes_le


def _chosen(value: int | None, right: int) -> int:
    return right if value is None else value


def _put(image: bytearray, distance: int, data: bytes) -> None:
    """Write `data` so that it begins `distance` bytes before the end of the image."""
    start = len(image) - distance
    if len(data) > distance or start < 0:
        raise ValueError(f"{len(data)} bytes do not fit {distance:#x} before the end")
    image[start : start + len(data)] = data


def good_snp() -> Ovmf:
    """An image for SNP, as edk2 lays out its metadata today: the hashes page last."""
    return Ovmf(size=0x8000, seed="snp", zero_pages=(1, 2, 5))


def good_tdx() -> Ovmf:
    """An image for TDX, with the sections of a real one in their order."""
    size = 0x8000
    return Ovmf(
        size=size,
        seed="tdx",
        zero_pages=(1, 2, 5),
        hash_table=(0, 0),  # as edk2 leaves it where no kernel is verified
        sev_sections=None,
        tdx_sections=tdx_sections(size, cfv=0x2000),
    )


def example(platform: str) -> bytes:
    """The image behind `--example snp` or `--example tdx`."""
    return {"snp": good_snp, "tdx": good_tdx}[platform]().build()
