"""
Whether evidence is signed by a key that a chain of certificates leads to.

Sources: AMD 56860 (report), AMD 57230 (VCEK and VLEK certificates and their extensions); Intel
TDX DCAP quoting library API, "Quote Format" (what the QE signs, and what certifies it).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256, sha384
from typing import Final, NamedTuple

from cvmplan.core.errors import UnsupportedError
from cvmplan.evidence import chains
from cvmplan.evidence.chains import Certificate
from cvmplan.evidence.evidence import Evidence
from cvmplan.evidence.keys import is_signed
from cvmplan.evidence.lines import Line, Status, compared, line
from cvmplan.platforms.snp import idblock, report
from cvmplan.platforms.snp.report import AttestationReport
from cvmplan.platforms.tdx import enclave, quote
from cvmplan.platforms.tdx.quote import ReportMac, Signed

# AMD 57230, table "x509 certificate extensions": what a VCEK or VLEK certificate says.
_OID: Final = "1.3.6.1.4.1.3704.1."
_SPLS: Final = {
    "bootloader": f"{_OID}3.1", "tee": f"{_OID}3.2", "snp": f"{_OID}3.3",
    "microcode": f"{_OID}3.8", "fmc": f"{_OID}3.9",
}  # fmt: skip
_ISSUERS: Final = {"VCEK": "ASK", "VLEK": "ASVK"}  # AMD 57230: CN SEV-Milan, SEV-VLEK-Milan
_PCK: Final = "Intel SGX PCK Certificate"  # Intel, SGX PCK certificate profile, subject CN
_HWID: Final = f"{_OID}4"
_QE_REPORT_DATA: Final = slice(320, 384)
UNCHECKED: Final = {
    "report": ("revocation of certificates", "whether the reported TCB is recent"),
    "quote": ("TCB level of platform, QE and TDX module", "revocation of certificates"),
}


class Trust(NamedTuple):
    """Certificates from the signer's upwards, the pinned keys by hash, and the time, in UTC."""

    chain: Sequence[Certificate]
    pins: Mapping[str, str]
    at: datetime


def lines(evidence: Evidence, trust: Trust) -> Iterator[Line]:
    """Yield what holds of the signatures of evidence, and of the chain of certificates."""
    if evidence.report is not None:
        yield from _of_report(evidence, evidence.report, trust)
    elif evidence.quote is not None:
        yield from _of_quote(evidence.quote.signed, trust)
    elif evidence.mac is not None:
        yield from _of_mac(bytes(evidence.source.body.data), evidence.mac)


def certificates_in(evidence: Evidence) -> list[Certificate]:
    """Return the certificates that come with evidence, the signer's first; MalformedError."""
    if evidence.quote is not None:
        signed = evidence.quote.signed
        if signed.certification_type != quote.PCK_CHAIN:
            return []
        return chains.read(signed.certificates)
    return [one for blob in evidence.source.certificates for one in chains.read(blob)]


def _verdict(which: str, holds: bool, by: str, why: str) -> Line:
    if holds:
        return line(which, by, by, Status.OK)
    return line(which, by, "does not match: different data or a different key", Status.DIFFERS, why)


def _chain(trust: Trust, curve: str, *, serial_0: bool) -> Line:
    """Return the line of the chain; the first thing that is wrong is said, and how many more."""
    expected = f"valid at {trust.at:%Y-%m-%d %H:%M:%S} UTC, ends at a pinned key"
    wrong = [*chains.problems(trust.chain, trust.pins, curve, trust.at, serial_0)]
    if wrong:
        more = f"; and {len(wrong) - 1} more" if wrong[1:] else ""
        return line("certificate_chain", expected, wrong[0] + more, Status.DIFFERS)
    name = chains.anchor(trust.chain, trust.pins)
    return line("certificate_chain", expected, f"{expected}: {name}", Status.OK)


def _of_report(evidence: Evidence, found: AttestationReport, trust: Trust) -> Iterator[Line]:
    data = evidence.source.body
    if found.signer == "none":
        yield line("signature", "by VCEK or VLEK", "the report is not signed", Status.DIFFERS)
        return
    signature = idblock.read_signature(data.slice(report.SIGNED, report.SIZE))
    if not trust.chain:
        yield line(
            "signature", None, f"by {found.signer}, not checked", Status.NOT_IN_PLAN, "no --certs"
        )
        return
    leaf = trust.chain[0]
    key = chains.point(leaf)
    holds = (
        key is not None
        and key[0] == "P-384"
        and is_signed(bytes(data.data[: report.SIGNED]), signature, key[1])
    )
    yield _verdict("signature", holds, f"by {found.signer} {leaf.subject}", "BAD_SIGNATURE")
    yield _chain(trust, "P-384", serial_0=True)
    named = chains.common_name(leaf).removeprefix("SEV-")
    yield compared("signers_certificate", found.signer, named or leaf.subject)
    for issuer in trust.chain[1:2]:
        name = chains.common_name(issuer)
        role = (
            "ASVK" if name.startswith("SEV-VLEK-") else "ASK" if name.startswith("SEV-") else name
        )
        yield compared("signers_issuer", _ISSUERS[found.signer], role)
    yield from _of_leaf(leaf, found)


def _of_leaf(leaf: Certificate, found: AttestationReport) -> Iterator[Line]:
    """Yield what the certificate says of the chip and its TCB, as far as it does."""
    for name, level in found.tcb.items():
        value = chains.extension(leaf, _SPLS[name])
        if value is not None:
            written = bytes([2, 1, level]) if level < 0x80 else bytes([2, 2, 0, level])
            same = value == written
            shown = str(level) if same else f"DER {value.hex()}"
            yield compared(f"certificates_{name}_spl", str(level), shown)
    chip = chains.extension(leaf, _HWID)
    if chip is not None and found.signer == "VCEK" and any(found.chip_id):
        wanted = found.chip_id[: len(chip)] if len(chip) == 8 else found.chip_id
        yield compared("certificates_chip_id", wanted.hex(), chip.hex())


def _of_quote(signed: Signed, trust: Trust) -> Iterator[Line]:
    if not trust.chain:
        problem = f"certification data of type {signed.certification_type}"
        hint = "--certs FILE, with the PCK certificate first"
        raise UnsupportedError(problem, at=signed.certificates.where(0), hint=hint)
    key = _pair(signed.attestation_key)
    holds = is_signed(signed.message, _pair(signed.signature), key, "P-256")
    yield _verdict("signature", holds, "by the attestation key", "the TD's part was changed")
    bound = sha256(signed.attestation_key + signed.qe_authentication).digest() + bytes(32)
    found = signed.qe_report[_QE_REPORT_DATA]
    yield compared(
        "attestation_key", bound.hex(), found.hex(), "the QE vouches for a different key"
    )
    leaf = chains.point(trust.chain[0])
    by_pck = (
        leaf is not None
        and leaf[0] == "P-256"
        and is_signed(signed.qe_report, _pair(signed.qe_signature), leaf[1], "P-256")
    )
    yield _verdict("qe_report", by_pck, f"by PCK {trust.chain[0].subject}", "not by this PCK")
    for name, of_intel, said, why in enclave.identity(signed):
        yield compared(name, of_intel, said, why)
    yield _chain(trust, "P-256", serial_0=False)
    named = chains.common_name(trust.chain[0]) or trust.chain[0].subject
    yield compared("signers_certificate", _PCK, named)


def _pair(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[:32], "big"), int.from_bytes(data[32:], "big")


def _of_mac(data: bytes, mac: ReportMac) -> Iterator[Line]:
    yield line("signature", None, "a MAC, which only its platform can check", Status.NOT_IN_PLAN)
    tcb, info = data[quote.TCB_INFO], data[quote.TDINFO_AT :]
    yield compared("tee_tcb_info_hash", sha384(tcb).hexdigest(), mac.tee_tcb_info_hash.hex())
    yield compared("tee_info_hash", sha384(info).hexdigest(), mac.tee_info_hash.hex())
