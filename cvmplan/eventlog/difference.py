"""Two event logs side by side: for each register, the first event that differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cvmplan.eventlog.event import Event, EventLog


class LogDifference(NamedTuple):
    """
    The first event of RTMR `register` (0 to 3) whose digest differs between two logs.

    `a` or `b` is None where that log has ended.  `more`: how many events after it differ too.
    """

    register: int
    a: Event | None
    b: Event | None
    more: int


def differences(a: EventLog, b: EventLog) -> Iterator[LogDifference]:
    """Yield a difference for each register in which the logs differ."""
    for register in range(4):
        pairs = [*_pairs(a, b, register + 1)]
        unequal = [both for both in pairs if _digest(both[0]) != _digest(both[1])]
        if unequal:
            yield LogDifference(register, *unequal[0], len(unequal) - 1)


def _pairs(a: EventLog, b: EventLog, index: int) -> Iterator[tuple[Event | None, Event | None]]:
    """Yield the events of a register by their place; None after the last one of a log."""
    left, right = (
        [event for event in log.events if event.extends and event.mr_index == index]
        for log in (a, b)
    )
    for at in range(max(len(left), len(right))):
        yield left[at] if at < len(left) else None, right[at] if at < len(right) else None


def _digest(event: Event | None) -> bytes:
    return event.digest if event is not None else b""
