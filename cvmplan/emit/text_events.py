"""The event log of a TD, replayed, as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from cvmplan.emit.lines import aligned, joined, wrapped
from cvmplan.eventlog.difference import LogDifference
from cvmplan.eventlog.event import Event, EventLog
from cvmplan.eventlog.rtmr import Fit, Replay, describe

SHOWN = 16  # hex digits of a digest
FORMS = {
    "ccel": "TCG crypto-agile log (CCEL)",
    "dstack": "JSON of dstack",
    "trustee": "claims of Trustee",
    "pasted": "text of tdeventlog",
}
LONGEST = 72  # characters of a description
CHECKED = {
    "fits": "matches",
    "differs": "DIFFERS",
    "not-checkable": "not checkable",
    "not-extended": "not extended",
}


def events(replay: Replay) -> Iterator[str]:
    """Yield every event, the registers after the last, and what was compared."""
    rows = event_rows(replay)
    lines = chain(_head(replay.log), [""], rows, _registers(replay), _verdict(replay))
    yield from wrapped(lines)


def _head(log: EventLog) -> Iterator[str]:
    count = len(log.events)
    yield f"event log: {FORMS[log.form]}, {count} event{'' if count == 1 else 's'}"
    if not log.complete:
        yield "events are missing: the registers below follow from the listed events alone"
    if log.header is not None:
        names = ", ".join(name for name, _ in log.header.algorithms)
        errata, platform = log.header.spec_errata, log.header.platform_class
        yield f"header: {names}; errata {errata}, platform class {platform}"
    if log.fill is not None:
        byte, size = log.fill
        yield f"after the last event: {size} bytes {byte:#04x}"


def event_rows(replay: Replay) -> Iterator[str]:
    """Yield a line for each event, and an empty one."""
    if replay.log.events:
        rows = [("#", "register", "type", "digest", "digest of data", "what")]
        yield from aligned([*rows, *map(_row, replay.log.events, replay.fits)])
        yield ""


def _row(event: Event, found: Fit) -> tuple[str, ...]:
    told = describe(event)
    short = told if len(told) <= LONGEST else f"{told[: LONGEST - 1]}…"
    kind = event.type_name or hex(event.type)
    check = CHECKED[found.verdict]
    return str(event.number), event.register, kind, event.digest.hex()[:SHOWN], check, short


def _registers(replay: Replay) -> Iterator[str]:
    for number, value in enumerate(replay.registers):
        yield f"RTMR{number}  {value.hex()}"


def _verdict(replay: Replay) -> Iterator[str]:
    wrong = replay.wrong
    if wrong or replay.compared:
        yield ""
    for event, found in wrong:
        yield f"event {event.number} ({event.at}): the digest is {found.why}"
    for one in replay.compared:
        yield f"RTMR{one.register} {'differs' if one.differs else 'matches'}" + (
            f": expected {one.expected.hex()}; {one.why}" if one.differs else ""
        )


def log_differences(found: Sequence[LogDifference]) -> str:
    """Return the first event of each register in which two logs differ."""
    if not found:
        return "the logs lead to the same registers\n"
    lines = []
    for one in found:
        more = f"; {one.more} more of this register differ" if one.more else ""
        lines.append(f"RTMR{one.register} differs{more}")
        lines += aligned([_side("a", one.a), _side("b", one.b)], "  ")
    return joined(lines)


def _side(name: str, event: Event | None) -> tuple[str, ...]:
    if event is None:
        return name, "no further event", "", "", ""
    kind = event.type_name or hex(event.type)
    return name, f"event {event.number}", kind, event.digest.hex()[:SHOWN], describe(event)
