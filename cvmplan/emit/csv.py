"""Comma-separated values (RFC 4180), with a line of column names."""

from __future__ import annotations

import csv
from types import SimpleNamespace

from cvmplan.sweep.rows import COLUMNS, Row


def heading() -> str:
    """Return the names of the columns."""
    return _line(COLUMNS)


def value(row: Row) -> str:
    """Return one result of a sweep as a line; what does not apply is empty."""
    return _line(tuple(row[name] for name in COLUMNS))


def _line(cells: tuple[str | int, ...]) -> str:
    written: list[str] = []
    csv.writer(SimpleNamespace(write=written.append), lineterminator="\n").writerow(cells)
    return "".join(written)
