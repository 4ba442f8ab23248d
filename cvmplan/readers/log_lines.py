"""Logs and JSON Lines as numbered lines, in linear time and without a copy of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError
from cvmplan.simulator.attempts import Attempt

BOM: Final = b"\xef\xbb\xbf"
MOST_LINE: Final = 1 << 16  # bytes
SEARCHED: Final = 64 << 20  # bytes of a log in which its first call is looked for


class Logged(NamedTuple):
    """
    The calls of a log; `lacks` is what its form does not show, for people.

    Not `ends`: it does not show how a launch ends.
    """

    attempts: tuple[Attempt, ...]
    lacks: tuple[str, ...] = ()
    ends: bool = True


def head(blob: Blob) -> bytes:
    """Return the begin of a text, without the mark of its encoding."""
    return bytes(blob.data[:MOST_LINE]).removeprefix(BOM)


def lines(blob: Blob) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of the text, without what is empty; MalformedError."""
    start, number, size = 0, 0, len(blob)
    while start < size:
        number += 1
        piece = bytes(blob.data[start : start + MOST_LINE + 1])
        length = piece.find(b"\n")
        if length < 0:
            length = len(piece)
        if length > MOST_LINE:
            raise MalformedError(
                f"a line of more than {MOST_LINE} bytes", at=f"{blob.name}:{number}"
            )
        line = piece[:length].decode(errors="surrogateescape")
        line = line.removeprefix("\ufeff") if number == 1 else line
        if line.strip():
            yield number, line
        start += length + 1
