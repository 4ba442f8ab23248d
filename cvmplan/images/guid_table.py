"""
The GUIDed structure table of an OVMF image: it grows downwards from a footer that ends
0x20 bytes below the image's end, and each entry's header follows its data.
Source: edk2 c5aa7e7, OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.nasm.inc.
"""

from __future__ import annotations

from struct import Struct
from typing import ClassVar, TypeVar

from cvmplan.core import guids
from cvmplan.core.blob import Blob, Record
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.records import Frozen, record

MOST_SECTIONS = 64  # of a metadata table; our bound, edk2 2026.08 has 7
FOOTER_END = 0x20  # bytes between the footer and the end of the image


@record
class Entry(Frozen):
    """One header: the size of the entry, this header included, and its GUID."""

    LAYOUT: ClassVar = Struct("<H16s")
    size: int
    guid: bytes


@record
class Offset(Frozen):
    """The data of an entry that says where a metadata table lies, counted from the end."""

    LAYOUT: ClassVar = Struct("<I")
    offset: int


R = TypeVar("R", bound=Record)


def has_guid_table(image: Blob) -> bool:
    """Whether the footer's GUID stands where the table ends."""
    end = len(image) - FOOTER_END
    return end >= Entry.LAYOUT.size and image.data[end - 16 : end] == guids.TABLE_FOOTER


def read_guid_table(image: Blob) -> dict[bytes, Blob]:
    """
    Map each GUID in the table (little endian) to the span of its data.

    UnsupportedError where there is no footer, MalformedError where sizes do not add up.
    """
    end = len(image) - FOOTER_END - Entry.LAYOUT.size
    if not has_guid_table(image):
        raise UnsupportedError("no OVMF GUID table at the end of the image", at=image.name)
    footer = image.take(Entry, end)
    start = end + Entry.LAYOUT.size - footer.size
    if not 0 <= start <= end:
        raise MalformedError(
            f"GUID table of {footer.size} bytes, expected {Entry.LAYOUT.size} to "
            f"{end + Entry.LAYOUT.size}",
            at=image.where(end),
        )
    table: dict[bytes, Blob] = {}
    while end > start:
        header = end - Entry.LAYOUT.size
        if header < start:
            problem = f"{end - start} stray bytes in the GUID table"
            raise MalformedError(problem, at=image.where(start))
        entry = image.take(Entry, header)
        if not Entry.LAYOUT.size <= entry.size <= end - start:
            raise MalformedError(
                f"GUID table entry of {entry.size} bytes, expected "
                f"{Entry.LAYOUT.size} to {end - start}",
                at=image.where(header),
            )
        if entry.guid in table:
            raise MalformedError(f"{name_of(entry.guid)} is listed twice", at=image.where(header))
        table[entry.guid] = image.slice(end - entry.size, header)
        end -= entry.size
    return table


def name_of(guid: bytes) -> str:
    """Name a little-endian GUID, by what it is for where that is known."""
    from uuid import UUID

    return guids.NAMES.get(guid) or str(UUID(bytes_le=guid))


def entry_data(table: dict[bytes, Blob], guid: bytes, record: type[R]) -> R | None:
    """Unpack the data of one entry, None where it is absent; MalformedError for another size."""
    data = table.get(guid)
    if data is None:
        return None
    if len(data) != record.LAYOUT.size:
        raise MalformedError(
            f"{name_of(guid)} entry has {len(data)} bytes of data, expected {record.LAYOUT.size}",
            at=data.where(0),
        )
    return data.take(record, 0)
