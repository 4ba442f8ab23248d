"""
Event logs replayed: the registers that a log leads to, and where it goes wrong.

Each extend is RTMR = SHA-384(RTMR || digest), from 48 zero bytes: Intel TDX module 1.5,
tdg_mr_rtmr_extend.c (TDG.MR.RTMR.EXTEND).  A replay that ends at the values of a quote shows
that the digests are those of the guest; what a log says about a digest is checked apart, and
only for the types of event whose data are what is hashed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha384
from typing import Final

from cvmplan.core.records import Frozen, record
from cvmplan.eventlog.describe import describe, variable
from cvmplan.eventlog.dstack import preimage
from cvmplan.eventlog.event import (
    DIGEST_SIZE,
    NO_ACTION,
    REGISTERS,
    RUNTIME,
    SEPARATOR,
    Event,
    EventLog,
)

__all__ = [
    "Comparison",
    "Fit",
    "Replay",
    "compare",
    "describe",
    "fit",
    "replay",
    "replayed",
    "values",
]

START: Final = bytes(DIGEST_SIZE)
MOST_LEFT_OUT: Final = 1024  # events of a register: each is left out in turn, n * n / 2 hashes

FITS: Final = "fits"
DIFFERS: Final = "differs"
UNCHECKED: Final = "not-checkable"
NOT_EXTENDED: Final = "not-extended"

_IPL: Final = 0xD
_VARIABLE_BOOT: Final = 0x80000002
_WHOLE: Final = frozenset({
    SEPARATOR, 0x5, 0x80000001, _VARIABLE_BOOT, 0x80000006, 0x80000007, 0x8000000C, 0x800000E0,
    RUNTIME,
})  # fmt: skip
"""
Types whose data are what is hashed: PFP 1.06, "Event Types"; edk2 10701fe, TdTcg2Dxe.c.

Separators, actions, variables, the partition table; EV_EFI_VARIABLE_BOOT see `_hashed`.
"""
_ERROR: Final = b"\1\0\0\0"  # PFP 1.06, EV_SEPARATOR: hashed when firmware reports an error
_LOADER_TEXTS: Final = (b"grub_cmd", b"kernel_cmdline", b"module_cmdline")


@record
class Fit(Frozen):
    """Whether the digest of an event is that of its data, and why it is or cannot be known."""

    verdict: str
    why: str

    @property
    def differs(self) -> bool:
        """Whether the digest is known to be of something else."""
        return self.verdict == DIFFERS


@record
class Comparison(Frozen):
    """
    One register beside its expected value.

    `register`: 0 to 3.  Where they differ, `earlier` is the number of the event after which
    the value was reached, 0 before all, and `later` how many events of the register follow;
    `left_out` is the number of the event without which it is reached.  None: neither.
    """

    register: int
    expected: bytes
    value: bytes
    events: int
    earlier: int | None = None
    later: int = 0
    left_out: int | None = None

    @property
    def differs(self) -> bool:
        """Whether the log leads to another value than the expected one."""
        return self.value != self.expected

    @property
    def why(self) -> str:
        """Say where they differ, as far as it is known."""
        if not self.differs:
            return "equal"
        if self.earlier is not None:
            after = f"after event {self.earlier}" if self.earlier else "before the first event"
            follow = "follows" if self.later == 1 else "follow"
            return f"equal {after}; {self.later} more {follow}"
        if self.left_out is not None:
            return f"equal without event {self.left_out}"
        if self.events > MOST_LEFT_OUT:
            limit = f"removing one event was not tried (more than {MOST_LEFT_OUT} events)"
            return f"no prefix of the log gives this value; {limit}"
        return "no prefix of the log, and no single removed event, gives this value"


@record
class Replay(Frozen):
    """A log, whether each of its events fits, RTMR0 to RTMR3 after them, and what was compared."""

    log: EventLog
    fits: tuple[Fit, ...]
    registers: tuple[bytes, bytes, bytes, bytes]
    compared: tuple[Comparison, ...]

    @property
    def wrong(self) -> tuple[tuple[Event, Fit], ...]:
        """The events whose digest is not that of their data."""
        return tuple(
            both for both in zip(self.log.events, self.fits, strict=True) if both[1].differs
        )


def replayed(log: EventLog, expected: Mapping[int, bytes]) -> Replay:
    """Return what a log leads to, beside the registers that are `expected` (0 to 3)."""
    fits = tuple(map(fit, log.events))
    return Replay(log, fits, replay(log.events), compare(log, expected))


def values(digests: Iterable[bytes], start: bytes = START) -> Iterator[bytes]:
    """Yield the register after each extend by one of `digests`; all have 48 bytes."""
    value = start
    for digest in digests:
        value = sha384(value + digest).digest()
        yield value


def replay(events: Iterable[Event]) -> tuple[bytes, bytes, bytes, bytes]:
    """
    Return RTMR0 to RTMR3 after `events`, 48 bytes each.

    Events for MRTD and EV_NO_ACTION are logged only, and extend nothing.
    """
    registers = [START] * len(REGISTERS)
    for event in events:
        if event.extends:
            before = registers[event.mr_index]
            registers[event.mr_index] = sha384(before + event.digest).digest()
    _, rtmr0, rtmr1, rtmr2, rtmr3 = registers
    return rtmr0, rtmr1, rtmr2, rtmr3


def compare(log: EventLog, expected: Mapping[int, bytes]) -> tuple[Comparison, ...]:
    """
    Return each register of `expected` (0 to 3 to its 48 bytes) beside what the log leads to.

    Where they differ it is sought whether the log has events too many at its end, or one.
    """
    return tuple(_compared(log, register, expected[register]) for register in sorted(expected))


def _compared(log: EventLog, register: int, expected: bytes) -> Comparison:
    events = [e for e in log.events if e.extends and e.mr_index == register + 1]
    digests = [e.digest for e in events]
    after = [START, *values(digests)]
    told = Comparison(register, expected, after[-1], len(events))
    if not told.differs:
        return told
    if expected in after:
        at = after.index(expected)
        earlier = events[at - 1].number if at else 0
        more = len(events) - at
        return Comparison(register, expected, after[-1], len(events), earlier, more)
    one = _one_left_out(digests, after, expected)
    left_out = None if one is None else events[one].number
    return Comparison(register, expected, after[-1], len(events), None, 0, left_out)


def _one_left_out(digests: Sequence[bytes], after: Sequence[bytes], wanted: bytes) -> int | None:
    """Return the index of the digest without which `wanted` is reached; the last such one."""
    if len(digests) > MOST_LEFT_OUT:
        return None
    for at in reversed(range(len(digests))):
        end = after[at]
        for end in values(digests[at + 1 :], after[at]):  # noqa: B007 the last is wanted
            pass
        if end == wanted:
            return at
    return None


def fit(event: Event) -> Fit:
    """
    Return whether the digest of an event is the SHA-384 of what its data say was hashed.

    Where a log holds a description in place of what was hashed, that cannot be known.
    """
    if not event.extends:
        why = "the guest does not extend MRTD" if event.type != NO_ACTION else "only logged"
        return Fit(NOT_EXTENDED, why)
    if event.computed:
        return Fit(UNCHECKED, "the log has no digest: computed from name and payload")
    if event.name is not None and not event.data and event.type != RUNTIME:
        return Fit(UNCHECKED, "the log has no data")
    for what, hashed in _hashed(event):
        if sha384(hashed).digest() == event.digest:
            return Fit(FITS, f"SHA-384 of {what}")
    if event.type in _WHOLE or _is_loader_text(event):
        tried = " nor ".join(what for what, _ in _hashed(event))
        return Fit(DIFFERS, f"not the SHA-384 of {tried}")
    return Fit(UNCHECKED, "the log only describes what was hashed")


def _hashed(event: Event) -> Iterator[tuple[str, bytes]]:
    """Yield what may have been hashed of an event, and its name."""
    if event.type == RUNTIME and event.name is not None:
        told = preimage(event.name, event.data, event.version)
        yield f"type, name and payload, version {event.version}", told
        return
    yield "the data", event.data
    if event.type == SEPARATOR and event.data[:4] == _ERROR:
        yield "the error value", _ERROR
    found = variable(event.data) if event.type == _VARIABLE_BOOT else None
    if found is not None:
        # edk2 10701fe, TdTcg2Dxe.c, MeasureVariable: it logs all and hashes the value
        yield "the variable's value", found.value
    if event.type == _IPL:
        yield from _loader_text(event.data)


def _is_loader_text(event: Event) -> bool:
    """Whether GRUB logged this text, which then is what it hashed."""
    starts = tuple(prefix + b": " for prefix in _LOADER_TEXTS)
    return event.type == _IPL and event.data.startswith(starts)


def _loader_text(data: bytes) -> Iterator[tuple[str, bytes]]:
    """
    Yield what a boot loader hashes of the text that it logs.

    coreos/grub d6ca0a9, grub-core/commands/tpm.c, grub_tpm_verify_string: the text behind
    "grub_cmd: ", without its NUL.  Forks that write no colon hash the NUL too: a published log
    of an Alibaba Cloud guest has 541610ba1bed91de… for "grub_cmd set pager=1".
    """
    text = data.partition(b"\0")[0]
    for prefix in _LOADER_TEXTS:
        rest = text.removeprefix(prefix)
        if rest != text and rest.startswith(b": "):
            yield "the text after the colon", rest[2:]
        elif rest != text and rest.startswith(b" "):
            yield "the text after the first word", rest[1:] + b"\0"
