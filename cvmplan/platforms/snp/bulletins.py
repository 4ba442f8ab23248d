"""
The least TCB of each line of products that AMD's security bulletins ask for.

Source: AMD's bulletins AMD-SB-3019, 3016, 3020, 3027 and 3030 (amd.com, product security); their
numbers as microsoft/CCF issue 6812 (3019) and public reviews of 2026-09 and 2026-10 quote them.
AMD-SB-3034 is left out: AMD withdrew its TCB values on 2026-09-24.  The numbers of microcode are
of one stepping each: a stepping that is not listed has none here.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cvmplan.platforms.snp.report import AttestationReport


class Floor(NamedTuple):
    """The least level of one part; `cpu` is (model, stepping), None for the whole line."""

    bulletin: str
    product: str
    part: str
    level: int
    cpu: tuple[int, int] | None = None


FLOORS: Final = (
    Floor("AMD-SB-3019", "Milan", "snp", 0x18),
    Floor("AMD-SB-3019", "Genoa", "snp", 0x17),
    Floor("AMD-SB-3019", "Genoa", "microcode", 0x54, (0x11, 1)),
    Floor("AMD-SB-3019", "Genoa", "microcode", 0x4F, (0x11, 2)),
    Floor("AMD-SB-3020", "Genoa", "snp", 0x1B),
    Floor("AMD-SB-3020", "Turin", "snp", 0x04),
    Floor("AMD-SB-3027", "Genoa", "microcode", 0x56, (0x11, 1)),
    Floor("AMD-SB-3027", "Genoa", "microcode", 0x51, (0x11, 2)),
    Floor("AMD-SB-3027", "Turin", "microcode", 0x51),
    Floor("AMD-SB-3016", "Milan", "snp", 0x1B),
    Floor("AMD-SB-3016", "Genoa", "snp", 0x1B),
    Floor("AMD-SB-3030", "Milan", "snp", 0x1D),
)


def _of(report: AttestationReport) -> list[Floor]:
    cpu = report.cpuid_mod_id, report.cpuid_step & 0xF
    return [f for f in FLOORS if f.product == report.product and f.cpu in (None, cpu)]


def least(report: AttestationReport) -> dict[str, int]:
    """Return the least level of each part for the product of a report; empty where unknown."""
    found: dict[str, int] = {}
    for one in _of(report):
        found[one.part] = max(one.level, found.get(one.part, 0))
    return found


def missed(report: AttestationReport) -> list[Floor]:
    """Return what the reported TCB of a report is below, in the order of `FLOORS`."""
    return [one for one in _of(report) if report.tcb[one.part] < one.level]
