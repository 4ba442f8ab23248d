"""
The crypto-agile log of TCG that firmware of a TD leaves in memory.

The ACPI table CCEL points to it, Linux shows it as /sys/firmware/acpi/tables/data/CCEL.  A log
is a claim; it is worth what its replay (rtmr) is.

Sources: TCG PC Client Platform Firmware Profile 1.06, "Event Logging" (TCG_PCR_EVENT2,
TCG_EfiSpecIdEvent, event types); UEFI 2.10, 38.4.1: index 0 is MRTD, 1 to 4 are RTMR0 to 3;
edk2 10701fe, OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c, SetupCcEventLog: 0xFF behind the last event.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import ClassVar, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.records import Frozen, record
from cvmplan.eventlog.event import (
    DIGEST_SIZE,
    MOST_EVENTS,
    NO_ACTION,
    REGISTERS,
    Event,
    EventLog,
    Header,
)

SHA384: Final = 0xC
MOST_ALGORITHMS: Final = 16
LAST_PCR: Final = 23
ALGORITHMS: Final = {
    0x4: ("sha1", 20), 0xB: ("sha256", 32), SHA384: ("sha384", DIGEST_SIZE), 0xD: ("sha512", 64),
    0x12: ("sm3-256", 32), 0x27: ("sha3-256", 32), 0x28: ("sha3-384", 48), 0x29: ("sha3-512", 64),
}  # fmt: skip
"""TPM_ALG_ID to name and digest size: TCG Algorithm Registry, TPM_ALG_ID."""

_WORD, _SHORT = Struct("<I"), Struct("<H")  # the size of an event's data, a digest's algorithm
_SIGNATURE: Final = b"Spec ID Event03\0"
_TABLE: Final = b"CCEL"  # ACPI 6.5, table 5.5: the signature of a table comes first
_RECNUM: Final = b"\0\0\0\0\x08"  # TCG Canonical Event Log 1.0, TLV: RECNUM of 8 bytes
_VERSION: Final = (2, 0)  # of the specification: PFP 1.06, "Specification ID Version Event"
_UINTN: Final = (1, 2)  # in units of 4 bytes


@record
class PcrEvent(Frozen):
    """TCG_PCR_EVENT, the form of the first event alone; its data follow."""

    LAYOUT: ClassVar = Struct("<II20sI")
    pcr_index: int
    event_type: int
    digest: bytes
    event_size: int


@record
class SpecIdEvent(Frozen):
    """TCG_EfiSpecIdEvent up to the list of algorithms."""

    LAYOUT: ClassVar = Struct("<16sIBBBBI")
    signature: bytes
    platform_class: int
    spec_version_minor: int
    spec_version_major: int
    spec_errata: int
    uintn_size: int
    number_of_algorithms: int


@record
class AlgorithmSize(Frozen):
    """TCG_EfiSpecIdEventAlgorithmSize."""

    LAYOUT: ClassVar = Struct("<HH")
    algorithm_id: int
    digest_size: int


@record
class PcrEvent2(Frozen):
    """TCG_PCR_EVENT2 up to the digests."""

    LAYOUT: ClassVar = Struct("<III")
    pcr_index: int
    event_type: int
    digest_count: int


def recognises(blob: Blob) -> bool:
    """Whether the bytes begin with the first event of a binary log."""
    start = PcrEvent.LAYOUT.size
    return bytes(blob.data[start : start + len(_SIGNATURE)]) == _SIGNATURE


def read(blob: Blob) -> EventLog:
    """
    Return the log of firmware that `blob` contains.

    TruncatedError, MalformedError, and UnsupportedError for another kind of log.
    """
    header, sizes, at = _header(blob)
    events: list[Event] = []
    fill = None
    while at < len(blob):
        fill = _fill(blob, at)
        if fill is not None:
            break
        if len(events) == MOST_EVENTS:
            raise MalformedError(f"more than {MOST_EVENTS} events", at=blob.where(at))
        event, at = _event(blob, at, len(events) + 1, sizes)
        events.append(event)
    return EventLog("ccel", tuple(events), header, fill)


def _header(blob: Blob) -> tuple[Header, dict[int, int], int]:
    """Return the header, algorithm to digest size, and where the events begin."""
    _refuse_others(blob)
    first = blob.take(PcrEvent, 0)
    at = PcrEvent.LAYOUT.size
    if first.event_type != NO_ACTION or any(first.digest) or first.pcr_index >= len(REGISTERS):
        hint = "a CCEL table's data, or the JSON array of dstack"
        raise UnsupportedError("not an event log of a TD", at=blob.where(0), hint=hint)
    data = blob.slice(at, at + first.event_size)
    spec = data.take(SpecIdEvent, 0)
    if spec.signature != _SIGNATURE:
        problem = f"the first event is {spec.signature!r}, expected {_SIGNATURE!r}"
        raise UnsupportedError(problem, at=data.where(0), hint="logs with SHA-1 alone have none")
    version = spec.spec_version_major, spec.spec_version_minor
    if version != _VERSION or spec.uintn_size not in _UINTN:
        problem = f"specification {version[0]}.{version[1]}, UINTN of {spec.uintn_size} words"
        raise UnsupportedError(problem, at=data.where(20), hint="supported: 2.0, with 1 or 2 words")
    sizes = dict(_algorithms(data, spec.number_of_algorithms))
    end = SpecIdEvent.LAYOUT.size + len(sizes) * AlgorithmSize.LAYOUT.size
    vendor = data.slice(end + 1, end + 1 + data.slice(end, end + 1).data[0])
    if end + 1 + len(vendor) != len(data):
        raise MalformedError("bytes after the vendor's information", at=vendor.where(len(vendor)))
    names = tuple((name_of(one), size) for one, size in sizes.items())
    told = spec.platform_class, spec.spec_errata, spec.uintn_size, names, bytes(vendor.data)
    return Header(first.pcr_index, *told), sizes, at + first.event_size


def _refuse_others(blob: Blob) -> None:
    """Raise UnsupportedError for what is often taken for such a log, and named as what it is."""
    head = bytes(blob.data[:8])
    if head[:4] == _TABLE:
        hint = "the log is /sys/firmware/acpi/tables/data/CCEL"
        raise UnsupportedError(
            "the ACPI table CCEL, which only says where the log is", at=blob.where(0), hint=hint
        )
    if head[:5] == _RECNUM:
        problem = "a canonical event log (CEL), which is not the log of firmware"
        raise UnsupportedError(problem, at=blob.where(0))


def _algorithms(data: Blob, count: int) -> Iterator[tuple[int, int]]:
    """Yield algorithm and digest size of each that the log has; MalformedError."""
    start = SpecIdEvent.LAYOUT.size
    if not 1 <= count <= MOST_ALGORITHMS:
        problem = f"{count} algorithms, expected 1 to {MOST_ALGORITHMS}"
        raise MalformedError(problem, at=data.where(start - 4))
    seen: set[int] = set()
    for number, (one, size) in enumerate(data.table(AlgorithmSize, start, count)):
        at = data.where(start + number * AlgorithmSize.LAYOUT.size)
        if one in seen:
            raise MalformedError(f"algorithm {one:#x} is given twice", at=at)
        if one not in ALGORITHMS:
            raise UnsupportedError(f"digests of algorithm {one:#x}", at=at)
        if ALGORITHMS[one][1] != size:
            problem = f"{size} bytes for {name_of(one)}, expected {ALGORITHMS[one][1]}"
            raise MalformedError(problem, at=at)
        seen.add(one)
        yield one, size
    if SHA384 not in seen:
        hint = "the registers of a TD are SHA-384; a TPM's log may have SHA-1 and SHA-256 alone"
        raise UnsupportedError("the log has no SHA-384 digests", at=data.where(start), hint=hint)


def name_of(algorithm: int) -> str:
    """Return the name of an algorithm of ALGORITHMS."""
    return ALGORITHMS[algorithm][0]


def _fill(blob: Blob, at: int) -> tuple[int, int] | None:
    """
    Return byte and count of what fills the rest from `at`; None where an event begins there.

    MalformedError where the filling ends before the log does.  An event begins neither with index
    0xFFFFFFFF nor with twelve zeros, which would be one that has no digest.
    """
    start = bytes(blob.data[at : at + PcrEvent2.LAYOUT.size])
    for byte, enough in ((b"\xff", 4), (b"\0", PcrEvent2.LAYOUT.size)):
        if start[:enough].strip(byte):
            continue
        rest = bytes(blob.data[at:])
        behind = rest.lstrip(byte)
        if behind:
            where = blob.where(at + len(rest) - len(behind))
            raise MalformedError("bytes after the end of the log", at=where)
        return byte[0], len(rest)
    return None


def _event(blob: Blob, at: int, number: int, sizes: dict[int, int]) -> tuple[Event, int]:
    """Return the event that begins at `at`, and where it ends."""
    where = blob.where(at)
    index, kind, count = blob.words(PcrEvent2.LAYOUT, at)
    if index >= len(REGISTERS):
        problem = f"event {number} is of register index {index:#x}, expected 0 to 4"
        hint = "the log of a TPM has PCRs up to 23" if index <= LAST_PCR else ""
        raise MalformedError(problem, at=where, hint=hint)
    if not 1 <= count <= len(sizes):
        problem = f"event {number} has {count} digests, expected 1 to {len(sizes)}"
        raise MalformedError(problem, at=blob.where(at + 8))
    digests: dict[int, bytes] = {}
    at += PcrEvent2.LAYOUT.size
    for _ in range(count):
        (one,) = blob.words(_SHORT, at)
        if one not in sizes or one in digests:
            twice = "is given twice" if one in digests else "is not declared by the log"
            problem = f"event {number}: algorithm {one:#x} {twice}"
            raise MalformedError(problem, at=blob.where(at))
        at += _SHORT.size
        digests[one] = blob.copy(at, at + sizes[one])
        at += sizes[one]
    if SHA384 not in digests:
        raise MalformedError(f"event {number} has no SHA-384", at=where)
    (size,) = blob.words(_WORD, at)
    at += _WORD.size
    data = blob.copy(at, at + size)
    others = tuple((name_of(a), d) for a, d in digests.items() if a != SHA384)
    return Event(number, where, index, kind, digests[SHA384], data, others), at + size
