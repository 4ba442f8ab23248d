"""What a plan says of a guest, field by field of the evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MismatchError
from cvmplan.evidence.evidence import IDENTITIES, Evidence
from cvmplan.operations.measure import Measurement
from cvmplan.operations.plan import Plan
from cvmplan.platforms.snp.idblock import IdBlock, has_author, key_digest, read_auth, read_block
from cvmplan.platforms.snp.ops import ImportComplete, SnpLaunchFinish, SnpLaunchStart
from cvmplan.platforms.tdx.ops import TdxInitVm


class Expected(NamedTuple):
    """
    What is expected of a field, as text: any of `values`.

    `assumed`: nobody asked for it, so that another value is shown, and does not differ.
    """

    values: tuple[str, ...]
    assumed: bool = False


MASKS: Final = ("attributes", "xfam")


def expected(plan: Plan, result: Measurement, evidence: Evidence) -> dict[str, Expected]:
    """Return what a plan says of fields by their ids; MismatchError for another platform."""
    if plan.platform != evidence.platform:
        problem = f"evidence of {evidence.platform}, but the plan is for {plan.platform}"
        raise MismatchError(problem, at=evidence.source.body.name)
    said = _snp(plan, result) if evidence.report is not None else _tdx(plan, result)
    return dict(said)


def _snp(plan: Plan, result: Measurement) -> Iterator[tuple[str, Expected]]:
    start = next(op for op in plan.ops if isinstance(op, SnpLaunchStart))
    finish = next(op for op in plan.ops if isinstance(op, SnpLaunchFinish | ImportComplete))
    yield "measurement", Expected((result.digest.hex(),))
    yield "policy", Expected((hex(start.policy),), "policy" not in plan.given)
    block, digests = _identity(finish)
    for name in ("guest_svn", "family_id", "image_id"):
        if block is not None:
            value = getattr(block, name)
            yield name, Expected((value.hex() if isinstance(value, bytes) else str(value),))
    for name, digest in digests.items():
        yield name, Expected((digest.hex(),))
    if finish.host_data is not None:
        yield "host_data", Expected((finish.host_data.hex(),))


def _identity(
    finish: SnpLaunchFinish | ImportComplete,
) -> tuple[IdBlock | None, Mapping[str, bytes]]:
    """Return the ID block of a launch, and the digests of its keys; None and none without."""
    digests: dict[str, bytes] = {}
    block = None
    if finish.id_block is not None:
        block = read_block(Blob("the plan's ID block", memoryview(finish.id_block)))
    if finish.id_auth is not None:
        auth = read_auth(Blob("the plan's ID authentication", memoryview(finish.id_auth)))
        digests["id_key_digest"] = key_digest(auth.id_key)
        enabled = has_author(auth) and getattr(finish, "author_key_enabled", True)
        digests["author_key_digest"] = key_digest(auth.author_key) if enabled else bytes(48)
    return block, digests


def _tdx(plan: Plan, result: Measurement) -> Iterator[tuple[str, Expected]]:
    yield "mrtd", Expected((result.digest.hex(),))
    init = next((op for op in plan.ops if isinstance(op, TdxInitVm)), None)
    for name in IDENTITIES:
        value = getattr(init, name, None)
        if value is not None:
            shown = hex(value) if name in MASKS else value.hex()
            yield name, Expected((shown,), name not in plan.given)
