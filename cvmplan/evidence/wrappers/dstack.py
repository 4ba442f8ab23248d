"""
dstack's attestation: a quote with its event log, in SCALE (version 0) or MessagePack (version 1).

Sources: Dstack-TEE/dstack 00d3a9f, dstack-attest/src/attestation.rs (VersionedAttestation::V0,
AttestationQuote::DstackTdx, TdxQuote) and 05bc741, v1.rs (Attestation, PlatformEvidence);
cc-eventlog/src/tdx.rs (TdxEvent: imr, event_type, digest, event, event_payload); SCALE: compact
lengths, strings and vectors behind their length.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, TruncatedError, UnsupportedError
from cvmplan.documents.text import check_values
from cvmplan.evidence.wrappers.documents import Plain
from cvmplan.evidence.wrappers.members import as_json, pieces
from cvmplan.evidence.wrappers.piece import Inside, Unwrapped
from cvmplan.platforms.tdx import quote

MOST_PACKED: Final = 4 << 20  # bytes of MessagePack: a quote as numbers, and an event log
MOST_EVENTS: Final = 4096
_MAPS: Final = range(0x81, 0x90)  # MessagePack, "fixmap", not empty
_MODES: Final = {1: 2, 2: 4}  # SCALE: low two bits of a length to its bytes, where it is not short


def is_scale(blob: Blob) -> bool:
    """Whether the bytes are an attestation of version 0 that has a quote."""
    try:
        inner, _ = _vector(blob, 2)
    except (TruncatedError, MalformedError):
        return False
    return bytes(blob.data[:2]) == bytes(2) and quote.is_quote(inner)


def scale(blob: Blob, inside: Inside) -> list[Unwrapped]:
    """Return the quote of an attestation of version 0, with its event log."""
    inner, at = _vector(blob, 2)
    log = _log(blob, at)
    return [
        one._replace(how=("dstack attestation", *one.how), event_log=one.event_log or log)
        for one in inside(inner)
    ]


def _length(blob: Blob, at: int) -> tuple[int, int]:
    """Return a compact length, and where what follows begins; TruncatedError, MalformedError."""
    mode = blob.copy(at, at + 1)[0] & 3
    if mode == 3:
        raise MalformedError("a length of more than 30 bits", at=blob.where(at))
    size = _MODES.get(mode, 1)
    return int.from_bytes(blob.copy(at, at + size), "little") >> 2, at + size


def _vector(blob: Blob, at: int) -> tuple[Blob, int]:
    """Return the bytes of a vector or a string, and where they end."""
    length, start = _length(blob, at)
    return blob.slice(start, start + length), start + length


def _log(blob: Blob, at: int) -> Blob | None:
    """Return the events of a vector as the JSON that dstack writes of them; None for none."""
    count, at = _length(blob, at)
    if count > MOST_EVENTS:
        raise MalformedError(f"{count} events, at most {MOST_EVENTS}", at=blob.where(at))
    events: list[Any] = []
    for _ in range(count):
        numbers = blob.copy(at, at + 8)
        digest, at = _vector(blob, at + 8)
        name, at = _vector(blob, at)
        payload, at = _vector(blob, at)
        events.append(
            {
                "imr": int.from_bytes(numbers[:4], "little"),
                "event_type": int.from_bytes(numbers[4:], "little"),
                "digest": bytes(digest.data),
                "event": bytes(name.data).decode(errors="replace"),
                "event_payload": bytes(payload.data),
            }
        )
    return Blob(f"{blob.name}: event log", memoryview(as_json(events))) if events else None


def is_packed(blob: Blob) -> bool:
    """Whether the bytes are a map in MessagePack with what an attestation of version 1 has."""
    head = bytes(blob.data[:64])
    return head[:1] != b"" and head[0] in _MAPS and b"\xa7version" in head[:12]


def packed(blob: Blob, inside: Inside) -> list[Unwrapped]:
    """Return the evidence of an attestation of version 1."""
    try:
        import msgpack
    except ImportError:
        hint = "pip install 'cvmplan[cbor]'"
        problem = "MessagePack needs the package msgpack"
        raise UnsupportedError(problem, at=blob.name, hint=hint) from None
    if len(blob) > MOST_PACKED:
        raise MalformedError(f"more than {MOST_PACKED >> 20} MiB of MessagePack", at=blob.name)
    try:
        document = msgpack.unpackb(bytes(blob.data), strict_map_key=True)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise MalformedError("is not MessagePack", at=blob.name) from error
    plain = Plain(blob.name, MOST_PACKED, numbers=True).of(document, 0)
    check_values(plain, blob.name)
    return list(_with_how(pieces(blob, plain, inside, "MessagePack")))


def _with_how(found: list[Unwrapped]) -> Iterator[Unwrapped]:
    for one in found:
        yield one._replace(how=("dstack attestation", *one.how))
