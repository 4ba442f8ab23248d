"""Signatures of reference values: COSE_Sign1, and endorsements of Google Compute Engine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, MismatchError, UnsupportedError
from cvmplan.evidence import cose, keys
from cvmplan.evidence.chains import (
    Certificate,
    is_authority,
    may_sign,
    parse_der,
    problems,
    signs,
)


def payload(
    blob: Blob, anchors: Sequence[Certificate], at: datetime
) -> tuple[cose.Signed, str, bool]:
    """
    Return a COSE_Sign1, who signed it, and whether that was checked.

    MismatchError where it is not signed by its own certificate, where certificates were given and
    it is not signed by them, and where the signature is not valid at the time `at`.
    """
    found = cose.read(blob)
    chain = [parse_der(one, f"{blob.name}: x5chain") for one in found.chain]
    if not chain:
        chain = list(anchors[:1])
    who = chain[0].subject if chain else "an unnamed signer"
    cose.check_validity(found.validity, at, f"{blob.name}: signature")
    if chain:
        _check_signature(blob, cose.is_signed(found, chain[0]))
    if not anchors:
        return found, who, False
    _hold(blob, chain, anchors, at)
    return found, who, True


def endorsement(
    blob: Blob,
    golden: bytes,
    signature: bytes,
    certificate: object,
    anchors: Sequence[Certificate],
    at: datetime,
) -> tuple[str, bool]:
    """Return who signed an endorsement, and whether that was checked; as `payload`."""
    if not isinstance(certificate, bytes):
        raise MalformedError("has no certificate of its signer", at=blob.name)
    one = parse_der(certificate, f"{blob.name}: certificate")
    _check_signature(blob, keys.is_pss(golden, signature, one.parsed.public_key()))
    if not anchors:
        return one.subject, False
    _hold(blob, [one], anchors, at)
    return one.subject, True


def _check_signature(blob: Blob, holds: bool) -> None:
    """Raise MismatchError for a signature that its own certificate contradicts."""
    if not holds:
        raise MismatchError("the signature is not by its certificate", at=blob.name)


def _hold(
    blob: Blob, given: Sequence[Certificate], anchors: Sequence[Certificate], at: datetime
) -> None:
    """Raise MismatchError where the chain to an anchor does not hold."""
    chain = _chain(given, anchors)
    pins = {one.spki: one.subject for one in anchors}
    if chain[-1].spki not in pins:
        problem = f"signed by {given[0].subject}, which no given certificate vouches for"
        raise MismatchError(problem, at=blob.name)
    for problem in problems(chain, pins, None, at, serial_0=False):
        raise MismatchError(f"its signer's certificates: {problem}", at=blob.name)
    if not may_sign(chain[0]):
        problem = f"the certificate {chain[0].subject} is not one to sign with"
        raise MismatchError(problem, at=blob.name)


def _chain(given: Sequence[Certificate], anchors: Sequence[Certificate]) -> list[Certificate]:
    """
    Return the signer's certificate and those above it, up to the first anchor.

    For an anchor's key only the given certificate is used, never one from the file.
    """
    known = {one.spki: one for one in anchors}
    chain = [known.get(given[0].spki, given[0])]
    left = [one for one in given[1:_MOST_CERTIFICATES] if one.spki not in known]
    while chain[-1].spki not in known:
        above = [one for one in (*anchors, *left) if is_authority(one) and signs(one, chain[-1])]
        if not above:
            break
        chain.append(above[0])
        left = [one for one in left if one is not above[0]]
    return chain


_MOST_CERTIFICATES: Final = 16


def library(at: str) -> Any:
    """Return the library of CBOR; UnsupportedError where it is not installed."""
    try:
        return cose.library()
    except UnsupportedError as error:
        error.at = at
        raise
