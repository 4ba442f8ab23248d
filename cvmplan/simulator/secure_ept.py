"""
The tables of a simulated TD's secure EPT, and what the module says about its entries.

Source: intel/tdx-module 72d8cff (tdx_1.5), TDH.MEM.SEPT.ADD, TDH.MEM.PAGE.ADD,
TDH.MEM.PAGE.AUG; linux 3829d81b arch/x86/kvm/vmx/tdx.c, tdx_sept_link_private_spt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cvmplan.kvm.interface import PAGE
from cvmplan.simulator.answers import Reason
from cvmplan.simulator.ranges import Ranges

STATE: Final = "TDX_EPT_ENTRY_STATE_INCORRECT"
WALK: Final = "TDX_EPT_WALK_FAILED"
UNMAPPED: Final[Mapping[str, tuple[Reason, str, str]]] = {
    "free": ("not-mapped", "is not mapped", WALK),
    "augmented": ("mapped-before", "was augmented", STATE),
    "added": ("added-before", "was added before", STATE),
}
"""State of a page that does not wait for its add: why it is refused, and the module's status."""
SPANS: Final = {48: (1 << 39, 1 << 30, 1 << 21), 52: (1 << 48, 1 << 39, 1 << 30, 1 << 21)}
"""Width of addresses to the bytes that a table of each level maps, from the top down."""


class Tables:
    """Which tables exist below the root, in a TD whose addresses have `gpaw` bits."""

    def __init__(self, gpaw: int) -> None:
        self._levels = {span: Ranges(value=False) for span in SPANS[gpaw]}

    def add(self, low: int, high: int) -> int:
        """Add the tables that pages of [low, high) lack, and return how many."""
        added = 0
        for span, present in self._levels.items():
            first, last = low // span * span, -(-high // span) * span
            missing = [(a, b) for a, b, held in present.runs(first, last) if not held]
            added += sum(b - a for a, b in missing) // span
            present.set(first, last, value=True)
        return added


def augmented(pages: int, tables: int) -> str:
    """Say what the module was asked for `pages` bytes and `tables` tables of a finalized TD."""
    said = [f"TDH.MEM.SEPT.ADD of {_counted(tables, 'table')}"] if tables else []
    said.append(f"TDH.MEM.PAGE.AUG of {_counted(pages // PAGE, 'page')}")
    return f"{', '.join(said)}: not measured, pending until the guest accepts them"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
