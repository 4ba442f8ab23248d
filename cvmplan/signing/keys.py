"""
Keys from files: P-384, in PEM or DER.

What the library says about a bad file becomes one of our errors, with the file's name.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cvmplan.blob import Blob
from cvmplan.errors import ConfigError, MalformedError

LARGEST = 1 << 16  # bytes of a key file
_BAD = (ValueError, TypeError, UnsupportedAlgorithm)


def private_key(blob: Blob, passphrase: Callable[[], bytes]) -> ec.EllipticCurvePrivateKey:
    """
    Return the P-384 private key that a file holds, PEM or DER (PKCS #8 or RFC 5915).

    `passphrase` is asked where the file is encrypted, and nowhere else.  MalformedError for
    a file that holds no private key, ConfigError for another key or passphrase.
    """
    data = _data(blob)
    pem = b"-----BEGIN" in data
    load = serialization.load_pem_private_key if pem else serialization.load_der_private_key
    if data.count(b"PRIVATE KEY-----") > 2:
        raise MalformedError("holds more than one private key", at=blob.name)
    try:
        key = load(data, None)
    except TypeError:  # it is encrypted
        secret = passphrase()
        try:
            key = load(data, secret)
        except _BAD:
            raise ConfigError("the passphrase is wrong, or the key damaged", at=blob.name) from None
    except (ValueError, UnsupportedAlgorithm):
        raise MalformedError("holds no private key that can be read", at=blob.name) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("is no key on an elliptic curve, want P-384", at=blob.name)
    _check_curve(key.curve, blob)
    return key


def public_key(blob: Blob) -> ec.EllipticCurvePublicKey:
    """
    Return the P-384 public key that a file holds, PEM or DER (SubjectPublicKeyInfo).

    MalformedError for a file that holds none, ConfigError for another key or a private one.
    """
    data = _data(blob)
    pem = b"-----BEGIN" in data
    load = serialization.load_pem_public_key if pem else serialization.load_der_public_key
    if b"PRIVATE KEY-----" in data or (not pem and _is_private(data)):
        raise ConfigError("is a private key, want the public one", at=blob.name)
    if data.count(b"-----BEGIN") > 1:
        raise MalformedError("holds more than one public key", at=blob.name)
    try:
        key = load(data)
    except _BAD:
        raise MalformedError("holds no public key that can be read", at=blob.name) from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError("is no key on an elliptic curve, want P-384", at=blob.name)
    _check_curve(key.curve, blob)
    return key


def is_key(blob: Blob) -> bool:
    """Whether a file begins as a key does, PEM or DER, and not as an SEV certificate does."""
    return bytes(blob.data[:1]) == b"0" or b"-----BEGIN" in bytes(blob.data[:LARGEST])


def _data(blob: Blob) -> bytes:
    if len(blob) > LARGEST:
        raise MalformedError(f"{len(blob)} bytes, too many for a key", at=blob.name)
    return bytes(blob.data)


def _is_private(data: bytes) -> bool:
    try:
        serialization.load_der_private_key(data, None)
    except TypeError:  # it is encrypted
        return True
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def _check_curve(curve: ec.EllipticCurve, blob: Blob) -> None:
    if not isinstance(curve, ec.SECP384R1):
        raise ConfigError(f"is a key on {curve.name}, want P-384 (secp384r1)", at=blob.name)
