"""The recordings that are kept here: JSON Lines, compressed, each launch behind its header."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).parent / "recordings.jsonl.xz"
Line = dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """A recording: who did what, when, how it ended, and its calls."""

    launch: str
    vmm: str
    package: str
    date: str
    said: str
    code: int
    lines: tuple[Line, ...]

    @property
    def text(self) -> bytes:
        """The calls as a recorder writes them (cvmplan.recorded/2)."""
        return "".join(f"{json.dumps(line)}\n" for line in self.lines).encode()


@cache
def read() -> dict[tuple[str, str], Kept]:
    """Return all recordings by binary and launch."""
    found: list[tuple[Line, list[Line]]] = []
    for text in lzma.decompress(FILE.read_bytes()).splitlines():
        line = json.loads(text)
        if "launch" in line:
            found.append((line, []))
        else:
            found[-1][1].append(line)
    made = (Kept(**header, lines=tuple(lines)) for header, lines in found)
    return {(one.vmm, one.launch): one for one in made}


def write(recordings: Iterable[Kept]) -> int:
    """Write recordings and return how many bytes they take."""
    rows: list[Line] = []
    for one in recordings:
        rows.append({name: value for name, value in vars(one).items() if name != "lines"})
        rows += one.lines
    text = "".join(f"{json.dumps(row, separators=(',', ':'))}\n" for row in rows)
    return FILE.write_bytes(lzma.compress(text.encode(), preset=9))
