"""Comma-separated values (RFC 4180), with a line of column names."""

from __future__ import annotations

import csv
import io

from cvmplan.sweep.rows import COLUMNS, Row


def heading() -> str:
    """Return the names of the columns."""
    return _line(COLUMNS)


def value(row: Row) -> str:
    """Return one result of a sweep as a line; what does not apply is empty."""
    return _line(tuple(row[name] for name in COLUMNS))


def _line(cells: tuple[str | int, ...]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
