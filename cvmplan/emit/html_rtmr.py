"""The RTMRs of a TD that are predicted, as a section of a page."""

from __future__ import annotations

from collections.abc import Iterator

from cvmplan.boot.node import Register
from cvmplan.emit.html import number, table
from cvmplan.emit.markup import Markup, tag
from cvmplan.eventlog.event import TYPES
from cvmplan.planning.predicted import Predicted


def section(found: Predicted) -> Iterator[Markup]:
    """Yield the registers, each with its value or what it lacks, and their events."""
    if found.problem:
        yield tag("p", f"Not predicted: {found.problem}")
        return
    yield tag("p", "Predicted from what the description names, as 'cvmplan rtmr' does.")
    rows = []
    for register in found.registers:
        told = "; ".join(register.conditions)
        rows.append((f"RTMR{register.number}", str(register.events), _value(register), told))
    yield table(("Register", "Events", "Value", "Conditions"), rows)
    several = []
    for match in sorted(found.matches, key=lambda m: m.node.register):
        one = match.node
        digest = f"needs {one.needs}" if one.digest is None else number(one.digest.hex())
        kind = TYPES.get(one.type, hex(one.type))
        several.append((f"RTMR{one.register}", kind, one.what, digest))
    yield table(("Register", "Type", "Event", "SHA-384"), several)


def _value(one: Register) -> str:
    if one.value is not None:
        return number(one.value.hex())
    return f"unknown: {one.unknown.what} needs {one.unknown.needs}" if one.unknown else ""
