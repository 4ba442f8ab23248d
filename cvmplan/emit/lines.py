"""Lines of text: printable, as wide as the terminal, in columns where they are rows."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from cvmplan.core.values import printable

WIDTH: Final = 80  # columns where there is no terminal
NARROW: Final = 16  # columns below which a column of a table is not made narrower
GAP: Final = "  "


def width() -> int:
    """Return the columns of the terminal, or that COLUMNS says; 80 where there is neither."""
    return shutil.get_terminal_size((WIDTH, 24)).columns


def joined(several: Iterable[str]) -> str:
    """
    Return lines as one text, none of them wider than the terminal, nor with spaces at its end.

    A word that is wider, such as a digest, stays whole on a line of its own.
    """
    most = width()
    return "".join(f"{line}\n" for one in several for line in _wrapped(one.rstrip(), most))


def _wrapped(line: str, most: int) -> list[str]:
    line = printable(line)
    if len(line) <= most:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    return _split(line, most, indent + GAP, indent)


def _split(line: str, most: int, later: str = "", first: str = "") -> list[str]:
    """Return a line in pieces of at most `most` columns, words as long as they are."""
    return textwrap.wrap(
        line.strip(), max(most, NARROW), initial_indent=first, subsequent_indent=later,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def aligned(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """
    Return `rows` with their columns aligned, the widest ones wrapped where it is too much.

    Cells are broken between words, and inside a word that is wider than its column.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    room = width() - len(indent) - len(GAP) * (len(widths) - 1)
    while sum(widths) > room and max(widths) > NARROW:
        widest = widths.index(max(widths))
        others = sum(widths) - widths[widest]
        second = max([NARROW, *(w for n, w in enumerate(widths) if n != widest)])
        widths[widest] = max(room - others, min(second, widths[widest] - 1), NARROW)
    return [indent + line for row in cells for line in _lines(row, widths)]


def _lines(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """Yield a row as the lines that it needs."""
    pieces = [_broken(cell, most) for cell, most in zip(row, widths, strict=True)]
    for number in range(max(map(len, pieces))):
        parts = (one[number] if number < len(one) else "" for one in pieces)
        yield GAP.join(part.ljust(w) for part, w in zip(parts, widths, strict=True)).rstrip()


def _broken(cell: str, most: int) -> list[str]:
    if len(cell) <= most:
        return [cell]
    return textwrap.wrap(cell, most, break_on_hyphens=False)


def without_name(texts: Sequence[str]) -> tuple[str, list[str]]:
    """
    Return the name of the file with which all `texts` begin, and the texts without it.

    They are places ("image.fd+0x10") or owners ("image.fd: firmware"); "" where names differ.
    """
    for mark in (": ", "+0x"):
        names = {text.partition(mark)[0] for text in texts if mark in text}
        if len(names) == 1 and all(mark in text for text in texts):
            cut = len(mark) if mark == ": " else 0
            name = names.pop()
            return name, [text[len(name) + cut :] for text in texts]
    return "", [*texts]
