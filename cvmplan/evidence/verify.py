"""Evidence judged: its signatures, what a plan and pins say, registers of an event log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from cvmplan.core.documented import as_document, summary
from cvmplan.eventlog import rtmr
from cvmplan.eventlog.event import EventLog
from cvmplan.eventlog.rtmr import Replay
from cvmplan.evidence import certificates, held, planned, signatures, tdx_signatures
from cvmplan.evidence.chains import Certificate, anchor
from cvmplan.evidence.evidence import Evidence
from cvmplan.evidence.lines import Line, Status, all_hold, compared, is_unsigned
from cvmplan.evidence.pins import Pins
from cvmplan.evidence.trust import Trust
from cvmplan.launch.commands import explain_command
from cvmplan.operations.measure import Measurement
from cvmplan.operations.plan import Plan
from cvmplan.platforms.snp import bulletins

MEASUREMENTS = ("measurement", "mrtd")


class Launched(NamedTuple):
    """
    A known firmware that makes the measurement of evidence, and the command that shows it.

    `name` is "" where none was found; `complete`: all that could be tried was.
    """

    name: str
    version: str
    sha256: str
    command: tuple[str, ...]
    complete: bool


class Verification(NamedTuple):
    """
    What was compared; `explain` is the command that would search for the reason, if any.

    `planned`: there was a plan to compare with.  `unsigned_holds`: evidence that nobody signed
    is accepted.  `launched`: what was searched for where there was no plan and no pin.
    """

    evidence: Evidence
    trust: Trust
    lines: tuple[Line, ...]
    explain: tuple[str, ...]
    replay: Replay | None = None
    planned: bool = True
    unsigned_holds: bool = False
    launched: Launched | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON document that the verb prints."""
        return as_document(self)

    def __repr__(self) -> str:
        differing = ",".join(one.id for one in self.lines if one.differs) or "none"
        return summary("Verification", holds=self.holds, differing=differing[:120])

    @property
    def holds(self) -> bool:
        """Whether nothing differs, and hardware signed it where that is asked for."""
        return self.verdict == "ok" or (self.verdict == "unsigned" and self.unsigned_holds)

    @property
    def verdict(self) -> str:
        """Return "ok", "differs", or "unsigned" where nothing shows that hardware wrote it."""
        if not all_hold(self.lines):
            return "differs"
        return "unsigned" if is_unsigned(self.lines) else "ok"

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know: how it was read, and what AMD asks of its TCB."""
        return (*self.evidence.notes, *self.trust.notes, *_bulletins(self.evidence))

    @property
    def anchor(self) -> str | None:
        """The name of the pinned key at which the chain ends."""
        return anchor(self.trust.chain, self.trust.pins)

    @property
    def not_checked(self) -> tuple[str, ...]:
        """What was not looked at, the signature first."""
        unsigned = ("the signature",) if is_unsigned(self.lines) else ()
        return (*unsigned, *signatures.unchecked(self.evidence, self.trust, self.lines))


def verify(
    against: tuple[Plan, Measurement] | None,
    evidence: Evidence,
    trust: Trust,
    pins: Pins,
    log: EventLog | None = None,
    path: str | None = None,
    *,
    unsigned_holds: bool = False,
) -> Verification:
    """
    Return what holds of `evidence`, under a plan and its measurement where there is one.

    `path` is the file of the evidence, which the search for a reason can read.  `log` is
    replayed into the RTMRs of a TD.  `unsigned_holds`: evidence that nobody signed is accepted.
    MismatchError for another platform, MalformedError and UnsupportedError for evidence that
    cannot be checked.
    """
    expected = {} if against is None else planned.expected(*against, evidence)
    registers = dict(enumerate(evidence.td.rtmrs if evidence.td else ()))
    replay = None if log is None else rtmr.replayed(log, registers)
    found = tuple(held.lines(evidence, expected, pins))
    if replay is not None:
        found = (*_with_replay(found, replay, pins), *_events(replay))
    lines = (*signatures.lines(evidence, trust), *found)
    differs = any(one.differs and one.id in MEASUREMENTS for one in lines)
    told = ("--expect", evidence.digest.hex()) if path is None else ("--report", path)
    command = (*explain_command(against[0]), *told) if differs and against is not None else ()
    return Verification(
        evidence, trust, lines, command, replay, against is not None, unsigned_holds
    )


def _bulletins(evidence: Evidence) -> Iterator[str]:
    """Yield what AMD's bulletins ask of the TCB of a report, as far as it has less."""
    missed = bulletins.missed(evidence.report) if evidence.report is not None else []
    asked = ", ".join(f"{one.bulletin} {one.part} {one.level}" for one in missed)
    if asked:
        yield f"the reported TCB is below AMD's bulletins: {asked}; see --min-tcb bulletin"


def _with_replay(lines: Sequence[Line], replay: Replay, pins: Pins) -> Iterator[Line]:
    """
    Yield the lines with the registers beside what a log leads to.

    A pin is before the log: run-time extends of a register may be in no log.
    """
    registers = {f"rtmr{one.register}": one for one in replay.compared}
    for line in lines:
        one = registers.get(line.id)
        if one is None:
            yield line
        elif line.id not in pins:
            replayed = one.value.hex()
            yield compared(line.id, replayed, one.expected.hex(), one.why, "replayed")
        else:
            same = one.value == one.expected
            yield line._replace(why="replayed" if same else f"the log does not: {one.why}")


def _events(replay: Replay) -> Iterator[Line]:
    """Yield the events whose digests are not those of their data."""
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
