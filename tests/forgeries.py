"""Forged SNP reports and TDX quotes under throw-away chains, and what is wrong with each."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding

from tests.build import intel
from tests.build.evidence import (
    PSS,
    Signer,
    amd,
    certify,
    claims,
    new_key,
    of_amd,
    snp_report,
    td_quote,
)

TCB: Final = bytes([4, 0, 0, 0, 0, 0, 24, 219])
CHIP: Final = bytes(range(64))
MEASUREMENT: Final = b"\x5a" * 48
POLICY: Final = 0x30000
GUIDS: Final = {  # AMD 56421, table of the GHCB
    "VCEK": "63da758d-e664-4564-adc5-f4b93be8accd", "VLEK": "a8074bc2-a25a-483e-aae6-39c045a0b8a1",
    "ASK": "4ab7b379-bbac-4fe4-a02f-05aef327c782", "ARK": "c0b406a4-a803-4952-9743-3fb6014cd0ae",
}  # fmt: skip
PASSED, LATER = datetime(2025, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)


def table(chain: Sequence[Signer], leaf: str) -> bytes:
    """The certificate table of an extended report, its GUIDs in big-endian order."""
    names = (leaf, "ASK", "ARK")
    at, head, body = 24 * (len(chain) + 1), b"", b""
    for name, one in zip(names, chain, strict=False):
        head += UUID(GUIDS[name]).bytes + struct.pack("<II", at + len(body), len(one.der))
        body += one.der
    return head + bytes(24) + body


@dataclass(frozen=True)
class Report:
    """A report: its bytes by offset, the chain, and who signs it where that is another one."""

    at: Mapping[int, bytes] = field(default_factory=dict)
    chain: Callable[[], list[Signer]] = field(default_factory=lambda: chain)
    leaf: str = "VCEK"
    version: int = 3
    signer: Callable[[], Signer] | None = None
    after: Mapping[int, bytes] = field(default_factory=dict)

    def build(self) -> tuple[bytes, list[Signer]]:
        """The extended report, and its chain; `after` are bytes changed after signing."""
        made = self.chain()
        key = {0x48: b"\4"} if self.leaf == "VLEK" else {}
        fields = {
            0x08: struct.pack("<Q", POLICY), 0x38: TCB, 0x180: TCB, 0x1E0: TCB, 0x1F0: TCB,
            0x1A0: CHIP, 0x1E8: bytes([29, 55, 1]), 0x1EC: bytes([29, 55, 1]), **key, **self.at,
        }  # fmt: skip
        if self.version < 3:
            fields[0x188] = bytes(3)
        by = self.signer() if self.signer else made[0]
        data = bytearray(snp_report(by, self.version, measurement=MEASUREMENT, at=fields))
        for at, value in self.after.items():
            data[at : at + len(value)] = value
        return bytes(data) + table(made, self.leaf), made


def chain(leaf: str = "VCEK", line: str = "Milan", **own: Any) -> list[Signer]:
    """AMD's chain for TCB and CHIP; `said` replaces what the signer's certificate says."""
    product = f"{line}-B1"
    said = {**claims(leaf, TCB, CHIP, product), **own.pop("said", {})}
    return amd(leaf, line=line, said={n: v for n, v in said.items() if v is not None}, **own)


def saying(**said: Any) -> Callable[[], list[Signer]]:
    """A chain whose signer's certificate says something else; None: nothing."""
    return lambda: chain(said={name.replace("_", "."): value for name, value in said.items()})


def renamed(*changed: tuple[x509.ObjectIdentifier, str]) -> list[Signer]:
    """A chain whose signer's certificate has another subject."""
    leaf, ask, ark = chain(serial=7)
    parsed = x509.load_der_x509_certificate(ask.der)
    told = dict(changed)
    names = [
        x509.NameAttribute(one.oid, told.get(one.oid, str(one.value)))
        for one in x509.load_der_x509_certificate(leaf.der).subject
    ]
    return [again(leaf, ask, x509.Name(names), parsed.subject), ask, ark]


def again(
    leaf: Signer,
    issuer: Signer,
    subject: x509.Name | None = None,
    by: x509.Name | None = None,
    rsa_padding: Any = PSS,
    hashed: Any = None,
) -> Signer:
    """The signer's certificate once more, with another subject or signed in another way."""
    old = x509.load_der_x509_certificate(leaf.der)
    made = x509.CertificateBuilder(
        by or old.issuer, subject or old.subject, leaf.key.public_key(), 7,
        old.not_valid_before_utc.replace(tzinfo=None), old.not_valid_after_utc.replace(tzinfo=None),
        list(old.extensions),
    ).sign(issuer.key, hashed or hashes.SHA384(), rsa_padding=rsa_padding)  # fmt: skip
    return Signer(leaf.name, leaf.key, made.public_bytes(Encoding.DER), True)


def signed_by(rsa_padding: Any, hashed: Any = None) -> list[Signer]:
    leaf, ask, ark = chain(serial=7)
    return [again(leaf, ask, rsa_padding=rsa_padding, hashed=hashed), ask, ark]


def with_ask(**changed: Any) -> list[Signer]:
    ark = certify("ARK-Milan", "RSA", place=True)
    ask = certify("SEV-Milan", "RSA", ark, **{"place": True, **changed})
    said = [of_amd(*one) for one in claims(tcb=TCB, chip=CHIP).items()]
    own: dict[str, Any] = {"ca": False, "serial": 0, "place": True, "extensions": said}
    return [certify("SEV-VCEK", "P-384", ask, **own), ask, ark]


def other_root() -> list[Signer]:
    """A chain whose ASK another root signs than the one that is pinned: Milan's."""
    leaf, _, ark = chain()
    stranger = Signer("ARK-Milan", new_key("RSA", "a stranger"), ark.der, True)
    ask = certify("SEV-Milan", "RSA", stranger, path_length=0, place=True)
    return [leaf, ask, ark]


@dataclass(frozen=True)
class Forgery:
    """
    Evidence, and the lines that differ.

    `ours` are options of `verify`, `theirs` those of the peer's `check` that ask for the same;
    None where it has none.
    """

    evidence: Any
    differs: frozenset[str]
    ours: tuple[str, ...] = ()
    theirs: tuple[str, ...] | None = ()


def spoiled(*lines: str, **report: Any) -> Forgery:
    return Forgery(Report(**report), frozenset(lines))


def pinned(line: str, ours: str, theirs: str | None, at: Mapping[int, bytes] | None = None) -> Any:
    """A right report that is not what an option asks for."""
    told = None if theirs is None else tuple(theirs.split())
    return Forgery(Report(at or {}), frozenset({line}), tuple(ours.split()), told)


def level(part: int, value: int, *places: int) -> dict[int, bytes]:
    """TCBs at these offsets with another level."""
    changed = bytes([*TCB[:part], value, *TCB[part + 1 :]])
    return dict.fromkeys(places, changed)


ORG, STATE, COMMON = (
    x509.NameOID.ORGANIZATION_NAME, x509.NameOID.STATE_OR_PROVINCE_NAME, x509.NameOID.COMMON_NAME,
)  # fmt: skip
OID_OF: Final = {"1": "structure", "2": "product", "4": "HWID", **{
    f"3.{n}": f"SPL {n}" for n in range(1, 9)
}}  # fmt: skip
PART_OF: Final = {
    "3.1": "certificates_bootloader_spl", "3.2": "certificates_tee_spl",
    "3.3": "certificates_snp_spl", "3.8": "certificates_microcode_spl",
}  # fmt: skip


def without(last: str) -> Forgery:
    lines = {"certificates_fields", *([PART_OF[last]] if last in PART_OF else [])}
    lines |= {"product"} if last == "2" else set()
    return Forgery(Report(chain=saying(**{last.replace(".", "_"): None})), frozenset(lines))


SNP: Final[dict[str, Forgery]] = {
    # signatures
    "measurement changed after signing": spoiled("signature", after={0x90: b"\0"}),
    "policy changed after signing": spoiled("signature", after={0x0A: b"\2"}),
    "chip ID changed after signing": spoiled(
        "signature", "certificates_chip_id", after={0x1A0: b"\xff"}
    ),
    "r changed": spoiled("signature", after={0x2A0: b"\1\2"}),
    "s changed": spoiled("signature", after={0x2E8: b"\1\2"}),
    "signature of zeros": spoiled("signature", after={0x2A0: bytes(0x90)}),
    "signed by the key of a VLEK": spoiled("signature", signer=lambda: chain("VLEK")[0]),
    # the signer's certificate
    **{f"without {what}": without(last) for last, what in OID_OF.items()},
    "SPL below zero": spoiled(
        "certificates_fields", "certificates_microcode_spl", chain=saying(**{"3_8": b"\2\1\xdb"})
    ),
    "SPL in two bytes too many": spoiled(
        "certificates_fields", "certificates_snp_spl", chain=saying(**{"3_3": b"\2\2\0\x18"})
    ),
    "HWID of 63 bytes": spoiled("certificates_fields", chain=saying(**{"4": CHIP[:63]})),
    "HWID of another chip": spoiled("certificates_chip_id", chain=saying(**{"4": b"\1" * 64})),
    "VCEK with a CSP ID": spoiled("certificates_fields", chain=saying(**{"5": b"\x16\1c"})),
    "VLEK without a CSP ID": spoiled(
        "certificates_fields", leaf="VLEK", chain=lambda: chain("VLEK", said={"5": None})
    ),
    "VLEK with a HWID": spoiled(
        "certificates_fields", leaf="VLEK", chain=lambda: chain("VLEK", said={"4": CHIP})
    ),
    "extension that AMD has not": spoiled(
        "certificates_fields", chain=saying(**{"3_77": b"\2\1\0"})
    ),
    "VLEK's report with a VCEK": spoiled(
        "signers_certificate", "signers_issuer", "certificates_names", "certificates_fields",
        "product", leaf="VLEK", chain=chain,
    ),
    "VCEK's report with a VLEK": spoiled(
        "signers_certificate", "signers_issuer", "certificates_names", "certificates_fields",
        "product", leaf="VCEK", chain=lambda: chain("VLEK"),
    ),
    **{
        f"certificate of another {name[13:-4]}": spoiled(
            name, chain=saying(**{last.replace(".", "_"): b"\2\1\1"})
        )
        for last, name in PART_OF.items()
    },
    "certificate with a reserved SPL": spoiled(
        "certificates_fields", chain=saying(**{"3_5": b"\2\1\1"})
    ),
    "organization": spoiled("certificates_names", chain=lambda: renamed((ORG, "Made up"))),
    "state": spoiled("certificates_names", chain=lambda: renamed((STATE, "TX"))),
    "common name": spoiled(
        "certificates_names", "signers_certificate",
        chain=lambda: renamed((COMMON, "SEV-VCEK2")),
    ),
    "PKCS #1 v1.5": spoiled(
        "certificates_algorithm", chain=lambda: signed_by(padding.PKCS1v15())
    ),
    "PSS with SHA-256": spoiled(
        "certificates_algorithm",
        chain=lambda: signed_by(padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256()),
    ),
    "salt of 32 bytes": spoiled(
        "certificates_algorithm",
        chain=lambda: signed_by(padding.PSS(padding.MGF1(hashes.SHA384()), 32)),
    ),
    # the chain
    "signer expired": spoiled("certificate_chain", chain=lambda: chain(end=PASSED)),
    "signer of the future": spoiled("certificate_chain", chain=lambda: chain(begin=LATER)),
    "ASK expired": spoiled("certificate_chain", chain=lambda: with_ask(end=PASSED)),
    "ASK that is no authority": spoiled("certificate_chain", chain=lambda: with_ask(ca=False)),
    "ASK of another root": spoiled("certificate_chain", chain=other_root),
    # the product
    "Genoa's certificate and authority": spoiled("product", chain=lambda: chain(line="Genoa")),
    "Genoa's certificate, Milan's authority": spoiled(
        "product", chain=saying(**{"2": b"\x16\x08Genoa-B1"})
    ),
    "Genoa's report": spoiled("product", at={0x188: b"\x19\x11\1"}),
    "Turin's report": spoiled(
        "product", "certificates_fields", "certificates_fmc_spl", "certificates_bootloader_spl",
        "certificates_snp_spl", at={0x188: b"\x1a\2\1"},
    ),
    "report of no known product": spoiled("product", at={0x188: b"\x17\1\1"}),
    # TCBs and versions
    "provisional firmware": spoiled("tcb_order", at=level(6, 23, 0x1E0)),
    "provisional build": spoiled("tcb_order", at={0x1EC: bytes([28, 55, 1])}),
    "provisional version": spoiled("tcb_order", at={0x1EC: bytes([29, 54, 1])}),
    "committed above current": spoiled("tcb_order", at=level(6, 25, 0x1E0)),
    "reported above current": spoiled("tcb_order", at=level(6, 23, 0x38, 0x1E0, 0x1F0)),
    "committed above current, provisional": Forgery(
        Report(level(6, 25, 0x1E0)), frozenset({"tcb_order"}), ("--provisional",),
        ("-provisional=true",),
    ),
    "launch above current": Forgery(
        Report(level(6, 25, 0x1F0)), frozenset({"tcb_order"}), (), None
    ),
    # what no guest may be
    "policy without bit 17": spoiled("policy", at={0x08: struct.pack("<Q", 0x10000)}),
    "DEBUG": spoiled("policy", at={0x08: struct.pack("<Q", 0xB0000)}),
    "MIGRATE_MA": spoiled("policy", at={0x08: struct.pack("<Q", 0x70000)}),
    "VMPL 1": Forgery(Report({0x30: b"\1"}), frozenset({"vmpl"}), (), ("-vmpl=0",)),
    "VMPL 4": spoiled("vmpl", at={0x30: b"\4"}),
    # pins
    "measurement": pinned("measurement", "--measurement " + "00" * 48, "-measurement=" + "00" * 48),
    "report data": pinned("report_data", "--report-data " + "01" * 64, "-report_data=" + "01" * 64),
    "host data": pinned("host_data", "--host-data " + "01" * 32, "-host_data=" + "01" * 32),
    "family ID": pinned("family_id", "--family-id " + "01" * 16, "-family_id=" + "01" * 16),
    "image ID": pinned("image_id", "--image-id " + "01" * 16, "-image_id=" + "01" * 16),
    "report ID": pinned("report_id", "--report-id " + "01" * 32, "-report_id=" + "01" * 32),
    "report ID MA": pinned(
        "report_id_ma", "--report-id-ma " + "01" * 32, "-report_id_ma=" + "01" * 32
    ),
    "chip ID": pinned("chip_id", "--chip-id " + "01" * 64, "-chip_id=" + "01" * 64),
    "VMPL": pinned("vmpl", "--vmpl 2", "-vmpl=2"),
    "policy": pinned("policy", "--policy 0x130000", "-guest_policy=0x130000"),
    "policy, SMT": pinned(
        "policy", "--policy 0x20000", "-guest_policy=0x20000"
    ),
    "policy, ABI": pinned("policy", "--policy 0x30037", "-guest_policy=0x30037"),
    "policy, bits of a mask": pinned(
        "policy", "--policy 0x20000 --policy-mask 0x10000", "-guest_policy=0x20000"
    ),
    "guest SVN": pinned("min_guest_svn", "--min-guest-svn 1", None),
    "TCB, bootloader": pinned(
        "min_tcb", "--min-tcb bootloader=5", "-minimum_tcb=0xdb18000000000005"
    ),
    "TCB, snp": pinned("min_tcb", "--min-tcb snp=25", "-minimum_tcb=0xdb19000000000004"),
    "TCB, microcode": pinned(
        "min_tcb", "--min-tcb 0xdc18000000000004", "-minimum_tcb=0xdc18000000000004"
    ),
    "TCB, bulletins": pinned("min_tcb", "--min-tcb bulletin", None),
    "TCB of another product": pinned("min_tcb", "--min-tcb fmc=1", None),
    "launch TCB": pinned(
        "min_launch_tcb", "--min-launch-tcb snp=25", "-minimum_launch_tcb=0xdb19000000000004"
    ),
    "build": pinned("min_build", "--min-build 30", "-min_build=30"),
    "version": pinned("min_version", "--min-version 1.56", "-min_version=1.56"),
    "major version": pinned("min_version", "--min-version 2.0", "-min_version=2.0"),
    "platform info, SMT": pinned(
        "platform_info", "--platform-info 0x24", "-platform_info=0x24", {0x40: b"\x25"}
    ),
    "platform info, TSME": pinned(
        "platform_info", "--platform-info 0x25", "-platform_info=0x25", {0x40: b"\x27"}
    ),
    "platform info, ECC": pinned(
        "platform_info", "--platform-info 0x25", "-platform_info=0x25", {0x40: b"\x21"}
    ),
    "platform info, alias check": pinned(
        "platform_info", "--platform-info 0x25", "-platform_info=0x25", {0x40: b"\5"}
    ),
    "platform info, reserved": pinned(
        "platform_info", "--platform-info 0x25", "-platform_info=0x25", {0x40: b"\x25\1"}
    ),
    "author key": pinned("require_author_key", "--require-author-key", "-require_author_key=true"),
    "ID block": pinned("require_id_block", "--require-id-block", "-require_idblock=true"),
    "ID key": pinned(
        "id_key_digest", "--id-key-digest " + "01" * 48,
        "-require_idblock=true -trusted_id_key_hashes=" + "01" * 48, {0xE0: b"\2" * 48},
    ),
    "author's key": pinned(
        "author_key_digest", "--author-key-digest " + "01" * 48,
        "-require_author_key=true -trusted_author_key_hashes=" + "01" * 48,
        {0x48: b"\1", 0xE0: b"\2" * 48, 0x110: b"\2" * 48},
    ),
    "mitigations at launch": pinned("launch_mitigations", "--launch-mitigations 1", None),
    "mitigations of today": pinned("current_mitigations", "--current-mitigations 2", None),
}  # fmt: skip


UNSIGNED: Final = {
    "MASK_CHIP_KEY": Report({0x48: b"\2"}, after={0x2A0: bytes(0x90)}),
    "no signature asked for": Report({0x48: b"\x1c"}, after={0x2A0: bytes(0x90)}),
}
"""Reports that nothing signs, as they say themselves."""


# --- quotes ------------------------------------------------------------------------------------

FIELDS: Final[dict[str, bytes]] = {
    "td_attributes": struct.pack("<Q", 0x10000000), "xfam": struct.pack("<Q", 0x61AE7),
    "tee_tcb_svn": bytes([5, 1, 2]), "mrtd": b"\x5a" * 48,
}  # fmt: skip
HASH: Final = "01" * 48


@dataclass(frozen=True)
class Quoted:
    """A quote: fields, the QE's bytes by offset, its vendor, bytes changed after signing."""

    fields: Mapping[str, bytes] = field(default_factory=dict)
    chain: Callable[[], list[Signer]] = intel.pck
    qe: Mapping[int, bytes] = field(default_factory=dict)
    vendor: bytes | None = None
    after: Mapping[int, int] = field(default_factory=dict)

    def build(self) -> tuple[bytes, list[Signer]]:
        made = self.chain()
        more: dict[str, Any] = {} if self.vendor is None else {"vendor": self.vendor}
        fields: dict[str, Any] = {**FIELDS, **self.fields}
        data = bytearray(td_quote(made, qe=self.qe, **more, **fields))
        for at, bits in self.after.items():
            data[at] ^= bits
        return bytes(data), made


def quoted(*lines: str, **quote: Any) -> Forgery:
    return Forgery(Quoted(**quote), frozenset(lines))


def asked(line: str, ours: str, theirs: str | None) -> Forgery:
    told = None if theirs is None else tuple(theirs.split())
    return Forgery(Quoted(), frozenset({line}), tuple(ours.split()), told)


def of(name: str, value: int) -> dict[str, bytes]:
    return {name: struct.pack("<Q", value)}


def pck_with(**changed: Any) -> list[Signer]:
    """The PCK chain with another signer's certificate."""
    ca, root = intel.authority()
    said = [*intel.extensions(ca), intel.sgx_extension()]
    own: dict[str, Any] = {"ca": False, "extensions": said, **changed}
    name = own.pop("name", "Intel SGX PCK Certificate")
    return [certify(name, own.pop("kind", "P-256"), ca, **own), ca, root]


def ca_with(**changed: Any) -> list[Signer]:
    """The PCK chain with another CA."""
    root = intel.authority()[1]
    own: dict[str, Any] = {"extensions": [(intel.OF_AUTHORITY, True)], "path_length": 0, **changed}
    ca = certify("Intel SGX PCK Platform CA", "P-256", root, **own)
    said = [*intel.extensions(ca), intel.sgx_extension()]
    leaf = certify("Intel SGX PCK Certificate", "P-256", ca, ca=False, extensions=said)
    return [leaf, ca, root]


def strange_root() -> list[Signer]:
    """A chain that ends at another key of the same name."""
    key = new_key("P-256", "a stranger")
    _, root = intel.authority()
    stranger = Signer(root.name, key, root.der)
    own: dict[str, Any] = {"extensions": [(intel.OF_AUTHORITY, True)], "path_length": 0}
    ca = certify("Intel SGX PCK Platform CA", "P-256", stranger, **own)
    said = [*intel.extensions(ca), intel.sgx_extension()]
    leaf = certify("Intel SGX PCK Certificate", "P-256", ca, ca=False, extensions=said)
    return [leaf, ca, root]


# Offsets of a quote of version 4: header 48, body 584, length 4, signature 64, key 64, type and
# size 6, QE report 384, its signature 64 (Intel DCAP, "Quote Format").
SIGNATURE, KEY, QE_REPORT = 48 + 584 + 4, 48 + 584 + 4 + 64, 48 + 584 + 4 + 128 + 6
TDX: Final[dict[str, Forgery]] = {
    "MRTD changed after signing": quoted("signature", after={48 + 136: 1}),
    "report data changed after signing": quoted("signature", after={48 + 520: 1}),
    "header changed after signing": quoted("signature", after={30: 1}),
    "signature changed": quoted("signature", after={SIGNATURE: 1}),
    "attestation key changed": Forgery(
        Quoted(after={KEY: 1}), frozenset({"signature", "attestation_key"})
    ),
    "QE report changed": quoted("qe_report", after={QE_REPORT: 1}),
    "QE's signature changed": quoted("qe_report", after={QE_REPORT + 384: 1}),
    "QE's report data": quoted("attestation_key", qe={320: b"\1"}),
    "QE's report data, second half": quoted("attestation_key", qe={352: b"\1"}),
    "QE of another enclave": Forgery(
        Quoted(qe={128: b"\1" * 32}), frozenset({"qe_signer"}), (), None
    ),
    "QE of another product": Forgery(
        Quoted(qe={256: b"\1\0"}), frozenset({"qe_product"}), (), None
    ),
    "QE in debug mode": Forgery(
        Quoted(qe={48: b"\x17"}), frozenset({"qe_debug"}), (), None
    ),
    "QE of another vendor": Forgery(
        Quoted(vendor=b"\1" * 16), frozenset({"qe_vendor"}), (),
        ("-qe_vendor_id=939a7233f79c4ca9940a0db3957f0607",),
    ),
    "PCK expired": quoted("certificate_chain", chain=partial(pck_with, end=PASSED)),
    "PCK of the future": quoted("certificate_chain", chain=partial(pck_with, begin=LATER)),
    "PCK of another name": quoted(
        "signers_certificate", chain=partial(pck_with, name="Intel SGX PCK Certificat")
    ),
    "PCK without the SGX extension": quoted(
        "pck_fmspc", chain=lambda: pck_with(extensions=intel.extensions(intel.authority()[0]))
    ),
    "CA expired": quoted("certificate_chain", chain=partial(ca_with, end=PASSED)),
    "CA that is no authority": quoted("certificate_chain", chain=partial(ca_with, ca=False)),
    "chain under another root": quoted("certificate_chain", chain=strange_root),
    "DEBUG": Forgery(
        Quoted(of("td_attributes", 0x10000001)), frozenset({"debug"}), (), None
    ),
    "MIGRATABLE": quoted("attributes", fields=of("td_attributes", 0x30000000)),
    "ATTRIBUTES with a reserved bit": quoted("attributes", fields=of("td_attributes", 1 << 40)),
    "profiling": quoted("attributes", fields=of("td_attributes", 0x10000020)),
    "XFAM without SSE": quoted("xfam", fields=of("xfam", 1)),
    "XFAM with a reserved bit": quoted("xfam", fields=of("xfam", 0x61AE7 | 1 << 30)),
    "MRSIGNERSEAM": Forgery(
        Quoted({"mrsignerseam": b"\1" * 48}), frozenset({"mrsignerseam"}), (), None
    ),
    "SEAM attributes": Forgery(
        Quoted({"seam_attributes": b"\1"}), frozenset({"seam_attributes"}), (), None
    ),
    "MRTD": asked("mrtd", f"--mrtd {HASH}", f"-mr_td={HASH}"),
    "MRSEAM": asked("mrseam", f"--mrseam {HASH}", f"-mr_seam={HASH}"),
    "MRCONFIGID": asked("mrconfigid", f"--mrconfigid {HASH}", f"-mr_config_id={HASH}"),
    "MROWNER": asked("mrowner", f"--mrowner {HASH}", f"-mr_owner={HASH}"),
    "MROWNERCONFIG": asked("mrownerconfig", f"--mrownerconfig {HASH}", f"-mr_owner_config={HASH}"),
    **{
        f"RTMR{n}": asked(
            f"rtmr{n}", f"--rtmr{n} {HASH}",
            "-rtmrs=" + ",".join(HASH if k == n else "00" * 48 for k in range(4)),
        )
        for n in range(4)
    },
    "report data": asked("report_data", "--report-data " + "01" * 64, "-report_data=" + "01" * 64),
    "attributes": asked(
        "attributes", "--attributes 0x50000000", "-td_attributes=0000005000000000"
    ),
    "xfam": asked("xfam", "--xfam 0x60ae7", "-xfam=e70a060000000000"),
    "TEE_TCB_SVN": asked(
        "min_tee_tcb_svn", "--min-tee-tcb-svn 0501030000000000" + "00" * 8,
        "-minimum_tee_tcb_svn=0501030000000000" + "00" * 8,
    ),
    "QE SVN": asked("min_qe_svn", "--min-qe-svn 1", "-minimum_qe_svn=1"),
    "PCE SVN": asked("min_pce_svn", "--min-pce-svn 1", "-minimum_pce_svn=1"),
    "MRSERVICETD, which it has not": asked("mrservicetd", f"--mrservicetd {HASH}", None),
    "QE vendor": asked("qe_vendor_id", "--qe-vendor-id " + "01" * 16, "-qe_vendor_id=" + "01" * 16),
}  # fmt: skip
