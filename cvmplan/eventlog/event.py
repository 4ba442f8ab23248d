"""
The events of a TD's log, whatever it was written in: records and the names of types.

Sources: as `eventlog`.
"""

from __future__ import annotations

from typing import Final

from cvmplan.core.records import Frozen, record

DIGEST_SIZE: Final = 48
MOST_EVENTS: Final = 65536
REGISTERS: Final = ("MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3")
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
    A log: `form` is "ccel" or a name of `forms.FORMS`; a binary one has a header.

    `fill` is (byte, count) of what stands behind the last event, None where nothing does.
    """

    form: str
    events: tuple[Event, ...]
    header: Header | None = None
    fill: tuple[int, int] | None = None

    @property
    def complete(self) -> bool:
        """Whether no event is missing: a pasted text may be an excerpt."""
        return all(event.number == n for n, event in enumerate(self.events, 1))
