"""JSON Lines: one object a firmware command."""

from __future__ import annotations

import json

from cvmplan.emit.json import commands, final_digest
from cvmplan.plan import Plan
from cvmplan.sweep.rows import Row


def trace(plan: Plan) -> str:
    """Return one line a command, on SNP with the launch digest after it."""
    single = ((op, command) for op, step in plan.lowered() for command in step.commands())
    return "".join(
        f"{json.dumps(c)}\n" for c in commands(plan.platform, single, final_digest(plan))
    )


def heading() -> str:
    """Return nothing: each line says what it has."""
    return ""


def value(row: Row) -> str:
    """Return one result of a sweep as a line."""
    said = {n: told for n, told in row.items() if told not in ("", 0)}
    if row["append_hash"]:
        said["append"] = row["append"]
    return json.dumps(said) + "\n"
