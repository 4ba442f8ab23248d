"""A quote checked with Intel's collateral: signatures, validity, revocation, TCB levels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from cvmplan.core.errors import MalformedError
from cvmplan.evidence import certificates, chains, pck, revocation, tcb_level
from cvmplan.evidence.chains import Certificate
from cvmplan.evidence.collateral import Collateral, Signed
from cvmplan.evidence.keys import is_signed
from cvmplan.evidence.lines import Line, Status, compared, line
from cvmplan.evidence.pck import Platform
from cvmplan.evidence.revocation import Revocations
from cvmplan.evidence.tcb_level import Level, NoLevelError, member
from cvmplan.evidence.trust import Trust
from cvmplan.platforms.tdx import enclave
from cvmplan.platforms.tdx.quote import Quote

T = TypeVar("T")
_SIGNER: Final = "Intel SGX TCB Signing"  # Intel, PCS API 4: subject CN of who signs the documents
_MODULE, _QE = "TDX module", "quoting enclave"
_ABOUT: Final = {"tcb_info": ("TDX", (3,)), "qe_identity": ("TD_QE", (2, 3))}


def lines(quote: Quote, trust: Trust) -> Iterator[Line]:
    """Yield of which platform a quote is, and what Intel's collateral says of it where given."""
    collateral = trust.collateral
    if collateral is not None:
        yield _document("tcb_info", collateral.tcb_info, trust, collateral)
        yield _document("qe_identity", collateral.identity, trust, collateral)
        yield _revocation(trust, collateral.certificates, collateral.lists)
    elif trust.revocations:
        yield _revocation(trust, (), ())
    platform = _platform(trust)
    if isinstance(platform, Line):
        yield platform
        return
    for name, key, found in (
        ("pck_fmspc", "fmspc", platform.fmspc), ("pck_pce_id", "pceId", platform.pce_id),
    ):  # fmt: skip
        yield _platforms(name, key, found, collateral)
    if collateral is not None:
        yield from _levels(quote, platform, trust, collateral)


def _platforms(name: str, key: str, found: str, collateral: Collateral | None) -> Line:
    """Return the line of what names the platforms that a TCB info is of."""
    wanted = None
    if collateral is not None:
        info = collateral.tcb_info
        wanted = member(info.document, key, str, info.at).lower()
    return compared(name, wanted, found, "the TCB info is of other platforms")


def _platform(trust: Trust) -> Platform | Line:
    """Return what the PCK certificate says, or the line that it says too little."""
    try:
        return pck.platform(trust.chain[0])
    except MalformedError as error:
        told = str(error).splitlines()[0]
        return line("pck_fmspc", "an FMSPC in the PCK certificate", told, Status.DIFFERS)


def _document(which: str, signed: Signed, trust: Trust, collateral: Collateral) -> Line:
    """Return the line of a document: who signs it, what it is about, and when it is valid."""
    expected = f"signed by Intel, valid at {trust.at:%Y-%m-%d %H:%M:%S} UTC"
    wrong = [*_unsigned(signed, trust, collateral), *_invalid(which, signed, trust.at)]
    if not wrong:
        number = member(signed.document, "tcbEvaluationDataNumber", int, signed.at)
        return line(which, expected, expected, Status.OK, f"TCB evaluation data number {number}")
    more = f"; and {len(wrong) - 1} more" if wrong[1:] else ""
    return line(which, expected, wrong[0] + more, Status.DIFFERS)


def _unsigned(signed: Signed, trust: Trust, collateral: Collateral) -> Iterator[str]:
    """Yield what is wrong with the signature of a document, and with its certificates."""
    chain = certificates.order([*collateral.certificates, *trust.chain[1:]], _SIGNER)
    if not chain or chains.common_name(chain[0]) != _SIGNER:
        yield f"no certificate of {_SIGNER}"
        return
    key = chains.point(chain[0])
    numbers = (
        int.from_bytes(signed.signature[:32], "big"),
        int.from_bytes(signed.signature[32:], "big"),
    )
    if key is None or key[0] != "P-256" or not is_signed(signed.data, numbers, key[1], "P-256"):
        yield "its signature does not match: different data or a different key"
    yield from chains.problems(chain, trust.pins, "P-256", trust.at, serial_0=False)


def _invalid(which: str, signed: Signed, at: datetime) -> Iterator[str]:
    """Yield what is wrong with what a document is about, and with its dates."""
    document, place = signed.document, signed.at
    wanted, versions = _ABOUT[which]
    found = member(document, "id", str, place), member(document, "version", int, place)
    if found[0] != wanted or found[1] not in versions:
        yield f"is of {found[0]}, version {found[1]}; expected {wanted}"
    issued, until = (_time(member(document, n, str, place), place) for n in _DATES)
    if not issued <= at <= until:
        yield f"valid from {issued:%Y-%m-%d} to {until:%Y-%m-%d}"


_DATES: Final = ("issueDate", "nextUpdate")


def _time(written: str, place: str) -> datetime:
    try:
        found = datetime.fromisoformat(written)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise MalformedError(f"{written[:40]!r} is not a time", at=place) from None


def _revocation(
    trust: Trust, others: Sequence[Certificate], published: Sequence[Revocations]
) -> Line:
    """Return the line of the lists of revocations, which both chains are checked with."""
    expected = f"none at {trust.at:%Y-%m-%d %H:%M:%S} UTC"
    signers = certificates.order([*others, *trust.chain[1:]], _SIGNER) if others else []
    lists = (*published, *trust.revocations)
    wrong: list[str] = []
    for chain in (trust.chain, signers):
        wrong += revocation.problems(chain, lists, trust.at)
    distinct = list(dict.fromkeys(wrong))
    if not distinct:
        return line("revocation", expected, expected, Status.OK)
    more = f"; and {len(distinct) - 1} more" if distinct[1:] else ""
    return line("revocation", expected, distinct[0] + more, Status.DIFFERS)


def _levels(
    quote: Quote, platform: Platform, trust: Trust, collateral: Collateral
) -> Iterator[Line]:
    """Yield the levels of platform, module and QE, and what they make together."""
    info, at = collateral.tcb_info.document, collateral.tcb_info.at
    identity, place = collateral.identity.document, collateral.identity.at
    qe, td = enclave.read(quote.signed), quote.td
    problems: list[str] = []

    def held(which: str, judge: Callable[..., T], *args: Any) -> T | None:
        try:
            return judge(*args)
        except NoLevelError as error:
            problems.append(f"{which}: {error}")
            return None

    others = held(_MODULE, lambda: list(tcb_level.wrong_module(info, at, td))) or []
    problems += [f"{_MODULE}: another {name}" for name in others]
    problems += [f"{_QE}: another {name}" for name in tcb_level.wrong_enclave(identity, place, qe)]
    svns = [td.tee_tcb_svn, *([] if td.tee_tcb_svn2 is None else [td.tee_tcb_svn2])]
    of_platform = [
        held("platform", tcb_level.platform_level, info, at, platform, svn) for svn in svns
    ]
    of_module = [held(_MODULE, tcb_level.module_level, info, at, svn) for svn in svns]
    of_qe = held(_QE, tcb_level.enclave_level, identity, place, qe)
    shown = {"platform_status": of_platform[0], "module_status": of_module[0], "qe_status": of_qe}
    for name, level in shown.items():
        if level is not None:
            yield line(name, None, str(level), Status.NOT_IN_PLAN)
    yield _status(_together(of_platform, of_module, of_qe), problems, shown, trust)


def _together(
    of_platform: list[Level | None], of_module: list[Level | None], of_qe: Level | None
) -> str | None:
    """Return the status of all; None where one is not known."""
    statuses = []
    for platform, module in zip(of_platform, of_module, strict=True):
        if platform is None or of_qe is None:
            return None
        status = tcb_level.converged(platform.status, module.status if module else "")
        statuses.append(tcb_level.converged(status, of_qe.status))
    return statuses[0] if len(statuses) == 1 else tcb_level.relaunched(statuses[0], statuses[1])


def _status(status: str | None, problems: list[str], shown: Any, trust: Trust) -> Line:
    """Return the line of the status, which has to be one of those that are accepted."""
    expected = " or ".join(trust.accepted)
    if problems or status is None:
        more = f"; and {len(problems) - 1} more" if problems[1:] else ""
        return line("tcb_status", expected, f"{problems[0]}{more}", Status.DIFFERS)
    advisories = dict.fromkeys(a for level in shown.values() if level for a in level.advisories)
    why = ", ".join(advisories)
    holds = status in trust.accepted and status != tcb_level.REVOKED
    return line("tcb_status", expected, status, Status.OK if holds else Status.DIFFERS, why)
