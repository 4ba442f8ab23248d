"""JSON Lines: one object a firmware command."""

from __future__ import annotations

import json

from cvmplan.emit.json import commands
from cvmplan.plan import Plan


def trace(plan: Plan) -> str:
    """Return one line a command, on SNP with the launch digest after it."""
    single = ((op, command) for op, step in plan.lowered() for command in step.commands())
    return "".join(f"{json.dumps(c)}\n" for c in commands(plan.platform, single))
