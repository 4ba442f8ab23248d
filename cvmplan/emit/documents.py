"""Documents of single things, as `json` prints them: a finding, an interface, a profile."""

from __future__ import annotations

from cvmplan.core.findings import Finding
from cvmplan.core.values import Json
from cvmplan.simulator.answers import Result, Simulation


def finding(found: Finding) -> dict[str, Json]:
    """Return one finding, without the keys that are empty."""
    document = {
        "rule": found.rule,
        "severity": found.severity,
        "message": found.message,
        "first": None if found.first is None else hex(found.first),
        "last": None if found.last is None else hex(found.last),
        "origins": list(found.origins),
        "at": found.at,
        "hint": found.hint,
    }
    return {key: value for key, value in document.items() if value not in (None, "", [])}


def simulation_document(outcome: Simulation) -> dict[str, Json]:
    """Return cvmplan.simulation/1."""
    return {
        "schema": "cvmplan.simulation/1",
        "platform": outcome.platform,
        "abi": outcome.abi,
        "results": [_result(r) for r in outcome.results],
        "digest": None if outcome.digest is None else outcome.digest.hex(),
        "finalized": outcome.finalized,
        "findings": [finding(f) for f in outcome.findings],
    }


def _result(result: Result) -> dict[str, Json]:
    answer = result.answer
    row: dict[str, Json] = {"seq": result.seq, "op": result.op, "result": answer.result}
    for name in ("errno", "fw_error", "seamcall_status"):
        value = getattr(answer, name)
        if value is not None:
            row[name] = value
    if answer.mapped is not None:
        row["mapped"] = dict(zip(("gpa", "size", "level"), map(hex, answer.mapped), strict=True))
    if answer.residual is not None:
        row["residual"] = dict(zip(("gpa", "size"), map(hex, answer.residual), strict=True))
    if answer.first_call is not None:
        left = dict(zip(("gpa", "size"), map(hex, answer.first_call), strict=True))
        row["first_call"] = {"result": "ok", "residual": left}
    if answer.why:
        row["why"] = answer.why
    return row
