"""
Steps of a launch, and which may follow which.

A step is what the trusted firmware is asked to do (a PSP command, a SEAMCALL), over a run
of contiguous pages; `commands()` expands it to the single commands.
Rule 1: a step that can be constructed is legal on its own.  Rule 2: whether kinds of
steps may follow each other is decided here and only here, from the platform's table.
What depends on addresses (a table present, a page free) is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, TypeAlias

from cvmplan.core.errors import PlanError
from cvmplan.core.records import Frozen


class Step(Frozen):
    """One request to the trusted firmware, or a run of equal requests."""

    __slots__ = ()
    command: ClassVar[str]

    def commands(self) -> Iterator[Step]:
        """Yield the single commands, each a step again, in the order they are issued."""
        yield self


class Begin(Step):
    """What precedes the first step."""

    __slots__ = ()
    command = "begin"


class End(Step):
    """What may follow a step after which the launch is complete."""

    __slots__ = ()
    command = "end"


Order: TypeAlias = Mapping[type[Step], frozenset[type[Step]]]


def in_order(trace: Iterable[Step], order: Order) -> Iterator[Step]:
    """Yield the steps of `trace`; PlanError names the one that is out of place."""
    last: type[Step] = Begin
    for number, step in enumerate(trace):
        if type(step) not in order[last]:
            raise PlanError(f"{step.command} after {last.command}", at=f"step {number}")
        last = type(step)
        yield step
    if order[last] and End not in order[last]:
        raise PlanError(f"the trace stops after {last.command}")
