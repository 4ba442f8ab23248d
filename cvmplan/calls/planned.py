"""A plan as it is printed: each operation with its call's place, and where all of them lead."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from cvmplan.calls.make import calls
from cvmplan.calls.record import SystemCall
from cvmplan.kvm.abi import find
from cvmplan.kvm.calls import fd_of
from cvmplan.operations.measure import Measurement
from cvmplan.operations.outcome import Checkpoints, checkpoints
from cvmplan.operations.plan import Op, Plan, is_run
from cvmplan.platforms.vm.ops import largest_mapping


class Row(NamedTuple):
    """
    One operation, and what there is to know of its call.

    `fd` is what it is made on, "" where it is no call on one.  `largest_level` is the largest
    page (bytes) that it may map in a VM that nothing measures, `digest` SNP's launch digest
    after it; None where there is none.
    """

    number: int
    op: Op
    fd: str
    largest_level: int | None
    digest: bytes | None


class Planned:
    """A plan; what it measures and its calls are found when they are asked for."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @cached_property
    def _checkpoints(self) -> Checkpoints:
        return checkpoints(self.plan)

    @property
    def result(self) -> Measurement | None:
        """The measurement, None where nothing is measured; errors as `measure`."""
        return self._checkpoints.result

    @property
    def nearest(self) -> str:
        """What runs today where no released kernel has the plan's interface, else ""."""
        return find(self.plan.abi).nearest

    @property
    def rows(self) -> Iterator[Row]:
        """The operations in order."""
        abi, after = find(self.plan.abi), self._checkpoints.after
        for number, op in enumerate(self.plan.ops):
            yield Row(number, op, fd_of(op, abi), self._level(op), after.get(number))

    def _level(self, op: Op) -> int | None:
        abi, platform = find(self.plan.abi), self.plan.platform
        if op.kind != "map" or platform.measured or not is_run(op):
            return None
        most = abi.map_level if abi.runs and platform.private else abi.shared_level
        return min(largest_mapping(op.gpa, op.size), most)

    def calls(self) -> Iterator[tuple[int, SystemCall]]:
        """Yield (number of its operation, call), in the order in which they are made."""
        return calls(self.plan)
