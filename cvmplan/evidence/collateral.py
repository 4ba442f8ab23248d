"""
What Intel publishes about its platforms: TCB info, the identity of the TD QE, lists of
revocations, and the chains of those who sign them; read and not verified.

Read: the JSON in which dcap-qvl and PCCS clients keep all of it, the answers of Intel's PCS
(`{"tcbInfo": …, "signature": …}`, `{"enclaveIdentity": …, "signature": …}`) with the chains beside
them under the names of PCS's headers, lists in DER, PEM, hex or base64, chains in PEM.  Several
files are put together.

Sources: Intel PCS API version 4, "Get TDX TCB Info", "Get TD QE Identity", "Get PCK Cert CRL";
Phala-Network/dcap-qvl 0.7.0, QuoteCollateralV3.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, MalformedError
from cvmplan.core.values import printable
from cvmplan.documents import text
from cvmplan.evidence import certificates, revocation
from cvmplan.evidence.chains import Certificate
from cvmplan.evidence.revocation import Revocations

LARGEST: Final = 2 << 20  # bytes of one file
_SIGNATURE: Final = 64  # bytes
_DEEPEST: Final = 3  # documents in strings of documents
_TCB_INFO, _IDENTITY = "TCB info", "QE identity"
_BODIES: Final = {
    "tcbinfo": _TCB_INFO, "enclaveidentity": _IDENTITY, "qeidentity": _IDENTITY,
    "tdqeidentity": _IDENTITY,
}  # fmt: skip
_SIGNATURES: Final = {
    "tcbinfosignature": _TCB_INFO, "qeidentitysignature": _IDENTITY,
    "tdqeidentitysignature": _IDENTITY, "enclaveidentitysignature": _IDENTITY,
}  # fmt: skip
_LISTS: Final = ("pckcrl", "rootcacrl")
"""Names of members, in lower case and without other characters."""


class Signed(NamedTuple):
    """A document as it was signed, and its signature: two big-endian numbers of 32 bytes."""

    at: str
    data: bytes
    signature: bytes
    document: Any


class Collateral(NamedTuple):
    """What was read; `chain` are certificates in no order, `lists` are of revocations."""

    tcb_info: Signed
    identity: Signed
    certificates: tuple[Certificate, ...]
    lists: tuple[Revocations, ...]
    notes: tuple[str, ...] = ()


class _Parts(NamedTuple):
    bodies: dict[str, tuple[str, bytes]]
    signatures: dict[str, bytes]
    certificates: list[Certificate]
    lists: list[Revocations]
    notes: list[str]


def read(blobs: Iterable[Blob]) -> Collateral:
    """
    Return the collateral that files have together.

    MalformedError for what is none; ConfigError names the part that no file has.
    """
    parts = _Parts({}, {}, [], [], [])
    for blob in blobs:
        if len(blob) > LARGEST:
            raise MalformedError(f"{len(blob)} bytes are not collateral", at=blob.name)
        head = bytes(blob.data[:64]).lstrip()
        if head[:1] == b"{":
            _json(blob, parts, 0)
        elif b"BEGIN CERTIFICATE" in head:
            _chain(blob, parts)
        else:
            parts.lists.append(revocation.read(blob))
    for name in (_TCB_INFO, _IDENTITY):
        if name not in parts.bodies or name not in parts.signatures:
            missing = name if name not in parts.bodies else f"signature of the {name}"
            raise ConfigError(f"no {missing} in these files", at="--collateral")
    return Collateral(
        _signed(parts, _TCB_INFO),
        _signed(parts, _IDENTITY),
        tuple(parts.certificates),
        tuple(parts.lists),
        tuple(parts.notes),
    )


def _signed(parts: _Parts, name: str) -> Signed:
    at, data = parts.bodies[name]
    return Signed(at, data, parts.signatures[name], text.parse(Blob(at, memoryview(data))))


def _chain(blob: Blob, parts: _Parts) -> None:
    found = certificates.read(blob)
    parts.certificates.extend(found.certificates)
    parts.notes.extend(found.unread)


def _json(blob: Blob, parts: _Parts, depth: int) -> None:
    """Take the parts of a JSON object; a document inside a string is one as well."""
    if depth > _DEEPEST:
        raise MalformedError(f"more than {_DEEPEST} documents nested", at=blob.name)
    text.parse(blob)  # duplicate keys, depth and numbers are looked at
    holds = ""
    signature: tuple[str, Any] | None = None
    for key, value, raw in _members(text.decode(blob)):
        place = f"{blob.name}: {printable(key)[:40]}"
        name = "".join(one for one in key.lower() if one.isalnum())
        if name in _BODIES:
            holds = _BODIES[name]
            _body(place, holds, value, raw, parts, depth)
        elif name in _SIGNATURES:
            parts.signatures[_SIGNATURES[name]] = _number(value, place)
        elif name == "signature":
            signature = place, value
        elif name.endswith(("issuerchain", "certificatechain")):
            _chain(Blob(place, memoryview(unquote(_text(value, place)).encode())), parts)
        elif name in _LISTS:
            made = Blob(place, memoryview(_text(value, place).encode()))
            parts.lists.append(revocation.read(made))
    if signature is not None and holds:
        parts.signatures[holds] = _number(signature[1], signature[0])


def _body(place: str, kind: str, value: Any, raw: str, parts: _Parts, depth: int) -> None:
    """Take a TCB info or an identity: an object, its text, or PCS's answer as text."""
    data = value if isinstance(value, str) else raw
    made = Blob(place, memoryview(data.encode()))
    inner = text.parse(made)
    if isinstance(inner, dict) and "signature" in inner:
        _json(made, parts, depth + 1)
        return
    at, known = parts.bodies.setdefault(kind, (place, data.encode()))
    if known != data.encode():
        raise ConfigError(f"a second {kind}, and one at {at}", at=place)


def _members(document: str) -> Iterator[tuple[str, Any, str]]:
    """Yield (key, value, text of the value) of a JSON object, which was parsed before."""
    decoder, at = json.JSONDecoder(), document.index("{") + 1
    while True:
        at = _skip(document, at, ",")
        if document[at] == "}":
            return
        key, at = decoder.raw_decode(document, at)
        at = _skip(document, at, ":")
        value, end = decoder.raw_decode(document, at)
        yield key, value, document[at:end]
        at = end


def _skip(document: str, at: int, mark: str) -> int:
    while document[at].isspace() or document[at] == mark:
        at += 1
    return at


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise MalformedError("is not text", at=place)
    return value


def _number(value: Any, place: str) -> bytes:
    try:
        found = bytes.fromhex(_text(value, place))
    except ValueError:
        found = b""
    if len(found) != _SIGNATURE:
        raise MalformedError(f"is not a signature: {_SIGNATURE} bytes in hex", at=place)
    return found
