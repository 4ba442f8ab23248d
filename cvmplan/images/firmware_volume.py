"""
Firmware volumes: the files in an image of edk2, those that are compressed included.

Source: UEFI Platform Initialization 1.8, volume 3, 3.2.1 (EFI_FIRMWARE_VOLUME_HEADER), 3.2.2
(EFI_FIRMWARE_VOLUME_EXT_HEADER), 3.2.3 (EFI_FFS_FILE_HEADER), 3.2.4 and 3.2.5 (sections);
edk2 c5aa7e7, MdeModulePkg/Include/Guid/LzmaDecompress.h.
"""

from __future__ import annotations

from collections.abc import Iterator
from lzma import FORMAT_ALONE, LZMADecompressor, LZMAError
from struct import Struct
from typing import ClassVar, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError
from cvmplan.core.records import Frozen, record

MOST_VOLUMES: Final = 64
MOST_FILES: Final = 4096  # of a volume, and sections of a file
MOST_DEPTH: Final = 4
MOST_BYTES: Final = 64 << 20  # of what is decompressed; OVMF has some 16 MiB

_MARK: Final = b"_FVH"
_MARK_AT: Final = 40
_LZMA: Final = bytes.fromhex("98584eee143959429d6edc7bd79403cf")
_GUIDED, _VOLUME = 0x02, 0x17  # types of sections
_PADDING, _VOLUME_FILE = 0xF0, 0x0B  # types of files
_LARGE: Final = 1


@record
class VolumeHeader(Frozen):
    """EFI_FIRMWARE_VOLUME_HEADER up to the block map."""

    LAYOUT: ClassVar = Struct("<16s16sQ4sIHHHBB")
    zero_vector: bytes
    file_system: bytes
    length: int
    signature: bytes
    attributes: int
    header_length: int
    checksum: int
    ext_header_offset: int
    reserved: int
    revision: int


@record
class ExtHeader(Frozen):
    """EFI_FIRMWARE_VOLUME_EXT_HEADER."""

    LAYOUT: ClassVar = Struct("<16sI")
    name: bytes
    size: int


@record
class FileHeader(Frozen):
    """EFI_FFS_FILE_HEADER."""

    LAYOUT: ClassVar = Struct("<16sHBB3sB")
    name: bytes
    integrity: int
    type: int
    attributes: int
    size: bytes
    state: int


@record
class Long(Frozen):
    """The size of a large file."""

    LAYOUT: ClassVar = Struct("<Q")
    value: int


@record
class SectionHeader(Frozen):
    """EFI_COMMON_SECTION_HEADER."""

    LAYOUT: ClassVar = Struct("<3sB")
    size: bytes
    type: int


@record
class Word(Frozen):
    """The size of a section of 16 MiB or more."""

    LAYOUT: ClassVar = Struct("<I")
    value: int


@record
class Guided(Frozen):
    """EFI_GUID_DEFINED_SECTION behind the common header."""

    LAYOUT: ClassVar = Struct("<16sHH")
    guid: bytes
    data_offset: int
    attributes: int


@record
class Volume(Frozen):
    """
    One volume: its name (None where it has none), its bytes, and the GUIDs of its files.

    `compressed`: it stood in another one.
    """

    name: bytes | None
    blob: Blob
    files: frozenset[bytes]
    compressed: bool


def volumes(image: Blob) -> tuple[Volume, ...]:
    """
    Return the volumes of a firmware image, outer before inner.

    MalformedError, TruncatedError: a volume that is not whole; more bytes than our bounds.
    """
    found: list[Volume] = []
    at = image_start = 0
    data = bytes(image.data)
    while (mark := data.find(_MARK, at)) >= 0:
        at = mark + len(_MARK)
        start = mark - _MARK_AT
        if start < image_start or start % 8:
            continue
        if image.take(VolumeHeader, start).revision not in (1, 2):
            continue
        image_start = start + len(_read(image, start, found, 0))
        at = max(at, image_start)
    return tuple(found)


def _read(image: Blob, start: int, found: list[Volume], depth: int) -> Blob:
    """Append the volume at `start` and those inside it to `found`; return its bytes."""
    if len(found) == MOST_VOLUMES or depth > MOST_DEPTH:
        raise MalformedError(f"more than {MOST_VOLUMES} firmware volumes", at=image.where(start))
    head = image.take(VolumeHeader, start)
    if head.signature != _MARK or head.length < head.header_length:
        raise MalformedError("not a firmware volume", at=image.where(start))
    blob = image.slice(start, start + head.length)
    at, name = head.header_length, None
    if head.ext_header_offset:
        ext = blob.take(ExtHeader, head.ext_header_offset)
        at, name = head.ext_header_offset + ext.size, ext.name
    place = len(found)
    found.append(Volume(name, blob, frozenset(), depth > 0))
    files = set()
    if any(blob.data[at : at + 16]):  # a variable store has no files
        for file, body in _files(blob, at, head.file_system):
            files.add(file.name)
            if file.type == _VOLUME_FILE:
                _nested(body, found, depth)
    found[place] = Volume(name, blob, frozenset(files), depth > 0)
    return blob


_FILE_SYSTEMS: Final = frozenset(
    bytes.fromhex(text)
    for text in ("78e58c8c3d8a1c4f9935896185c32dd3", "7ac07354cb3dca4dbd6f1e9689e7349a")
)
"""EFI_FIRMWARE_FILE_SYSTEM2_GUID and 3."""


def _files(blob: Blob, at: int, system: bytes) -> Iterator[tuple[FileHeader, Blob]]:
    """Yield header and contents of each file of a volume, padding left out."""
    if system not in _FILE_SYSTEMS:
        return
    for _ in range(MOST_FILES):
        at = (at + 7) & ~7
        if at + FileHeader.LAYOUT.size > len(blob):
            return
        if blob.data[at : at + FileHeader.LAYOUT.size] == b"\xff" * FileHeader.LAYOUT.size:
            return
        file = blob.take(FileHeader, at)
        header, size = FileHeader.LAYOUT.size, int.from_bytes(file.size, "little")
        if file.attributes & _LARGE:
            size = blob.take(Long, at + header).value
            header += Long.LAYOUT.size
        if size < header:
            raise MalformedError(f"a file of {size} bytes", at=blob.where(at))
        body = blob.slice(at + header, at + size)
        if file.type != _PADDING:
            yield file, body
        at += size
    raise MalformedError(f"more than {MOST_FILES} files in a volume", at=blob.where(0))


def _sections(blob: Blob) -> Iterator[tuple[int, Blob]]:
    """Yield type and contents, header left out, of each section of a file."""
    at = 0
    for _ in range(MOST_FILES):
        at = (at + 3) & ~3
        if at + SectionHeader.LAYOUT.size > len(blob):
            return
        head = blob.take(SectionHeader, at)
        header, size = SectionHeader.LAYOUT.size, int.from_bytes(head.size, "little")
        if size == 0xFFFFFF:
            size = blob.take(Word, at + header).value
            header += Word.LAYOUT.size
        if size < header:
            raise MalformedError(f"a section of {size} bytes", at=blob.where(at))
        yield head.type, blob.slice(at + header, at + size)
        at += size
    raise MalformedError(f"more than {MOST_FILES} sections in a file", at=blob.where(0))


def _nested(body: Blob, found: list[Volume], depth: int) -> None:
    """Append the volumes in the sections of a file."""
    if depth > MOST_DEPTH:
        raise MalformedError("volumes in volumes, too deep", at=body.where(0))
    for kind, inner in _sections(body):
        if kind == _VOLUME:
            _read(inner, 0, found, depth + 1)
        elif kind == _GUIDED:
            guided = inner.take(Guided, 0)
            if guided.guid == _LZMA:
                start = guided.data_offset - SectionHeader.LAYOUT.size
                _nested(_decompress(inner.slice(start, len(inner))), found, depth + 1)


def _decompress(blob: Blob) -> Blob:
    """Return what LZMA-compressed bytes hold, at most MOST_BYTES; MalformedError."""
    engine = LZMADecompressor(FORMAT_ALONE, memlimit=256 << 20)
    try:
        data = engine.decompress(bytes(blob.data), MOST_BYTES)
    except LZMAError as error:
        problem = "compressed bytes that are damaged"
        raise MalformedError(problem, at=blob.where(0)) from error
    if not engine.eof and not engine.needs_input:
        problem = f"compressed bytes that contain more than {MOST_BYTES >> 20} MiB"
        raise MalformedError(problem, at=blob.where(0))
    return Blob(f"{blob.where(0)} decompressed", memoryview(data))
