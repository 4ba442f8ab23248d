"""One field of a structure that hardware or firmware wrote, and of its bits, as it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Field(NamedTuple):
    """A field by its id in documents: its value as text, and what that means, "" for nothing."""

    id: str
    value: str
    meaning: str = ""


def listed(mask: int, table: Mapping[int, str]) -> list[str]:
    """Return the names of the bits that are set in `mask`, lowest first; "bit N" without one."""
    return [table.get(n, f"bit {n}") for n in range(mask.bit_length()) if mask >> n & 1]


def names(mask: int, table: Mapping[int, str]) -> str:
    """Return the names of the bits that are set in `mask`, with spaces between; "none" for 0."""
    return " ".join(listed(mask, table)) or "none"
