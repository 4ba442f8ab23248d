"""
Evidence as text: hex, base64 and base64url; and dstack's attestation, which wraps a quote.

Sources: RFC 4648; dstack, dstack-attest/src/attestation.rs, VersionedAttestation version 0 (SCALE:
the variants V0 and DstackTdx, a compact length, the quote).
"""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Final

from cvmplan.core.blob import Blob
from cvmplan.evidence.wrappers.piece import LARGEST, Inside, Unwrapped
from cvmplan.platforms.tdx import quote

_HEX: Final = re.compile(rb"(?:0x)?[0-9a-fA-F]+")
_BASE64: Final = re.compile(rb"(?:[A-Za-z0-9+/]+|[A-Za-z0-9_-]+)={0,2}")
_SPACE: Final = b" \t\r\n\v\f"
_MODES: Final = {1: 2, 2: 4}  # SCALE: low two bits of a length to its bytes, where it is not short


def decoded(data: bytes) -> tuple[str, bytes] | None:
    """Return how text is encoded, and the bytes; None where it is neither hex nor base64."""
    joined = data.translate(None, _SPACE)
    try:
        if _HEX.fullmatch(joined):
            return "hex", bytes.fromhex(joined.decode().removeprefix("0x"))
        if _BASE64.fullmatch(joined):
            digits = joined.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
            return "base64", b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except ValueError:
        pass
    return None


def is_text(blob: Blob) -> bool:
    """Whether the bytes can be hex or base64: letters and digits at their begin."""
    head = bytes(blob.data[:64]).translate(None, _SPACE)
    return 0 < len(blob) <= LARGEST and (not head or _BASE64.fullmatch(head) is not None)


def text(blob: Blob, inside: Inside) -> list[Unwrapped]:
    """Return what hex or base64 has; none where the text is neither."""
    found = decoded(bytes(blob.data))
    if found is None:
        return []
    how, data = found
    pieces = inside(Blob(blob.name, memoryview(data)))
    return [one._replace(how=(how, *one.how)) for one in pieces]


def _scale(blob: Blob) -> Blob | None:
    """Return the bytes of the first vector of a dstack attestation of version 0."""
    head = bytes(blob.data[:6])
    size = _MODES.get(head[2] & 3) if len(head) == 6 and head[:2] == bytes(2) else None
    if size is None:
        return None
    length, at = int.from_bytes(head[2 : 2 + size], "little") >> 2, 2 + size
    return blob.slice(at, at + length) if at + length <= len(blob) else None


def is_dstack(blob: Blob) -> bool:
    """Whether the bytes are an attestation of dstack that has a quote."""
    inner = _scale(blob)
    return inner is not None and quote.is_quote(inner)


def dstack(blob: Blob, inside: Inside) -> list[Unwrapped]:
    """Return the quote of an attestation of dstack."""
    inner = _scale(blob)
    pieces = inside(inner) if inner is not None else []
    return [one._replace(how=("dstack attestation", *one.how)) for one in pieces]
