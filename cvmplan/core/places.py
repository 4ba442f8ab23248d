"""Places in inputs: a text that messages have, with its parts for outputs that have fields."""

from __future__ import annotations

from typing import Self, TypeAlias

from cvmplan.core.values import printable

Path: TypeAlias = tuple[str | int, ...]
"""Keys and indices that lead to a value of a document."""
_LONGEST_KEY = 80  # characters of a key that an error shows


class Place(str):
    """
    A place in the input `file`, as messages have it.

    In a binary `offset` and, where it is known, `length` in bytes; in a document the `path` of a
    value, or its `line` and `column`, which count from 1.
    """

    __slots__ = ("column", "file", "length", "line", "offset", "path")
    file: str
    offset: int | None
    length: int | None
    path: Path
    line: int | None
    column: int | None

    def __new__(
        cls,
        text: str,
        file: str = "",
        *,
        offset: int | None = None,
        length: int | None = None,
        path: Path = (),
        line: int | None = None,
        column: int | None = None,
    ) -> Self:
        self = super().__new__(cls, text)
        self.file, self.offset, self.length = file, offset, length
        self.path, self.line, self.column = path, line, column
        return self

    def named(self, text: str) -> Place:
        """Return the same place under a name: of what it declares."""
        return Place(
            text, self.file, offset=self.offset, length=self.length, path=self.path,
            line=self.line, column=self.column,
        )  # fmt: skip

    def below(self, *path: str | int) -> Place:
        """Return the place of a value below this one."""
        return in_document(self.file, *self.path, *path)

    def on(self, line: int, column: int) -> Place:
        """Return the same place, where the line and the column of its value are known."""
        return Place(str(self), self.file, path=self.path, line=line, column=column)


def in_document(file: str, *path: str | int) -> Place:
    """Return the place of the value at `path` of the document `file`."""
    return Place(f"{file}: {spell(path)}" if path else file, file, path=path)


def spell(path: Path) -> str:
    """Write a path as people do: regions[2].gpa."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        shown = part if len(part) <= _LONGEST_KEY else f"{part[:_LONGEST_KEY]}…"
        shown = printable(shown)
        text += f".{shown}" if text else shown
    return text
