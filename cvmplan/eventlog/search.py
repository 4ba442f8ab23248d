"""
A register beside its expected value, and which one change of the log explains a difference.

Tried are: events too many at the end, one event too many, one event of another register at its
place in the log, two neighbours in the other order, a separator at another place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha384
from typing import Any, Final

from cvmplan.core.records import Frozen, record
from cvmplan.eventlog.event import DIGEST_SIZE, SEPARATOR, Event, EventLog

START: Final = bytes(DIGEST_SIZE)
MOST_TRIED: Final = 512  # events of a register: each change costs up to as many hashes
MOST_SEPARATORS: Final = 2  # of a register: each is tried at every place


@record
class Comparison(Frozen):
    """
    One register beside its expected value.

    `register`: 0 to 3.  Where they differ, `earlier` is the number of the event after which
    the value was reached, 0 before all, and `later` how many events of the register follow;
    `left_out` is the event without which it is reached, `added` one of another register with
    which it is, `swapped` one that comes after its neighbour; `separator` is one that comes
    after event `after`.  None: not so.
    """

    register: int
    expected: bytes
    value: bytes
    events: int
    earlier: int | None = None
    later: int = 0
    left_out: int | None = None
    added: int | None = None
    swapped: int | None = None
    separator: int | None = None
    after: int | None = None

    @property
    def differs(self) -> bool:
        """Whether the log leads to another value than the expected one."""
        return self.value != self.expected

    @property
    def why(self) -> str:
        """Say where they differ, as far as it is known."""
        if not self.differs:
            return "equal"
        if not self.events:
            why = "it was extended at run time, which writes no entry"
            return f"the log has no event of RTMR{self.register}: {why}"
        if self.earlier is not None:
            after = f"after event {self.earlier}" if self.earlier else "before the first event"
            follow = "follows" if self.later == 1 else "follow"
            return f"equal {after}; {self.later} more {follow}"
        return self._change or self._in_vain

    @property
    def _change(self) -> str:
        """Say which change of the log leads to the value, "" where none does."""
        if self.left_out is not None:
            return f"equal without event {self.left_out}"
        if self.added is not None:
            return f"equal with event {self.added}, which the log has for another register"
        if self.swapped is not None:
            return f"equal where event {self.swapped} comes after the next one of the register"
        if self.separator is not None:
            place = f"after event {self.after}" if self.after else "before all others"
            return f"equal where event {self.separator}, a separator, comes {place}"
        return ""

    @property
    def _in_vain(self) -> str:
        if self.events > MOST_TRIED:
            limit = f"no single change was tried (more than {MOST_TRIED} events)"
            return f"no prefix of the log gives this value; {limit}"
        return "no prefix of the log, and no single removed, added or moved event, gives this value"


def values(digests: Iterable[bytes], start: bytes = START) -> Iterator[bytes]:
    """Yield the register after each extend by one of `digests`; all have 48 bytes."""
    value = start
    for digest in digests:
        value = sha384(value + digest).digest()
        yield value


def compare(log: EventLog, expected: Mapping[int, bytes]) -> tuple[Comparison, ...]:
    """
    Return each register of `expected` (0 to 3 to its 48 bytes) beside what the log leads to.

    Where they differ, the one change of the log that explains it is sought.
    """
    return tuple(_compared(log, register, expected[register]) for register in sorted(expected))


def _compared(log: EventLog, register: int, expected: bytes) -> Comparison:
    events = [e for e in log.events if e.extends and e.mr_index == register + 1]
    after = [START, *values(e.digest for e in events)]
    told = Comparison(register, expected, after[-1], len(events))
    if not told.differs:
        return told
    if expected in after:
        at = after.index(expected)
        earlier = events[at - 1].number if at else 0
        return _with(told, earlier=earlier, later=len(events) - at)
    if len(events) > MOST_TRIED:
        return told
    others = [e for e in log.events if e.extends and e.mr_index != register + 1]
    return _with(told, **_change(events, others[:MOST_TRIED], after, expected))


def _with(told: Comparison, **more: Any) -> Comparison:
    return Comparison(told.register, told.expected, told.value, told.events, **more)


def _change(
    events: Sequence[Event], others: Sequence[Event], after: Sequence[bytes], wanted: bytes
) -> dict[str, int | None]:
    """Return the change of the log that leads to `wanted`, as fields of Comparison."""
    for told, at, tail in _changes(events, others):
        (end,) = deque(values((e.digest for e in tail), after[at]), maxlen=1) or (after[at],)
        if end == wanted:
            return told
    return {}


def _changes(
    events: Sequence[Event], others: Sequence[Event]
) -> Iterator[tuple[dict[str, int | None], int, Sequence[Event]]]:
    """Yield a change, how many events stay as they are, and those after them."""
    for at in reversed(range(len(events))):
        yield {"left_out": events[at].number}, at, events[at + 1 :]
    for at in range(len(events) - 1):
        yield {"swapped": events[at].number}, at, (events[at + 1], events[at], *events[at + 2 :])
    for one in others:
        at = sum(e.number < one.number for e in events)
        yield {"added": one.number}, at, (one, *events[at:])
    separators = [index for index, one in enumerate(events) if one.type == SEPARATOR]
    for index in separators[:MOST_SEPARATORS]:
        yield from _moved(events[index], index, [*events[:index], *events[index + 1 :]])


def _moved(
    one: Event, index: int, rest: Sequence[Event]
) -> Iterator[tuple[dict[str, int | None], int, Sequence[Event]]]:
    """Yield each other place of an event that was at `index`."""
    for at in range(len(rest) + 1):
        after = rest[at - 1].number if at else 0
        same = min(at, index)
        yield {"separator": one.number, "after": after}, same, (*rest[same:at], one, *rest[at:])
