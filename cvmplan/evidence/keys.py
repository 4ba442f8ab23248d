"""
ECDSA keys from files, signatures made and verified.

Keys are PEM or DER as OpenSSL writes them: private ones traditional or PKCS #8, public ones
SubjectPublicKeyInfo (RFC 5480, RFC 5958).  Signatures in DER are RFC 3279's Ecdsa-Sig-Value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, MalformedError, UnsupportedError

CURVES = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1}
HASHES = {"P-256": hashes.SHA256, "P-384": hashes.SHA384}
T = TypeVar("T")
ORDER_END = 1 << 384
LONGEST = 1 << 16  # bytes of a file that may be a key


def private_key(blob: Blob, passphrase: Callable[[], bytes]) -> ec.EllipticCurvePrivateKey:
    """
    Return the P-384 key that a PEM or DER file holds.

    `passphrase` is asked where the key is encrypted.  MalformedError for what is no key or
    another passphrase's, UnsupportedError for a key of another kind.
    """
    data = _bounded(blob)
    if data.count(b"PRIVATE KEY-----") > 2:
        raise MalformedError("contains more than one private key", at=blob.name)
    load = _loader(data, serialization.load_pem_private_key, serialization.load_der_private_key)
    try:
        key = load(data, None)
    except TypeError:  # it is encrypted
        try:
            key = load(data, passphrase())
        except (ValueError, TypeError) as error:
            problem = "is an encrypted key, and the passphrase is wrong"
            raise ConfigError(problem, at=blob.name) from error
        except UnsupportedAlgorithm as error:
            raise _other(blob) from error
    except ValueError as error:
        hint = "'openssl ecparam -name secp384r1 -genkey -noout -out FILE' makes one"
        raise MalformedError("is not a PEM or DER private key", at=blob.name, hint=hint) from error
    except UnsupportedAlgorithm as error:
        raise _other(blob) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _other(blob)
    return key


def public_key(blob: Blob) -> ec.EllipticCurvePublicKey:
    """Return the P-384 public key of a PEM or DER file; MalformedError, UnsupportedError."""
    data = _bounded(blob)
    if data.count(b"-----BEGIN") > 1:
        raise MalformedError("contains more than one key", at=blob.name)
    if b"PRIVATE KEY-----" in data:
        raise ConfigError("is a private key, expected the public one", at=blob.name)
    load = _loader(data, serialization.load_pem_public_key, serialization.load_der_public_key)
    try:
        key = load(data)
    except ValueError as error:
        hint = "'openssl ec -in KEY -pubout' prints one"
        raise MalformedError("is not a PEM or DER public key", at=blob.name, hint=hint) from error
    except UnsupportedAlgorithm as error:
        raise _other(blob) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _other(blob)
    return key


def is_key(blob: Blob) -> bool:
    """Whether a file begins as a key does, PEM or DER, and not as an SEV certificate does."""
    return bytes(blob.data[:1]) == b"0" or b"-----BEGIN" in bytes(blob.data[:LONGEST])


def _bounded(blob: Blob) -> bytes:
    if len(blob) > LONGEST:
        raise MalformedError(f"{len(blob)} bytes are not a key", at=blob.name)
    return bytes(blob.data)


def _loader(data: bytes, pem: T, der: T) -> T:
    return pem if b"-----BEGIN" in data else der


def _other(blob: Blob) -> UnsupportedError:
    return UnsupportedError("not an ECDSA P-384 key", at=blob.name)


def point(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> tuple[int, int]:
    """Return the affine coordinates (x, y) of the public key."""
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    numbers = public.public_numbers()
    return numbers.x, numbers.y


def sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> tuple[int, int]:
    """Return (r, s) of an ECDSA signature of `message`, hashed with SHA-384."""
    return utils.decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA384())))


def read_der(blob: Blob) -> tuple[int, int]:
    """Return (r, s) of a P-384 signature in DER; MalformedError."""
    hint = "'openssl dgst -sha384 -sign KEY TBS' prints one"
    try:
        r, s = utils.decode_dss_signature(_bounded(blob))
    except ValueError as error:
        raise MalformedError("is not an ECDSA signature in DER", at=blob.name, hint=hint) from error
    if not (0 < r < ORDER_END and 0 < s < ORDER_END):
        raise MalformedError("is not an ECDSA P-384 signature", at=blob.name, hint=hint)
    return r, s


def is_signed(
    message: bytes, signature: tuple[int, int], point: tuple[int, int], curve: str = "P-384"
) -> bool:
    """
    Whether (r, s) is an ECDSA signature of `message` by the key (x, y) on `curve`.

    P-384 goes with SHA-384, P-256 with SHA-256.  A point that is not on the curve has signed
    nothing.
    """
    try:
        key = ec.EllipticCurvePublicNumbers(*point, CURVES[curve]()).public_key()
        key.verify(utils.encode_dss_signature(*signature), message, ec.ECDSA(HASHES[curve]()))
    except (InvalidSignature, ValueError):
        return False
    return True


def is_pss(message: bytes, signature: bytes, key: object) -> bool:
    """Whether `signature` is RSASSA-PSS with SHA-256 and a salt of 32 bytes, by an RSA key."""
    if not isinstance(key, rsa.RSAPublicKey):
        return False
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
    try:
        key.verify(signature, message, pss, hashes.SHA256())
    except (InvalidSignature, ValueError):
        return False
    return True
