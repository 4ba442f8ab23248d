"""
Whether a quote is signed by a quoting enclave that Intel certified; what a MAC covers.

Source: Intel TDX DCAP quoting library API, "Quote Format" (what the QE signs, and what certifies
it).
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256, sha384
from typing import Final

from cvmplan.core.errors import UnsupportedError
from cvmplan.evidence import chains, tdx_collateral
from cvmplan.evidence.keys import is_signed
from cvmplan.evidence.lines import Line, Status, compared, line
from cvmplan.evidence.trust import Trust, chain_line, verdict
from cvmplan.platforms.tdx import enclave, quote
from cvmplan.platforms.tdx.quote import Quote, ReportMac

PCK: Final = "Intel SGX PCK Certificate"  # Intel, SGX PCK certificate profile, subject CN
_QE_REPORT_DATA: Final = slice(320, 384)


def lines(quoted: Quote, trust: Trust) -> Iterator[Line]:
    """Yield what holds of the signatures of a quote; UnsupportedError without certificates."""
    signed = quoted.signed
    if not trust.chain:
        problem = f"certification data of type {signed.certification_type}"
        hint = "--certs FILE, with the PCK certificate first"
        raise UnsupportedError(problem, at=signed.certificates.where(0), hint=hint)
    key = _pair(signed.attestation_key)
    holds = is_signed(signed.message, _pair(signed.signature), key, "P-256")
    yield verdict("signature", holds, "by the attestation key", "the TD's part was changed")
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
    yield verdict("qe_report", by_pck, f"by PCK {trust.chain[0].subject}", "not by this PCK")
    for name, of_intel, said, why in enclave.identity(signed):
        yield compared(name, of_intel, said, why)
    yield chain_line(trust, "P-256", serial_0=False)
    named = chains.common_name(trust.chain[0]) or trust.chain[0].subject
    yield compared("signers_certificate", PCK, named)
    yield from tdx_collateral.lines(quoted, trust)


def _pair(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[:32], "big"), int.from_bytes(data[32:], "big")


def lines_of_mac(data: bytes, mac: ReportMac) -> Iterator[Line]:
    """Yield what the MAC of TDREPORT `data` covers, and that it cannot be checked elsewhere."""
    yield line("signature", None, "a MAC, which only its platform can check", Status.UNSIGNED)
    tcb, info = data[quote.TCB_INFO], data[quote.TDINFO_AT :]
    yield compared("tee_tcb_info_hash", sha384(tcb).hexdigest(), mac.tee_tcb_info_hash.hex())
    yield compared("tee_info_hash", sha384(info).hexdigest(), mac.tee_info_hash.hex())
