"""Lines of text: printable, as wide as the terminal, in columns where they are rows."""

from __future__ import annotations

import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from cvmplan.core.values import printable

WIDTH: Final = 80  # columns where there is no terminal
NARROW: Final = 16  # columns of a table that are not broken inside a word
GAP: Final = "  "
COMMAND: Final = "::"  # at the beginning of a line it is a command to GitHub Actions


class Command(str):
    """A line that is to be copied: it is not wrapped."""

    __slots__ = ()


def width() -> int:
    """Return the columns of the terminal, or that COLUMNS says; 80 where there is neither."""
    return shutil.get_terminal_size((WIDTH, 24)).columns


def joined(several: Iterable[str]) -> str:
    """Return lines as one text, as `wrapped` yields them."""
    return "".join(wrapped(several))


def wrapped(several: Iterable[str]) -> Iterator[str]:
    """
    Yield lines, none of them wider than the terminal, nor with spaces at its end.

    A word that is wider, such as a digest, stays whole on a line of its own, and so does a
    command.
    """
    most = width()
    for one in several:
        for line in _wrapped(one, most):
            yield f"{line}\n"


def _wrapped(one: str, most: int) -> list[str]:
    line = printable(one.rstrip())
    if len(line) <= most or isinstance(one, Command):
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    return _split(line, most, indent + GAP, indent)


def _split(line: str, most: int, later: str = "", first: str = "") -> list[str]:
    """Return a line in pieces of at most `most` columns, words as long as they are."""
    wrapped = textwrap.wrap(
        line.strip(), max(most, NARROW), initial_indent=first, subsequent_indent=later,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    lines: list[str] = []
    for one in wrapped:
        if lines and one.lstrip().startswith(COMMAND):
            lines[-1] += f" {one.lstrip()}"
        else:
            lines.append(one)
    return lines


def aligned(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """
    Return `rows` with their columns aligned, the widest ones wrapped where it is too much.

    Cells are broken between words, and inside a word that is wider than its column.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    columns = [*zip(*cells, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    least = [max(min(_longest(cell), NARROW) for cell in column) for column in columns]
    room = width() - len(indent) - len(GAP) * (len(widths) - 1)
    while sum(widths) > room and widths != least:
        widest = max(range(len(widths)), key=lambda n: (widths[n] > least[n], widths[n]))
        fitting = room - sum(widths) + widths[widest]
        widths[widest] = max(fitting, least[widest])
    return [indent + line for row in cells for line in _lines(row, widths)]


def _longest(cell: str) -> int:
    return max(map(len, cell.split()), default=0)


def _lines(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """Yield a row as the lines that it needs."""
    pieces = [_broken(cell, most) for cell, most in zip(row, widths, strict=True)]
    for number in range(max(map(len, pieces))):
        parts = (one[number] if number < len(one) else "" for one in pieces)
        yield GAP.join(part.ljust(w) for part, w in zip(parts, widths, strict=True)).rstrip()


def _broken(cell: str, most: int) -> list[str]:
    """Return a cell in pieces: broken at two blanks, else between words, else inside a word."""
    if len(cell) <= most:
        return [cell]
    lines = [""]
    for part in cell.split(GAP):
        told = f"{lines[-1]}{GAP}{part}" if lines[-1] else part
        if len(told) <= most:
            lines[-1] = told
        else:
            pieces = textwrap.wrap(part, most, break_on_hyphens=False)
            lines = [*lines, *pieces] if lines[-1] else [*lines[:-1], *pieces]
    return lines


def without_name(texts: Sequence[str]) -> tuple[str, list[str]]:
    """
    Return the name of the file with which most `texts` begin, and the texts without it.

    They are places ("image.fd+0x10") or owners ("image.fd: firmware"), some perhaps of no file;
    "" where none names one.
    """
    for mark in (": ", "+0x"):
        names = Counter(text.partition(mark)[0] for text in texts if mark in text)
        if names:
            name = names.most_common(1)[0][0]
            return name, [_without(name, text) for text in texts]
    return "", [*texts]


def _without(name: str, text: str) -> str:
    rest = text.removeprefix(name)
    return rest.removeprefix(": ") if rest.startswith((": ", "+0x")) else text
