"""The line of a comparison: what was planned, what was found, and whether it holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

OK: Final = "ok"
DIFFERS: Final = "differs"
NOT_IN_PLAN: Final = "not in plan"


class Line(NamedTuple):
    """
    One thing that was compared, as text; `status` is "ok", "differs" or "not in plan".

    `expected` is None where nothing was planned.  `why` says more: the firmware's name of the
    error, or what a value means.
    """

    name: str
    expected: str | None
    found: str
    status: str
    why: str = ""


def compared(name: str, expected: str | None, found: str, why: str = "", said: str = "") -> Line:
    """Return the line of two values; `why` is said where they differ, `said` always."""
    if expected is None:
        return Line(name, None, found, NOT_IN_PLAN, said)
    if expected == found:
        return Line(name, expected, found, OK, said)
    return Line(name, expected, found, DIFFERS, why or said)


def all_hold(lines: Iterable[Line]) -> bool:
    """Whether no line differs."""
    return all(line.status != DIFFERS for line in lines)
