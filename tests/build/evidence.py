"""Evidence with throw-away keys: certificate chains, SNP reports, TDX quotes, their wrappers."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256, sha384
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

BEGIN, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2034, 1, 1, tzinfo=UTC)
AMD = (  # AMD 57230: where the subject of each certificate says that AMD is
    (NameOID.COUNTRY_NAME, "US"), (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
    (NameOID.LOCALITY_NAME, "Santa Clara"), (NameOID.ORGANIZATION_NAME, "Advanced Micro Devices"),
    (NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
)  # fmt: skip
PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)


@dataclass(frozen=True)
class Signer:
    """A key and its certificate in DER."""

    name: str
    key: Any
    der: bytes
    place: bool = False

    @property
    def pin(self) -> str:
        """SHA-256 of its SubjectPublicKeyInfo."""
        public = self.key.public_key()
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return sha256(spki).hexdigest()

    @property
    def pem(self) -> bytes:
        body = b64encode(self.der).decode()
        lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
        return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n".encode()


@cache
def new_key(kind: str, use: str) -> Any:
    """A key for a use: made once, RSA being slow."""
    del use
    if kind == "RSA":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key({"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}[kind])


def certify(
    name: str,
    kind: str,
    issuer: Signer | None = None,
    *,
    ca: bool = True,
    begin: datetime = BEGIN,
    end: datetime = END,
    serial: int = 7,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    path_length: int | None = None,
    place: bool = False,
) -> Signer:
    """
    A certificate of `name`, signed by `issuer`, or by itself; AMD's by RSA-PSS SHA-384.

    `place`: its subject says where AMD is.
    """
    key = new_key(kind, name)
    by, by_name = (issuer.key, issuer.name) if issuer else (key, name)

    def named(common: str, whole: bool) -> x509.Name:
        said = [(NameOID.COMMON_NAME, common), *(AMD if whole else ())]
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in said])

    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name, place))
        .issuer_name(named(by_name, issuer.place if issuer else place))
        .public_key(key.public_key())
        .serial_number(serial or 7)
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(True, path_length), critical=True)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    pss = isinstance(by, rsa.RSAPrivateKey)
    hashed = hashes.SHA384() if pss else hashes.SHA256()
    made = builder.sign(by, hashed, rsa_padding=PSS if pss else None)
    der = made.public_bytes(Encoding.DER)
    return Signer(name, key, der if serial else without_serial(der, made, by), place)


def without_serial(der: bytes, made: x509.Certificate, by: Any) -> bytes:
    """The certificate with serial number 0, which the library does not make, signed by `by`."""
    tbs = made.tbs_certificate_bytes.replace(b"\x02\x01\x07", b"\x02\x01\x00", 1)
    assert isinstance(by, rsa.RSAPrivateKey)
    signature = by.sign(tbs, PSS, hashes.SHA384())
    return der.replace(made.tbs_certificate_bytes, tbs).replace(made.signature, signature)


def of_amd(last: str, value: bytes) -> tuple[x509.ExtensionType, bool]:
    """An extension of AMD's certificates by the end of its OID (AMD 57230)."""
    oid = x509.ObjectIdentifier(f"1.3.6.1.4.1.3704.1.{last}")
    return x509.UnrecognizedExtension(oid, value), False


def number(level: int) -> bytes:
    """An INTEGER of 0 to 255 in DER."""
    return bytes([2, 1, level]) if level < 0x80 else bytes([2, 2, 0, level])


SPLS = {"3.1": 0, "3.2": 1, "3.4": 2, "3.5": 3, "3.6": 4, "3.7": 5, "3.3": 6, "3.8": 7}
"""End of an SPL's OID to its byte in a TCB_VERSION of Milan and Genoa."""


def claims(
    leaf: str = "VCEK", tcb: bytes = bytes(8), chip: bytes = bytes(64), product: str = "Milan-B1"
) -> dict[str, bytes]:
    """What a VCEK's or VLEK's certificate says, by the ends of the OIDs."""
    named = product if leaf == "VCEK" else product.partition("-")[0]
    made = {"1": number(0), "2": bytes([0x16, len(named)]) + named.encode()}
    made |= {last: number(tcb[at]) for last, at in SPLS.items()}
    return made | ({"4": chip} if leaf == "VCEK" else {"5": b"\x16\x05cloud"})


def amd(
    leaf: str = "VCEK",
    kind: str = "P-384",
    line: str = "Milan",
    said: Mapping[str, bytes] | None = None,
    **changed: Any,
) -> list[Signer]:
    """
    A chain like AMD's, the signer's certificate first.

    `said` is what the signer's certificate says, and `changed` is of it.
    """
    ark = certify(f"ARK-{line}", "RSA", place=True)
    middle = f"SEV-{line}" if leaf == "VCEK" else f"SEV-VLEK-{line}"
    ask = certify(middle, "RSA", ark, path_length=0, place=True)
    own = {"ca": False, "serial": 0, "place": True, **changed}
    told = claims(leaf) if said is None else said
    own["extensions"] = [*(of_amd(*one) for one in told.items()), *own.get("extensions", ())]
    return [certify(f"SEV-{leaf}", kind, ask, **own), ask, ark]


def intel(kind: str = "P-256", **changed: Any) -> list[Signer]:
    """A chain like that of a PCK certificate."""
    from tests.build.intel import sgx_extension

    root = certify("Intel SGX Root CA", "P-256")
    ca = certify("Intel SGX PCK Platform CA", "P-256", root)
    own = {"ca": False, **changed}
    own["extensions"] = [sgx_extension(), *own.get("extensions", ())]
    return [certify("Intel SGX PCK Certificate", kind, ca, **own), ca, root]


def numbers(key: Any, message: bytes, hashed: Any, size: int, order: Any) -> bytes:
    """An ECDSA signature as two numbers of `size` bytes."""
    r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(hashed)))
    return bytes(r.to_bytes(size, order) + s.to_bytes(size, order))


def snp_report(signer: Signer | None, version: int = 2, **fields: Any) -> bytes:
    """An SNP report (AMD 56860, ATTESTATION_REPORT) with `fields` by (offset, bytes) pairs."""
    made = bytearray(0x4A0)
    struct.pack_into("<IIQ", made, 0, version, 0, 0x30000)
    struct.pack_into("<I", made, 0x34, 1)
    if version >= 3:
        made[0x188:0x18B] = b"\x19\x01\x01"
    for at, data in fields.pop("at", {}).items():
        made[at : at + len(data)] = data
    made[0x90:0xC0] = fields.pop("measurement", bytes(48))
    assert not fields
    if signer is not None:
        made[0x2A0:0x330] = numbers(signer.key, bytes(made[:0x2A0]), hashes.SHA384(), 72, "little")
    return bytes(made)


# Offsets in a TD10 body: Intel DCAP, "Quote Format", version 4.
BODY = {
    "tee_tcb_svn": 0, "mrseam": 16, "mrsignerseam": 64, "seam_attributes": 112,
    "td_attributes": 120, "xfam": 128, "mrtd": 136, "mrconfigid": 184,
    "mrowner": 232, "mrownerconfig": 280, "rtmr0": 328, "rtmr1": 376, "rtmr2": 424,
    "rtmr3": 472, "report_data": 520, "tee_tcb_svn2": 584, "mrservicetd": 600,
}  # fmt: skip


# The report of Intel's TD quoting enclave (Intel SDM 3D, REPORT): ATTRIBUTES, MRSIGNER, ISVPRODID
# as in the quotes of hardware under ../shared/vectors.
QE = {
    48: bytes.fromhex("1500000000000000e700000000000000"),
    128: bytes.fromhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"),
    256: b"\2\0",
}
QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")


def quote_body(fields: Mapping[str, bytes], size: int = 584) -> bytes:
    made = bytearray(size)
    for name, data in fields.items():
        made[BODY[name] : BODY[name] + len(data)] = data
    return bytes(made)


def td_quote(
    chain: Sequence[Signer],
    version: int = 4,
    body_type: int = 2,
    qe: Mapping[int, bytes] | None = None,
    vendor: bytes = QE_VENDOR,
    **fields: bytes,
) -> bytes:
    """
    A quote with the whole path of signatures from the PCK certificate to the TD.

    `qe` are bytes of the quoting enclave's report by offset, in place of those of Intel's.
    """
    size = {2: 584, 3: 648}[body_type]
    header = struct.pack("<HHIHH16s20s", version, 2, 0x81, 0, 0, vendor, b"user")
    described = struct.pack("<HI", body_type, size) if version == 5 else b""
    message = header + described + quote_body(fields, size)
    attestation = new_key("P-256", "attestation key")
    public = attestation.public_key().public_numbers()
    key: bytes = public.x.to_bytes(32, "big") + public.y.to_bytes(32, "big")
    authentication = bytes(range(32))
    report = bytearray(384)
    report[320:352] = sha256(key + authentication).digest()
    for at, data in {**QE, **(qe or {})}.items():
        report[at : at + len(data)] = data
    qe_signed = numbers(chain[0].key, bytes(report), hashes.SHA256(), 32, "big")
    pem = b"".join(one.pem for one in chain)
    inner = bytes(report) + qe_signed + struct.pack("<H", 32) + authentication
    inner += struct.pack("<HI", 5, len(pem)) + pem
    signed = numbers(attestation, message, hashes.SHA256(), 32, "big")
    data = signed + key + struct.pack("<HI", 6, len(inner)) + inner
    return message + struct.pack("<I", len(data)) + data


def td_report(**fields: bytes) -> bytes:
    """A TDREPORT (Intel 348551, TDREPORT_STRUCT) whose hashes are right."""
    info = bytearray(512)
    at = {"attributes": 0, "xfam": 8, "mrtd": 16, "mrconfigid": 64, "rtmr0": 208, "servtd": 400}
    for name, data in fields.items():
        info[at[name] : at[name] + len(data)] = data
    tcb = bytes(range(72)) + bytes(56) + bytes(range(111))
    mac = bytearray(256)
    mac[0] = 0x81
    mac[32:80], mac[80:128] = sha384(tcb).digest(), sha384(info).digest()
    return bytes(mac) + tcb + bytes(17) + bytes(info)


def hcl(report: bytes, kind: int, claims: bytes = b'{"keys":[]}') -> bytes:
    """Azure's HCL report around one of 1184 or 1024 bytes; 2 is SNP, 4 TDX."""
    header = struct.pack("<4sIII16x", b"HCLA", 2, len(report), 2)
    data = struct.pack("<IIIII", 20 + len(claims), 1, kind, 1, len(claims)) + claims
    return (header + report.ljust(1184, b"\0") + data).ljust(2600, b"\0")


def trustee_snp(report: bytes, chain: Sequence[Signer] = (), *, older: bool = False) -> bytes:
    """The JSON of an SNP attester: the report taken apart (virtee/sev), certificates unsorted."""

    def octets(at: int, size: int) -> list[int]:
        return list(report[at : at + size])

    def number(at: int, size: int) -> int:
        return int.from_bytes(report[at : at + size], "little")

    def tcb(at: int) -> dict[str, Any]:
        b = report[at : at + 8]
        parts = {"bootloader": b[0], "tee": b[1], "snp": b[6], "microcode": b[7]}
        return {**parts, "_reserved": [0] * 4} if older else {"fmc": None, **parts}

    def version(at: int) -> dict[str, int]:
        return {"build": report[at], "minor": report[at + 1], "major": report[at + 2]}

    fields: dict[str, Any] = {
        "version": number(0, 4), "guest_svn": number(4, 4), "policy": number(8, 8),
        "family_id": octets(0x10, 16), "image_id": octets(0x20, 16), "vmpl": number(0x30, 4),
        "sig_algo": number(0x34, 4), "current_tcb": tcb(0x38), "plat_info": number(0x40, 8),
        "report_data": octets(0x50, 64), "measurement": octets(0x90, 48),
        "host_data": octets(0xC0, 32), "id_key_digest": octets(0xE0, 48),
        "author_key_digest": octets(0x110, 48), "report_id": octets(0x140, 32),
        "report_id_ma": octets(0x160, 32), "reported_tcb": tcb(0x180),
        "chip_id": octets(0x1A0, 64), "committed_tcb": tcb(0x1E0), "launch_tcb": tcb(0x1F0),
        "signature": {"r": octets(0x2A0, 72), "s": octets(0x2E8, 72)},
    }  # fmt: skip
    if older:
        names = {f"{who}_{part}": report[at + n]
                 for who, at in (("current", 0x1E8), ("committed", 0x1EC))
                 for n, part in enumerate(("build", "minor", "major"))}  # fmt: skip
        reserved = {"_reserved_0": 0, "_reserved_1": [0] * 24, "_reserved_4": [0] * 168}
        fields |= {**names, **reserved, "_author_key_en": number(0x48, 4)}
    else:
        fields |= {"current": version(0x1E8), "committed": version(0x1EC)}
        fields |= {"key_info": number(0x48, 4)}
        fields |= {
            f"cpuid_{n}": report[0x188 + i] for i, n in enumerate(("fam_id", "mod_id", "step"))
        }
    kinds = dict(zip(("VCEK", "ASK", "ARK"), chain, strict=False))
    entries = [{"cert_type": k, "data": list(s.der)} for k, s in reversed(kinds.items())]
    return json.dumps({"attestation_report": fields, "cert_chain": entries or None}).encode()


def compact(length: int) -> bytes:
    """A length in SCALE."""
    if length < 1 << 6:
        return bytes([length << 2])
    if length < 1 << 14:
        return (length << 2 | 1).to_bytes(2, "little")
    return (length << 2 | 2).to_bytes(4, "little")


def dstack_0(quote: bytes, events: Sequence[Mapping[str, Any]]) -> bytes:
    """dstack's attestation of version 0: SCALE (dstack-attest/src/attestation.rs)."""

    def vector(data: bytes) -> bytes:
        return compact(len(data)) + data

    made = b"\0\0" + vector(quote) + compact(len(events))
    for one in events:
        made += struct.pack("<II", one["imr"], one["event_type"]) + vector(one["digest"])
        made += vector(one["event"].encode()) + vector(one["event_payload"])
    return made + compact(0) + bytes(64) + compact(2) + b"{}"


def dstack_1(quote: bytes, events: Sequence[Mapping[str, Any]], *, numbers: bool = True) -> bytes:
    """dstack's attestation of version 1: MessagePack (dstack-attest/src/v1.rs)."""
    import msgpack

    data = {"quote": list(quote) if numbers else quote, "event_log": list(events)}
    stack = {"report_data": list(bytes(64)), "runtime_events": [], "config": "{}"}
    document = {
        "version": 1,
        "platform": {"kind": "tdx", "data": data},
        "stack": {"kind": "dstack", "data": stack},
    }
    return bytes(msgpack.packb(document))
