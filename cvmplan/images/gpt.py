"""
GUID partition tables, as firmware measures the one of the disk that it boots from.

Source: UEFI 2.10, 5.3; edk2 c5aa7e7, SecurityPkg/Library/DxeTpm2MeasureBootLib
(Tcg2MeasureGptTable): header, number of partitions, and the entries that have a type.
"""

from __future__ import annotations

from struct import Struct, pack
from typing import ClassVar, Final
from zlib import crc32

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.records import Frozen, record

MOST_ENTRIES: Final = 4096
ENTRY_SIZES: Final = (128, 4096)
_SIGNATURE: Final = b"EFI PART"


@record
class Header(Frozen):
    """EFI_PARTITION_TABLE_HEADER."""

    LAYOUT: ClassVar = Struct("<8sIIIIQQQQ16sQIII")
    signature: bytes
    revision: int
    header_size: int
    header_crc32: int
    reserved: int
    my_lba: int
    alternate_lba: int
    first_usable_lba: int
    last_usable_lba: int
    disk_guid: bytes
    partition_entry_lba: int
    number_of_partition_entries: int
    size_of_partition_entry: int
    partition_entry_array_crc32: int


def event(disk: Blob, sector: int = 512) -> bytes:
    """
    Return what firmware hashes of the table of `disk`, of blocks of `sector` bytes.

    UnsupportedError: no such table; MalformedError: a checksum or a size that is wrong.
    """
    header = disk.take(Header, sector)
    if header.signature != _SIGNATURE:
        hint = "the table of a disk with blocks of a different size is elsewhere"
        raise UnsupportedError("no GUID partition table", at=disk.where(sector), hint=hint)
    size, count = header.size_of_partition_entry, header.number_of_partition_entries
    if header.header_size != Header.LAYOUT.size or header.my_lba != 1:
        problem = f"a header of {header.header_size} bytes for block {header.my_lba}"
        raise MalformedError(problem, at=disk.where(sector))
    low, high = ENTRY_SIZES
    if count > MOST_ENTRIES or not low <= size <= high or size % low:
        problem = f"{count} entries of {size} bytes"
        raise MalformedError(problem, at=disk.where(sector + 80))
    raw = bytes(disk.slice(sector, sector + Header.LAYOUT.size).data)
    if crc32(raw[:16] + bytes(4) + raw[20:]) != header.header_crc32:
        raise MalformedError("the header's checksum is wrong", at=disk.where(sector + 16))
    start = header.partition_entry_lba * sector
    table = bytes(disk.slice(start, start + count * size).data)
    if crc32(table) != header.partition_entry_array_crc32:
        raise MalformedError("the entries' checksum is wrong", at=disk.where(sector + 88))
    rows = [table[at : at + size] for at in range(0, len(table), size)]
    used = [row for row in rows if any(row[:16])]
    return raw + pack("<Q", len(used)) + b"".join(used)
