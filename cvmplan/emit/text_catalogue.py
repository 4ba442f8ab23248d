"""Firmware of a catalogue, as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cvmplan.emit.lines import aligned, joined
from cvmplan.images.ovmf import SECTION_ROLES
from cvmplan.readers.firmware import Firmware, SevFirmware


def catalogue(known: Sequence[Firmware]) -> str:
    """Return one line for each firmware."""
    rows = [("name", "for", "bytes")]
    rows += [(one.name, _platforms(one), str(one.size)) for one in known]
    return joined(aligned(rows))


def _platforms(one: Firmware) -> str:
    return ", ".join([*(["snp"] if one.sev else []), *(["tdx"] if one.mrtd else [])])


def firmware(one: Firmware) -> str:
    """Return everything about one firmware."""
    rows = [
        ("name", one.name),
        ("version", one.version),
        ("source", one.source),
        ("file", f"{one.file}, {one.size} bytes"),
        ("sha256", one.sha256.hex()),
    ]
    rows = [row for row in rows if row[1]]
    return joined([*aligned(rows), *(_sev(one.sev) if one.sev else ()), *_mrtd(one)])


def _sev(sev: SevFirmware) -> Iterator[str]:
    yield ""
    yield "launch digest after the pages of the firmware (SEV-SNP)"
    yield f"  {sev.digest.hex()}"
    rows = [
        (str(SECTION_ROLES.get(kind, f"type {kind:#x}")), hex(gpa), hex(size))
        for gpa, size, kind in sev.sections
    ]
    yield from aligned([("section", "gpa", "size"), *rows], "  ")
    if sev.hash_table:
        gpa, size = sev.hash_table
        yield f"  kernel hashes at {gpa:#x}, {size:#x} bytes"
    if sev.reset_eip is not None:
        yield f"  reset EIP {sev.reset_eip:#x}"


def _mrtd(one: Firmware) -> Iterator[str]:
    for order, digest in one.mrtd.items():
        yield ""
        yield f"MRTD, page order {order} (TDX)"
        yield f"  {digest.hex()}"
