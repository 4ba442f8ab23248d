"""
The ID block of an SNP launch and what authenticates it, as the firmware reads them.

Source: AMD 56860, SEV-SNP Firmware ABI, tables "Structure of the ID Block", "Structure of the
ID Authentication Information Structure", and chapter 10 for keys and signatures of ECDSA P-384
with SHA-384.  Numbers are little-endian and padded with zeros at their end, whatever their length.
Nothing here computes a signature.
"""

from __future__ import annotations

from hashlib import sha384
from struct import Struct
from typing import ClassVar, Final, NamedTuple

from cvmplan.core.blob import Blob, R
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.records import Frozen, record

VERSION: Final = 1
ECDSA_P384_SHA384: Final = 1
P384: Final = 2  # number of the curve
NUMBER: Final = 72  # bytes in which a number stands


class Point(NamedTuple):
    """A public key: affine coordinates on P-384."""

    x: int
    y: int


class Signature(NamedTuple):
    """An ECDSA signature."""

    r: int
    s: int


@record
class IdBlock(Frozen):
    """What the owner of a guest promises about its launch; these 96 bytes are signed."""

    LAYOUT: ClassVar = Struct("<48s16s16sIIQ")
    ld: bytes
    family_id: bytes
    image_id: bytes
    version: int
    guest_svn: int
    policy: int


@record
class IdAuth(Frozen):
    """Signature of the ID block, its key, and the author's signature of that key: 4096 bytes."""

    LAYOUT: ClassVar = Struct("<II56s512s1028s60s512s1028s892s")
    id_key_algo: int
    auth_key_algo: int
    reserved_008: bytes
    id_block_sig: bytes
    id_key: bytes
    reserved_644: bytes
    id_key_sig: bytes
    author_key: bytes
    reserved_c84: bytes


@record
class EcdsaKey(Frozen):
    """A public key, 1028 bytes."""

    LAYOUT: ClassVar = Struct("<I72s72s880s")
    curve: int
    qx: bytes
    qy: bytes
    reserved: bytes


@record
class EcdsaSignature(Frozen):
    """A signature, 512 bytes."""

    LAYOUT: ClassVar = Struct("<72s72s368s")
    r: bytes
    s: bytes
    reserved: bytes


def key_bytes(point: Point) -> bytes:
    """Return a public key as the firmware reads it, 1028 bytes; the author signs these."""
    return bytes(EcdsaKey.LAYOUT.pack(P384, _number(point.x), _number(point.y), b""))


def signature_bytes(signature: Signature) -> bytes:
    """Return a signature as the firmware reads it, 512 bytes."""
    return bytes(EcdsaSignature.LAYOUT.pack(_number(signature.r), _number(signature.s), b""))


def _number(value: int) -> bytes:
    return value.to_bytes(NUMBER, "little")


def key_digest(key: bytes) -> bytes:
    """Return what a report names as ID_KEY_DIGEST or AUTHOR_KEY_DIGEST: SHA-384, 48 bytes."""
    return sha384(key).digest()


def read_block(blob: Blob) -> IdBlock:
    """Return the ID block that `blob` is; MalformedError, UnsupportedError for its version."""
    block: IdBlock = _whole(IdBlock, blob)
    if block.version != VERSION:
        problem = f"an ID block of version {block.version}"
        raise UnsupportedError(problem, at=blob.where(0x50), hint="supported: 1")
    return block


def read_auth(blob: Blob) -> IdAuth:
    """
    Return the ID authentication information that `blob` is; MalformedError, UnsupportedError.

    Keys and signatures in it are read by `read_key` and `read_signature`.
    """
    auth: IdAuth = _whole(IdAuth, blob)
    for name, at in (("reserved_008", 0x8), ("reserved_644", 0x644), ("reserved_c84", 0xC84)):
        _zero(getattr(auth, name), blob.where(at))
    _known_algorithm(auth.id_key_algo, blob.where(0))
    if has_author(auth):
        _known_algorithm(auth.auth_key_algo, blob.where(4))
    elif auth.auth_key_algo not in (0, ECDSA_P384_SHA384):
        raise _unknown_algorithm(auth.auth_key_algo, blob.where(4))
    return auth


def has_author(auth: IdAuth) -> bool:
    """Whether there is an author key, or anything in its place."""
    return any(auth.author_key) or any(auth.id_key_sig)


def key_digests(auth: IdAuth) -> tuple[bytes, bytes | None]:
    """Return the digests of the ID key and of the author key, as reports have them: 48 bytes."""
    author = key_digest(auth.author_key) if has_author(auth) else None
    return key_digest(auth.id_key), author


def read_key(blob: Blob) -> Point:
    """Return the public key that `blob`, 1028 bytes, is; MalformedError, UnsupportedError."""
    key: EcdsaKey = _whole(EcdsaKey, blob)
    if key.curve != P384:
        problem = f"a key on the curve with number {key.curve}"
        raise UnsupportedError(problem, at=blob.where(0), hint="supported: 2, P-384")
    _zero(key.reserved, blob.where(0x94))
    return Point(*(int.from_bytes(number, "little") for number in (key.qx, key.qy)))


def read_signature(blob: Blob) -> Signature:
    """Return the signature that `blob`, 512 bytes, is; MalformedError."""
    written: EcdsaSignature = _whole(EcdsaSignature, blob)
    _zero(written.reserved, blob.where(0x90))
    return Signature(*(int.from_bytes(number, "little") for number in (written.r, written.s)))


def _whole(kind: type[R], blob: Blob) -> R:
    """Return the record of a `kind` that is all of `blob`; MalformedError."""
    if len(blob) != kind.LAYOUT.size:
        problem = f"{len(blob)} bytes, {NAMES[kind]} has {kind.LAYOUT.size}"
        raise MalformedError(problem, at=blob.name)
    return blob.take(kind, 0)


def _zero(reserved: bytes, at: str) -> None:
    if any(reserved):
        raise MalformedError("reserved bytes are not zero", at=at)


def _known_algorithm(number: int, at: str) -> None:
    if number != ECDSA_P384_SHA384:
        raise _unknown_algorithm(number, at)


def _unknown_algorithm(number: int, at: str) -> UnsupportedError:
    hint = "supported: 1, ECDSA P-384 with SHA-384"
    return UnsupportedError(f"a key algorithm with number {number}", at=at, hint=hint)


NAMES: Final = {
    IdBlock: "an ID block",
    IdAuth: "an ID authentication",
    EcdsaKey: "a public key",
    EcdsaSignature: "a signature",
}
