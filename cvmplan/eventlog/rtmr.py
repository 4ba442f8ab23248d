"""
Event logs replayed: the registers that a log leads to, and where it goes wrong.

Each extend is RTMR = SHA-384(RTMR || digest), from 48 zero bytes: Intel TDX module 1.5,
tdg_mr_rtmr_extend.c (TDG.MR.RTMR.EXTEND).  A replay that ends at the values of a quote shows
that the digests are those of the guest; what a log says about a digest is checked apart, and
only for the types of event whose data are what is hashed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha384
from typing import Final

from cvmplan.core.records import Frozen, record
from cvmplan.eventlog.describe import describe, text_of, variable
from cvmplan.eventlog.dstack import preimage
from cvmplan.eventlog.event import (
    NO_ACTION,
    REGISTERS,
    RUNTIME,
    SEPARATOR,
    Event,
    EventLog,
)
from cvmplan.eventlog.search import START, Comparison, compare, values

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


FITS: Final = "fits"
DIFFERS: Final = "differs"
UNCHECKED: Final = "not-checkable"
NOT_EXTENDED: Final = "not-extended"

_IPL: Final = 0xD
_CONFIG_FLAGS: Final = 0xA
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
    yield from _of_a_table(event)
    if event.type == SEPARATOR and event.data[:4] == _ERROR:
        yield "the error value", _ERROR
    found = variable(event.data) if event.type == _VARIABLE_BOOT else None
    if found is not None:
        # edk2 10701fe, TdTcg2Dxe.c, MeasureVariable: it logs all and hashes the value
        yield "the variable's value", found.value
    if event.type == _IPL:
        yield from _loader_text(event.data)
        name = text_of(event.data)
        if name is not None and name.startswith("."):
            yield "the section's name", name.encode() + b"\0"


def _of_a_table(event: Event) -> Iterator[tuple[str, bytes]]:
    """
    Yield the contents that a table of td-shim logs behind their name and size.

    Source: confidential-containers/td-shim 125eeab, td-shim-interface (TdShimPlatformConfigInfo):
    16 bytes of name, u32 length, contents; the contents are hashed.
    """
    if event.type == _CONFIG_FLAGS and len(event.data) >= 20:
        size = int.from_bytes(event.data[16:20], "little")
        if size <= len(event.data) - 20:
            yield "the table's contents", event.data[20 : 20 + size]


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
