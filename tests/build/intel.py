"""Intel's side of a quote with throw-away keys: PCK certificates, collateral, revocations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.build.evidence import Signer, certify, numbers

AT = datetime(2026, 1, 1, tzinfo=UTC)
OID = bytes.fromhex("2a864886f84d010d01")  # 1.2.840.113741.1.13.1
FMSPC, PCE_ID = "b0c06f000000", "0000"
COMPONENTS = (2, 2, 2, 2, 3, 1, 0, 5, *(0,) * 8)
PCE_SVN = 11


def der(tag: int, *parts: bytes) -> bytes:
    """A value in DER (ITU-T X.690)."""
    data = b"".join(parts)
    size = len(data)
    length = bytes([size]) if size < 0x80 else bytes([0x82, size >> 8, size & 0xFF])
    return bytes([tag]) + length + data


def pair(last: bytes, value: bytes) -> bytes:
    return der(0x30, der(6, OID + last), value)


def integer(value: int) -> bytes:
    return der(2, bytes([0] if value & 0x80 else []) + bytes([value]))


def sgx_extension(
    fmspc: str = FMSPC,
    pce_id: str = PCE_ID,
    components: Sequence[int] = COMPONENTS,
    pce_svn: int = PCE_SVN,
) -> tuple[x509.ExtensionType, bool]:
    """The SGX extension of a PCK certificate (Intel, PCK certificate profile)."""
    tcb = [pair(b"\2" + bytes([n]), integer(svn)) for n, svn in enumerate(components, 1)]
    tcb.append(pair(b"\2\x11", integer(pce_svn)))
    tcb.append(pair(b"\2\x12", der(4, bytes(components))))
    value = der(
        0x30,
        pair(b"\1", der(4, bytes(16))),
        pair(b"\2", der(0x30, *tcb)),
        pair(b"\3", der(4, bytes.fromhex(pce_id))),
        pair(b"\4", der(4, bytes.fromhex(fmspc))),
        pair(b"\5", der(10, b"\0")),
    )
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.840.113741.1.13.1"), value), False


USAGE = x509.KeyUsage(
    digital_signature=True, content_commitment=True, key_encipherment=False,
    data_encipherment=False, key_agreement=False, key_cert_sign=False, crl_sign=False,
    encipher_only=False, decipher_only=False,
)  # fmt: skip
OF_AUTHORITY = x509.KeyUsage(
    digital_signature=False, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
    encipher_only=False, decipher_only=False,
)  # fmt: skip


def authority() -> list[Signer]:
    """The PCK CA and the root."""
    root = certify("Intel SGX Root CA", "P-256", extensions=[(OF_AUTHORITY, True)], path_length=1)
    own: dict[str, Any] = {"extensions": [(OF_AUTHORITY, True)], "path_length": 0, "serial": 9}
    return [certify("Intel SGX PCK Platform CA", "P-256", root, **own), root]


def extensions(issuer: Signer) -> list[tuple[x509.ExtensionType, bool]]:
    """What Intel's PCK certificates say beside the SGX extension."""
    key = issuer.key.public_key()
    name = x509.UniformResourceIdentifier("https://crl.invalid/")
    point = x509.DistributionPoint([name], None, None, None)
    return [
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(key), False),
        (x509.CRLDistributionPoints([point]), False),
        (x509.SubjectKeyIdentifier.from_public_key(key), False),
        (USAGE, True),
        (x509.BasicConstraints(False, None), True),
    ]


def pck(serial: int = 77, **platform: Any) -> list[Signer]:
    """The chain of a PCK certificate with all that Intel's say."""
    ca, root = authority()
    said = [*extensions(ca), sgx_extension(**platform)]
    leaf = certify(
        "Intel SGX PCK Certificate", "P-256", ca, ca=False, extensions=said, serial=serial
    )
    return [leaf, ca, root]


def revocations(
    issuer: Signer,
    serials: Sequence[int] = (),
    begin: datetime = AT - timedelta(days=1),
    days: int = 30,
    key: Any = None,
) -> bytes:
    """A list of revocations in DER, signed by `issuer`, or by another `key`."""
    name = x509.load_der_x509_certificate(issuer.der).subject
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name)
        .last_update(begin)
        .next_update(begin + timedelta(days=days))
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
            critical=False,
        )
    )
    for serial in serials:
        one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begin)
        made = made.add_revoked_certificate(one.build())
    return made.sign(key or issuer.key, hashes.SHA256()).public_bytes(Encoding.DER)


def level(tcb: Mapping[str, Any], status: str = "UpToDate", *advisories: str) -> dict[str, Any]:
    made = {"tcb": dict(tcb), "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": status}
    return made | ({"advisoryIDs": list(advisories)} if advisories else {})


def platform_tcb(
    components: Sequence[int] = COMPONENTS, pce_svn: int = PCE_SVN, tdx: Sequence[int] = (5, 0, 2)
) -> dict[str, Any]:
    return {
        "sgxtcbcomponents": [{"svn": svn} for svn in components],
        "pcesvn": pce_svn,
        "tdxtcbcomponents": [{"svn": svn} for svn in (*tdx, *(0,) * (16 - len(tdx)))],
    }


def module(name: str, *levels: dict[str, Any], signer: str = "00" * 48) -> dict[str, Any]:
    return {
        "id": name, "mrsigner": signer, "attributes": "00" * 8, "attributesMask": "FF" * 8,
        "tcbLevels": list(levels),
    }  # fmt: skip


def dates(begin: datetime = AT - timedelta(days=1), days: int = 30) -> dict[str, str]:
    form = "%Y-%m-%dT%H:%M:%SZ"
    return {
        "issueDate": begin.strftime(form),
        "nextUpdate": (begin + timedelta(days=days)).strftime(form),
    }


def tcb_info(**changed: Any) -> dict[str, Any]:
    """A TCB info that says UpToDate of `pck()` and a module TDX_01 with SVN 5."""
    return {
        "id": "TDX", "version": 3, **dates(), "fmspc": FMSPC.upper(), "pceId": PCE_ID,
        "tcbType": 0, "tcbEvaluationDataNumber": 17,
        "tdxModule": {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8},
        "tdxModuleIdentities": [
            module("TDX_01", level({"isvsvn": 4}), level({"isvsvn": 2}, "OutOfDate", "SA-2")),
        ],
        "tcbLevels": [
            level(platform_tcb()),
            level(platform_tcb(pce_svn=5), "OutOfDate", "SA-1"),
        ],
        **changed,
    }  # fmt: skip


def qe_identity(**changed: Any) -> dict[str, Any]:
    """An identity that Intel's quoting enclave has (`tests.build.evidence.QE`)."""
    return {
        "id": "TD_QE", "version": 2, **dates(), "tcbEvaluationDataNumber": 17,
        "miscselect": "00000000", "miscselectMask": "FFFFFFFF",
        "attributes": "11" + "00" * 15, "attributesMask": "FB" + "FF" * 7 + "00" * 8,
        "mrsigner": "DC9E2A7C6F948F17474E34A7FC43ED030F7C1563F1BABDDF6340C82E0E54A8C5",
        "isvprodid": 2, "tcbLevels": [level({"isvsvn": 0})], **changed,
    }  # fmt: skip


@dataclass(frozen=True)
class Published:
    """Collateral in parts; `forged` are members of the document as they are written."""

    info: dict[str, Any] = field(default_factory=tcb_info)
    identity: dict[str, Any] = field(default_factory=qe_identity)
    signer: Sequence[Signer] = ()
    root_crl: bytes | None = None
    pck_crl: bytes | None = None
    forged: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, str]:
        """The collateral as dcap-qvl keeps it (QuoteCollateralV3)."""
        ca, root = authority()
        signer = list(self.signer) or [signing(), root]
        info, identity = (
            json.dumps(one, separators=(",", ":")) for one in (self.info, self.identity)
        )
        chain = b"".join(one.pem for one in signer).decode()
        return {
            "pck_crl_issuer_chain": (ca.pem + root.pem).decode(),
            "root_ca_crl": (self.root_crl or revocations(root)).hex(),
            "pck_crl": (self.pck_crl or revocations(ca)).hex(),
            "tcb_info_issuer_chain": chain,
            "tcb_info": info,
            "tcb_info_signature": sign(signer[0], info),
            "qe_identity_issuer_chain": chain,
            "qe_identity": identity,
            "qe_identity_signature": sign(signer[0], identity),
            **self.forged,
        }

    def changed(self, **parts: Any) -> Published:
        return replace(self, **parts)


def signing(name: str = "Intel SGX TCB Signing", root: Signer | None = None) -> Signer:
    """Who signs collateral."""
    by = root or authority()[1]
    return certify(name, "P-256", by, ca=False, serial=11, extensions=[(USAGE, True)])


def sign(signer: Signer, text: str) -> str:
    return numbers(signer.key, text.encode(), hashes.SHA256(), 32, "big").hex()


def common_name(one: Signer) -> str:
    subject = x509.load_der_x509_certificate(one.der).subject
    return str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
