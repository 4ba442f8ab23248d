"""
The event log of dstack: a JSON array with an object for each event.

Source: dstack 1988d17, cc-eventlog/src/tdx.rs, TdxEvent (`imr` 0 to 3 are RTMR0 to 3; a log
may leave out the payloads of boot events and the digests of runtime events, `stripped`), and
312dc60, cc-eventlog/src/runtime_events.rs (pull request 646): what is hashed is told as
`preimage`, whose name was `hash_input` before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.values import Json, hex_string
from cvmplan.documents import text
from cvmplan.eventlog.event import DIGEST_SIZE, MOST_EVENTS, RUNTIME, Event

_NEEDED: Final = ("imr", "event_type", "event", "event_payload")
PREIMAGES: Final = ("preimage", "hash_input")
_KEYS: Final = (*_NEEDED, "digest", "version", *PREIMAGES)
_BOUNDS: Final = {"imr": (0, 3), "event_type": (0, 0xFFFFFFFF), "version": (1, 2)}
_BLANK: Final = b" \t\r\n"


def recognises(blob: Blob) -> bool:
    """Whether the bytes begin as JSON does; a binary log begins with a register's index."""
    return bytes(blob.data[:64]).lstrip(_BLANK)[:1] in (b"[", b"{")


def is_log(blob: Blob) -> bool:
    """Whether the bytes begin as an array of events does, and not only as JSON."""
    head = bytes(blob.data[: 1 << 16])
    return head.lstrip(_BLANK)[:1] == b"[" and b'"imr"' in head


def read(blob: Blob) -> tuple[Event, ...]:
    """Return the events of the log in `blob`; MalformedError, UnsupportedError."""
    raw = parse(blob)
    if not isinstance(raw, list):
        hint = "the array alone is read: jq '.event_log | fromjson? // .'"
        raise UnsupportedError(
            "a JSON object, expected an array of events", at=blob.name, hint=hint
        )
    if len(raw) > MOST_EVENTS:
        raise MalformedError(f"more than {MOST_EVENTS} events", at=blob.name)
    return tuple(_event(one, n + 1, f"{blob.name}: [{n}]") for n, one in enumerate(raw))


def preimage(name: str, payload: bytes, version: int) -> bytes:
    """
    Return what is hashed of a runtime event, `version` 1 or 2.

    1: type (u32, little endian) ":" name ":" payload.  2: canonical JSON of name, payload and
    type, in this order (RFC 8785); the version itself is not hashed.
    """
    if version == 1:
        return b":".join((RUNTIME.to_bytes(4, "little"), name.encode(), payload))
    told = {"name": name, "payload": payload.hex(), "type": RUNTIME}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def digest_of(name: str, payload: bytes, version: int) -> bytes:
    """Return the SHA-384 of a runtime event."""
    from hashlib import sha384

    return sha384(preimage(name, payload, version)).digest()


def parse(blob: Blob) -> Json:
    """Return the JSON that a file contains; MalformedError."""
    try:
        return text.parse_line(bytes(blob.data).decode())
    except UnicodeDecodeError as error:
        raise MalformedError("not UTF-8 text", at=blob.where(error.start)) from None
    except json.JSONDecodeError as error:
        problem = f"not JSON: {error.msg.lower()}"
        raise MalformedError(problem, at=f"{blob.name}:{error.lineno}") from None
    except RecursionError:
        raise MalformedError("nested too deep", at=blob.name) from None
    except ValueError as error:
        raise MalformedError(str(error) or "a duplicate key", at=blob.name) from None


def _event(raw: Json, number: int, at: str) -> Event:
    """Return one event; MalformedError names the key."""
    if not isinstance(raw, dict):
        raise MalformedError("not an object", at=at)
    for key in raw:
        if key not in _KEYS:
            raise MalformedError(f"unknown key {key[:40]!r}", at=at)
    for key in _NEEDED:
        if key not in raw:
            raise MalformedError(f"has no {key}", at=at)
    kind, name, version = _number(raw, "event_type", at), _name(raw, at), _version(raw, at)
    payload, digest = _bytes(raw, "event_payload", at), _bytes(raw, "digest", at)
    computed = not digest and kind == RUNTIME
    if computed:
        digest = digest_of(name, payload, version)
    if len(digest) != DIGEST_SIZE:
        problem = f"{len(digest)} bytes, expected the {DIGEST_SIZE} of SHA-384"
        raise MalformedError(problem, at=f"{at}.digest")
    wanted = preimage(name, payload, version) if kind == RUNTIME else None
    for key in PREIMAGES:
        if raw.get(key) is not None and _bytes(raw, key, at) != wanted:
            problem = "does not match the name, payload and version of this runtime event"
            raise MalformedError(problem, at=f"{at}.{key}")
    mr_index = _number(raw, "imr", at) + 1
    return Event(number, at, mr_index, kind, digest, payload, (), name, version, computed)


def _version(raw: Mapping[str, Json], at: str) -> int:
    return _number(raw, "version", at) if "version" in raw else 1


def _number(raw: Mapping[str, Json], key: str, at: str) -> int:
    value = raw[key]
    low, high = _BOUNDS[key]
    if type(value) is not int or not low <= value <= high:
        raise MalformedError(f"not an integer of {low} to {high}", at=f"{at}.{key}")
    return value


def _name(raw: Mapping[str, Json], at: str) -> str:
    value = raw["event"]
    if not isinstance(value, str) or any("\ud800" <= c <= "\udfff" for c in value):
        raise MalformedError("not a string of Unicode", at=f"{at}.event")
    return value


def _bytes(raw: Mapping[str, Json], key: str, at: str) -> bytes:
    try:
        return hex_string(raw.get(key, ""))
    except ValueError as error:
        raise MalformedError(str(error), at=f"{at}.{key}") from None
