"""A VBS guest as an IGVM file has it."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from cvmplan.launch.directives import (
    Context,
    Directive,
    Directives,
    ErrorRange,
    measured,
    unmeasured,
)
from cvmplan.operations.plan import Plan
from cvmplan.platforms.vbs.steps import ImportPages, ImportRegisters

REGISTER = Struct("<BI11x16s")
"""VbsVpContextRegister: VTL, name, value."""


def directives(plan: Plan) -> Directives:
    """Return the headers of a launch; PlanError, UnsupportedError for what no header can say."""
    levels = [step.vtl for step in plan.trace() if isinstance(step, ImportRegisters)]
    return Directives(tuple(_body(plan)), highest_vtl=2 if any(levels) else 0)


def _body(plan: Plan) -> Iterator[Directive]:
    for step in plan.trace():
        if isinstance(step, ImportRegisters):
            rows = (REGISTER.pack(step.vtl, name, value) for name, value in step.registers)
            count = len(step.registers).to_bytes(4, "little")
            yield Context(0, 0, count + b"".join(rows))
        elif isinstance(step, ImportPages) and step.acceptance:
            yield ErrorRange(step.gpa, step.size)
        elif isinstance(step, ImportPages):
            add = measured if step.measured else unmeasured
            yield add(step.gpa, step.size, step.contents)
