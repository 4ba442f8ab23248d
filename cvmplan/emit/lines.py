"""Lines of text: printable, in columns where they are rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cvmplan.core.values import printable


def joined(several: Iterable[str]) -> str:
    """Return lines as one text, without spaces at their ends."""
    return "".join(f"{printable(line.rstrip())}\n" for line in several)


def aligned(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Return `rows` with their columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        indent + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))
        for row in rows
    ]
