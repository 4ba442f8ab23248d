"""
The certificate table of the GHCB, which is also the auxblob of configfs-tsm.

Source: AMD 56421, GHCB specification, "SNP Extended Guest Request", table of GUID, offset and
length, zeros at its end; GUIDs of AMD 56421 and go-sev-guest, abi/abi.go.  A GUID is seen with
its bytes as they are written and with those of the EFI order (CCF#8116).
"""

from __future__ import annotations

from struct import Struct
from typing import ClassVar, Final
from uuid import UUID

from cvmplan.core.blob import Blob
from cvmplan.core.records import Frozen, record

_NAMED: Final = {
    "63da758d-e664-4564-adc5-f4b93be8accd": "VCEK",
    "a8074bc2-a25a-483e-aae6-39c045a0b8a1": "VLEK",
    "4ab7b379-bbac-4fe4-a02f-05aef327c782": "ASK",
    "c0b406a4-a803-4952-9743-3fb6014cd0ae": "ARK",
}
_NAMES: Final = {
    key: name
    for text, name in _NAMED.items()
    for key in (UUID(text).bytes, UUID(text).bytes_le)
}  # fmt: skip
MOST: Final = 32  # entries of a table


@record
class Entry(Frozen):
    """One row of the table; the offset is from the table's begin."""

    LAYOUT: ClassVar = Struct("<16sII")
    guid: bytes
    offset: int
    length: int


def is_table(blob: Blob) -> bool:
    """Whether the bytes begin with a row whose GUID is that of a certificate."""
    return len(blob) >= Entry.LAYOUT.size and bytes(blob.data[:16]) in _NAMES


def entries(blob: Blob) -> list[tuple[str, Entry]]:
    """Return the rows that name a certificate; others have contents that are none of these."""
    found = []
    for at in range(0, min(len(blob), MOST * Entry.LAYOUT.size), Entry.LAYOUT.size):
        if len(blob) - at < Entry.LAYOUT.size:
            break
        row = blob.take(Entry, at)
        if not any(row.guid):
            break
        if row.guid in _NAMES:
            found.append((_NAMES[row.guid], row))
    return found
