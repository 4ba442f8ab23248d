"""Where a plan leads: the measurement, and the digest after each step where there is one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from cvmplan.core.platform import Platform
from cvmplan.operations.measure import Measurement, checked, measure_steps
from cvmplan.operations.plan import Plan, stage
from cvmplan.operations.steps import Step


class Checkpoints(NamedTuple):
    """The measurement, None where nothing is measured, and SNP's digest after each operation."""

    result: Measurement | None
    after: Mapping[int, bytes]


class Traced(NamedTuple):
    """A step, the number of its operation, and the digest after it, None where there is none."""

    op: int
    step: Step
    digest: bytes | None


def checkpoints(plan: Plan) -> Checkpoints:
    """Return what a plan measures; errors as `measure`."""
    lowered = list(plan.lowered())
    steps = [step for _, step in lowered]
    if not plan.platform.measured:
        return Checkpoints(None, {})
    if not plan.platform.page_info:
        return Checkpoints(checked(plan, measure_steps(plan.platform, steps)), {})
    digest = stage(plan.platform, "digest")
    pairs: list[tuple[Step, bytes]] = list(digest.running(steps))
    after = {index: value for (index, _), (_, value) in zip(lowered, pairs, strict=True)}
    return Checkpoints(checked(plan, digest.measured(plan.platform, pairs)), after)


class MappedRange(NamedTuple):
    """
    What operation number `op` maps without a firmware command: `size` bytes from `gpa`.

    `level` is the largest page in bytes.  `why` says why memory behind a user-space address has
    4 KiB pages, "" where it has none, and for memory of a guest_memfd.
    """

    op: int
    gpa: int
    size: int
    level: int
    why: str


class Trace(NamedTuple):
    """
    The steps of a plan: as runs of equal commands, or each command alone.

    `mappings` are those for which firmware is asked nothing.
    """

    plan: Plan
    mappings: tuple[MappedRange, ...] = ()

    def steps(self) -> Iterator[Traced]:
        """Yield each step; PlanError if the plan cannot be launched."""
        yield from _traced(self.plan.platform, list(self.plan.lowered()), _final(self.plan))

    def commands(self) -> Iterator[Traced]:
        """
        Return an iterator over the single commands.

        PlanError comes before the first: all steps are gone through once without their
        commands, of which there may be millions.
        """
        for _ in self.plan.lowered():
            pass
        single = ((op, command) for op, step in self.plan.lowered() for command in step.commands())
        return _traced(self.plan.platform, single, _final(self.plan))


def _final(plan: Plan) -> bytes | None:
    """Return the measurement of platforms that have one at the end only."""
    if plan.platform.page_info or not plan.platform.measured:
        return None
    return measure_steps(plan.platform, plan.trace()).digest


def _traced(
    platform: Platform, lowered: Iterable[tuple[int, Step]], final: bytes | None
) -> Iterator[Traced]:
    """Yield each step, on SNP with the launch digest after it, else the last with `final`."""
    ops: deque[int] = deque()

    def steps() -> Iterator[Step]:
        for op, step in lowered:
            ops.append(op)
            yield step

    pairs: Iterable[tuple[Step, bytes | None]] = ((step, None) for step in steps())
    if platform.page_info:
        pairs = stage(platform, "digest").running(steps())
    for step, digest in pairs:
        told = final if step.command == platform.sealed_by else digest
        yield Traced(ops.popleft(), step, told)
