"""
Evidence as text: hex, base64 and base64url.

Source: RFC 4648.
"""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Final

from cvmplan.core.blob import Blob
from cvmplan.evidence.wrappers.piece import LARGEST, Inside, Unwrapped

_HEX: Final = re.compile(rb"(?:0x)?[0-9a-fA-F]+")
_BASE64: Final = re.compile(rb"(?:[A-Za-z0-9+/]+|[A-Za-z0-9_-]+)={0,2}")
_SPACE: Final = b" \t\r\n\v\f"


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
