"""Bytes as text, before anybody knows what document it is."""

from __future__ import annotations

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError

_PIECE = 1 << 20


def is_text(blob: Blob) -> bool:
    """Whether the bytes look like text: no NUL near the start, and valid UTF-8 there."""
    head = bytes(blob.data[:1024])
    return bool(head.strip()) and b"\0" not in head and _decodes(head)


def _decodes(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return len(head) - error.start < 4 and len(head) == 1024
    return True


def decode(blob: Blob) -> str:
    """Return the text of `blob` without a byte order mark; MalformedError, at the first NUL too."""
    for start in range(0, len(blob), _PIECE):
        found = bytes(blob.data[start : start + _PIECE]).find(b"\0")
        if found >= 0:
            raise MalformedError("contains NUL, not text", at=blob.where(start + found))
    try:
        return bytes(blob.data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedError("not UTF-8 text", at=blob.where(error.start)) from None
