"""
Documents that have evidence: JSON, and CBOR where cbor2 is installed.

Sources: RFC 8259; RFC 8949; the names of members are those of `members`.  CBOR is what
veraison's configfs-tsm media type uses, and dstack's attestation of version 1.
"""

from __future__ import annotations

from typing import Any, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.documents.text import check_values, parse
from cvmplan.evidence.wrappers.members import pieces
from cvmplan.evidence.wrappers.piece import LARGEST, Inside, Unwrapped

DEEPEST_CBOR: Final = 16
MOST_CBOR: Final = 1 << 18  # bytes; with the event log of a TD, tens of kilobytes
_MAPS: Final = range(0xA1, 0xC0)  # RFC 8949, 3.1: major type 5, not empty
_SELF: Final = b"\xd9\xd9\xf7"  # RFC 8949, 3.4.6: self-described CBOR


def is_json(blob: Blob) -> bool:
    """Whether the bytes begin as a JSON object does."""
    return bytes(blob.data[:64]).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")


def json(blob: Blob, inside: Inside) -> list[Unwrapped]:
    """Return the evidence in a JSON object."""
    if len(blob) > LARGEST:
        raise MalformedError(f"more than {LARGEST >> 20} MiB of JSON", at=blob.name)
    return pieces(blob, parse(blob), inside, "JSON")


def is_cbor(blob: Blob) -> bool:
    """Whether the bytes begin as a map in CBOR does; asked last, since many others begin so."""
    head = bytes(blob.data[:4])
    return head.startswith(_SELF) or (head[:1] != b"" and head[0] in _MAPS)


def cbor(blob: Blob, inside: Inside) -> list[Unwrapped]:
    """Return the evidence in a map of CBOR."""
    try:
        import cbor2
    except ImportError:
        hint = "pip install 'cvmplan[cbor]'"
        raise UnsupportedError("CBOR needs the package cbor2", at=blob.name, hint=hint) from None
    if len(blob) > MOST_CBOR:
        raise MalformedError(f"more than {MOST_CBOR >> 10} KiB of CBOR", at=blob.name)
    try:
        document = cbor2.loads(bytes(blob.data))
    except (cbor2.CBORDecodeError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise MalformedError("is not CBOR", at=blob.name) from error
    plain = Plain(blob.name, MOST_CBOR).of(document, 0)
    check_values(plain, blob.name)
    return pieces(blob, plain, inside, "CBOR")


class Plain:
    """
    Values as maps, arrays, text and bytes; other values have no evidence and are None.

    `most` values are taken: shared references of CBOR (tags 28 and 29) may make much of little,
    or a circle.  `numbers`: integers are kept, since bytes are written as arrays of them.
    """

    def __init__(self, name: str, most: int, *, numbers: bool = False) -> None:
        self.name = name
        self.left = most
        self.kept = (str, bytes, int) if numbers else (str, bytes)

    def of(self, value: Any, depth: int) -> Any:
        """Return a value that is `depth` deep; MalformedError where there are too many."""
        self.left -= 1
        if depth > DEEPEST_CBOR or self.left < 0:
            problem = f"nested deeper than {DEEPEST_CBOR}, or with too many values"
            raise MalformedError(problem, at=self.name)
        if isinstance(value, dict):
            return {
                str(key)[:80]: self.of(one, depth + 1)
                for key, one in value.items()
                if isinstance(key, (str, int))
            }
        if isinstance(value, list):
            return [self.of(one, depth + 1) for one in value]
        return value if isinstance(value, self.kept) and not isinstance(value, bool) else None
