"""JSON Lines: one object a firmware command."""

from __future__ import annotations

import json
from collections.abc import Iterator

from cvmplan.emit.json import commands, final_digest
from cvmplan.operations.plan import Plan
from cvmplan.sweep.rows import Row


def trace(plan: Plan) -> Iterator[str]:
    """
    Yield one line a command, on SNP with the launch digest after it.

    PlanError comes before the first line: all steps are gone through once without their
    commands, of which there may be millions.
    """
    for _ in plan.lowered():
        pass
    single = ((op, command) for op, step in plan.lowered() for command in step.commands())
    for document in commands(plan.platform, single, final_digest(plan)):
        yield f"{json.dumps(document)}\n"


def heading() -> str:
    """Return nothing: each line says what it has."""
    return ""


def value(row: Row) -> str:
    """Return one result of a sweep as a line."""
    said = {n: told for n, told in row.items() if told not in ("", 0)}
    if row["append_hash"]:
        said["append"] = row["append"]
    return json.dumps(said) + "\n"
