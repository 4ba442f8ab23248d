"""
The session between a guest owner and the SEV firmware, and the launch measurement it protects.

A session brings the owner's transport keys (TEK, TIK) to the firmware: both sides agree on a
secret, derive a key that encrypts them and a key that authenticates them, and the TIK itself
authenticates the policy.  What LAUNCH_MEASURE returns is a MAC under the TIK.

Source: AMD 55766, SEV API, "Keys", "LAUNCH_START", "LAUNCH_MEASURE" and appendix C; amd/AMD-ASPFW
3ca6650, fw/psp_bl_uapps/sev_uapp/src: nist_kdf.c, sev_channel.c, sev_guest.c `sev_guest_measure`,
sev_cert.c; virtee/sev 01ab36f, src/session/mod.rs.  Nothing here encrypts: that is
`sev_session.crypto`.
"""

from __future__ import annotations

import hmac
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterator
from struct import Struct, pack
from typing import ClassVar, Final, NamedTuple

from cvmplan.core import blob
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, MalformedError, UnsupportedError
from cvmplan.core.records import Frozen, record

KEY_SIZE: Final = 16  # TEK, TIK, KEK, KIK, the master secret, nonces and the IV
DIGEST_SIZE: Final = 32
MEASURE: Final = 4  # what the MAC of LAUNCH_MEASURE begins with
FIRST_API: Final = (0, 17)  # before it that MAC had no version: AMDESE/sev-tool 027e85f
PDH, PEK, NO_USAGE = 0x1003, 0x1002, 0x1000
USAGES: Final = {
    0x0: "ARK", 0x13: "ASK", NO_USAGE: "none", 0x1001: "OCA", PEK: "PEK", PDH: "PDH", 0x1004: "CEK",
}  # fmt: skip
NO_ALGORITHM, ECDH_SHA256 = 0x0, 0x3
ALGORITHMS: Final = {
    NO_ALGORITHM: "none", 0x1: "RSA with SHA-256", 0x2: "ECDSA with SHA-256",
    ECDH_SHA256: "ECDH with SHA-256", 0x101: "RSA with SHA-384", 0x102: "ECDSA with SHA-384",
    0x103: "ECDH with SHA-384",
}  # fmt: skip
ECDH: Final = (ECDH_SHA256, 0x103)
ECDSA: Final = (0x2, 0x102)
P384: Final = 2
COORDINATE: Final = 48  # bytes of P-384; a certificate has room for 72
_LONGEST_TEXT: Final = 4096  # bytes of a file that is looked at as base64


class SessionKeys(NamedTuple):
    """The transport keys: TEK encrypts what the owner sends, TIK authenticates it; 16 bytes."""

    tek: bytes
    tik: bytes


class WrappingKeys(NamedTuple):
    """What a session's secret gives: KEK encrypts the transport keys, KIK authenticates them."""

    kek: bytes
    kik: bytes


@record
class Session(Frozen):
    """The session buffer of LAUNCH_START: AMD 55766, table "Session Data Buffer"."""

    LAYOUT: ClassVar = Struct("<16s32s16s32s32s")
    nonce: bytes
    wrap_tk: bytes
    wrap_iv: bytes
    wrap_mac: bytes
    policy_mac: bytes

    def pack(self) -> bytes:
        """Return the 128 bytes that firmware takes."""
        return blob.pack(self)


@record
class Certificate(Frozen):
    """An SEV certificate with a key for key agreement: AMD 55766, appendix C.1, C.3 and C.4."""

    LAYOUT: ClassVar = Struct("<IBBHIII72s72s880sII512sII512s")
    version: int
    api_major: int
    api_minor: int
    reserved: int
    pubkey_usage: int
    pubkey_algo: int
    curve: int
    qx: bytes
    qy: bytes
    pubkey_reserved: bytes
    sig1_usage: int
    sig1_algo: int
    sig1: bytes
    sig2_usage: int
    sig2_algo: int
    sig2: bytes

    @property
    def point(self) -> tuple[int, int]:
        """The public key's coordinates."""
        return int.from_bytes(self.qx, "little"), int.from_bytes(self.qy, "little")

    def pack(self) -> bytes:
        """Return the 2084 bytes that firmware takes."""
        return blob.pack(self)


def kdf(key: bytes, size: int, label: str, context: bytes = b"") -> bytes:
    """
    Return `size` bytes derived from `key`.

    NIST SP 800-108, section 5.1, counter mode with HMAC-SHA-256; counter and number of bits
    are 32-bit and little-endian (nist_kdf.c).
    """
    fixed = label.encode() + b"\0" + context + pack("<I", 8 * size)
    blocks = range(1, -(-size // DIGEST_SIZE) + 1)
    return b"".join(_mac(key, pack("<I", i) + fixed) for i in blocks)[:size]


def master_secret(shared: bytes, nonce: bytes) -> bytes:
    """Return the 16-byte master secret; `shared` is the agreed x coordinate, big-endian."""
    return kdf(shared, KEY_SIZE, "sev-master-secret", nonce)


def wrapping_keys(shared: bytes, nonce: bytes) -> WrappingKeys:
    """Return KEK and KIK, 16 bytes each, of the secret `shared` and the session's 16-byte nonce."""
    master = master_secret(shared, _sized("nonce", nonce))
    return WrappingKeys(kdf(master, KEY_SIZE, "sev-kek"), kdf(master, KEY_SIZE, "sev-kik"))


def wrap_mac(kik: bytes, wrap_tk: bytes) -> bytes:
    """Return WRAP_MAC, 32 bytes: of the encrypted transport keys, under the KIK."""
    return _mac(kik, wrap_tk)


def policy_mac(tik: bytes, policy: int) -> bytes:
    """Return POLICY_MAC, 32 bytes: of the guest policy, under the TIK; ConfigError."""
    return _mac(_sized("TIK", tik), pack("<I", guest_policy(policy)))


def launch_measurement(
    digest: bytes, tik: bytes, nonce: bytes, api: tuple[int, int], build: int, policy: int
) -> bytes:
    """
    Return the 32 bytes that LAUNCH_MEASURE answers (MEASURE, without MNONCE behind it).

    `digest` is the launch digest (32 bytes), `nonce` the firmware's MNONCE (16 bytes), `api` and
    `build` the firmware's version.  ConfigError; UnsupportedError before API 0.17.
    """
    if api < FIRST_API:
        raise UnsupportedError(
            f"firmware API {api[0]}.{api[1]} measures in a different way", hint="known from 0.17 on"
        )
    if not all(0 <= number <= 0xFF for number in (*api, build)):
        raise ConfigError(f"version {api[0]}.{api[1]} build {build}: each is at most 255")
    version = bytes((MEASURE, *api, build))
    body = pack("<I", guest_policy(policy)) + _sized("digest", digest, DIGEST_SIZE)
    return _mac(_sized("TIK", tik), version + body + _sized("nonce", nonce))


def guest_policy(policy: int) -> int:
    """Return `policy` if it is one: SEV's are 32 bits; ConfigError."""
    if not 0 <= policy <= 0xFFFFFFFF:
        raise ConfigError(f"{policy:#x} is not an SEV policy, which has 32 bits", at="policy")
    return policy


def read_session(blob: Blob) -> Session:
    """Return the session that a file holds, as bytes or base64; MalformedError."""
    size = Session.LAYOUT.size
    return _binary(blob, size, f"an SEV session has {size}").take(Session, 0)


def read_key(blob: Blob) -> bytes:
    """Return the transport key (TEK or TIK) that a file holds: 16 bytes; MalformedError."""
    if len(blob) != KEY_SIZE:
        problem = f"{len(blob)} bytes, a transport key has {KEY_SIZE}"
        hint = "store the raw bytes: no hex, no base64, no line break"
        raise MalformedError(problem, at=blob.name, hint=hint)
    return bytes(blob.data)


def read_certificate(blob: Blob) -> Certificate:
    """
    Return the certificate of a PDH or of a guest owner's key, as bytes or base64.

    Its signatures are not verified.  MalformedError, UnsupportedError for its version.
    """
    size = Certificate.LAYOUT.size
    data = _binary(blob, size, f"an SEV certificate has {size}")
    found = data.take(Certificate, 0)
    if found.version != 1:
        problem = f"an SEV certificate of version {found.version}"
        raise UnsupportedError(problem, at=data.where(0), hint="supported: 1")
    wrong = next(_wrong(found), None)
    if wrong:
        offset, problem = wrong
        raise MalformedError(problem, at=data.where(offset))
    return found


def certificate(x: int, y: int) -> Certificate:
    """
    Return the unsigned certificate of a guest owner's public key, which LAUNCH_START takes.

    Firmware looks at the key and not at signatures or API (sev_channel.c, sev_cert.c
    `sev_cert_sanity_check`).
    """
    qx, qy = (value.to_bytes(72, "little") for value in (x, y))
    key = PDH, ECDH_SHA256, P384, qx, qy, bytes(880)
    none = NO_USAGE, NO_ALGORITHM, bytes(512)
    return Certificate(1, 0, 0, 0, *key, *none, *none)


def _wrong(found: Certificate) -> Iterator[tuple[int, str]]:
    """Yield (offset, problem) of all that is wrong in a certificate of version 1."""
    if found.reserved:
        yield 0x6, f"reserved bytes are {found.reserved:#x}, expected 0"
    if found.pubkey_usage != PDH:
        usage = _named(found.pubkey_usage, USAGES)
        yield 0x8, f"the key's usage is {usage}, expected {PDH:#x} (PDH)"
    if found.pubkey_algo not in ECDH:
        yield 0xC, f"the key's algorithm is {_named(found.pubkey_algo, ALGORITHMS)}, expected ECDH"
    if found.curve != P384:
        yield 0x10, f"curve {found.curve}, expected {P384} (P-384)"
    for offset, name, value in ((0x14, "x", found.qx), (0x5C, "y", found.qy)):
        if any(value[COORDINATE:]):
            yield offset + COORDINATE, f"coordinate {name} has more than 384 bits"
    if any(found.pubkey_reserved):
        yield 0xA4, "reserved bytes after the key are not zero"
    if (problem := _wrong_signature(found.sig1_usage, found.sig1_algo, found.sig1)) is not None:
        yield 0x414, problem
    if (problem := _wrong_signature(found.sig2_usage, found.sig2_algo, found.sig2)) is not None:
        yield 0x61C, problem


def _wrong_signature(usage: int, algo: int, signature: bytes) -> str | None:
    """Return what is wrong with the form of one signature, None where nothing is."""
    told = f"{_named(usage, USAGES)} with {_named(algo, ALGORITHMS)}"
    if usage not in USAGES or algo not in ALGORITHMS or algo in ECDH:
        return f"a signature by {told}"
    if (usage == NO_USAGE) != (algo == NO_ALGORITHM):
        return f"a signature by {told}: usage and algorithm do not agree"
    if algo == NO_ALGORITHM and any(signature):
        return "an unused signature is not zero"
    unused = signature[COORDINATE:72] + signature[72 + COORDINATE :]
    if algo in ECDSA and any(unused):
        return "reserved bytes of a signature are not zero"
    return None


def _binary(blob: Blob, size: int, want: str) -> Blob:
    """Return the `size` bytes that a file holds, itself or in base64; MalformedError."""
    if len(blob) == size:
        return blob
    if len(blob) <= _LONGEST_TEXT:
        try:
            data = b64decode(b"".join(bytes(blob.data).split()), validate=True)
        except Base64Error:
            data = b""
        if len(data) == size:
            return Blob(blob.name, memoryview(data))
    hint = "use the first certificate of a chain" if len(blob) > size else ""
    raise MalformedError(f"{len(blob)} bytes, {want}", at=blob.name, hint=hint)


def _named(number: int, names: dict[int, str]) -> str:
    return f"{number:#x} ({names.get(number, 'unknown')})"


def _sized(name: str, value: bytes, size: int = KEY_SIZE) -> bytes:
    if len(value) != size:
        raise ConfigError(f"{len(value)} bytes, expected {size}", at=name)
    return value


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")
