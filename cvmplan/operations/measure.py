"""
The measurement: a fold over what the operations of a plan lower to, at what it covers.

What a plan promises about its digest (ID blocks, expected values) is checked against it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import takewhile
from typing import Any, NamedTuple

from cvmplan.core.documented import as_document, summary
from cvmplan.core.errors import MismatchError
from cvmplan.core.findings import Finding
from cvmplan.core.mapped import confirm
from cvmplan.core.platform import Platform
from cvmplan.core.spans import Spans
from cvmplan.core.values import PAGE
from cvmplan.operations.plan import MapMemory, Plan, is_run, stage
from cvmplan.operations.steps import Step


class Coverage(NamedTuple):
    """What a measurement covers, in 4 KiB pages; `vmsas` counts vCPU states, not addresses."""

    contents: int = 0
    address_only: int = 0
    host_filled: int = 0
    by_digest: int = 0
    vmsas: int = 0
    not_added: int = 0

    @property
    def pages(self) -> int:
        """Pages added, each vCPU's VMSA counted as one."""
        return self.contents + self.address_only + self.host_filled + self.by_digest + self.vmsas


class Measurement(NamedTuple):
    """
    A launch measurement: `digest` in bytes, as the named register will hold it.

    `plan` is what was measured, None for steps that are of no plan.
    """

    platform: Platform
    register: str
    algorithm: str
    digest: bytes
    coverage: Coverage
    plan: Plan | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON document that the verb prints."""
        return as_document(self)

    def __repr__(self) -> str:
        return summary("Measurement", **{self.register: self.digest.hex()}, pages=self.pages)

    @property
    def pages(self) -> int:
        """Pages added, each vCPU's VMSA counted as one."""
        return self.coverage.pages


def measure(
    plan: Plan, watch: Callable[[Iterable[Step]], Iterable[Step]] | None = None
) -> Measurement:
    """
    Return the measurement of a plan: a fold over the firmware steps of its operations.

    `watch` sees the steps and passes them on (progress).  PlanError if the operations are not a
    legal launch; UnsupportedError on platforms without a measurement; MismatchError if the plan
    document contains a different digest; InputError if a mapped input has changed.

    >>> from cvmplan import measure, plan_image
    >>> result = measure(plan_image("example:tdx"))
    >>> result.register, result.pages, result.digest.hex()[:8]
    ('MRTD', 34, '616d3193')
    """
    trace: Iterable[Step] = plan.trace()
    result = measure_steps(plan.platform, watch(trace) if watch else trace)
    confirm(*(entry.blob.data for entry in plan.inputs))
    return checked(plan, result)


def checked(plan: Plan, result: Measurement) -> Measurement:
    """Return `result`, with the pages of `plan` that are mapped and not added; MismatchError."""
    found = (result.register, result.algorithm, result.digest.hex(), result.pages)
    if plan.recorded not in (None, found):
        told = " ".join(map(str, plan.recorded or ()))
        raise MismatchError(
            f"the operations measure {' '.join(map(str, found))}, the plan says {told}"
        )
    early = [*takewhile(lambda op: not op.finalizes, plan.ops)]
    added = Spans((op.gpa, op.gpa + op.size) for op in early if op.kind == "add" and is_run(op))
    mapped = Spans((op.gpa, op.gpa + op.size) for op in early if isinstance(op, MapMemory))
    waiting = sum(e - s for low, high in mapped for s, e in added.missing(low, high)) // PAGE
    return result._replace(coverage=result.coverage._replace(not_added=waiting), plan=plan)


def broken_promises(plan: Plan, result: Measurement, severity: str = "") -> list[Finding]:
    """
    Return a finding for each ID block that is for another digest than `result`, or policy.

    Source: AMD 56860, SNP_LAUNCH_FINISH (BAD_MEASUREMENT, POLICY_FAILURE).
    """
    if not plan.platform.page_info:
        return []
    problems = [
        (f"{ld.hex()}, the launch digest is {result.digest.hex()}", at)
        for ld, at in promises(plan)
        if ld != result.digest
    ]
    policy = next((op.policy for op in plan.ops if hasattr(op, "policy")), None)
    for block, at in _id_blocks(plan):
        other = int.from_bytes(block[88:96], "little")
        if policy is not None and other != policy:
            problems.append((f"policy {other:#x}, the launch has {policy:#x}", at))
    return [
        Finding("id-block-mismatch", f"the ID block is for {problem}", at=at, severity=severity)
        for problem, at in problems
    ]


def announced(plan: Plan, result: Measurement) -> Plan:
    """Return a plan with what its measurement adds to the findings, as warnings."""
    found = (*plan.findings, *broken_promises(plan, result, "warning"))
    return replace(plan, findings=found)


def promises(plan: Plan) -> list[tuple[bytes, str]]:
    """Return the launch digests that ID blocks are for: those of the image and of the plan."""
    return [*plan.promised, *((block[:48], at) for block, at in _id_blocks(plan))]


def _id_blocks(plan: Plan) -> Iterator[tuple[bytes, str]]:
    """Yield the ID blocks that operations hand over, each with its place."""
    for number, op in enumerate(plan.ops):
        if block := getattr(op, "id_block", None):
            yield block, f"op {number}"


def measure_steps(platform: Platform, trace: Iterable[Step]) -> Measurement:
    """Fold a trace of one platform's steps; errors as `measure`."""
    digest = stage(platform, "digest")
    result: Measurement = digest.measure(platform, trace)
    return result
