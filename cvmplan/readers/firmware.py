"""
Firmware that is known by its digests (cvmplan.firmware/1): one, or a catalogue of them.

A document with one SEV firmware can be launched on SNP: the digest stands in for its pages, and
its section table is that of the file.  MRTD covers the pages in another way, so that a TD cannot
be planned from digests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, MalformedError, UnsupportedError
from cvmplan.core.values import Json
from cvmplan.documents import text
from cvmplan.images import edk2_tables
from cvmplan.images.inspection import Inspection
from cvmplan.launch.given import Given
from cvmplan.launch.model import Declared, Opener

SCHEMA: Final = "cvmplan.firmware/1"
MOST: Final = 16 << 20  # bytes of a catalogue
_NAMED: Final = re.compile(rb"""["']?schema["']?\s*+[:=]\s*+["']?cvmplan\.firmware/""")


class SevFirmware(NamedTuple):
    """
    What a launch on SNP needs of the firmware.

    `digest` is the launch digest after its pages, `sections` (gpa, size, type) in the order of
    the table, `hash_table` (gpa, size) of the kernel hashes.
    """

    digest: bytes
    sections: tuple[tuple[int, int, int], ...]
    hash_table: tuple[int, int] | None = None
    reset_eip: int | None = None


class Firmware(NamedTuple):
    """
    One firmware: its name in the catalogue, where it can be had, its file, and its digests.

    `mrtd` is by page order, empty where the firmware is not for TDX; `sev` None where it is not
    for SNP.
    """

    name: str
    version: str
    source: str
    file: str
    sha256: bytes
    size: int
    sev: SevFirmware | None
    mrtd: Mapping[str, bytes]


def recognises(blob: Blob) -> bool:
    """Whether the text names the schema near its start."""
    head = bytes(blob.data[: 1 << 16])
    return text.is_text(blob) and _NAMED.search(head) is not None


def read(blob: Blob, open_file: Opener) -> Declared:
    """
    Return what a document with one firmware declares: a section table, and a digest for pages.

    MalformedError, ConfigError for several firmware, UnsupportedError where it is not for SNP.
    """
    del open_file
    known = read_all(blob)
    if len(known) != 1:
        hint = f"one of them is catalogue:NAME@{blob.name}"
        raise ConfigError(f"{len(known)} firmware in the catalogue", at=blob.name, hint=hint)
    return declared(known[0], tables(known[0], blob.name))


def declared(firmware: Firmware, page: Blob) -> Declared:
    """Return what a firmware declares whose last page is that of its tables."""
    digest = {"firmware_digest": firmware.sev.digest} if firmware.sev else {}
    return Declared(Given({**digest, "firmware_size": firmware.size}), firmware=page)


def tables(firmware: Firmware, name: str) -> Blob:
    """Return a page called `name` with the firmware's tables; UnsupportedError."""
    sev = firmware.sev
    if sev is None:
        problem = "only MRTD is known of this firmware; a plan needs its contents"
        raise UnsupportedError(problem, at=name, hint=f"name the file {firmware.file}")
    gpa, size = sev.hash_table or (0, 0)
    table = edk2_tables.SectionTable("", sev.sections, "", gpa, sev.reset_eip or 0, size)
    return Blob(name, memoryview(edk2_tables.page_of(table)))


def read_all(blob: Blob) -> tuple[Firmware, ...]:
    """Return all firmware of a catalogue; MalformedError with the place."""
    if len(blob) > MOST:
        raise MalformedError(f"larger than {MOST >> 20} MiB", at=blob.name)
    document = text.validate(blob, text.parse(blob), "firmware")
    found: dict[str, Firmware] = {}
    for number, one in enumerate(document.firmware):
        if one.name in found:
            at = f"{blob.name}: firmware[{number}].name"
            raise MalformedError(f"duplicate name {one.name}", at=at)
        orders = one.tdx.model_dump(by_alias=True) if one.tdx else {}
        told = (one.version, one.source, one.file, one.sha256, one.size)
        found[one.name] = Firmware(one.name, *told, one.snp and _sev(one.snp), orders)
    return tuple(found.values())


def _sev(document: Any) -> SevFirmware:
    """Return the part of a document that is for SNP."""
    told = document.model_dump()
    hashes = told["hash_table"]
    return SevFirmware(
        told["digest"],
        tuple((s["gpa"], s["size"], s["type"]) for s in told["sections"]),
        hashes and (hashes["gpa"], hashes["size"]),
        told["reset_eip"],
    )


def document_of(known: Sequence[Firmware]) -> dict[str, Json]:
    """Return firmware as a document."""
    return {"schema": SCHEMA, "firmware": [_entry(one) for one in known]}


def _entry(one: Firmware) -> dict[str, Json]:
    made: dict[str, Json] = {
        "name": one.name,
        "version": one.version,
        "source": one.source,
        "file": one.file,
        "sha256": one.sha256.hex(),
        "size": one.size,
    }
    if one.sev:
        made["snp"] = _sev_entry(one.sev)
    if one.mrtd:
        made["tdx"] = {order: digest.hex() for order, digest in one.mrtd.items()}
    return made


def _sev_entry(sev: SevFirmware) -> dict[str, Json]:
    made: dict[str, Json] = {
        "digest": sev.digest.hex(),
        "sections": [
            {"gpa": hex(gpa), "size": hex(size), "type": hex(kind)}
            for gpa, size, kind in sev.sections
        ],
    }
    if sev.hash_table:
        made["hash_table"] = dict(zip(("gpa", "size"), map(hex, sev.hash_table), strict=True))
    if sev.reset_eip is not None:
        made["reset_eip"] = hex(sev.reset_eip)
    return made


def inspect(blob: Blob) -> Inspection:
    """Return the firmware of a document, and the section tables (a JSON document)."""
    known = read_all(blob)
    rows = [
        {"name": one.name, "version": one.version, "size": hex(one.size), "source": one.source}
        for one in known
    ]
    sections = [
        {"name": one.name, "gpa": hex(gpa), "size": hex(size), "type": hex(kind)}
        for one in known
        for gpa, size, kind in (one.sev.sections if one.sev else ())
    ]
    return {
        "format": SCHEMA,
        "allows": [],
        "tables": [
            {"name": "firmware", "rows": rows},
            {"name": "SEV metadata", "rows": sections},
        ],
        "findings": (),
    }
