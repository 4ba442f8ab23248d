"""
TDX metadata of firmware images (edk2 and td-shim): the sections that become TD memory.

Source: Intel TDX Virtual Firmware Design Guide (344991), section 11 "TDVF Metadata";
edk2 c5aa7e7 OvmfPkg/ResetVector/X64/IntelTdxMetadata.nasm.inc; td-shim 125eeab
td-shim-interface/src/metadata.rs for types 4 to 8.  The descriptor is found through the
GUID table (its distance from the end of the file) or, where there is none, through the
word at the end minus 0x20 (its offset from the start of the file).
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Any, ClassVar, NamedTuple

from cvmplan.core import guids
from cvmplan.core.blob import Blob
from cvmplan.core.errors import InputError, MalformedError, TruncatedError, UnsupportedError
from cvmplan.core.findings import Finding
from cvmplan.core.records import Frozen, record
from cvmplan.core.values import PAGE
from cvmplan.images.guid_table import (
    MOST_SECTIONS,
    Offset,
    entry_data,
    has_guid_table,
    read_guid_table,
)
from cvmplan.images.inspection import Inspection, Table
from cvmplan.launch.model import Image, TdxSection
from cvmplan.memory.contents import Contents, Filled, Zeros
from cvmplan.memory.regions import Region, Role

LEGACY_POINTER = 0x20  # bytes before the end of the image
MR_EXTEND, PAGE_AUG = 1, 2  # attributes
SIGNATURE = b"TDVF"


class Kind(NamedTuple):
    """A section type: its name, what it becomes, the attributes it may have, and its data."""

    name: str
    role: Role | None
    attributes: frozenset[int]
    has_data: bool | None  # None: may have


_ANY_MEASURED = frozenset({0, MR_EXTEND})
KINDS = {
    0: Kind("BFV", Role.BFV, frozenset({MR_EXTEND}), has_data=True),
    1: Kind("CFV", Role.CFV, _ANY_MEASURED, has_data=True),
    2: Kind("TD_HOB", Role.TD_HOB, frozenset({0}), has_data=False),
    3: Kind("TempMem", Role.TEMP_MEM, _ANY_MEASURED, has_data=False),
    4: Kind("PermMem", Role.PERM_MEM, frozenset({0, PAGE_AUG}), has_data=False),
    5: Kind("Payload", Role.PAYLOAD, _ANY_MEASURED, has_data=None),
    6: Kind("PayloadParam", Role.PAYLOAD_PARAM, _ANY_MEASURED, has_data=None),
    7: Kind("TdInfo", None, frozenset({0}), has_data=None),
    8: Kind("TdParams", None, frozenset({0}), has_data=None),
}


@record
class Descriptor(Frozen):
    """Header of the TDX metadata; `length` counts it and the sections."""

    LAYOUT: ClassVar = Struct("<4sIII")
    signature: bytes
    length: int
    version: int
    number_of_section_entry: int


@record
class Section(Frozen):
    """One section of the TDX metadata."""

    LAYOUT: ClassVar = Struct("<IIQQII")
    data_offset: int
    raw_data_size: int
    memory_address: int
    memory_data_size: int
    type: int
    attributes: int


def recognises(blob: Blob) -> bool:
    """Whether the legacy pointer leads to a TDX descriptor."""
    start = _legacy_start(blob)
    return start is not None and blob.data[start : start + 4] == SIGNATURE


def platforms(blob: Blob) -> tuple[str, ...]:
    """Return the platforms that the image declares anything for."""
    del blob
    return ("tdx",)


def read(blob: Blob, platform: str, padding: str = "refuse") -> Image:
    """
    Return the sections of `blob` as regions, in table order.

    `padding` says what a measured section longer than its data holds at its end: "zero",
    "file" (the file's next bytes), or "refuse" (a finding).  InputError or
    UnsupportedError where nothing can be read.
    """
    if platform != "tdx":
        raise UnsupportedError(
            f"the image declares nothing for {platform}", at=blob.name, hint="--platform tdx"
        )
    sections = tuple(_sections(blob))
    for at, section in sections:
        _check_section(blob, at, section)
    _check_counts(blob, [s for _, s in sections])
    regions, kept, findings = [], [], []
    for number, (at, section) in enumerate(sections):
        kind = KINDS[section.type]
        kept.append(
            TdxSection(number, section.type, section.data_offset, section.raw_data_size, at)
        )
        if kind.role is None:
            continue
        origin = f"{blob.name}: TDX metadata section {number} ({kind.name})"
        contents, finding = _contents(blob, section, padding, origin, at)
        findings += [finding] if finding else []
        regions.append(
            Region(
                section.memory_address,
                section.memory_data_size,
                kind.role,
                origin,
                _page_type(section),
                contents,
                at,
            )
        )
    size = _partial(blob)
    return Image(
        blob,
        tuple(regions),
        (*size, *findings),
        sections=tuple(kept),
        legacy_pointer=not has_guid_table(blob),
    )


def _partial(blob: Blob) -> tuple[Finding, ...]:
    if len(blob) % PAGE == 0:
        return ()
    problem = f"the file is {len(blob):#x} bytes, not whole pages"
    return (Finding("partial-page", problem, at=blob.name),)


def _page_type(section: Section) -> str:
    if section.attributes & PAGE_AUG:
        return "augmented"
    return "measured" if section.attributes & MR_EXTEND else "unmeasured"


def _legacy_start(blob: Blob) -> int | None:
    """Return where the legacy pointer leads, None where that is outside the file."""
    at = len(blob) - LEGACY_POINTER
    if at < 0:
        return None
    start = blob.take(Offset, at).offset
    return start if 0 < start <= len(blob) - Descriptor.LAYOUT.size else None


def _start(blob: Blob) -> int:
    """Return the file offset of the descriptor."""
    if has_guid_table(blob):
        table = read_guid_table(blob)
        pointer = entry_data(table, guids.TDX_METADATA, Offset)
        if pointer is not None:
            start = len(blob) - pointer.offset
            if start < 0 or pointer.offset < Descriptor.LAYOUT.size:
                raise TruncatedError(
                    f"TDX metadata {pointer.offset:#x} bytes before the end is not in the file",
                    at=table[guids.TDX_METADATA].where(0),
                )
            return start
    legacy = _legacy_start(blob)
    if legacy is None or blob.data[legacy : legacy + 4] != SIGNATURE:
        raise UnsupportedError("the image has no TDX metadata", at=blob.name)
    return legacy


def _sections(blob: Blob) -> Iterator[tuple[str, Section]]:
    """Yield (place, section) in table order."""
    start = _start(blob)
    header = blob.take(Descriptor, start)
    if header.signature != SIGNATURE:
        raise MalformedError(f"TDX metadata begins with {header.signature!r}", at=blob.where(start))
    if header.version != 1:
        raise UnsupportedError(f"TDX metadata version {header.version}", at=blob.where(start + 8))
    count = header.number_of_section_entry
    wanted = Descriptor.LAYOUT.size + count * Section.LAYOUT.size
    if not 1 <= count <= MOST_SECTIONS or header.length != wanted:
        raise MalformedError(
            f"TDX metadata of {header.length} bytes says that it has {count} sections",
            at=blob.where(start + 4),
            hint=f"1 to {MOST_SECTIONS} sections are supported",
        )
    first = start + Descriptor.LAYOUT.size
    for number, row in enumerate(blob.table(Section, first, count)):
        yield blob.where(first + number * Section.LAYOUT.size, Section.LAYOUT.size), Section(*row)


def _check_section(blob: Blob, at: str, section: Section) -> None:
    """Raise MalformedError or TruncatedError for a section that breaks its type's rules."""
    kind = KINDS.get(section.type)
    if kind is None:
        raise MalformedError(f"TDX section of unknown type {section.type:#x}", at=at)
    if section.attributes not in kind.attributes:
        wanted = " or ".join(str(a) for a in sorted(kind.attributes))
        raise MalformedError(
            f"{kind.name} section with attributes {section.attributes:#x}, expected {wanted}", at=at
        )
    if kind.has_data is not None and kind.has_data != bool(section.raw_data_size):
        wanted = "some" if kind.has_data else "none"
        raise MalformedError(
            f"{kind.name} section with {section.raw_data_size:#x} bytes of data, expected {wanted}",
            at=at,
        )
    if section.data_offset + section.raw_data_size > len(blob):
        raise TruncatedError(
            f"{kind.name} section's data ends at {section.data_offset + section.raw_data_size:#x}, "
            f"past the end of the file",
            at=at,
            hint="a CODE file without its VARS? the joined image has the data",
        )
    if kind.role is None:
        if section.memory_data_size:
            raise MalformedError(f"{kind.name} section asks for memory", at=at)
    elif section.raw_data_size > section.memory_data_size:
        raise MalformedError(
            f"{kind.name} section has {section.raw_data_size:#x} bytes of data for "
            f"{section.memory_data_size:#x} bytes of memory",
            at=at,
        )


def _check_counts(blob: Blob, sections: list[Section]) -> None:
    types = [s.type for s in sections]
    if 0 not in types:
        raise MalformedError("TDX metadata without a BFV section", at=blob.name)
    hobs = types.count(2)
    if hobs > 1 or (hobs == 0 and 4 not in types):
        raise MalformedError(f"TDX metadata with {hobs} TD_HOB sections, expected 1", at=blob.name)


def _contents(
    blob: Blob, section: Section, padding: str, origin: str, at: str
) -> tuple[Contents, Finding | None]:
    """Return what a section's pages hold when they are added."""
    raw, size = section.raw_data_size, section.memory_data_size
    if section.type == 2:
        return Filled("hob"), None
    finding = None
    if section.attributes & MR_EXTEND and raw < size and padding == "refuse":
        finding = Finding(
            "raw-below-memory",
            f"{origin} is measured and has {raw:#x} bytes of data for {size:#x} bytes of memory",
            origins=(origin,),
            at=at,
            hint="choose the padding with --pad zero or --pad file",
        )
    if raw == 0:
        return Zeros(), finding
    length = size if padding == "file" and section.attributes & MR_EXTEND else raw
    return blob.slice(section.data_offset, section.data_offset + length), finding


def inspect(blob: Blob) -> Inspection:
    """Return the TDX metadata as it is, with file offsets (a JSON document)."""
    table: Table = {"name": "TDX metadata", "rows": []}
    try:
        table["rows"] = [_row(number, at, s) for number, (at, s) in enumerate(_sections(blob))]
    except (InputError, UnsupportedError) as error:
        table["problem"] = str(error)
    return {"format": "tdvf", "allows": ["tdx"], "tables": [table], "findings": ()}


def _row(number: int, at: str, section: Section) -> dict[str, Any]:
    kind = KINDS.get(section.type)
    return {
        "at": at,
        "section": number,
        "type": kind.name if kind else hex(section.type),
        "gpa": hex(section.memory_address),
        "size": hex(section.memory_data_size),
        "data_offset": section.data_offset,
        "raw_size": section.raw_data_size,
        "attributes": hex(section.attributes),
    }
