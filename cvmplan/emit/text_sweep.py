"""The results of a sweep as a table: a column for each setting that differs, and the digest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cvmplan.emit.lines import GAP, aligned, joined, width
from cvmplan.sweep.rows import KEY, NAMES, Row

SHOWN: Final = (*NAMES[:1], *(n for n in KEY if n not in ("files", "vcpus")), *NAMES[1:], "vcpus")
"""The settings, in the order of the columns: what varies fastest is last."""


def table(rows: Sequence[Row]) -> str:
    """Return what is equal in all rows, then a line for each; at least one row."""
    differ = [name for name in SHOWN if len({row[name] for row in rows}) > 1]
    columns = [name for name in differ if not _repeats(name, differ)]
    same = [
        (name, str(rows[0][name]))
        for name in SHOWN
        if name not in differ and rows[0][name] not in ("", 0)
    ]
    registers = dict.fromkeys(str(row["register"]) for row in rows if row["register"])
    head = (*columns, "/".join(registers) or "digest")
    lines = [[str(row[name] or "") for name in columns] for row in rows]
    found = [str(row["digest"]) or f"error: {row['error']}" for row in rows]
    return joined([*aligned(same), "", *_lines(head, lines, found)])


def _repeats(name: str, differ: Sequence[str]) -> bool:
    """Whether a column says what another one says in fewer characters."""
    of = {"image_sha256": "image", "cpu_signature": "cpu"}.get(name, name.removesuffix("_hash"))
    return of != name and of in differ


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]], found: Sequence[str]) -> list[str]:
    """Return the table; results are below their row where the terminal is too narrow."""
    *columns, title = head
    if not columns:
        return [title, *(f"{GAP}{result}" for result in found)]
    cells = [[*row, result] for row, result in zip(rows, found, strict=True)]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    if sum(widths) + len(GAP) * (len(widths) - 1) <= width():
        return aligned([head, *cells])
    titles, *told = aligned([columns, *rows])
    if len(told) != len(rows):  # wrapped: one setting a line then
        pairs = [[(n, v) for n, v in zip(columns, row, strict=True) if v] for row in rows]
        blocks = [[*aligned(pair), f"{GAP}{r}", ""] for pair, r in zip(pairs, found, strict=True)]
        return [line for block in blocks for line in block][:-1]
    lines = [titles, f"{GAP}{title}"]
    for line, result in zip(told, found, strict=True):
        lines += [line, f"{GAP}{result}"]
    return lines
