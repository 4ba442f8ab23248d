"""What `explain` and `diff` answer, as JSON documents."""

from __future__ import annotations

from cvmplan.comparison.found import Comparison, Difference
from cvmplan.comparison.held_calls import CallsCompared
from cvmplan.comparison.sides import Side
from cvmplan.comparison.walk import Parting
from cvmplan.core.values import Json
from cvmplan.emit.json import dumps
from cvmplan.explanation.answer import Explanation


def explanation(answer: Explanation) -> str:
    """Return cvmplan.explanation/1."""
    return dumps(
        {
            "schema": "cvmplan.explanation/1",
            "expected": answer.expected,
            "explained": answer.explained,
            "platform": answer.platform,
            "command": list(answer.command),
            "changes": [
                {"typed": one.typed, "was": one.was, "why": one.why} for one in answer.changes
            ],
            "candidates": answer.candidates,
            "complete": answer.complete,
            "searched": [{"name": one.name, "values": one.values} for one in answer.searched],
            "not_searched": [one.words for one in answer.not_searched],
            "evidence": answer.evidence,
            "doubts": list(answer.doubts),
            "settings": dict(answer.settings),
            **_firmware(answer),
        }
    )


def _firmware(answer: Explanation) -> dict[str, Json]:
    one = answer.firmware
    if one is None:
        return {}
    named = {"name": one.name, "version": one.version, "source": one.source, "file": one.file}
    return {"firmware": {**named, "sha256": one.sha256.hex(), "size": one.size}}


def comparison(found: Comparison) -> str:
    """Return cvmplan.diff/1."""
    return dumps(
        {
            "schema": "cvmplan.diff/1",
            "a": _side(found.a),
            "b": _side(found.b),
            "differ": found.differ,
            "same_measurement": found.same_measurement,
            "parting": None if found.parting is None else _parting(found.parting),
            "differences": [_difference(one) for one in found.differences],
            "more": found.more,
            "calls_differ": found.calls_differ.words if found.calls_differ else "",
            "not_compared": list(found.unknown),
            **({} if found.held is None else {"calls": _held(found.held)}),
        }
    )


def _held(held: CallsCompared) -> dict[str, Json]:
    return {
        "compared": held.pairs,
        "fields_equal": held.equal,
        "pointers": held.apart,
        "differences": len(held.differences),
        "deviations": [
            {"id": one.id, "count": one.times, "reason": one.reason} for one in held.deviations
        ],
    }


def _side(side: Side) -> dict[str, Json]:
    return {
        "name": side.name,
        "kind": side.kind,
        "platform": side.platform,
        "register": side.register,
        "digest": side.digest.hex() if side.digest else None,
    }


def _difference(one: Difference) -> dict[str, Json]:
    pages = {n: hex(v) for n, v in (("first", one.first), ("last", one.last)) if v is not None}
    return {
        "what": one.what,
        "where": one.where,
        "a": one.a,
        "b": one.b,
        "measured": one.measured,
        **pages,
    }


def _parting(found: Parting) -> dict[str, str | None]:
    return {"a": found.a, "b": found.b, "why": found.reason.words}
