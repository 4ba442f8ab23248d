"""Predicted events and registers of a TD, as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cvmplan.boot.against import Difference
from cvmplan.boot.node import Register
from cvmplan.boot.template import Match
from cvmplan.emit.lines import aligned, joined
from cvmplan.eventlog.event import TYPES

_SHOWN = 16  # hex digits of a digest


def rtmr(
    matches: Sequence[Match],
    registers: Sequence[Register],
    differences: Sequence[Difference] | None = None,
) -> str:
    """Return the events by register, and the registers or what they lack."""
    return joined([*_events(matches), "", *_registers(registers), *_compared(differences)])


def _compared(differences: Sequence[Difference] | None) -> Iterator[str]:
    if differences is None:
        return
    yield ""
    if not differences:
        yield "the log matches every known event"
    for one in differences:
        place = "" if one.number is None else f", event {one.number}"
        why = f"; {one.why}" if one.why else ""
        yield f"RTMR{one.register}{place}: {one.what}{why}"


def _events(matches: Sequence[Match]) -> Iterator[str]:
    if not matches:
        yield "no events"
        return
    rows = [("register", "type", "digest", "from", "what")]
    for match in sorted(matches, key=lambda m: m.node.register):
        one = match.node
        shown = "unknown" if one.digest is None else one.digest.hex()[:_SHOWN]
        origin = "" if one.digest is None else match.verdict
        kind = TYPES.get(one.type, hex(one.type))
        rows.append((f"RTMR{one.register}", kind, shown, origin, one.what))
    yield from aligned(rows)


def _registers(registers: Sequence[Register]) -> Iterator[str]:
    for one in registers:
        name = f"RTMR{one.number}"
        if one.value is not None:
            yield f"{name}  {one.value.hex()}"
        elif one.unknown is not None:
            yield f"{name}  unknown: {one.unknown.what} needs {one.unknown.needs}"
        if not one.independent:
            yield "       not independent: contains events from the template"
        for condition in one.conditions if one.value is not None else ():
            yield f"       {condition}"
