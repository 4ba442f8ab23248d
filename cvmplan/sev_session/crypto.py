"""
What the session with the SEV firmware needs of cryptography: key agreement and AES-CTR.

Source: AMD 55766, SEV API, "Keys"; amd/AMD-ASPFW 3ca6650, fw/psp_bl_uapps/sev_uapp/src:
ecdh.c `ecdh_key_agreement`, sev_channel.c `create_session`.
"""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from cvmplan.core.errors import ConfigError, MalformedError


def point_key(point: tuple[int, int], at: str) -> ec.EllipticCurvePublicKey:
    """Return the P-384 key of a point; MalformedError `at` where it is not on the curve."""
    try:
        return ec.EllipticCurvePublicNumbers(*point, ec.SECP384R1()).public_key()
    except ValueError:
        raise MalformedError("the public key is not a point of P-384", at=at) from None


def shared_secret(
    private: ec.EllipticCurvePrivateKey, public: ec.EllipticCurvePublicKey, at: str
) -> bytes:
    """
    Return the secret of ECDH on P-384: x of the common point, 48 bytes, big-endian.

    ConfigError `at` where both are of one key pair, which nobody shares.
    """
    if private.public_key().public_numbers() == public.public_numbers():
        raise ConfigError("belongs to the private key itself", at=at)
    return private.exchange(ec.ECDH(), public)


def aes_ctr(key: bytes, iv: bytes, data: bytes) -> bytes:
    """Return `data` encrypted or decrypted by AES-128-CTR; `iv` is the whole 16-byte counter."""
    try:
        cipher = Cipher(algorithms.AES128(key), modes.CTR(iv)).encryptor()
    except ValueError as error:
        raise ConfigError(f"no AES-128-CTR with this key and IV: {error}") from None
    return cipher.update(data) + cipher.finalize()


def same(found: bytes, wanted: bytes) -> bool:
    """Whether both are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(found, wanted)
