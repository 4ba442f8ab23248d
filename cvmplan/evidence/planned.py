"""What a plan says of a guest, line by line beside what hardware says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MismatchError
from cvmplan.core.values import Json
from cvmplan.evidence.evidence import IDENTITIES, Evidence
from cvmplan.evidence.lines import Line, Status, compared, line
from cvmplan.operations.measure import Measurement
from cvmplan.operations.plan import Plan
from cvmplan.platforms.snp.idblock import IdBlock, has_author, key_digest, read_auth, read_block
from cvmplan.platforms.snp.ops import ImportComplete, SnpLaunchFinish, SnpLaunchStart
from cvmplan.platforms.snp.report import AttestationReport
from cvmplan.platforms.tdx import bits
from cvmplan.platforms.tdx.ops import TdxInitVm
from cvmplan.platforms.tdx.quote import Td

DEBUG: Final = 1  # of the ATTRIBUTES of a TD; Intel 348551, "ATTRIBUTES"
SNP_DEBUG: Final = 1 << 19  # of a guest policy; AMD 56860, "Guest Policy Structure"


class Wanted(NamedTuple):
    """What is wanted beside the plan; None where it is not."""

    report_data: bytes | None = None
    vmpl: int | None = None
    mrseam: bytes | None = None
    mrservicetd: bytes | None = None


def lines(plan: Plan, result: Measurement, evidence: Evidence, wanted: Wanted) -> Iterator[Line]:
    """Yield what is planned beside what was found; MismatchError for another platform."""
    if plan.platform != evidence.platform:
        problem = f"evidence of {evidence.platform}, but the plan is for {plan.platform}"
        raise MismatchError(problem, at=evidence.source.body.name)
    if evidence.source.bound:
        data = evidence.report.report_data if evidence.report else b""
        data = evidence.td.report_data if evidence.td else data
        bound = evidence.source.bound
        why = "the report is part of a different HCL report"
        yield compared("runtime_data", bound.hex(), data[: len(bound)].hex(), why)
    if evidence.report is not None:
        yield from _snp(plan, result, evidence.report, wanted)
        signature = plan.guest.get("cpu_signature")
        if evidence.cpu_signature is not None:
            yield _processor(signature, evidence.cpu_signature)
    if evidence.td is not None:
        yield from _tdx(plan, result, evidence.td, wanted)


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _processor(planned: Json, found: int) -> Line:
    """Return the line of the processor: a guest's model may differ from the host's."""
    said = ""
    if planned is not None and int(str(planned), 0) != found:
        said = f"the guest's model is {planned}"
    return compared("cpu", None, hex(found), said=said)


def _snp(
    plan: Plan, result: Measurement, found: AttestationReport, wanted: Wanted
) -> Iterator[Line]:
    start = next(op for op in plan.ops if isinstance(op, SnpLaunchStart))
    finish = next(op for op in plan.ops if isinstance(op, SnpLaunchFinish | ImportComplete))
    yield compared("measurement", result.digest.hex(), found.measurement.hex())
    debug = "DEBUG: the host can read the guest's memory" if found.policy & SNP_DEBUG else ""
    yield compared("policy", hex(start.policy), hex(found.policy), said=debug)
    block, digests = _identity(finish)
    for name in ("guest_svn", "family_id", "image_id", "id_key_digest", "author_key_digest"):
        planned = getattr(block, name) if block and hasattr(block, name) else digests.get(name)
        shown, value = _shown(planned), _shown(getattr(found, name))
        yield compared(name, shown, value or "")
    yield compared("host_data", _hex(finish.host_data), found.host_data.hex())
    vmpl = None if wanted.vmpl is None else str(wanted.vmpl)
    yield compared("vmpl", vmpl, str(found.vmpl))
    yield compared("report_data", _hex(wanted.report_data), found.report_data.hex())
    levels = ", ".join(f"{name} {level}" for name, level in found.tcb.items())
    yield compared("reported_tcb", None, levels)
    yield compared("chip_id", None, found.chip_id.hex())


def _shown(value: int | bytes | None) -> str | None:
    return value.hex() if isinstance(value, bytes) else None if value is None else str(value)


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


def _tdx(plan: Plan, result: Measurement, td: Td, wanted: Wanted) -> Iterator[Line]:
    init = next((op for op in plan.ops if isinstance(op, TdxInitVm)), None)
    yield compared("mrtd", result.digest.hex(), td.mrtd.hex())
    planned = {n: getattr(init, n) for n in IDENTITIES if init is not None and n in plan.given}
    allowed = bool(planned.get("attributes", 0) & DEBUG)
    why = "the host can read the TD's memory"
    yield compared("debug", _on(allowed), _on(bool(td.attributes & DEBUG)), why)
    for name in ("attributes", "xfam"):
        mask, value = planned.get(name), getattr(td, name)
        wrong = _impossible(name, value) if mask is None else None
        yield wrong or compared(name, None if mask is None else hex(mask), hex(value))
    for name in ("mrconfigid", "mrowner", "mrownerconfig"):
        yield compared(name, _hex(planned.get(name)), getattr(td, name).hex())
    yield _service_td(wanted.mrservicetd, td.mrservicetd)
    yield compared("mrseam", _hex(wanted.mrseam), td.mrseam.hex())
    why = "not a TDX module that Intel signed for production"  # DCAP: both are 0 for Intel's
    yield compared("mrsignerseam", bytes(48).hex(), td.mrsignerseam.hex(), why)
    yield compared("seam_attributes", hex(0), hex(td.seam_attributes), why)
    yield compared("report_data", _hex(wanted.report_data), td.report_data.hex())


def _service_td(wanted: bytes | None, found: bytes | None) -> Line:
    """Return the line of MRSERVICETD, which not every quote has."""
    if found is not None:
        return compared("mrservicetd", _hex(wanted), found.hex())
    status = Status.NOT_IN_PLAN if wanted is None else Status.DIFFERS
    return line("mrservicetd", _hex(wanted), "not in this quote", status)


# google/go-tdx-guest 13f12b2, validate/validate.go: tdAttributesFixed0, xfamFixed0, xfamFixed1.
_ALLOWED: Final = {"attributes": bits.mask_of(0, 28, 30, 63), "xfam": 0x6DBE7}
_FORCED: Final = {"attributes": 0, "xfam": 0x3}


def _impossible(name: str, value: int) -> Line | None:
    """
    Return the line of a mask that no TD of a production module has; None where it may be.

    A plan that names the mask is compared instead.
    """
    more, less = value & ~_ALLOWED[name], _FORCED[name] & ~value
    if not (more or less):
        return None
    wrong = [f"must be clear: {_named(more, name)}"] if more else []
    wrong += [f"must be set: {_named(less, name)}"] if less else []
    expected = f"bits of {_ALLOWED[name]:#x}"
    if _FORCED[name]:
        expected += f", with {_FORCED[name]:#x}"
    return line(name, expected, hex(value), Status.DIFFERS, ", ".join(wrong))


def _named(mask: int, name: str) -> str:
    table = {"attributes": bits.ATTRIBUTES, "xfam": bits.XFAM}[name]
    known = [named for bit, named in table.items() if mask >> bit & 1]
    return f"{mask:#x} ({' '.join(known)})" if known else hex(mask)


def _on(flag: bool) -> str:
    return "on" if flag else "off"
