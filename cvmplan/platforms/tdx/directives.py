"""A TD as an IGVM file has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cvmplan.core.errors import UnsupportedError
from cvmplan.core.values import integer
from cvmplan.launch.directives import Directive, Directives, measured, unmeasured
from cvmplan.operations.plan import Plan
from cvmplan.platforms.tdx.bits import ATTRIBUTES
from cvmplan.platforms.tdx.ops import TdxInitVm
from cvmplan.platforms.tdx.steps import SHARED_BIT, MemPageAdd, MemPageAddExtend, MrExtend

POLICY: Final = {0: 0, 28: 1, 29: 2}
"""Bit of ATTRIBUTES to bit of the file's policy: DEBUG, SEPT_VE_DISABLE, MIGRATABLE."""
IDENTITIES: Final = ("mrconfigid", "mrowner", "mrownerconfig")


def directives(plan: Plan) -> Directives:
    """Return the headers of a launch; PlanError, UnsupportedError for what no header can say."""
    made = Directives(
        tuple(_body(plan)),
        shared_gpa_boundary=1 << SHARED_BIT[integer(plan.guest.get("gpaw", 48))],
    )
    for op in plan.ops:
        if isinstance(op, TdxInitVm):
            told = [bit for bit in POLICY if op.attributes >> bit & 1]
            others = [n for n in range(64) if op.attributes >> n & 1 and n not in POLICY]
            made = made._replace(
                policy=sum(1 << POLICY[bit] for bit in told),
                lacks=(
                    *(f"ATTRIBUTES.{ATTRIBUTES.get(bit, bit)}" for bit in others),
                    *(name.upper() for name in IDENTITIES if getattr(op, name)),
                ),
            )
    return made


def _body(plan: Plan) -> Iterator[Directive]:
    for step in plan.trace():
        if isinstance(step, MemPageAddExtend):
            yield measured(step.gpa, step.size, step.contents)
        elif isinstance(step, MemPageAdd):
            yield unmeasured(step.gpa, step.size, step.contents)
        elif isinstance(step, MrExtend):
            problem = "an IGVM file has no order in which pages are extended apart from their adds"
            raise UnsupportedError(problem, at=plan.abi, hint="--page-order single-pass")
