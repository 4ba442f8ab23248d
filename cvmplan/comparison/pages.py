"""The pages of a side by their addresses, each with the operation that adds it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cvmplan.comparison.sides import Side, pages_of_plan
from cvmplan.core.findings import Finding
from cvmplan.core.values import PAGE
from cvmplan.memory.owners import Owners, owners
from cvmplan.memory.regions import Region, Role
from cvmplan.operations.plan import Plan

VMSA: Final = "vmsa"


def owners_of_plan(plan: Plan, name: str = "") -> Owners:
    """
    Return who adds which page in a plan: the operation, where an image has its regions.

    PlanError if the plan is not a legal launch.
    """
    return owners_of_side(pages_of_plan(name, plan), plan.findings)


def owners_of_side(side: Side, findings: tuple[Finding, ...] = ()) -> Owners:
    """Return who adds which page of a side; pages that are added again are there twice."""
    return owners(_regions(side), findings)


def _regions(side: Side) -> Iterator[Region]:
    states: dict[int, list[int]] = {}
    for state in side.states:
        if state.gpa is not None:
            states.setdefault(state.gpa, []).extend(state.vcpus)
    for low, high, piece in (*side.table(), *side.twice()):
        if piece.kind != VMSA:
            yield Region(low, high - low, Role.REGION, piece.place, piece.kind)
    for gpa, vcpus in states.items():
        last = f"s {vcpus[0]} to {vcpus[-1]}" if len(vcpus) > 1 else f" {vcpus[0]}"
        yield Region(gpa, PAGE, Role.VMSA, f"VMSA of vCPU{last}", VMSA)
