"""
What stands in the data of events, for people: the log's word, measured or not.

Data that do not have the form of their type are no error: they are said to be other data.

Sources: TCG PC Client Platform Firmware Profile 1.06, "Event Data" (UEFI_VARIABLE_DATA,
UEFI_IMAGE_LOAD_EVENT, UEFI_PLATFORM_FIRMWARE_BLOB2, UEFI_HANDOFF_TABLE_POINTERS2,
TCG_PCClientTaggedEvent); UEFI 2.10, 3.1.3 (EFI_LOAD_OPTION) and 10.3 (device paths).
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from struct import Struct
from typing import ClassVar, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import TruncatedError
from cvmplan.core.records import Frozen, record
from cvmplan.eventlog.event import RUNTIME, Event

MOST_SHOWN: Final = 300  # characters of a description
MOST_LOOKED_AT: Final = 1024  # bytes of a text
_FILE_PATH: Final = (4, 4)  # type and sub-type of a device path node
_GUID_NODES: Final = ((4, 3), (4, 6), (4, 7))  # vendor's medium, firmware file, firmware volume
_MOST_NODES: Final = 64


@record
class VariableData(Frozen):
    """UEFI_VARIABLE_DATA up to the name; lengths in characters and bytes."""

    LAYOUT: ClassVar = Struct("<16sQQ")
    variable_name: bytes
    unicode_name_length: int
    variable_data_length: int


@record
class LoadOption(Frozen):
    """EFI_LOAD_OPTION up to the description."""

    LAYOUT: ClassVar = Struct("<IH")
    attributes: int
    file_path_list_length: int


@record
class ImageLoadEvent(Frozen):
    """UEFI_IMAGE_LOAD_EVENT up to the device path."""

    LAYOUT: ClassVar = Struct("<QQQQ")
    image_location: int
    image_length: int
    image_link_time_address: int
    length_of_device_path: int


@record
class PathNode(Frozen):
    """EFI_DEVICE_PATH_PROTOCOL."""

    LAYOUT: ClassVar = Struct("<BBH")
    type: int
    sub_type: int
    length: int


@record
class FirmwareBlob(Frozen):
    """UEFI_PLATFORM_FIRMWARE_BLOB, or the end of UEFI_PLATFORM_FIRMWARE_BLOB2."""

    LAYOUT: ClassVar = Struct("<QQ")
    blob_base: int
    blob_length: int


@record
class TaggedEvent(Frozen):
    """TCG_PCClientTaggedEvent up to its data."""

    LAYOUT: ClassVar = Struct("<II")
    tagged_event_id: int
    tagged_event_data_size: int


@record
class Variable(Frozen):
    """A UEFI variable: vendor's GUID, name, value."""

    guid: str
    name: str
    value: bytes


def variable(data: bytes) -> Variable | None:
    """Return the UEFI_VARIABLE_DATA that `data` are, whole; None where they are not."""
    blob = _blob(data)
    try:
        head = blob.take(VariableData, 0)
        start = VariableData.LAYOUT.size
        end = start + 2 * head.unicode_name_length
        name = _utf16(blob.slice(start, end).data)
    except TruncatedError:
        return None
    if name is None or end + head.variable_data_length != len(data):
        return None
    return Variable(guid_text(head.variable_name), name, data[end:])


def guid_text(raw: bytes) -> str:
    """Return 16 bytes as a GUID is written."""
    parts = (raw[3::-1], raw[5:3:-1], raw[7:5:-1], raw[8:10], raw[10:16])
    return "-".join(part.hex() for part in parts)


def describe(event: Event) -> str:
    """Return one line that says what an event is about, in the words of its data."""
    told = _runtime(event) if event.type == RUNTIME else None
    if told is None and not event.data:
        told = "no data"
    if told is None:
        try:
            made = DESCRIBED.get(event.type, _words)(event.data)
        except TruncatedError:
            made = None
        told = made or _words(event.data) or _hex(event.data)
    return told if len(told) <= MOST_SHOWN else f"{told[: MOST_SHOWN - 1]}…"


def text_of(data: bytes) -> str | None:
    """Return data that are one text, UTF-16 or not, up to its NUL; None where they are not."""
    head = data[:MOST_LOOKED_AT]
    if len(data) % 2 == 0 and _is_wide(head):
        return _utf16(head)
    try:
        found = getincrementaldecoder("utf-8")().decode(head.partition(b"\0")[0])
    except UnicodeDecodeError:
        return None
    return found if found and found.isprintable() else None


def _is_wide(head: bytes) -> bool:
    return len(head) > 3 and not any(head[1::2])


def _runtime(event: Event) -> str | None:
    """Return name and payload; a binary log has them in what was hashed."""
    if event.name is not None:
        return f"{event.name}: {_payload(event.data)}"
    kind, *named = event.data.split(b":", 2)
    if kind == RUNTIME.to_bytes(4, "little") and len(named) == 2:
        return f"{text_of(named[0]) or named[0].hex()}: {_payload(named[1])}"
    return None


def _payload(data: bytes) -> str:
    found = text_of(data) if data[-1:] != b"\0" else None
    return found if found is not None and found.isascii() else _hex(data)


def _separator(data: bytes) -> str | None:
    if data in (bytes(4), b"\xff" * 4):
        return "separator"
    return "separator: an error" if data[:4] == b"\1\0\0\0" else f"separator: {_hex(data)}"


def _variable(data: bytes) -> str | None:
    found = variable(data)
    if found is None:
        return None
    option = _load_option(found.value) if found.name.startswith("Boot") else None
    if found.name == "BootOrder":
        order = found.value[:MOST_LOOKED_AT]
        option = " ".join(order[i : i + 2][::-1].hex() for i in range(0, len(order), 2))
    elif option is None:
        option = "empty" if not found.value else _hex(found.value)
    return f"{found.name} = {option} ({found.guid})"


def _load_option(value: bytes) -> str | None:
    """Return the description of a boot option."""
    if len(value) < LoadOption.LAYOUT.size:
        return None
    name = value[LoadOption.LAYOUT.size : MOST_LOOKED_AT]
    end = next((i for i in range(0, len(name) - 1, 2) if name[i : i + 2] == b"\0\0"), None)
    found = None if end is None else _utf16(name[:end])
    return f'"{found}"' if found else None


def _image(data: bytes) -> str | None:
    blob = _blob(data)
    head = blob.take(ImageLoadEvent, 0)
    start = ImageLoadEvent.LAYOUT.size
    path = blob.slice(start, start + head.length_of_device_path)
    named = "/".join(_nodes(path)) or "an unnamed file"
    return f"{named}, {head.image_length:#x} bytes at {head.image_location:#x}"


def _nodes(path: Blob) -> Iterator[str]:
    """Yield those nodes of a device path that name a file."""
    at = 0
    for _ in range(_MOST_NODES):
        if at == len(path):
            return
        node = path.take(PathNode, at)
        inner = path.slice(at + PathNode.LAYOUT.size, max(at + node.length, at + 4)).data
        kind = node.type, node.sub_type
        if kind == _FILE_PATH:
            yield _utf16(bytes(inner).removesuffix(b"\0\0")) or bytes(inner).hex()
        elif kind in _GUID_NODES and len(inner) >= 16:
            named = _utf16(inner[16:]) if len(inner) > 16 else None
            yield named.partition("\0")[0] if named else guid_text(bytes(inner[:16]))
        at += PathNode.LAYOUT.size + len(inner)


def _counted(data: bytes) -> str | None:
    """Return the description with which these data begin, its length before it."""
    blob = _blob(data)
    return text_of(bytes(blob.slice(1, 1 + blob.slice(0, 1).data[0]).data))


def _blob2(data: bytes) -> str | None:
    named = _counted(data)
    return None if named is None else f"{named}, {_firmware_blob(data[1 + data[0] :])}"


def _firmware_blob(data: bytes) -> str:
    found = _blob(data).take(FirmwareBlob, 0)
    return f"{found.blob_length:#x} bytes at {found.blob_base:#x}"


def _tagged(data: bytes) -> str | None:
    blob = _blob(data)
    head = blob.take(TaggedEvent, 0)
    start = TaggedEvent.LAYOUT.size
    inner = blob.slice(start, start + head.tagged_event_data_size)
    named = text_of(bytes(inner.data)) or _hex(bytes(inner.data))
    return f"{named} (tag {head.tagged_event_id:#x})"


def _table(data: bytes) -> str | None:
    """Return name and size of what td-shim logs so; None for other contents of the type."""
    name, size = data[:16].rstrip(b"\0"), int.from_bytes(data[16:20], "little")
    if len(data) < 20 or size > len(data) - 20 or not (name.isascii() and text_of(name)):
        return None
    return f"{text_of(name)}, {size} bytes"


def _no_action(data: bytes) -> str | None:
    return text_of(data[:16])


def _words(data: bytes) -> str | None:
    """Return the texts that stand in `data`, between NULs: fw_cfg events have two."""
    if _is_wide(data[:MOST_LOOKED_AT]):
        return text_of(data)
    found = [text_of(part) for part in data[:MOST_LOOKED_AT].split(b"\0") if part]
    return " ".join(part for part in found if part) if found and all(found) else None


DESCRIBED: Final[dict[int, Callable[[bytes], str | None]]] = {
    0x3: _no_action, 0x4: _separator, 0x6: _tagged,
    0xA: _table, 0xD: text_of,
    0x80000001: _variable, 0x80000002: _variable, 0x8000000C: _variable, 0x800000E0: _variable,
    0x80000003: _image, 0x80000004: _image, 0x80000005: _image,
    0x80000008: _firmware_blob, 0x8000000A: _blob2, 0x8000000B: _counted,
}  # fmt: skip
"""Type to what describes its data; others are shown as the texts in them, or in hex."""


def _blob(data: bytes) -> Blob:
    return Blob("event", memoryview(data))


def _utf16(data: bytes | memoryview) -> str | None:
    try:
        found = bytes(data).decode("utf-16-le")
    except UnicodeDecodeError:
        return None
    found = found.removesuffix("\0")
    return found if found.replace("\0", "").isprintable() else None


def _hex(data: bytes) -> str:
    if len(data) <= 32:
        return data.hex()
    return f"{data[:16].hex()}…, {len(data)} bytes"
