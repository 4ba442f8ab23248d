"""
A golden log, and what inputs change in it: for boots whose events cannot all be computed.

Each event of the log is confirmed (the inputs give the same), replaced (they give another
digest), or kept, and then the register is only as good as the log.  Events are matched by
register, type and name, the n-th to the n-th; the log's order holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from cvmplan.boot.event_data import CALLING
from cvmplan.boot.linux import INITRD
from cvmplan.boot.node import (
    ACTION,
    APPLICATION,
    AUTHORITY,
    BLOB2,
    CONFIG,
    DRIVER_CONFIG,
    GPT,
    HANDOFF,
    HANDOFF2,
    IPL,
    PREDICTED,
    RUNTIME,
    SEPARATOR,
    TAG,
    TEMPLATE,
    VARIABLE_BOOT,
    Node,
)
from cvmplan.core.errors import ConfigError, MismatchError
from cvmplan.core.records import Frozen, record
from cvmplan.eventlog.describe import describe, variable
from cvmplan.eventlog.event import Event, EventLog
from cvmplan.eventlog.rtmr import replay
from cvmplan.profiles.boot import FW_CFG_EVENT, WANTED

CONFIRMED, REPLACED, KEPT = "confirmed", "replaced", "from template"


@record
class Match(Frozen):
    """An event of the result, what became of the template's, and its number there (None: none)."""

    node: Node
    verdict: str
    number: int | None


def check_replay(log: EventLog, rtmrs: Iterable[bytes], at: str) -> None:
    """Raise MismatchError unless the log leads to the registers of its quote."""
    for number, (value, wanted) in enumerate(zip(replay(log.events), rtmrs, strict=True)):
        if value != wanted:
            problem = f"the template's RTMR{number} is {value.hex()}, its quote has {wanted.hex()}"
            raise MismatchError(problem, at=at, hint="the log is not that of the quote")


def key_of(event: Event) -> str:
    """Return the name that an event has among those of its type and register."""
    data = event.data
    if event.type in (DRIVER_CONFIG, VARIABLE_BOOT, AUTHORITY):
        found = variable(data)
        return found.name if found is not None else data.hex()
    if event.type == CONFIG:
        if data.startswith(FW_CFG_EVENT):
            return data[len(FW_CFG_EVENT) :].rstrip(b"\0").decode("latin-1")
        return "ACPI DATA" if data[:9] == b"ACPI DATA" else data.hex()
    if event.type == TAG:
        return f"{int.from_bytes(data[:4], 'little'):#x}"
    if event.type == ACTION:
        return data.decode("latin-1").rstrip("\0")
    return _FIXED.get(event.type, data.hex())


_FIXED: Final = {
    SEPARATOR: "separator", APPLICATION: "application", GPT: "gpt", HANDOFF: "SMBIOS",
    HANDOFF2: "TdxTable", BLOB2: "CFV",
}  # fmt: skip


def combine(log: EventLog, nodes: Iterable[Node], *, as_is: bool) -> tuple[Match, ...]:
    """
    Return the template's events with the known ones of `nodes` in their places.

    `as_is`: the kernel is measured as its file is, and depends on nothing else.  Events that
    depend on what was replaced, and were not given, are not known.  ConfigError: inputs that
    decide an event which the template does not have as often: the log of another kind of boot.
    """
    known = [node for node in nodes if node.digest is not None]
    events = [event for event in log.events if event.extends]
    taken: dict[int, Node] = {}
    for name in dict.fromkeys(map(_name_of, known)):
        mine = [node for node in known if _name_of(node) == name]
        register, kind, key = name
        theirs = [
            number
            for number, event in enumerate(events)
            if (event.mr_index - 1, event.type) == (register, kind) and _has_key(event, key)
        ]
        if len(mine) != len(theirs):
            problem = f"{len(theirs)} events like {mine[0].what!r} in RTMR{register}"
            hint = "the template is the log of a different kind of boot"
            raise ConfigError(f"{problem}, expected {len(mine)}", at="--template", hint=hint)
        taken.update(zip(theirs, mine, strict=True))
    found = [_match(event, taken.get(number)) for number, event in enumerate(events)]
    return tuple(_doubtful(found, as_is=as_is))


def _doubtful(found: list[Match], *, as_is: bool) -> Iterator[Match]:
    """Yield the events; those kept that depend on a replaced one without their digest."""
    replaced = {match.node.type for match in found if match.verdict == REPLACED}
    machine = HANDOFF2 in replaced
    header = not as_is and bool(replaced & {TAG, HANDOFF2})
    started = False
    for match in found:
        one = match.node
        started = started or (one.type == ACTION and one.key == CALLING.decode())
        needs = ""
        if match.verdict == KEPT:
            if machine and (one.type, one.key) == (CONFIG, "ACPI DATA"):
                needs = "--acpi-tables FILE: they depend on --memory"
            elif machine and one.type == HANDOFF:
                needs = "--smbios FILE: it depends on --memory"
            elif header and one.type == APPLICATION and not started:
                needs = f"{WANTED}, and --kernel unless it is unpatched"
        yield match if not needs else _without_digest(match, needs)


def _without_digest(match: Match, needs: str) -> Match:
    one = match.node
    lost = Node(one.register, one.type, one.key, one.what, None, needs=needs)
    return Match(lost, PREDICTED, match.number)


def _has_key(event: Event, key: str) -> bool:
    return event.type == RUNTIME or key_of(event) == key or event.type == IPL


def _name_of(node: Node) -> tuple[int, int, str]:
    key = "" if node.type in (RUNTIME, IPL) else node.key
    return node.register, node.type, key


def _match(event: Event, found: Node | None) -> Match:
    if found is None:
        kept = Node(
            event.mr_index - 1, event.type, key_of(event), describe(event), event.digest,
            event.data, origin=TEMPLATE, source="the template",
        )  # fmt: skip
        return Match(kept, KEPT, event.number)
    verdict = CONFIRMED if found.digest == event.digest else REPLACED
    return Match(found, verdict, event.number)


def has_initrd(log: EventLog) -> bool:
    """Whether the kernel of a log measured an initrd."""
    return any(event.type == TAG and key_of(event) == hex(INITRD) for event in log.events)


def predicted(nodes: Iterable[Node]) -> tuple[Match, ...]:
    """Return events that were predicted without a template."""
    return tuple(Match(node, PREDICTED, None) for node in nodes)


def nodes_of(matches: Iterable[Match]) -> tuple[Node, ...]:
    """Return the events of the result."""
    return tuple(match.node for match in matches)
