"""
Lists of revoked certificates (CRLs), and whether a chain has one of them.

Source: RFC 5280, section 5, as far as the vendors' lists have something of it: signature, names,
validity and serial numbers; no deltas and no indirect lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError
from cvmplan.evidence.certificates import der_length
from cvmplan.evidence.chains import (
    MADE,
    Certificate,
    serial_number,
    serials_of_any_sign,
    signs,
)
from cvmplan.evidence.wrappers.texts import decoded

LARGEST: Final = 8 << 20  # bytes of one list
_PARTIAL: Final = (ExtensionOID.DELTA_CRL_INDICATOR, ExtensionOID.ISSUING_DISTRIBUTION_POINT)
"""Extensions of lists that are not about all certificates of their issuer."""
_BLANK: Final = b" \t\r\n\0"
_ENCODINGS: Final = 3  # nested
_FIRST, _LAST = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"


class Revocations(NamedTuple):
    """One list that was read, and not verified; `next_update` is None where it names none."""

    at: str
    issuer: str
    last_update: datetime
    next_update: datetime | None
    parsed: x509.CertificateRevocationList


def read(blob: Blob) -> Revocations:
    """Return the list that is in a file: DER, PEM, hex or base64 of these; MalformedError."""
    if len(blob) > LARGEST:
        raise MalformedError(f"{len(blob)} bytes are not a list of revocations", at=blob.name)
    data = bytes(blob.data).lstrip(_BLANK)
    for _ in range(_ENCODINGS):
        if data[:1] == b"\x30":
            return _der(data, blob.name)
        data = data.strip(_BLANK)
        if data.startswith(_FIRST) and data.endswith(_LAST):
            data = data[len(_FIRST) : -len(_LAST)]
        text = decoded(data)
        if text is None:
            break
        data = text[1]
    raise MalformedError(
        "is not a list of revocations (CRL) in DER, PEM, hex or base64", at=blob.name
    )


def _der(data: bytes, at: str) -> Revocations:
    """Return the list that the bytes begin with; nothing but padding may follow."""
    size = der_length(data, 0) or 0
    if data[size:].strip(_BLANK):
        size = len(data)
    data = data[:size]
    with serials_of_any_sign():
        try:
            made = x509.load_der_x509_crl(data)
            times = made.last_update_utc, made.next_update_utc
            list(made.extensions)
            list(made)
            return Revocations(at, made.issuer.rfc4514_string(), *times, made)
        except MADE as error:
            raise MalformedError("is not a CRL in DER", at=at) from error


def problems(
    chain: Sequence[Certificate], lists: Iterable[Revocations], at: datetime
) -> Iterator[str]:
    """
    Yield what is wrong with the certificates of a chain, signer's first, by these lists.

    Each certificate that another one of the chain issued has to have a list of that issuer, or to
    have the serial number 0, by which none can be revoked.  A chain that ends below its root is
    a problem, since the revocation of its last certificate is unknown.  So is a chain to which no
    list applies: a revoked authority can issue itself a new certificate for the same key.
    """
    known, looked_at = list(lists), False
    for one, issuer in pairwise(chain):
        serial = serial_number(one)
        if serial == 0:
            continue
        if serial < 0:
            yield f"{one.at}: serial number {serial}"
            continue
        of_issuer = [found for found in known if found.issuer == issuer.subject]
        if not of_issuer:
            yield f"no list of {issuer.subject}"
        for found in of_issuer:
            looked_at = True
            yield from _list(found, issuer, at)
            with serials_of_any_sign():
                revoked = found.parsed.get_revoked_certificate_by_serial_number(serial)
            if revoked is not None:
                day = f"{revoked.revocation_date_utc:%Y-%m-%d}"
                yield f"{one.subject}, serial number {serial:#x}, was revoked on {day}"
    for last in chain[-1:]:
        if not signs(last, last):
            problem = f"whose list says whether {last.subject} was revoked"
            yield f"no certificate of {last.issuer}, {problem}"
        elif not looked_at:
            yield f"no list is about the certificates below {last.subject}"


def _list(found: Revocations, issuer: Certificate, at: datetime) -> Iterator[str]:
    """Yield what is wrong with a list itself."""
    key = issuer.parsed.public_key()
    try:
        signed = isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) and (
            found.parsed.is_signature_valid(key)
        )
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        signed = False
    if not signed:
        yield f"{found.at}: not signed by {issuer.subject}"
    if at < found.last_update or (found.next_update is not None and at > found.next_update):
        end = "" if found.next_update is None else f" to {found.next_update:%Y-%m-%d}"
        yield f"{found.at}: valid from {found.last_update:%Y-%m-%d}{end}"
    for extension in issuer.parsed.extensions:
        if extension.oid == ExtensionOID.KEY_USAGE and not extension.value.crl_sign:
            yield f"{found.at}: the key usage of {issuer.subject} allows no lists"
    for extension in found.parsed.extensions:
        if extension.critical or extension.oid in _PARTIAL:
            yield f"{found.at}: extension {extension.oid.dotted_string} is not known"
