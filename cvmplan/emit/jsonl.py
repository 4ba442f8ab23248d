"""JSON Lines: one object a firmware command."""

from __future__ import annotations

import json
from collections.abc import Iterator

from cvmplan.emit.json_plan import step_document
from cvmplan.operations.outcome import Trace
from cvmplan.sweep.rows import Row


def trace(made: Trace) -> Iterator[str]:
    """Yield one line a command, on SNP with the launch digest after it."""
    for number, one in enumerate(made.commands()):
        yield f"{json.dumps(step_document(number, one))}\n"


def heading() -> str:
    """Return nothing: each line says what it has."""
    return ""


def value(row: Row) -> str:
    """Return one result of a sweep as a line."""
    said = {n: told for n, told in row.items() if told not in ("", 0)}
    if row["append_hash"]:
        said["append"] = row["append"]
    return json.dumps(said) + "\n"
