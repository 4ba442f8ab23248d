"""Predicted events and registers of a TD, as a JSON document."""

from __future__ import annotations

from collections.abc import Sequence

from cvmplan.boot.against import Difference
from cvmplan.boot.node import Register
from cvmplan.boot.template import Match
from cvmplan.core.values import Json
from cvmplan.emit.json import listed
from cvmplan.eventlog.event import TYPES


def rtmr(
    matches: Sequence[Match],
    registers: Sequence[Register],
    differences: Sequence[Difference] | None = None,
) -> str:
    """Return cvmplan.rtmr/1."""
    compared = None if differences is None else [_difference(one) for one in differences]
    return listed(
        {
            "schema": "cvmplan.rtmr/1",
            "events": [_event(match) for match in matches],
            "registers": [_register(one) for one in registers],
            "differences": compared,
        },
        "events",
    )


def _difference(one: Difference) -> dict[str, Json]:
    return {
        "register": f"RTMR{one.register}",
        "number": one.number,
        "what": one.what,
        "why": one.why or None,
    }


def _event(match: Match) -> dict[str, Json]:
    one = match.node
    return {
        "register": f"RTMR{one.register}",
        "type": hex(one.type),
        "type_name": TYPES.get(one.type),
        "key": one.key,
        "what": one.what,
        "digest": None if one.digest is None else one.digest.hex(),
        "verdict": match.verdict,
        "number": match.number,
        "needs": one.needs or None,
        "depends": list(one.depends),
        "condition": one.condition or None,
        "source": one.source or None,
    }


def _register(one: Register) -> dict[str, Json]:
    unknown = one.unknown
    return {
        "register": f"RTMR{one.number}",
        "events": one.events,
        "value": None if one.value is None else one.value.hex(),
        "unknown": None if unknown is None else unknown.what,
        "needs": None if unknown is None else unknown.needs,
        "independent": one.independent,
        "conditions": list(one.conditions),
    }
