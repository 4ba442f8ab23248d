"""
COSE_Sign1 around a document, with the certificates of its signer.

Sources: RFC 9052, 4.2 and 4.4 (COSE_Sign1, Sig_structure); RFC 9053, 2.1 (ES384), RFC 8230
(PS384); RFC 9360 (x5chain); draft-ietf-rats-corim-11, "Signed CoRIM" (content type, corim-meta).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, MalformedError, MismatchError, UnsupportedError
from cvmplan.evidence.chains import MADE, Certificate

ES384, PS384 = -35, -38
RIM: Final = "application/rim+cbor"
_ALGORITHM, _CRITICAL, _CONTENT, _META, _CHAIN = 1, 2, 3, 8, 33  # of a protected header
_KNOWN: Final = {_ALGORITHM, _CRITICAL, _CONTENT, _META, _CHAIN}
_SIGN1: Final = 18  # tag
_SIZE: Final = 48  # bytes of r, and of s
LARGEST: Final = 1 << 20  # bytes of a signed document
_PSS: Final = padding.PSS(padding.MGF1(hashes.SHA384()), hashes.SHA384.digest_size)
Key: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Signed(NamedTuple):
    """
    A COSE_Sign1 that was read: what is signed, the header, the certificates in DER.

    `content` is the type of what is signed, None where it is not said; `validity` is that of the
    signature, as corim-meta has it.
    """

    payload: bytes
    protected: bytes
    signature: bytes
    algorithm: int
    chain: tuple[bytes, ...]
    content: object = None
    validity: object = None


def private_key(blob: Blob) -> Key:
    """
    Return the key of a PEM or DER file: ECDSA P-384, or RSA of 2048 bits and more.

    ConfigError where it is encrypted, MalformedError for what is no key, UnsupportedError.
    """
    data = bytes(blob.data[: 1 << 16])
    pem = data.lstrip().startswith(b"-----BEGIN")
    load = serialization.load_pem_private_key if pem else serialization.load_der_private_key
    try:
        key = load(data, None)
    except TypeError:
        hint = "'openssl pkey -in KEY' writes it without a passphrase"
        raise ConfigError("the key is encrypted", at=blob.name, hint=hint) from None
    except (ValueError, UnsupportedAlgorithm):
        raise MalformedError("is not a PEM or DER private key", at=blob.name) from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1):
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return key
    raise UnsupportedError("neither ECDSA P-384 nor RSA of 2048 bits and more", at=blob.name)


def sign(payload: bytes, key: Key, chain: Sequence[Certificate], signer: str) -> bytes:
    """
    Return a COSE_Sign1 of `payload`, whose chain begins with the certificate of `key`.

    ES384 for an ECDSA key, PS384 for RSA; `signer` is the name in corim-meta.  ConfigError
    where the first certificate is of another key.
    """
    cbor2 = library()
    if chain[0].parsed.public_key() != key.public_key():
        raise ConfigError("the first certificate is of a different key", at="--cert")
    algorithm = ES384 if isinstance(key, ec.EllipticCurvePrivateKey) else PS384
    ders = [one.parsed.public_bytes(serialization.Encoding.DER) for one in chain]
    header = {
        _ALGORITHM: algorithm,
        _CONTENT: RIM,
        _META: cbor2.dumps({0: {0: signer}}, canonical=True),
        _CHAIN: ders,
    }
    protected = cbor2.dumps(header, canonical=True)
    signature = _signature(key, _to_be_signed(cbor2, protected, payload))
    made: bytes = cbor2.dumps(
        cbor2.CBORTag(_SIGN1, [protected, {}, payload, signature]), canonical=True
    )
    return made


def _to_be_signed(cbor2: Any, protected: bytes, payload: bytes) -> bytes:
    """Return the Sig_structure that a signature is over."""
    made: bytes = cbor2.dumps(["Signature1", protected, b"", payload], canonical=True)
    return made


def _signature(key: Key, message: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, _PSS, hashes.SHA384())
    r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA384())))
    return r.to_bytes(_SIZE, "big") + s.to_bytes(_SIZE, "big")


def read(blob: Blob) -> Signed:
    """Return what a COSE_Sign1 says, not verified; MalformedError, UnsupportedError."""
    cbor2 = library()
    if len(blob) > LARGEST:
        raise MalformedError(f"more than {LARGEST >> 20} MiB of COSE", at=blob.name)
    try:
        found = cbor2.loads(bytes(blob.data))
        protected, _, payload, signature = found.value
        header = cbor2.loads(protected)
        algorithm, chain = header[_ALGORITHM], header.get(_CHAIN, [])
        parts = (payload, protected, signature)
        validity = cbor2.loads(header[_META]).get(1) if _META in header else None
        unknown = set(header.get(_CRITICAL, ())) - _KNOWN
    except Exception as error:
        raise MalformedError("is not a COSE_Sign1 with a payload", at=blob.name) from error
    ders = chain if isinstance(chain, list | tuple) else [chain]
    good = all(isinstance(one, bytes) for one in (*parts, *ders)) and found.tag == _SIGN1
    if not good or algorithm not in (ES384, PS384):
        raise UnsupportedError(
            "not a COSE_Sign1 with ES384 or PS384 and a payload inside", at=blob.name
        )
    if not bytes(blob.data).endswith(signature):
        raise MalformedError("does not end with its signature", at=blob.name)
    if unknown:
        raise UnsupportedError(f"critical header {next(iter(unknown))!r:.40}", at=blob.name)
    return Signed(*parts, algorithm, tuple(ders), header.get(_CONTENT), validity)


def check_validity(validity: Any, at: datetime, place: str) -> None:
    """
    Raise MismatchError where a validity-map does not contain the time `at`.

    It has 0: not before, if anything, and 1: not after, each a time of CBOR, as draft-ietf-rats-
    corim-11 has it.  MalformedError for others.
    """
    if validity is None:
        return
    try:
        begin, end = (
            one if one is None or isinstance(one, datetime) else datetime.fromtimestamp(one, UTC)
            for one in (validity.get(0), validity[1])
        )
        early, late = begin is not None and at < begin, end is None or at > end
    except Exception as error:
        raise MalformedError("has a malformed validity", at=place) from error
    if early or late:
        raise MismatchError(f"is valid {f'from {begin} ' if begin else ''}to {end}", at=place)


def is_signed(found: Signed, one: Certificate) -> bool:
    """Whether the key of a certificate signed it."""
    message = _to_be_signed(library(), found.protected, found.payload)
    key = one.parsed.public_key()
    try:
        if isinstance(key, rsa.RSAPublicKey) and found.algorithm == PS384:
            key.verify(found.signature, message, _PSS, hashes.SHA384())
        elif isinstance(key, ec.EllipticCurvePublicKey) and found.algorithm == ES384:
            if len(found.signature) != 2 * _SIZE:
                return False
            r, s = found.signature[:_SIZE], found.signature[_SIZE:]
            numbers = int.from_bytes(r, "big"), int.from_bytes(s, "big")
            key.verify(utils.encode_dss_signature(*numbers), message, ec.ECDSA(hashes.SHA384()))
        else:
            return False
    except (InvalidSignature, *MADE):
        return False
    return True


def library() -> Any:
    """Return the library of CBOR; UnsupportedError where it is not installed."""
    try:
        import cbor2
    except ImportError:
        hint = "pip install 'cvmplan[corim]'"
        raise UnsupportedError("COSE needs the package cbor2", at="--key", hint=hint) from None
    return cbor2
