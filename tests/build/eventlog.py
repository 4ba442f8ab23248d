"""
A TD's binary event log: good as it stands, to be spoiled one field at a time.

Written from the tables of the TCG PC Client Platform Firmware Profile 1.06 and not from the
reader.  A field that is None takes the value that is right for the log.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha384
from struct import pack
from typing import Any

SHA256, SHA384 = 0x0B, 0x0C
NO_ACTION, SEPARATOR, ACTION, TAG, IPL, RUNTIME = 3, 4, 5, 6, 0xD, 0x08000001
DRIVER_CONFIG, BOOT, APPLICATION, EFI_ACTION = 0x80000001, 0x80000002, 0x80000003, 0x80000007
BLOB2, TABLES2, BOOT2, AUTHORITY = 0x8000000A, 0x8000000B, 0x8000000C, 0x800000E0
GLOBAL = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")


def variable(name: str, value: bytes = b"", guid: bytes = GLOBAL) -> bytes:
    """UEFI_VARIABLE_DATA."""
    return guid + pack("<QQ", len(name), len(value)) + name.encode("utf-16-le") + value


@dataclass
class LogEvent:
    """One TCG_PCR_EVENT2; its digest is that of `hashed`, or of the data."""

    data: bytes = bytes(4)
    type: int = SEPARATOR
    index: int = 1
    hashed: bytes | None = None
    digests: list[tuple[int, bytes]] | None = None
    digest_count: int | None = None
    size: int | None = None

    def build(self) -> bytes:
        """The event's bytes."""
        hashed = self.data if self.hashed is None else self.hashed
        digests = self.digests
        if digests is None:
            digests = [(SHA384, sha384(hashed).digest())]
        count = len(digests) if self.digest_count is None else self.digest_count
        size = len(self.data) if self.size is None else self.size
        made = pack("<III", self.index, self.type, count)
        made += b"".join(pack("<H", one) + digest for one, digest in digests)
        return made + pack("<I", size) + self.data


@dataclass
class Log:
    """A header, events, and what fills the area behind them."""

    events: list[LogEvent] = field(default_factory=lambda: [LogEvent()])
    fill: bytes = b"\xff" * 32
    index: int = 1
    type: int = NO_ACTION
    digest: bytes = bytes(20)
    signature: bytes = b"Spec ID Event03\0"
    version: tuple[int, int] = (0, 2)  # minor, major
    errata: int = 106
    uintn: int = 2
    algorithms: list[tuple[int, int]] = field(default_factory=lambda: [(SHA384, 48)])
    count: int | None = None
    vendor: bytes = b""
    vendor_size: int | None = None
    behind: bytes = b""

    def build(self) -> bytes:
        """The log's bytes."""
        return self.used() + self.fill

    def used(self) -> bytes:
        """The bytes up to the end of the last event."""
        count = len(self.algorithms) if self.count is None else self.count
        spec = self.signature + pack("<IBBBBI", 0, *self.version, self.errata, self.uintn, count)
        spec += b"".join(pack("<HH", *one) for one in self.algorithms)
        size = len(self.vendor) if self.vendor_size is None else self.vendor_size
        spec += bytes([size]) + self.vendor + self.behind
        head = pack("<II20sI", self.index, self.type, self.digest, len(spec))
        return head + spec + b"".join(event.build() for event in self.events)


def runtime(**changes: Any) -> dict[str, Any]:
    """One entry of dstack's JSON: a runtime event that a published log has."""
    event = {
        "imr": 3,
        "event_type": RUNTIME,
        "digest": "b6ad74f6c161e210edc79e8f036301b26fb83ffebc2d70b358616c06cf4c548e"
        "d79c6c4b1df06d7d10527ec8c2b5e8b4",
        "event": "app-id",
        "event_payload": "17285b1c7797e193c3e876621e9755cc0c07ee31",
    }
    made = {**event, **changes}
    return {key: value for key, value in made.items() if value is not ...}
