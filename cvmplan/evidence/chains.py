"""
Certificates, and whether they lead from a signer to a key that is pinned.

Source: RFC 5280, section 6.1, as far as the vendors' chains have something of it: signatures,
names, validity, basic constraints, path length, key usage; no policies, no names' constraints,
no revocation.  AMD's VCEK and VLEK certificates have serial number 0 (AMD 57230), which is
taken for them alone.

Why it is our own: the path building of cryptography (50.0.2, x509.verification) refuses AMD's
chains: "Forbidden signature algorithm" for RSASSA-PSS whose parameters spell out NULL and the
trailer field, as AMD's do.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID, NameOID

from cvmplan.core.errors import MalformedError

_KNOWN: Final = {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE}
_ROOTS: Final = ("ARK", "Intel SGX Root")  # names of pinned keys whose certificates sign themselves
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
MADE: Final = (
    ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)  # fmt: skip
_CURVES: Final = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1}


Extensions: TypeAlias = Mapping[x509.ObjectIdentifier, x509.Extension[Any]]
"""What a certificate says besides, by OID."""


class Certificate(NamedTuple):
    """A certificate that was read; times are in UTC."""

    at: str
    subject: str
    issuer: str
    spki: str
    not_before: datetime
    not_after: datetime
    parsed: x509.Certificate

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the certificate in DER."""
        return parse_der, (self.parsed.public_bytes(serialization.Encoding.DER), self.at)


@contextmanager
def serials_of_any_sign() -> Iterator[None]:
    """Let odd serial numbers and names be read without a warning; they are judged elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def serial_number(one: Certificate) -> int:
    """Return the serial number of a certificate."""
    with serials_of_any_sign():
        return one.parsed.serial_number


def parse_der(data: bytes, at: str) -> Certificate:
    """Return the certificate that is these bytes of DER; MalformedError, with the place `at`."""
    with serials_of_any_sign():
        try:
            made = x509.load_der_x509_certificate(data)
            spki = made.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            names = made.subject.rfc4514_string(), made.issuer.rfc4514_string()
            times = made.not_valid_before_utc, made.not_valid_after_utc
            list(made.extensions)
            made.signature_hash_algorithm  # noqa: B018 read, so that an unknown one is seen here
        except MADE as error:
            raise MalformedError("is not a PEM or DER certificate", at=at) from error
    return Certificate(at, *names, sha256(spki).hexdigest(), *times, made)


def common_name(one: Certificate) -> str:
    """Return the common name of the subject, "" where there is none."""
    found = one.parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def anchor(chain: Sequence[Certificate], pins: Mapping[str, str]) -> str | None:
    """Return the name of the pinned key (by SHA-256 of its SPKI, hex) that is in the chain."""
    return next((pins[one.spki] for one in chain if one.spki in pins), None)


def problems(
    chain: Sequence[Certificate],
    pins: Mapping[str, str],
    curve: str | None,
    at: datetime,
    serial_0: bool,
) -> Iterator[str]:
    """
    Yield what is wrong with a chain that begins with the signer's certificate.

    `curve` is the signer's, None where its key may be of any kind; `serial_0` says whether its
    certificate may have serial number 0.
    """
    key = chain[0].parsed.public_key()
    if curve and not (
        isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES[curve])
    ):
        yield f"{chain[0].at}: the signer's key is not of ECDSA {curve}"
    for depth, one in enumerate(chain):
        yield from _alone(one, depth, at, serial_0 and depth == 0)
    for one, issuer in pairwise(chain):
        yield from _link(one, issuer)
    last = chain[-1]
    if last.subject == last.issuer or pins.get(last.spki, "").startswith(_ROOTS):
        yield from _link(last, last)
    if anchor(chain, pins) is None and last.subject != last.issuer:
        yield f"ends at {last.subject}: the certificate of {last.issuer} is not there"
    elif anchor(chain, pins) is None:
        yield f"ends at {chain[-1].subject}, whose key {chain[-1].spki} is not pinned"


def _alone(one: Certificate, depth: int, at: datetime, serial_0: bool) -> Iterator[str]:
    """Yield what is wrong with one certificate, `depth` links above the signer's."""
    if not one.not_before <= at <= one.not_after:
        yield f"{one.at}: valid from {one.not_before:%Y-%m-%d} to {one.not_after:%Y-%m-%d}"
    serial = serial_number(one)
    if serial < 0 or (serial == 0 and not serial_0):
        yield f"{one.at}: serial number {serial}"
    extensions: Extensions = {e.oid: e for e in one.parsed.extensions}
    for oid, extension in extensions.items():
        if extension.critical and oid not in _KNOWN:
            yield f"{one.at}: critical extension {oid.dotted_string} is not known"
    if not isinstance(one.parsed.signature_hash_algorithm, _HASHES):
        yield f"{one.at}: signature hash is not SHA-256, SHA-384 or SHA-512"
    key = one.parsed.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048:
        yield f"{one.at}: an RSA key of {key.key_size} bits"
    if depth:
        yield from _issues(one, extensions, depth)
    elif (own := extensions.get(ExtensionOID.BASIC_CONSTRAINTS)) is not None and own.value.ca:
        yield f"{one.at}: the signer's certificate is a CA certificate"


def _issues(one: Certificate, extensions: Extensions, depth: int) -> Iterator[str]:
    constraints = extensions.get(ExtensionOID.BASIC_CONSTRAINTS)
    if constraints is None or not constraints.value.ca:
        yield f"{one.at}: is not a certificate authority"
    elif constraints.value.path_length is not None and constraints.value.path_length < depth - 1:
        yield f"{one.at}: the chain below it exceeds its path length"
    usage = extensions.get(ExtensionOID.KEY_USAGE)
    if usage is not None and not usage.value.key_cert_sign:
        yield f"{one.at}: its key usage does not allow signing certificates"


def _link(one: Certificate, issuer: Certificate) -> Iterator[str]:
    try:
        one.parsed.verify_directly_issued_by(issuer.parsed)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        yield f"{one.at}: is not signed by {issuer.at} ({issuer.subject})"


def point(one: Certificate) -> tuple[str, tuple[int, int]] | None:
    """Return (curve, (x, y)) of an ECDSA key on P-256 or P-384, None for any other."""
    key = one.parsed.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return None
    numbers = key.public_numbers()
    for name, curve in _CURVES.items():
        if isinstance(key.curve, curve):
            return name, (numbers.x, numbers.y)
    return None


def extension(one: Certificate, oid: str) -> bytes | None:
    """Return the value of an extension that has no type here, None where it is absent."""
    for found in one.parsed.extensions:
        if found.oid.dotted_string == oid and isinstance(found.value, x509.UnrecognizedExtension):
            return found.value.value
    return None


def is_authority(one: Certificate) -> bool:
    """Whether a certificate says that it may issue others, or signs itself without a word."""
    for extension in one.parsed.extensions:
        if extension.oid == ExtensionOID.BASIC_CONSTRAINTS:
            return bool(getattr(extension.value, "ca", False))
    return one.subject == one.issuer


def may_sign(one: Certificate) -> bool:
    """Whether a certificate's key usage, where it has one, allows signatures of documents."""
    for found in one.parsed.extensions:
        if found.oid == ExtensionOID.KEY_USAGE:
            return bool(found.value.digital_signature)
    return True


def signs(issuer: Certificate, one: Certificate) -> bool:
    """Whether a certificate is issued by another, by name and signature."""
    try:
        one.parsed.verify_directly_issued_by(issuer.parsed)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True
