"""Whether evidence is signed by a key that a chain of certificates leads to: SNP and TDX."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from cvmplan.evidence import certificates, snp_signatures, tdx_signatures
from cvmplan.evidence.certificates import Found
from cvmplan.evidence.evidence import Evidence
from cvmplan.evidence.lines import Line
from cvmplan.evidence.trust import Trust
from cvmplan.platforms.tdx import quote


def unchecked(evidence: Evidence, trust: Trust, made: Collection[Line]) -> Iterator[str]:
    """Yield what is not looked at, of what a verifier may want to know; `made` are all lines."""
    is_report = evidence.report is not None
    if trust.collateral is None and not is_report:
        yield "TCB level of platform, QE and TDX module (--collateral)"
    if not any(one.id == "revocation" for one in made):
        yield f"revocation of certificates ({'--crl' if is_report else '--collateral'})"


def lines(evidence: Evidence, trust: Trust) -> Iterator[Line]:
    """Yield what holds of the signatures of evidence, and of the chain of certificates."""
    if evidence.report is not None:
        yield from snp_signatures.lines(evidence, evidence.report, trust)
    elif evidence.quote is not None:
        yield from tdx_signatures.lines(evidence.quote, trust)
    elif evidence.mac is not None:
        yield from tdx_signatures.lines_of_mac(bytes(evidence.source.body.data), evidence.mac)


def certificates_in(evidence: Evidence) -> Found:
    """Return the certificates that come with evidence, in no order, and lines for the unread."""
    if evidence.quote is not None:
        signed = evidence.quote.signed
        if signed.certification_type != quote.PCK_CHAIN:
            return Found((), ())
        return certificates.read_all([signed.certificates])
    return certificates.read_all(evidence.source.certificates)
