"""Signatures of reference values: COSE_Sign1, and endorsements of Google Compute Engine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, MismatchError, UnsupportedError
from cvmplan.evidence import cose, keys
from cvmplan.evidence.chains import Certificate, is_authority, parse_der, signs


def payload(blob: Blob, anchors: Sequence[Certificate]) -> tuple[bytes, str, bool]:
    """
    Return what a COSE_Sign1 signs, who signed it, and whether that was checked.

    MismatchError where certificates were given and it is not signed by them.
    """
    found = cose.read(blob)
    chain = [parse_der(one, f"{blob.name}: x5chain") for one in found.chain]
    if not chain:
        chain = list(anchors[:1])
    who = chain[0].subject if chain else "nobody who is named"
    if not anchors:
        return found.payload, who, False
    _hold(blob, cose.is_signed(found, chain[0]), chain, anchors)
    return found.payload, who, True


def endorsement(
    blob: Blob, golden: bytes, signature: bytes, certificate: object, anchors: Sequence[Certificate]
) -> tuple[str, bool]:
    """Return who signed an endorsement, and whether that was checked; as `payload`."""
    if not isinstance(certificate, bytes):
        raise MalformedError("has no certificate of its signer", at=blob.name)
    one = parse_der(certificate, f"{blob.name}: certificate")
    if not anchors:
        return one.subject, False
    _hold(blob, keys.is_pss(golden, signature, one.parsed.public_key()), [one], anchors)
    return one.subject, True


def _hold(
    blob: Blob, signed: bool, chain: Sequence[Certificate], anchors: Sequence[Certificate]
) -> None:
    """Raise MismatchError where a signature, or the chain to an anchor, does not hold."""
    if not signed:
        raise MismatchError("the signature is not by its certificate", at=blob.name)
    known, now = {one.spki for one in anchors}, datetime.now(UTC)
    last = chain[0]
    for issuer in [*chain[1:], *anchors]:
        if not last.not_before <= now <= last.not_after:
            raise MismatchError(f"the certificate {last.subject} is not valid today", at=blob.name)
        if last.spki in known:
            return
        if is_authority(issuer) and signs(issuer, last):
            last = issuer
    if last.spki not in known:
        problem = f"signed by {chain[0].subject}, which no given certificate vouches for"
        raise MismatchError(problem, at=blob.name)


def library(at: str) -> Any:
    """Return the library of CBOR; UnsupportedError where it is not installed."""
    try:
        return cose.library()
    except UnsupportedError as error:
        error.at = at
        raise
