"""An SNP launch as an IGVM file has it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Final

from cvmplan.core.values import PAGE
from cvmplan.launch.directives import (
    CPUID,
    NORMAL,
    SECRETS,
    Context,
    Directive,
    Directives,
    Pages,
    measured,
    special,
    unmeasured,
)
from cvmplan.memory.contents import byte_string
from cvmplan.operations.plan import Plan
from cvmplan.platforms.snp.ops import ImportComplete, SnpLaunchFinish, SnpLaunchStart
from cvmplan.platforms.snp.steps import LaunchUpdate, PageType, VmsaUpdate

DATA_TYPES: Final = {
    PageType.ZERO: NORMAL, PageType.SECRETS: SECRETS, PageType.CPUID: CPUID
}  # fmt: skip
"""Of page types that are measured without contents."""


def directives(plan: Plan) -> Directives:
    """Return the headers of a launch; PlanError, UnsupportedError for what no header can say."""
    made = Directives(tuple(_body(plan)))
    lacks = ["the image's ID block: --id-block takes it"] if plan.promised else []
    if any(isinstance(s, LaunchUpdate) and s.page_type is PageType.ZERO for s in plan.trace()):
        lacks.append("the page type ZERO: most loaders add pages without data as NORMAL")
    for op in plan.ops:
        if isinstance(op, SnpLaunchStart):
            made = made._replace(policy=op.policy)
            lacks += ["GOSVW"] if op.gosvw else []
        elif isinstance(op, SnpLaunchFinish | ImportComplete):
            made = made._replace(id_block=op.id_block, id_auth=op.id_auth)
            lacks += ["HOST_DATA"] if op.host_data else []
        if isinstance(op, SnpLaunchFinish) and op.vcek_disabled:
            lacks.append("VCEK_DIS")
    return made._replace(lacks=tuple(lacks))


def _body(plan: Plan) -> Iterator[Directive]:
    vcpus = count()
    for step in plan.trace():
        if isinstance(step, VmsaUpdate):
            yield from (Context(step.gpa, vcpu, step.page) for vcpu in step.vcpus)
        elif isinstance(step, LaunchUpdate) and step.page_type is PageType.VMSA:
            for page in step.commands():
                yield Context(page.gpa, next(vcpus), byte_string(page.contents, PAGE))
        elif isinstance(step, LaunchUpdate):
            yield _pages(step)


def _pages(step: LaunchUpdate) -> Pages:
    if step.page_type is PageType.NORMAL:
        return measured(step.gpa, step.size, step.contents)
    if step.page_type is PageType.UNMEASURED:
        return unmeasured(step.gpa, step.size, step.contents)
    return special(step.gpa, step.size, step.contents, DATA_TYPES[step.page_type])
