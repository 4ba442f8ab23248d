"""
What the certificate of a VCEK or VLEK says of its key: product, chip, TCB, and AMD's names.

Source: AMD 57230, "x509 Certificate Extensions" and the tables of the certificates' fields;
google/go-sev-guest 0.15.0, packages kds and verify, for what has to be there.  The SPLs of one
product are those of its TCB_VERSION, the reserved ones too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.x509.oid import ExtensionOID, NameOID, SignatureAlgorithmOID

from cvmplan.evidence.chains import MADE, Certificate, extension

_OID: Final = "1.3.6.1.4.1.3704.1."
_VERSION, _PRODUCT, _HWID, _CSP_ID = (f"{_OID}{n}" for n in (1, 2, 4, 5))
SPLS: Final = {
    False: {"bootloader": 1, "tee": 2, "snp": 3, "microcode": 8},
    True: {"fmc": 9, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 8},
}
"""SPL to the last number of its extension's OID, 3704.1.3.N; True for Turin."""
RESERVED: Final = {False: {4: 2, 5: 3, 6: 4, 7: 5}, True: {5: 4, 6: 5, 7: 6}}
"""Last number of a reserved SPL's OID to its byte in TCB_VERSION; True for Turin."""
LINES: Final = {name: name for name in ("Milan", "Genoa", "Turin")} | {
    "Bergamo": "Genoa", "Siena": "Genoa",
}  # fmt: skip
"""Product in a certificate's extension to the line whose authority signs it."""
_PLACE: Final = {
    "C": (NameOID.COUNTRY_NAME, "US"),
    "ST": (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
    "L": (NameOID.LOCALITY_NAME, "Santa Clara"),
    "O": (NameOID.ORGANIZATION_NAME, "Advanced Micro Devices"),
    "OU": (NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
}
ALGORITHM: Final = "RSASSA-PSS with SHA-384"
_INTEGER, _OCTETS, _IA5 = 0x02, 0x04, 0x16  # tags; ITU-T X.690


class Claims(NamedTuple):
    """What a certificate says; None for what is absent, `wrong` for what cannot be read."""

    product: str | None
    levels: Mapping[str, int]
    reserved: Mapping[int, int]
    hwid: bytes | None
    csp_id: str | None
    wrong: tuple[str, ...]


def claims(one: Certificate, signer: str, *, turin: bool) -> Claims:
    """Return what the certificate of a `signer`, "VCEK" or "VLEK", says."""
    wrong: list[str] = []

    def number(last: str) -> int | None:
        value = extension(one, last)
        found = None if value is None else _integer(value)
        if found is None:
            wrong.append(_missing(last, value))
        return found

    def text(oid: str) -> str | None:
        value = extension(one, oid)
        found = None if value is None else _tagged(value, _IA5)
        if found is None or not found.isascii():
            wrong.append(_missing(oid, value))
            return None
        return found.decode("ascii")

    number(_VERSION)
    product = text(_PRODUCT)
    named = {name: number(f"{_OID}3.{n}") for name, n in SPLS[turin].items()}
    others = {n: number(f"{_OID}3.{n}") for n in RESERVED[turin]}
    hwid, csp_id = extension(one, _HWID), None
    if signer == "VLEK":
        csp_id = text(_CSP_ID)
        if hwid is not None:
            wrong.append("a VLEK's has no HWID")
    else:
        hwid = _hwid(hwid, wrong)
        if extension(one, _CSP_ID) is not None:
            wrong.append("a VCEK's has no CSP ID")
    wrong += _others(one, turin=turin)
    return Claims(
        product,
        {name: level for name, level in named.items() if level is not None},
        {n: level for n, level in others.items() if level is not None},
        hwid,
        csp_id,
        tuple(wrong),
    )


def _hwid(value: bytes | None, wrong: list[str]) -> bytes | None:
    """Return the chip's ID of 64 bytes, 8 on Turin: as it is, or in an OCTET STRING."""
    if value is not None and len(value) not in (8, 64):
        value = _tagged(value, _OCTETS)
    if value is None or len(value) not in (8, 64):
        wrong.append("no HWID of 8 or 64 bytes")
        return None
    return value


def _others(one: Certificate, *, turin: bool) -> Iterator[str]:
    """Yield what a certificate has that AMD's have not."""
    if one.parsed.version is not x509.Version.v3:
        yield "not of version 3"
    known = {_VERSION, _PRODUCT, _HWID, _CSP_ID}
    known |= {f"{_OID}3.{n}" for n in (*SPLS[turin].values(), *range(4, 8))}
    known |= {ExtensionOID.AUTHORITY_KEY_IDENTIFIER.dotted_string}
    for found in one.parsed.extensions:
        if found.oid.dotted_string not in known:
            yield f"extension {found.oid.dotted_string} is not AMD's"


def _missing(oid: str, value: bytes | None) -> str:
    return f"extension {oid} is {'missing' if value is None else 'malformed'}"


def _tagged(value: bytes, tag: int) -> bytes | None:
    """Return what stands behind a tag and a length of one or two bytes; None for other DER."""
    if len(value) >= 2 and value[0] == tag and value[1] == len(value) - 2 < 0x80:
        return value[2:]
    if len(value) >= 3 and value[:2] == bytes([tag, 0x81]) and value[2] == len(value) - 3 >= 0x80:
        return value[3:]
    return None


def _integer(value: bytes) -> int | None:
    """Return an INTEGER of 0 to 255 in DER, None for anything else."""
    found = _tagged(value, _INTEGER)
    if found is None or not 1 <= len(found) <= 2 or found[0] >= 0x80:
        return None
    if len(found) == 2 and (found[0] or found[1] < 0x80):
        return None
    return found[-1]


def names(leaf: Certificate, signer: str) -> Iterator[str]:
    """Yield what of the names in a signer's certificate is not AMD's."""
    for role, name in (("subject", leaf.parsed.subject), ("issuer", leaf.parsed.issuer)):
        for what, (oid, wanted) in _PLACE.items():
            found = [str(one.value) for one in name.get_attributes_for_oid(oid)]
            if found != [wanted]:
                yield f"{role}'s {what} is {', '.join(found) or 'none'}"
    common = _common(leaf.parsed.subject)
    if common != f"SEV-{signer}":
        yield f"subject's CN is {common or 'none'}"


def line_of_issuer(leaf: Certificate, signer: str) -> str:
    """Return the line of products of the authority that issued a certificate, "" for none."""
    prefix = "SEV-VLEK-" if signer == "VLEK" else "SEV-"
    common = _common(leaf.parsed.issuer)
    named = common.removeprefix(prefix) if common.startswith(prefix) else ""
    return LINES.get(named, "")


def _common(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def other_algorithm(one: Certificate) -> str:
    """Return the algorithm that signs a certificate, "" where it is AMD's `ALGORITHM`."""
    if one.parsed.signature_algorithm_oid != SignatureAlgorithmOID.RSASSA_PSS:
        return f"OID {one.parsed.signature_algorithm_oid.dotted_string}"
    try:
        used = one.parsed.signature_algorithm_parameters
    except MADE:
        return "RSASSA-PSS with parameters that are not known"
    hashed = one.parsed.signature_hash_algorithm
    if not isinstance(hashed, hashes.SHA384) or not isinstance(used, padding.PSS):
        return f"RSASSA-PSS with {hashed.name.upper() if hashed else 'no hash'}"
    mask = getattr(used.mgf, "_algorithm", None)
    salt = getattr(used, "_salt_length", None)
    if not isinstance(mask, hashes.SHA384) or salt != hashes.SHA384.digest_size:
        return f"{ALGORITHM}, salt of {salt} bytes, mask by {getattr(mask, 'name', 'none')}"
    return ""
