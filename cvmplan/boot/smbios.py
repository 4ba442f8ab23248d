"""
SMBIOS structures, and what firmware hashes of them.

What differs between machines of one kind (serial numbers, asset tags, UUIDs …) is set to zero
or blanks before the structures are hashed.

Sources: SMBIOS 3.7, 6.1 and 7; edk2 c5aa7e7, MdeModulePkg/Universal/SmbiosMeasurementDxe
(mSmbiosFilterTable, FilterSmbiosEntry) and OvmfPkg/SmbiosPlatformDxe (type 0, 127).
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import ClassVar, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.records import Frozen, record

MOST_BYTES: Final = 1 << 20
MOST_STRUCTURES: Final = 8192
_BIOS, _END = 0, 127
_WHOLE: Final = frozenset({0x0B, 0x0F, 0x12, 0x1F, 0x21})
_OEM: Final = 0x80
_STRINGS: Final = {
    1: (7,), 2: (7, 10), 3: (7, 8), 4: (0x20, 0x21, 0x22), 0x11: (0x18, 0x19, 0x1A),
    0x16: (7,), 0x27: (8, 9, 10),
}  # fmt: skip
"""Type to the offsets of string numbers: the strings become blanks, the numbers zero."""
_NUMBERS: Final = {
    1: ((8, 16), (24, 1)),
    4: ((0x23, 1), (0x24, 1), (0x25, 1), (0x2A, 2), (0x2C, 2), (0x2E, 2), (0x11, 1), (0x16, 2)),
}  # fmt: skip
"""Type to offset and size of numbers that become zero."""
_UNSURE: Final = frozenset({0x16, 0x17, 0x1B})
"""Types whose filter was read and never seen: a table that has one is refused."""
_BIOS_FIXED: Final = bytes.fromhex("001a0000010200e803000800000000000000001c0000ffff0000")
_END_STRUCTURE: Final = bytes.fromhex("7f04fffe0000")


@record
class Header(Frozen):
    """SMBIOS_STRUCTURE: the header of each."""

    LAYOUT: ClassVar = Struct("<BBH")
    type: int
    length: int
    handle: int


@record
class Structure(Frozen):
    """One structure: its type, its formatted part with header, and its strings with their end."""

    type: int
    fixed: bytes
    strings: bytes


def structures(blob: Blob) -> tuple[Structure, ...]:
    """Return the structures of a table, in order; MalformedError, TruncatedError."""
    if len(blob) > MOST_BYTES:
        raise MalformedError(f"more than {MOST_BYTES >> 20} MiB of SMBIOS", at=blob.name)
    return tuple(_structures(blob))


def _structures(blob: Blob) -> Iterator[Structure]:
    data = bytes(blob.data)
    at = 0
    for _ in range(MOST_STRUCTURES):
        if at == len(data):
            return
        head = blob.take(Header, at)
        if head.length < Header.LAYOUT.size:
            raise MalformedError(f"a structure of {head.length} bytes", at=blob.where(at))
        fixed = bytes(blob.slice(at, at + head.length).data)
        start = at + head.length
        end = data.find(b"\0\0", start)
        if end < 0:
            raise MalformedError("the strings of a structure have no end", at=blob.where(start))
        yield Structure(head.type, fixed, data[start : end + 2])
        at = end + 2
    raise MalformedError(f"more than {MOST_STRUCTURES} structures", at=blob.where(0))


def installed(blob: Blob, bios: tuple[str, str, str] | None) -> bytes:
    """
    Return the table that OVMF installs, from what QEMU hands over or from itself.

    `bios`: vendor, version and date of the firmware's own type 0, None where `blob` was read in
    a guest or brings one.  UnsupportedError: none there and none given.
    """
    found = [s for s in structures(blob) if s.type != _END]
    first = [s for s in found if s.type == _BIOS]
    table = b"".join(s.fixed + s.strings for s in found)
    if not first:
        if bios is None:
            hint = "a table read in the guest (/sys/firmware/dmi/tables/DMI) has it"
            raise UnsupportedError("no structure of type 0", at=blob.name, hint=hint)
        table += _BIOS_FIXED + b"".join(s.encode("ascii") + b"\0" for s in bios) + b"\0"
    return table + _END_STRUCTURE


def measured(table: bytes) -> bytes:
    """Return what is hashed of an installed table; UnsupportedError where that is not sure."""
    found = structures(Blob("SMBIOS", memoryview(table)))
    return b"".join(_filtered(one) for one in found)


def _filtered(one: Structure) -> bytes:
    if one.type in _UNSURE:
        problem = f"how a structure of type {one.type} is measured is not certain"
        raise UnsupportedError(problem, at="SMBIOS")
    fixed = bytearray(one.fixed)
    strings = one.strings
    if one.type >= _OEM or one.type in _WHOLE:
        size = Header.LAYOUT.size
        return bytes(fixed[:size]) + bytes(len(fixed) - size + len(strings))
    for at in _STRINGS.get(one.type, ()):
        if at < len(fixed) and fixed[at]:
            strings = _blank(strings, fixed[at])
            fixed[at] = 0
    for at, size in _NUMBERS.get(one.type, ()):
        if at + size <= len(fixed):
            fixed[at : at + size] = bytes(size)
    return bytes(fixed) + strings


def _blank(strings: bytes, number: int) -> bytes:
    """Return the strings with the one of this number, from 1, blank."""
    parts = strings.split(b"\0")
    if number > len(parts) - 2:
        raise MalformedError(f"a structure has no string {number}", at="SMBIOS")
    parts[number - 1] = b" " * len(parts[number - 1])
    return b"\0".join(parts)
