"""A SEV or SEV-ES launch as an IGVM file has it."""

from __future__ import annotations

from collections.abc import Iterator

from cvmplan.core.platform import VMSA_GPA
from cvmplan.launch.directives import Context, Directive, Directives, measured
from cvmplan.operations.plan import Plan
from cvmplan.platforms.sev.ops import SevLaunchStart
from cvmplan.platforms.sev.steps import LaunchUpdateData, LaunchUpdateVmsa


def directives(plan: Plan) -> Directives:
    """Return the headers of a launch; PlanError, UnsupportedError for what no header can say."""
    starts = (op.policy for op in plan.ops if isinstance(op, SevLaunchStart))
    return Directives(tuple(_body(plan)), policy=next(starts, None))


def _body(plan: Plan) -> Iterator[Directive]:
    for step in plan.trace():
        if isinstance(step, LaunchUpdateData):
            yield measured(step.gpa, step.size, step.contents)
        elif isinstance(step, LaunchUpdateVmsa):
            yield from (Context(VMSA_GPA, vcpu, step.page) for vcpu in step.vcpus)
