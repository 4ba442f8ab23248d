"""
PE images for x86-64, and the digest of one as firmware computes it before it runs it.

The digest is the Authenticode digest, computed as edk2 does: no padding, and the certificate
table is cut off by its size at the end of the file, wherever its address says that it lies.
Images that firmware would not load have no digest here.

Sources: PE format, "Optional Header"; edk2 c5aa7e7, OvmfPkg/Tcg/TdTcg2Dxe/MeasureBootPeCoff.c
(MeasurePeImageAndExtend; the steps below are its steps) and MdePkg/Library/BasePeCoffLib.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha384
from struct import Struct
from typing import TYPE_CHECKING, ClassVar, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.records import Frozen, record

if TYPE_CHECKING:
    from hashlib import _Hash

MOST_SECTIONS: Final = 256
MOST_BYTES: Final = 1 << 30
_PE32_PLUS: Final = 0x20B
_X64: Final = 0x8664
_APPLICATION: Final = 10
_CHECKSUM: Final = 64  # of the optional header
_DIRECTORIES: Final = 112
_SECURITY: Final = 4  # index of the certificate table


@record
class Word(Frozen):
    """A number that stands alone: where the PE header begins."""

    LAYOUT: ClassVar = Struct("<I")
    value: int


@record
class FileHeader(Frozen):
    """The signature and IMAGE_FILE_HEADER."""

    LAYOUT: ClassVar = Struct("<4sHHIIIHH")
    signature: bytes
    machine: int
    number_of_sections: int
    time_date_stamp: int
    pointer_to_symbol_table: int
    number_of_symbols: int
    size_of_optional_header: int
    characteristics: int


@record
class OptionalHeader(Frozen):
    """What is needed of IMAGE_OPTIONAL_HEADER64, up to the directories."""

    LAYOUT: ClassVar = Struct("<H34xI16xII4xH38xI")
    magic: int
    file_alignment: int
    size_of_image: int
    size_of_headers: int
    subsystem: int
    number_of_rva_and_sizes: int


@record
class SectionHeader(Frozen):
    """IMAGE_SECTION_HEADER."""

    LAYOUT: ClassVar = Struct("<8sIIII12xI")
    name: bytes
    virtual_size: int
    virtual_address: int
    size_of_raw_data: int
    pointer_to_raw_data: int
    characteristics: int


@record
class Directory(Frozen):
    """IMAGE_DATA_DIRECTORY."""

    LAYOUT: ClassVar = Struct("<II")
    address: int
    size: int


@record
class Pe(Frozen):
    """
    An image that firmware would load: headers, sections in the order of their table.

    `checksum` and `security` are file offsets (`security` None where there is no such
    directory), `certificates` the size of the certificate table.
    """

    blob: Blob
    header: OptionalHeader
    sections: tuple[SectionHeader, ...]
    checksum: int
    security: int | None
    certificates: int

    def contents(self, section: SectionHeader) -> bytes:
        """Return a section as it stands in memory: cut or zero-filled to its virtual size."""
        size = min(section.virtual_size, section.size_of_raw_data)
        start = section.pointer_to_raw_data
        raw = bytes(self.blob.slice(start, start + size).data)
        return raw.ljust(section.virtual_size, b"\0")


def recognises(blob: Blob) -> bool:
    """Whether a PE signature stands where the DOS header says."""
    if len(blob) < 64 or bytes(blob.data[:2]) != b"MZ":
        return False
    start = blob.take(Word, 0x3C).value
    return start + 4 <= len(blob) and bytes(blob.data[start : start + 4]) == b"PE\0\0"


def read(blob: Blob) -> Pe:
    """
    Return the image that `blob` is.

    UnsupportedError for images that are not x86-64 EFI applications; MalformedError and
    TruncatedError for those that firmware refuses to load.
    """
    if len(blob) > MOST_BYTES:
        raise UnsupportedError(f"an image of more than {MOST_BYTES >> 20} MiB", at=blob.name)
    if not recognises(blob):
        hint = "firmware runs PE images: a kernel needs its EFI stub"
        raise UnsupportedError("not a PE image", at=blob.where(0), hint=hint)
    start = blob.take(Word, 0x3C).value
    head = blob.take(FileHeader, start)
    at = start + FileHeader.LAYOUT.size
    optional = blob.take(OptionalHeader, at)
    if head.machine != _X64 or optional.magic != _PE32_PLUS:
        problem = f"machine {head.machine:#x}, magic {optional.magic:#x}"
        raise UnsupportedError(
            f"{problem}, expected {_X64:#x} and {_PE32_PLUS:#x}", at=blob.where(at)
        )
    if optional.subsystem != _APPLICATION:
        problem = f"subsystem {optional.subsystem}, expected {_APPLICATION}"
        raise UnsupportedError(problem, at=blob.where(at + 68), hint="an EFI application is")
    count = optional.number_of_rva_and_sizes
    if _DIRECTORIES + count * Directory.LAYOUT.size != head.size_of_optional_header:
        problem = f"{count} directories in {head.size_of_optional_header} bytes"
        raise MalformedError(problem, at=blob.where(at + _DIRECTORIES - 4))
    security, certificates = None, 0
    if count > _SECURITY:
        security = at + _DIRECTORIES + _SECURITY * Directory.LAYOUT.size
        certificates = blob.take(Directory, security).size
    table = at + head.size_of_optional_header
    if head.number_of_sections > MOST_SECTIONS:
        problem = f"{head.number_of_sections} sections, expected at most {MOST_SECTIONS}"
        raise MalformedError(problem, at=blob.where(start + 6))
    rows = blob.table(SectionHeader, table, head.number_of_sections)
    sections = tuple(SectionHeader(*row) for row in rows)
    end = table + len(sections) * SectionHeader.LAYOUT.size
    if not end <= optional.size_of_headers <= len(blob):
        problem = (
            f"headers of {optional.size_of_headers:#x} bytes, expected {end:#x} to the file's end"
        )
        raise MalformedError(problem, at=blob.where(at + 60))
    found = Pe(blob, optional, sections, at + _CHECKSUM, security, certificates)
    _check_sections(found)
    return found


def _check_sections(image: Pe) -> None:
    """Refuse sections that overlap, or lie past the end of file or image."""
    blob = image.blob
    before, reached = image.header.size_of_headers, 0
    for section in _with_data(image):
        start = section.pointer_to_raw_data
        blob.slice(start, start + section.size_of_raw_data)
        if start < before:
            name = name_of(section)
            raise MalformedError(
                f"section {name} overlaps a different section", at=blob.where(start)
            )
        before = start + section.size_of_raw_data
    for section in image.sections:
        reached = section.virtual_address + section.virtual_size
        if reached > image.header.size_of_image:
            problem = f"section {name_of(section)} ends at {reached:#x} of the image"
            hint = f"the image has {image.header.size_of_image:#x} bytes"
            raise MalformedError(problem, at=blob.name, hint=hint)
    if _hashed_size(image) + image.certificates > len(blob):
        problem = f"{image.certificates} bytes of certificates do not fit after the sections"
        raise MalformedError(problem, at=blob.name)


def name_of(section: SectionHeader) -> str:
    """Return the name of a section, without the zeros behind it."""
    return section.name.partition(b"\0")[0].decode("latin-1")


def _with_data(image: Pe) -> list[SectionHeader]:
    """Return the sections that have bytes in the file, in file order (stable)."""
    found = [s for s in image.sections if s.size_of_raw_data]
    return sorted(found, key=lambda s: s.pointer_to_raw_data)


def _hashed_size(image: Pe) -> int:
    sizes = (s.size_of_raw_data for s in image.sections)
    return image.header.size_of_headers + sum(sizes)


def authenticode(image: Pe) -> bytes:
    """Return the SHA-384 Authenticode digest, 48 bytes."""
    digest = sha384()
    for start, end in _spans(image):
        _update(digest, image.blob, start, end)
    return digest.digest()


def _spans(image: Pe) -> Iterator[tuple[int, int]]:
    """Yield the spans of the file that are hashed, in order; edk2's step numbers."""
    headers = image.header.size_of_headers
    yield 0, image.checksum  # 3 and 4: up to the checksum
    after = image.checksum + 4
    if image.security is None:
        yield after, headers  # 6: no certificate table in the directories
    else:
        yield after, image.security  # 7
        yield image.security + Directory.LAYOUT.size, headers  # 8 and 9
    for section in _with_data(image):  # 10 to 15
        start = section.pointer_to_raw_data
        yield start, start + section.size_of_raw_data
    end = len(image.blob) - image.certificates
    if end > (hashed := _hashed_size(image)):  # 16: what stands behind the sections
        yield hashed, end


def _update(digest: _Hash, blob: Blob, start: int, end: int) -> None:
    digest.update(blob.slice(start, end).data)
