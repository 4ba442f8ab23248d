"""
The events of a log as Trustee's attestation service prints them among its claims.

Source: confidential-containers/trustee 78962cd, deps/eventlog (`uefi_event_logs`: `index` is the
register's index as in the binary log, `event` the data in base64).
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from typing import Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError
from cvmplan.core.values import Json, hex_string
from cvmplan.eventlog.dstack import parse
from cvmplan.eventlog.event import DIGEST_SIZE, MOST_EVENTS, REGISTERS, TYPES, Event

KEY: Final = "uefi_event_logs"
_NUMBERS: Final = {name: number for number, name in TYPES.items()}
_LOOKED_AT: Final = 1 << 16  # bytes


def recognises(blob: Blob) -> bool:
    """Whether the bytes begin as an object that has such a list."""
    head = bytes(blob.data[:_LOOKED_AT])
    return head.lstrip()[:1] == b"{" and f'"{KEY}"'.encode() in head


def read(blob: Blob) -> tuple[Event, ...]:
    """Return the events; MalformedError names the key."""
    held = parse(blob)
    rows = held.get(KEY) if isinstance(held, dict) else None
    if not isinstance(rows, list) or len(rows) > MOST_EVENTS:
        problem = f"{KEY} is not an array of at most {MOST_EVENTS} events"
        raise MalformedError(problem, at=blob.name)
    return tuple(_event(one, n, f"{blob.name}: {KEY}[{n - 1}]") for n, one in enumerate(rows, 1))


def _event(raw: Json, number: int, at: str) -> Event:
    if not isinstance(raw, dict):
        raise MalformedError("not an object", at=at)
    index, kind, data = raw.get("index"), raw.get("type_name"), raw.get("event")
    if type(index) is not int or not 0 <= index < len(REGISTERS):
        raise MalformedError(f"not an integer of 0 to {len(REGISTERS) - 1}", at=f"{at}.index")
    if not isinstance(kind, str) or kind not in _NUMBERS:
        raise MalformedError("not the name of an event type", at=f"{at}.type_name")
    try:
        held = b64decode(str(data), validate=True)
    except ValueError:
        raise MalformedError("not base64", at=f"{at}.event") from None
    digests = dict(_digests(raw.get("digests"), at))
    digest = digests.pop("sha384", b"")
    if len(digest) != DIGEST_SIZE:
        raise MalformedError("has no SHA-384", at=f"{at}.digests")
    return Event(number, at, index, _NUMBERS[kind], digest, held, tuple(digests.items()))


def _digests(rows: Json, at: str) -> Iterator[tuple[str, bytes]]:
    """Yield algorithm and digest; MalformedError."""
    for one in rows if isinstance(rows, list) else ():
        if not isinstance(one, dict) or not isinstance(one.get("alg"), str):
            raise MalformedError("not a digest with its algorithm", at=f"{at}.digests")
        try:
            yield str(one["alg"]).replace("-", "").lower(), hex_string(one.get("digest"))
        except ValueError as error:
            raise MalformedError(str(error), at=f"{at}.digests") from None
