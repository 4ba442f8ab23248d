"""
Comma-separated values (RFC 4180), with a line of column names.

Cells come from names and command lines that others chose.  Control characters are written as
escapes, and a cell that a spreadsheet would take for a formula begins with an apostrophe
(OWASP, "CSV Injection").
"""

from __future__ import annotations

import csv
from types import SimpleNamespace
from typing import Final

from cvmplan.core.values import printable
from cvmplan.sweep.rows import COLUMNS, Row

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""How a cell begins that is computed: also the full-width signs."""


def heading() -> str:
    """Return the names of the columns."""
    return line(COLUMNS)


def value(row: Row) -> str:
    """Return one result of a sweep as a line; what does not apply is empty."""
    return line(tuple(row[name] for name in COLUMNS))


def line(cells: tuple[str | int, ...]) -> str:
    """Return one line of `cells`, safe to open in a spreadsheet, with its newline."""
    written: list[str] = []
    shown = [_safe(cell) if isinstance(cell, str) else cell for cell in cells]
    csv.writer(SimpleNamespace(write=written.append), lineterminator="\n").writerow(shown)
    return "".join(written)


def _safe(cell: str) -> str:
    return ("'" if cell.startswith(_FORMULA) else "") + printable(cell)
