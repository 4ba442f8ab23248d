"""
The SEV section tables that edk2 has shipped, for firmware of which only a digest is known.

Addresses: OvmfPkg/ResetVector/ResetVector.nasmb and X64/OvmfSevMetadata.nasm with the
memory layout of OvmfPkgX64.fdf, AmdSev/AmdSevX64.fdf and later Include/Fdf/MemFd.fdf.inc.
Releases are those between which a table was found; `source` says where.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from cvmplan.core import guids
from cvmplan.core.errors import ConfigError

PREFIX: Final = "edk2:"
SIZE: Final = 4096  # bytes of the page that ends a firmware image
FOOTER_END: Final = 0x20
METADATA_END: Final = 0x400  # bytes between the section table and the end
SEC_MEM, SECRETS, CPUID, SVSM_CAA, HASHES = 1, 2, 3, 4, 0x10
_ENTRY, _SECTION = Struct("<H16s"), Struct("<III")
_HEADER, _WORD, _PAIR = Struct("<4sIII"), Struct("<I"), Struct("<II")


class SectionTable(NamedTuple):
    """Sections (gpa, size, type) in table order, and what else the GUID table says."""

    title: str
    sections: tuple[tuple[int, int, int], ...]
    source: str
    hash_table: int = 0x810C00  # 0: none
    reset_eip: int = 0x80B004  # 0: none
    hash_table_size: int = 0x400


_BEGIN = (0x800000, 0x9000, SEC_MEM), (0x80A000, 0x3000, SEC_MEM)
_FILLED = (0x80D000, 0x1000, SECRETS), (0x80E000, 0x1000, CPUID)
_WITH_CAA = (*_BEGIN, *_FILLED, (0x80F000, 0x1000, SVSM_CAA))
_HASHES = (0x810000, 0x1000, HASHES)

TABLES: Final = {
    "202511": SectionTable(
        "both builds from edk2-stable202511 on: hashes last, PEI volume at 0x830000",
        (*_WITH_CAA, (0x811000, 0x1F000, SEC_MEM), _HASHES),
        "Debian 2026.08 OVMF.amdsev.fd; tianocore/edk2 pull request 11540",
    ),
    "amdsev-202411": SectionTable(
        "AmdSev from edk2-stable202411 to 202508: hashes last",
        (*_WITH_CAA, (0x811000, 0xF000, SEC_MEM), _HASHES),
        "tianocore/edk2 0bad2dc1, pull request 6054; moved by 5c63e22a9f (2024-08-31)",
    ),
    "amdsev-202405": SectionTable(
        "AmdSev of edk2-stable202405 to 202408.01: SVSM_CAA, hashes in the middle",
        (*_WITH_CAA, _HASHES, (0x811000, 0xF000, SEC_MEM)),
        "the test fixture of sev-snp-measure 0.0.13; RossComputerGuy/edk2 662e3848",
    ),
    "x64-202405": SectionTable(
        "OvmfPkgX64 from edk2-stable202405 to 202508: SVSM_CAA, no hashes",
        (*_WITH_CAA, (0x810000, 0x10000, SEC_MEM)),
        "the test fixture of sev-snp-measure 0.0.13; tianocore/edk2 pull requests 5571 and 5572",
        hash_table=0,
    ),
    "amdsev-202402": SectionTable(
        "AmdSev of edk2-stable202402 and its forks: hashes, before SVSM_CAA",
        (*_BEGIN, *_FILLED, (0x80F000, 0x1000, HASHES), (0x810000, 0x10000, SEC_MEM)),
        "tianocore/edk2 tag edk2-stable202402; SNPGuard/ovmf f3728a36",
        hash_table=0x80FC00,
    ),
    "x64-202202": SectionTable(
        "OvmfPkgX64 from edk2-stable202202 to 202402: before SVSM_CAA",
        (*_BEGIN, *_FILLED, (0x80F000, 0x11000, SEC_MEM)),
        "ovmf_img_1.json of sev-snp-measure-go a135f862; tianocore/edk2 pull request 2269",
        hash_table=0,
    ),
    "amdsev-rfc": SectionTable(
        "AmdSev of the forks of 2022, of no release: the page of the hashes in no section",
        (*_BEGIN, *_FILLED, (0x810000, 0x10000, SEC_MEM)),
        "confidential-containers-demo/edk2 26c9231c (layout inferred)",
        hash_table=0x80FC00,
    ),
    "amdsev-2022": SectionTable(
        "AmdSev from edk2-stable202205 to 202311, without a section for hashes",
        (
            (0x800000, 0x9000, SEC_MEM),
            (0x80A000, 0x4000, SEC_MEM),
            (0x80E000, 0x1000, SECRETS),
            (0x80F000, 0x1000, CPUID),
            (0x810000, 0x10000, SEC_MEM),
        ),
        "tianocore/edk2 tags edk2-stable202205 to 202311; kraxel/edk2 d9026563",
        hash_table=0x80CC00,
    ),
    "2026-later": SectionTable(
        "both builds after edk2-stable202608: one page more of page tables",
        (
            (0x800000, 0xA000, SEC_MEM),
            (0x80B000, 0x3000, SEC_MEM),
            (0x80E000, 0x1000, SECRETS),
            (0x80F000, 0x1000, CPUID),
            (0x810000, 0x1000, SVSM_CAA),
            (0x812000, 0x1E000, SEC_MEM),
            (0x811000, 0x1000, HASHES),
        ),
        "tianocore/edk2 20d671c9 (layout; the table is inferred)",
        hash_table=0x811C00,
        reset_eip=0x80C004,
    ),
}
"""Name to table, the likelier first."""
ALIASES: Final = {"amdsev-202408": "amdsev-202405", "amdsev-202205": "amdsev-2022"}
"""Other releases to the name of the table that they have."""


def contents(name: str) -> bytes:
    """Return the last 4096 bytes of a firmware image with the table `name`; ConfigError."""
    name = ALIASES.get(name, name)
    if name not in TABLES:
        hint = f"choose from {', '.join((*TABLES, *ALIASES))}"
        raise ConfigError(f"unknown section table {name!r}", at=PREFIX + name, hint=hint)
    return page_of(TABLES[name])


def page_of(table: SectionTable) -> bytes:
    """Return the last 4096 bytes of a firmware image that has `table`, at most 64 sections."""
    page = bytearray(SIZE)
    sections = b"".join(_SECTION.pack(*section) for section in table.sections)
    length = _HEADER.size + len(sections)
    metadata = _HEADER.pack(b"ASEV", length, 1, len(table.sections)) + sections
    page[-METADATA_END : length - METADATA_END] = metadata
    entries = _entry(guids.SEV_METADATA, _WORD.pack(METADATA_END))
    if table.reset_eip:
        entries += _entry(guids.SEV_ES_RESET_BLOCK, _WORD.pack(table.reset_eip))
    if table.hash_table:
        hashes = _PAIR.pack(table.hash_table, table.hash_table_size)
        entries += _entry(guids.SEV_HASH_TABLE, hashes)
    whole = len(entries) + _ENTRY.size
    guid_table = entries + _ENTRY.pack(whole, guids.TABLE_FOOTER)
    page[-FOOTER_END - whole : -FOOTER_END] = guid_table
    return bytes(page)


def _entry(guid: bytes, data: bytes) -> bytes:
    return data + _ENTRY.pack(len(data) + _ENTRY.size, guid)
