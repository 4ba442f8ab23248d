"""Evidence compared with a plan: signatures, planned fields, registers of an event log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from cvmplan.core.documented import as_document, summary
from cvmplan.eventlog import rtmr
from cvmplan.eventlog.event import EventLog
from cvmplan.eventlog.rtmr import Replay
from cvmplan.evidence import certificates, planned, signatures, tdx_signatures
from cvmplan.evidence.chains import Certificate, anchor
from cvmplan.evidence.evidence import Evidence
from cvmplan.evidence.lines import Line, Status, all_hold, compared, line
from cvmplan.evidence.signatures import UNCHECKED
from cvmplan.evidence.trust import Trust
from cvmplan.launch.commands import explain_command
from cvmplan.operations.measure import Measurement
from cvmplan.operations.plan import Plan

MEASUREMENTS = ("measurement", "mrtd")


class Verification(NamedTuple):
    """What was compared; `explain` is the command that would search for the reason, if any."""

    evidence: Evidence
    trust: Trust
    lines: tuple[Line, ...]
    explain: tuple[str, ...]
    replay: Replay | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON document that the verb prints."""
        return as_document(self)

    def __repr__(self) -> str:
        differing = ",".join(one.id for one in self.lines if one.differs) or "none"
        return summary("Verification", holds=self.holds, differing=differing[:120])

    @property
    def holds(self) -> bool:
        """Whether nothing differs."""
        return all_hold(self.lines)

    @property
    def anchor(self) -> str | None:
        """The name of the pinned key at which the chain ends."""
        return anchor(self.trust.chain, self.trust.pins)

    @property
    def not_checked(self) -> tuple[str, ...]:
        """What was not looked at, the signature first."""
        signed = all(
            one.status is not Status.NOT_IN_PLAN for one in self.lines if one.id == "signature"
        )
        return (
            *(() if signed else ("the signature",)),
            *UNCHECKED[self.evidence.platform.evidence],
        )


def verify(
    plan: Plan,
    result: Measurement,
    evidence: Evidence,
    trust: Trust,
    wanted: planned.Wanted,
    log: EventLog | None = None,
    path: str | None = None,
) -> Verification:
    """
    Return what holds of `evidence` under a plan and its measurement.

    `path` is the file of the evidence, which the search for a reason can read.  `log` is
    replayed into the RTMRs of a TD.  MismatchError for another platform, MalformedError and
    UnsupportedError for evidence that cannot be checked.
    """
    registers = dict(enumerate(evidence.td.rtmrs if evidence.td else ()))
    replay = None if log is None else rtmr.replayed(log, registers)
    found = (*planned.lines(plan, result, evidence, wanted), *_rtmrs(evidence, replay))
    lines = (*signatures.lines(evidence, trust), *found)
    differs = any(one.differs and one.id in MEASUREMENTS for one in lines)
    told = ("--expect", evidence.digest.hex()) if path is None else ("--report", path)
    command = (*explain_command(plan), *told) if differs else ()
    return Verification(evidence, trust, lines, command, replay)


def _rtmrs(evidence: Evidence, replay: Replay | None) -> Iterator[Line]:
    """Yield the registers of a TD beside what a log leads to, and events that are not theirs."""
    if replay is None:
        for number, value in enumerate(evidence.td.rtmrs if evidence.td else ()):
            yield line(f"rtmr{number}", None, value.hex(), Status.NOT_IN_PLAN)
        return
    for one in replay.compared:
        replayed = one.value.hex()
        yield compared(f"rtmr{one.register}", replayed, one.expected.hex(), one.why, "replayed")
    for event, told in replay.wrong:
        name, digest = f"event {event.number}", event.digest.hex()
        wanted = "the digest of its data"
        yield Line(f"event_{event.number}", name, wanted, digest, Status.DIFFERS, told.why)


def chain_of(
    evidence: Evidence, inside: Sequence[Certificate], given: Sequence[Certificate]
) -> list[Certificate]:
    """
    Return the chain that is checked, of certificates that come with evidence and that are given.

    Of a quote, certificates that are given take the place of those inside.
    """
    if evidence.report is None:
        return certificates.order(given or inside, tdx_signatures.PCK)
    return certificates.order([*given, *inside], f"SEV-{evidence.report.signer}")
