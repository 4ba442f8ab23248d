"""
Event logs of TDs: what firmware, boot loader and guest say they extended RTMR0 to RTMR3 by.

Two forms are read: the crypto-agile log of TCG that firmware leaves in memory (the ACPI table
CCEL points to it, Linux shows it as /sys/firmware/acpi/tables/data/CCEL), and the JSON of
dstack (eventlog_json).  A log is a claim; it is worth what its replay (rtmr) is.

Sources: TCG PC Client Platform Firmware Profile 1.06, "Event Logging" (TCG_PCR_EVENT2,
TCG_EfiSpecIdEvent, event types); UEFI 2.10, 38.4.1: index 0 is MRTD, 1 to 4 are RTMR0 to 3;
edk2 10701fe, OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c, SetupCcEventLog: 0xFF behind the last event.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import ClassVar, Final

from cvmplan.blob import Blob
from cvmplan.errors import MalformedError, UnsupportedError
from cvmplan.records import Frozen, record

SHA384: Final = 0xC
DIGEST_SIZE: Final = 48
MOST_EVENTS: Final = 65536
MOST_LOG: Final = 16 << 20  # bytes; firmware sets aside 64 KiB and more
MOST_ALGORITHMS: Final = 16
REGISTERS: Final = ("MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3")
ALGORITHMS: Final = {
    0x4: ("sha1", 20), 0xB: ("sha256", 32), SHA384: ("sha384", DIGEST_SIZE), 0xD: ("sha512", 64),
    0x12: ("sm3-256", 32), 0x27: ("sha3-256", 32), 0x28: ("sha3-384", 48), 0x29: ("sha3-512", 64),
}  # fmt: skip
"""TPM_ALG_ID to name and digest size: TCG Algorithm Registry, TPM_ALG_ID."""

NO_ACTION: Final = 3
SEPARATOR: Final = 4
RUNTIME: Final = 0x08000001
_EFI: Final = 0x80000000
TYPES: Final = {
    0x0: "EV_PREBOOT_CERT", 0x1: "EV_POST_CODE", 0x2: "EV_UNUSED", NO_ACTION: "EV_NO_ACTION",
    SEPARATOR: "EV_SEPARATOR", 0x5: "EV_ACTION", 0x6: "EV_EVENT_TAG", 0x7: "EV_S_CRTM_CONTENTS",
    0x8: "EV_S_CRTM_VERSION", 0x9: "EV_CPU_MICROCODE", 0xA: "EV_PLATFORM_CONFIG_FLAGS",
    0xB: "EV_TABLE_OF_DEVICES", 0xC: "EV_COMPACT_HASH", 0xD: "EV_IPL",
    0xE: "EV_IPL_PARTITION_DATA", 0xF: "EV_NONHOST_CODE", 0x10: "EV_NONHOST_CONFIG",
    0x11: "EV_NONHOST_INFO", 0x12: "EV_OMIT_BOOT_DEVICE_EVENTS", 0x13: "EV_POST_CODE2",
    RUNTIME: "dstack runtime event",
    _EFI + 0x1: "EV_EFI_VARIABLE_DRIVER_CONFIG", _EFI + 0x2: "EV_EFI_VARIABLE_BOOT",
    _EFI + 0x3: "EV_EFI_BOOT_SERVICES_APPLICATION", _EFI + 0x4: "EV_EFI_BOOT_SERVICES_DRIVER",
    _EFI + 0x5: "EV_EFI_RUNTIME_SERVICES_DRIVER", _EFI + 0x6: "EV_EFI_GPT_EVENT",
    _EFI + 0x7: "EV_EFI_ACTION", _EFI + 0x8: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    _EFI + 0x9: "EV_EFI_HANDOFF_TABLES", _EFI + 0xA: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    _EFI + 0xB: "EV_EFI_HANDOFF_TABLES2", _EFI + 0xC: "EV_EFI_VARIABLE_BOOT2",
    _EFI + 0xD: "EV_EFI_GPT_EVENT2", _EFI + 0x10: "EV_EFI_HCRTM_EVENT",
    _EFI + 0xE0: "EV_EFI_VARIABLE_AUTHORITY", _EFI + 0xE1: "EV_EFI_SPDM_FIRMWARE_BLOB",
    _EFI + 0xE2: "EV_EFI_SPDM_FIRMWARE_CONFIG", _EFI + 0xE3: "EV_EFI_SPDM_DEVICE_POLICY",
    _EFI + 0xE4: "EV_EFI_SPDM_DEVICE_AUTHORITY",
}  # fmt: skip
"""Event types: PFP 1.06, "Event Types"; the runtime event: dstack 270aaf8, cc-eventlog."""

_SIGNATURE: Final = b"Spec ID Event03\0"
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


@record
class Word(Frozen):
    """A number that stands alone: the size of an event's data."""

    LAYOUT: ClassVar = Struct("<I")
    value: int


@record
class Short(Frozen):
    """The algorithm of a digest."""

    LAYOUT: ClassVar = Struct("<H")
    value: int


@record
class Event(Frozen):
    """
    One entry of a log, `number` from 1, at `at`.

    `mr_index`: 0 MRTD, 1 to 4 RTMR0 to 3.  `digest`: SHA-384, 48 bytes, `computed` where the
    log leaves it out.  `others`: name and digest by further algorithms.  `name`: what the JSON
    calls the event, None in a binary log.  `version`: how a runtime event is hashed, 1 or 2.
    """

    number: int
    at: str
    mr_index: int
    type: int
    digest: bytes
    data: bytes
    others: tuple[tuple[str, bytes], ...] = ()
    name: str | None = None
    version: int = 1
    computed: bool = False

    @property
    def register(self) -> str:
        """The register's name."""
        return REGISTERS[self.mr_index]

    @property
    def type_name(self) -> str | None:
        """The name of the type, None where it has none."""
        return TYPES.get(self.type)

    @property
    def extends(self) -> bool:
        """Whether the event was extended into a register, and not only logged."""
        return self.mr_index > 0 and self.type != NO_ACTION


@record
class Header(Frozen):
    """What the first event of a binary log says of the log."""

    mr_index: int
    platform_class: int
    spec_errata: int
    uintn_size: int
    algorithms: tuple[tuple[str, int], ...]
    vendor_info: bytes


@record
class EventLog(Frozen):
    """
    A log: `form` is "ccel" or "dstack"; a binary one has a header.

    `fill` is (byte, count) of what stands behind the last event, None where nothing does.
    """

    form: str
    events: tuple[Event, ...]
    header: Header | None = None
    fill: tuple[int, int] | None = None


def read(blob: Blob) -> EventLog:
    """
    Return the log that `blob` holds, binary or JSON.

    TruncatedError, MalformedError, and UnsupportedError for another kind of log.
    """
    from cvmplan.tdx import eventlog_json

    if len(blob) > MOST_LOG:
        raise MalformedError(f"a log of more than {MOST_LOG >> 20} MiB", at=blob.name)
    if eventlog_json.recognises(blob):
        return EventLog("dstack", eventlog_json.read(blob))
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
    first = blob.take(PcrEvent, 0)
    at = PcrEvent.LAYOUT.size
    if first.event_type != NO_ACTION or any(first.digest) or first.pcr_index >= len(REGISTERS):
        hint = "a CCEL table's data, or the JSON array of dstack"
        raise UnsupportedError("not an event log of a TD", at=blob.where(0), hint=hint)
    data = blob.slice(at, at + first.event_size)
    spec = data.take(SpecIdEvent, 0)
    if spec.signature != _SIGNATURE:
        problem = f"the first event is {spec.signature!r}, want {_SIGNATURE!r}"
        raise UnsupportedError(problem, at=data.where(0), hint="logs with SHA-1 alone have none")
    version = spec.spec_version_major, spec.spec_version_minor
    if version != _VERSION or spec.uintn_size not in _UINTN:
        problem = f"specification {version[0]}.{version[1]}, UINTN of {spec.uintn_size} words"
        raise UnsupportedError(problem, at=data.where(20), hint="known is 2.0, with 1 or 2 words")
    sizes = dict(_algorithms(data, spec.number_of_algorithms))
    end = SpecIdEvent.LAYOUT.size + len(sizes) * AlgorithmSize.LAYOUT.size
    vendor = data.slice(end + 1, end + 1 + data.slice(end, end + 1).data[0])
    if end + 1 + len(vendor) != len(data):
        raise MalformedError("bytes behind the vendor's information", at=vendor.where(len(vendor)))
    names = tuple((name_of(one), size) for one, size in sizes.items())
    told = spec.platform_class, spec.spec_errata, spec.uintn_size, names, bytes(vendor.data)
    return Header(first.pcr_index, *told), sizes, at + first.event_size


def _algorithms(data: Blob, count: int) -> Iterator[tuple[int, int]]:
    """Yield algorithm and digest size of each that the log has; MalformedError."""
    start = SpecIdEvent.LAYOUT.size
    if not 1 <= count <= MOST_ALGORITHMS:
        problem = f"{count} algorithms, want 1 to {MOST_ALGORITHMS}"
        raise MalformedError(problem, at=data.where(start - 4))
    seen: set[int] = set()
    for number, (one, size) in enumerate(data.table(AlgorithmSize, start, count)):
        at = data.where(start + number * AlgorithmSize.LAYOUT.size)
        if one in seen:
            raise MalformedError(f"algorithm {one:#x} stands twice", at=at)
        if one not in ALGORITHMS:
            raise UnsupportedError(f"digests of algorithm {one:#x}", at=at)
        if ALGORITHMS[one][1] != size:
            problem = f"{size} bytes for {name_of(one)}, want {ALGORITHMS[one][1]}"
            raise MalformedError(problem, at=at)
        seen.add(one)
        yield one, size
    if SHA384 not in seen:
        hint = "the registers of a TD are SHA-384"
        raise UnsupportedError("a log without SHA-384", at=data.where(start), hint=hint)


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
            raise MalformedError("bytes behind the end of the log", at=where)
        return byte[0], len(rest)
    return None


def _event(blob: Blob, at: int, number: int, sizes: dict[int, int]) -> tuple[Event, int]:
    """Return the event that begins at `at`, and where it ends."""
    where = blob.where(at)
    head = blob.take(PcrEvent2, at)
    if head.pcr_index >= len(REGISTERS):
        problem = f"event {number} is of register index {head.pcr_index:#x}, want 0 to 4"
        raise MalformedError(problem, at=where)
    if not 1 <= head.digest_count <= len(sizes):
        problem = f"event {number} has {head.digest_count} digests, want 1 to {len(sizes)}"
        raise MalformedError(problem, at=blob.where(at + 8))
    digests: dict[int, bytes] = {}
    at += PcrEvent2.LAYOUT.size
    for _ in range(head.digest_count):
        one = blob.take(Short, at).value
        if one not in sizes or one in digests:
            twice = "stands twice" if one in digests else "is none of the log's"
            problem = f"event {number}: algorithm {one:#x} {twice}"
            raise MalformedError(problem, at=blob.where(at))
        at += Short.LAYOUT.size
        digests[one] = bytes(blob.slice(at, at + sizes[one]).data)
        at += sizes[one]
    if SHA384 not in digests:
        raise MalformedError(f"event {number} has no SHA-384", at=where)
    size = blob.take(Word, at).value
    at += Word.LAYOUT.size
    data = bytes(blob.slice(at, at + size).data)
    others = tuple((name_of(a), d) for a, d in digests.items() if a != SHA384)
    told = head.pcr_index, head.event_type, digests[SHA384], data, others
    return Event(number, where, *told), at + size
