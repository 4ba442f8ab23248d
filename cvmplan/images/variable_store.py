"""
The variable store of OVMF: variables as firmware finds them in its flash at boot.

Source: edk2 c5aa7e7, MdeModulePkg/Include/Guid/VariableFormat.h (VARIABLE_STORE_HEADER,
AUTHENTICATED_VARIABLE_HEADER) and MdePkg/Include/Pi/PiFirmwareVolume.h; stores were compared
with what virt-firmware reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import ClassVar, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.records import Frozen, record

MOST_VARIABLES: Final = 4096
_AUTHENTICATED: Final = bytes.fromhex("782cf3aa7b949a43a1802e144ec37792")
_NV_DATA: Final = bytes.fromhex("8d2bf1ff96768b4ca9852747075b4f50")
_START: Final = 0x55AA
_ADDED: Final = 0x3F
_IN_TRANSITION: Final = 0x3E  # added, and a newer one was being written
_FORMATTED, _HEALTHY = 0x5A, 0xFE


@record
class FlashHeader(Frozen):
    """EFI_FIRMWARE_VOLUME_HEADER, as far as a store needs it."""

    LAYOUT: ClassVar = Struct("<16x16sQ4s4xH6x")
    file_system: bytes
    length: int
    signature: bytes
    header_length: int


@record
class StoreHeader(Frozen):
    """VARIABLE_STORE_HEADER."""

    LAYOUT: ClassVar = Struct("<16sIBBHI")
    signature: bytes
    size: int
    format: int
    state: int
    reserved: int
    reserved1: int


@record
class VariableHeader(Frozen):
    """AUTHENTICATED_VARIABLE_HEADER."""

    LAYOUT: ClassVar = Struct("<HBBIQ16sIII16s")
    start: int
    state: int
    reserved: int
    attributes: int
    monotonic_count: int
    time_stamp: bytes
    public_key_index: int
    name_size: int
    data_size: int
    vendor: bytes


@record
class Variable(Frozen):
    """A variable of the store: vendor's GUID (little endian), name, value."""

    vendor: bytes
    name: str
    value: bytes


def read(blob: Blob) -> tuple[Variable, ...]:
    """
    Return the variables of a store, which begins with its flash header.

    UnsupportedError: another kind of store, or one that an update was interrupted in;
    MalformedError, TruncatedError.
    """
    flash = blob.take(FlashHeader, 0)
    if flash.signature != b"_FVH" or flash.file_system != _NV_DATA:
        raise UnsupportedError("not a variable store of OVMF", at=blob.where(0))
    start = flash.header_length
    store = blob.take(StoreHeader, start)
    if store.signature != _AUTHENTICATED:
        raise UnsupportedError("a store without authenticated variables", at=blob.where(start))
    if (store.format, store.state) != (_FORMATTED, _HEALTHY):
        problem = f"a store of format {store.format:#x} and state {store.state:#x}"
        raise UnsupportedError(problem, at=blob.where(start + 20))
    found: dict[tuple[bytes, str], Variable] = {}
    for variable in _variables(blob.slice(start, start + store.size)):
        key = variable.vendor, variable.name
        if key in found:
            problem = f"variable {variable.name} is given twice"
            raise UnsupportedError(problem, at=blob.name)
        found[key] = variable
    return tuple(found.values())


def _variables(store: Blob) -> Iterator[Variable]:
    """Yield the variables that are there, those that were deleted left out."""
    at = StoreHeader.LAYOUT.size
    for _ in range(MOST_VARIABLES):
        at = (at + 3) & ~3
        if at + VariableHeader.LAYOUT.size > len(store):
            return
        head = store.take(VariableHeader, at)
        if head.start != _START:
            rest = store.data[at:]
            if bytes(rest).strip(b"\xff"):
                raise MalformedError("bytes after the last variable", at=store.where(at))
            return
        name = at + VariableHeader.LAYOUT.size
        data = name + head.name_size
        value = bytes(store.slice(data, data + head.data_size).data)
        if head.state == _IN_TRANSITION:
            problem = "an update of this variable was interrupted"
            raise UnsupportedError(problem, at=store.where(at), hint="boot the store once")
        if head.state == _ADDED:
            yield Variable(head.vendor, _name(store.slice(name, data)), value)
        at = data + head.data_size
    raise MalformedError(f"more than {MOST_VARIABLES} variables", at=store.where(0))


def _name(raw: Blob) -> str:
    try:
        text = bytes(raw.data).decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise MalformedError("a variable's name is not UTF-16", at=raw.where(0)) from error
    if not text.endswith("\0") or "\0" in text[:-1]:
        raise MalformedError("a variable's name has no end", at=raw.where(0))
    return text[:-1]
