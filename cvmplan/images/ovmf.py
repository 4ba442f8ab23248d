"""
OVMF firmware images: what they declare for SEV, SEV-ES and SEV-SNP.

Source: edk2 c5aa7e7, OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.nasm.inc and
X64/OvmfSevMetadata.nasm.inc.  A firmware image lies directly below 4 GiB.
TDX metadata in the same kind of image is read by `images.tdvf`.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, ClassVar

from cvmplan.core import guids
from cvmplan.core.blob import Blob
from cvmplan.core.errors import InputError, MalformedError, UnsupportedError
from cvmplan.core.findings import Finding
from cvmplan.core.records import Frozen, record
from cvmplan.core.values import PAGE
from cvmplan.images.guid_table import (
    MOST_SECTIONS,
    Offset,
    entry_data,
    has_guid_table,
    name_of,
    read_guid_table,
)
from cvmplan.images.inspection import Inspection, Table
from cvmplan.launch.model import Image
from cvmplan.memory.regions import Region, Role

FOUR_GIB = 1 << 32
SECTION_ROLES = {
    1: Role.SEC_MEM,
    2: Role.SECRETS,
    3: Role.CPUID,
    4: Role.SVSM_CAA,
    0x10: Role.KERNEL_HASHES,
}


@record
class SevMetadata(Frozen):
    """Header of the SEV metadata; `length` counts it and the sections."""

    LAYOUT: ClassVar = Struct("<4sIII")
    signature: bytes
    length: int
    version: int
    count: int


@record
class SevSection(Frozen):
    """One section of the SEV metadata."""

    LAYOUT: ClassVar = Struct("<III")
    base: int
    length: int
    type: int


@record
class BaseSize(Frozen):
    """Data of the SEV hash table and SEV secret block entries."""

    LAYOUT: ClassVar = Struct("<II")
    base: int
    size: int


@record
class Address(Frozen):
    """Data of the SEV-ES reset block and SVSM info entries."""

    LAYOUT: ClassVar = Struct("<I")
    address: int


def recognises(blob: Blob) -> bool:
    """Whether the image ends with an OVMF GUID table."""
    return has_guid_table(blob)


def platforms(blob: Blob) -> tuple[str, ...]:
    """Return the platforms whose metadata the image carries: of "snp" and "tdx"."""
    table = read_guid_table(blob)
    from cvmplan.images import tdvf

    tdx = guids.TDX_METADATA in table or tdvf.recognises(blob)
    allowed = {"snp": guids.SEV_METADATA in table, "tdx": tdx}
    return tuple(platform for platform, allows in allowed.items() if allows)


def read(blob: Blob, platform: str, padding: str = "refuse") -> Image:
    """
    Return what `blob` declares for `platform`; `padding` as in `images.tdvf`.

    InputError or UnsupportedError where nothing can be read, findings for what is wrong.
    """
    table = read_guid_table(blob)
    hashes = entry_data(table, guids.SEV_HASH_TABLE, BaseSize)
    hash_table = (hashes.base, hashes.size) if hashes and hashes.base else None
    if platform == "tdx":
        from cvmplan.images import tdvf

        return tdvf.read(blob, platform, padding)._replace(hash_table=hash_table)
    regions, findings = _firmware(blob)
    if platform in ("default", "sw-protected"):
        return Image(blob, regions, findings)
    reset = entry_data(table, guids.SEV_ES_RESET_BLOCK, Address)
    if platform == "snp":
        sections, wrong = _sev_sections(blob, table)
        regions, findings = regions + sections, findings + wrong
    return Image(
        blob,
        regions,
        findings,
        reset_eip=reset.address if reset else None,
        hash_table=hash_table,
    )


def read_svsm(blob: Blob, end: int) -> Image:
    """
    Return what an SVSM binary declares that is loaded so that it ends at address `end`.

    It has the same table, with an entry of its own that gives its start, counted from
    where it is loaded (coconut-svsm qemu 0e64fb8, target/i386/sev.c).
    """
    table = read_guid_table(blob)
    info = entry_data(table, guids.SVSM_INFO, Address)
    if info is None:
        raise UnsupportedError("the SVSM binary has no SVSM info entry", at=blob.name)
    regions, findings = _firmware(blob, end, Role.SVSM)
    sections, wrong = _sev_sections(blob, table)
    entry = regions[0].gpa + info.address
    return Image(blob, regions + sections, findings + wrong, reset_eip=entry)


def _firmware(
    blob: Blob, end: int = FOUR_GIB, role: Role = Role.FIRMWARE
) -> tuple[tuple[Region, ...], tuple[Finding, ...]]:
    """Return the region of the image itself, and what is wrong with its size."""
    gpa, origin = end - len(blob), f"{blob.name}: {role}"
    if gpa < 0:
        raise MalformedError(f"{len(blob):#x} bytes do not fit below {end:#x}", at=blob.name)
    region = Region(gpa, len(blob), role, origin, contents=blob)
    if len(blob) % PAGE:
        problem = f"the file is {len(blob):#x} bytes, not whole pages"
        return (region,), (Finding("partial-page", problem, origins=(origin,), at=blob.name),)
    return (region,), ()


def _sev_sections(
    blob: Blob, table: dict[bytes, Blob]
) -> tuple[tuple[Region, ...], tuple[Finding, ...]]:
    """Return the SEV metadata sections in table order, and what is wrong with them."""
    pointer = entry_data(table, guids.SEV_METADATA, Offset)
    if pointer is None:
        raise UnsupportedError(
            "the firmware has no SEV metadata, which SNP requires",
            at=blob.name,
            hint="OVMF has it since edk2-stable202208",
        )
    start = len(blob) - pointer.offset
    at = table[guids.SEV_METADATA].where(0)
    if start < 0 or pointer.offset < SevMetadata.LAYOUT.size:
        problem = f"SEV metadata {pointer.offset:#x} bytes before the end is not in the file"
        return (), (Finding("metadata-past-end", problem, at=at),)
    header = blob.take(SevMetadata, start)
    if header.signature != b"ASEV":
        raise MalformedError(f"SEV metadata begins with {header.signature!r}", at=blob.where(start))
    if header.version != 1:
        raise UnsupportedError(f"SEV metadata version {header.version}", at=blob.where(start + 8))
    wrong = _wrong_count(blob, start, header)
    if wrong:
        return (), (wrong,)
    first = start + SevMetadata.LAYOUT.size
    rows = blob.table(SevSection, first, header.count)
    size = SevSection.LAYOUT.size
    read = [_section(blob, n, first + n * size, row) for n, row in enumerate(rows)]
    return tuple(r for r, _ in read), tuple(f for _, f in read if f)


def _wrong_count(blob: Blob, start: int, header: SevMetadata) -> Finding | None:
    at = blob.where(start + 4)
    if start + header.length > len(blob):
        problem = f"SEV metadata of {header.length:#x} bytes reaches past the end of the file"
        return Finding("metadata-past-end", problem, at=at)
    wanted = SevMetadata.LAYOUT.size + header.count * SevSection.LAYOUT.size
    if not 1 <= header.count <= MOST_SECTIONS or header.length != wanted:
        problem = f"SEV metadata of {header.length} bytes says that it has {header.count} sections"
        return Finding(
            "metadata-count", problem, at=at, hint=f"at most {MOST_SECTIONS} are supported"
        )
    return None


def _section(
    blob: Blob, number: int, offset: int, row: tuple[Any, ...]
) -> tuple[Region, Finding | None]:
    section, at = SevSection(*row), blob.where(offset, SevSection.LAYOUT.size)
    role = SECTION_ROLES.get(section.type, Role.UNKNOWN)
    origin = f"{blob.name}: SEV metadata section {number} ({role})"
    region = Region(section.base, section.length, role, origin, at=at)
    if role is Role.UNKNOWN:
        problem = f"{origin} has type {section.type:#x}"
        pages = region.first_page, region.end_page - PAGE
        return region, Finding("unknown-section", problem, *pages, origins=(origin,), at=at)
    if region.end > FOUR_GIB:
        problem = f"{origin} ends at {region.end:#x}, past 4 GiB"
        pages = region.first_page, region.end_page - PAGE
        return region, Finding("gpa-wraps", problem, *pages, origins=(origin,), at=at)
    return region, None


def inspect(blob: Blob) -> Inspection:
    """Return the tables of the image as they are, with file offsets (a JSON document)."""
    table = read_guid_table(blob)
    entries = [
        {"at": data.where(0), "entry": name_of(guid), "data": bytes(data.data).hex()}
        for guid, data in table.items()
    ]
    tables: list[Table] = [{"name": "GUID table", "rows": entries}]
    findings: tuple[Finding, ...] = ()
    if guids.SEV_METADATA in table:
        sev: Table = {"name": "SEV metadata", "rows": []}
        tables.append(sev)
        try:
            regions, findings = _sev_sections(blob, table)
            sev["rows"] = [_row(number, region) for number, region in enumerate(regions)]
        except (InputError, UnsupportedError) as error:
            sev["problem"] = str(error)
    if guids.TDX_METADATA in table:
        from cvmplan.images import tdvf

        tables.extend(tdvf.inspect(blob)["tables"])
    return {
        "format": "ovmf",
        "allows": list(platforms(blob)),
        "tables": tables,
        "findings": findings,
    }


def _row(number: int, region: Region) -> dict[str, Any]:
    return {
        "at": region.at,
        "section": number,
        "type": str(region.role),
        "gpa": hex(region.gpa),
        "size": hex(region.size),
    }
