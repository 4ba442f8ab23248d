"""
The text that the tool tdeventlog prints, as people paste it.

Source: canonical/tdx, tests/lib/tdx-tools (tdxtools, `tdeventlog`): a block for each event, its
first line names number and address; "RTMR" counts from 0.  The dump of its bytes may be cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError
from cvmplan.eventlog.event import DIGEST_SIZE, MOST_EVENTS, NO_ACTION, Event

START: Final = b"==== TDX Event Log Entry"
_FIELD: Final = re.compile(r"([A-Z][A-Za-z0-9\[\] ]{0,40}?) {0,40}: (\S{1,200})")
_NUMBER: Final = re.compile(r"Entry - (\d{1,9})")
_DUMP: Final = re.compile(r"[0-9A-Fa-f]{8,16}  ((?:[0-9A-Fa-f]{2} {1,2}){1,16})")
_HEAD: Final = 12 + 2 + DIGEST_SIZE + 4  # TCG_PCR_EVENT2 with one SHA-384, up to the data


def recognises(blob: Blob) -> bool:
    """Whether the bytes begin as such a text does, blank lines aside."""
    return bytes(blob.data[:4096]).lstrip().startswith(START)


def read(blob: Blob) -> tuple[Event, ...]:
    """Return the events but the first, which only describes the log; MalformedError."""
    try:
        text = bytes(blob.data).decode()
    except UnicodeDecodeError as error:
        raise MalformedError("not UTF-8 text", at=blob.where(error.start)) from None
    events: list[Event] = []
    for line, entry, block in _blocks(text):
        if len(events) == MOST_EVENTS:
            raise MalformedError(f"more than {MOST_EVENTS} events", at=blob.name)
        event = _event(block, entry, f"{blob.name}:{line}")
        if event is not None:
            events.append(event)
    return tuple(events)


def _blocks(text: str) -> Iterator[tuple[int, int, list[str]]]:
    """Yield the number of the first line of each block, the entry's own number, and its lines."""
    start, entry, block = 0, 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(START.decode()):
            if block:
                yield start, entry, block
            found = _NUMBER.search(line)
            start, entry, block = number, int(found[1]) if found else 0, []
        elif start:
            block.append(line)
    if start:
        yield start, entry, block


def _event(block: list[str], number: int, at: str) -> Event | None:
    """Return the event of a block, None for the log's header; MalformedError."""
    fields = {found[1]: found[2] for line in block if (found := _FIELD.match(line))}
    try:
        register, kind = int(fields["RTMR"], 0), int(fields["Type"], 0)
        digest = bytes.fromhex(fields["Digest[0]"]) if "Digest[0]" in fields else b""
    except (KeyError, ValueError):
        raise MalformedError("has no RTMR, Type and Digest[0]", at=at) from None
    if kind == NO_ACTION and not digest:
        return None
    if not 0 <= register <= 3 or not 0 <= kind < 1 << 32 or len(digest) != DIGEST_SIZE:
        raise MalformedError("not an event of RTMR0 to RTMR3 with a SHA-384", at=at)
    dump = b"".join(bytes.fromhex(found[1]) for line in block if (found := _DUMP.match(line)))
    return Event(number, at, register + 1, kind, digest, dump[_HEAD:], (), "")
