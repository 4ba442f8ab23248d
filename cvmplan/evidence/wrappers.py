"""
Evidence in what it is handed around in: base64 or hex, Azure's HCL report, JSON.

Nothing is trusted for what it says about itself: who wraps a report can wrap another one, and
certificates that come with it are as good as the key that they end at.  Sources:
* HCL: Microsoft, "Guest attestation for confidential VMs", "Attestation report format";
  azure-cvm-tooling, az-cvm-vtpm/src/hcl/mod.rs.
* Trustee and guest-components: attester/src/{snp,tdx,az_snp_vtpm,az_tdx_vtpm}/mod.rs, SnpEvidence,
  TdxEvidence, Evidence.
* dstack: sdk, GetQuoteResponse (quote in hex, event_log as JSON in a string).
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from hashlib import sha256, sha384, sha512
from struct import Struct
from typing import ClassVar, Final, NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.errors import InputError, MalformedError, UnsupportedError
from cvmplan.core.records import Frozen, record
from cvmplan.core.values import Json
from cvmplan.documents.text import parse
from cvmplan.evidence import snp_report_json
from cvmplan.platforms.snp import report
from cvmplan.platforms.tdx import quote

DEEPEST: Final = 6  # wrappers nested
MOST_JSON: Final = 16 << 20
MOST_HCL: Final = 1 << 16  # bytes; an NV index of a TPM, which holds it, has 2600
_HEX = re.compile(rb"(?:0x)?[0-9a-fA-F]+")
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]+|[A-Za-z0-9_-]+)={0,2}")
_HASHES: Final = {1: sha256, 2: sha384, 3: sha512}
_SLOT: Final = 1184  # bytes of an HCL report for that of the hardware
_KINDS: Final = {2: report.SIZE, 4: quote.REPORT_SIZE}  # HCL's report type: SNP, TDX
_NESTED: Final = (
    "tee-evidence", "tee_evidence", "primary_evidence", "evidence", "attestation_report",
    "td_quote", "quote", "hcl_report", "report",
)  # fmt: skip
"""Names of what may be evidence; of a document's the first that is there is taken."""
_LOGS: Final = ("cc_eventlog", "event_log")
_ORDER: Final = ("VCEK", "VLEK", "ASK", "ASVK", "ARK")


class Unwrapped(NamedTuple):
    """
    Evidence as the hardware wrote it, and what came with it.

    `how` are the wrappers, from the outside.  `certificates` begin with the signer's.  `bound`
    is, for HCL, what the report's data must begin with.  `notes` are what people should know.
    """

    body: Blob
    how: tuple[str, ...] = ()
    certificates: tuple[Blob, ...] = ()
    event_log: Blob | None = None
    bound: bytes = b""
    notes: tuple[str, ...] = ()


@record
class HclHeader(Frozen):
    """Header of an HCL report."""

    LAYOUT: ClassVar = Struct("<4sIIII12s")
    signature: bytes
    version: int
    report_size: int
    request_type: int
    status: int
    reserved: bytes


@record
class HclData(Frozen):
    """What an HCL report says about the bytes that the hardware's report is bound to."""

    LAYOUT: ClassVar = Struct("<IIIII")
    data_size: int
    version: int
    report_type: int
    hash_type: int
    variable_size: int


def unwrap(blob: Blob, depth: int = 0) -> Unwrapped:
    """Return what `blob` wraps; UnsupportedError where it is nothing known, MalformedError."""
    if depth > DEEPEST:
        raise MalformedError(f"more than {DEEPEST} wrappers nested", at=blob.name)
    if (len(blob) == report.SIZE and blob.data[0] < 16) or quote.is_quote(blob):
        return Unwrapped(blob)
    if quote.is_report(blob):
        return Unwrapped(blob)
    head = bytes(blob.data[:64]).lstrip()
    if head.startswith(b"HCLA"):
        return _hcl(blob)
    if head.startswith(b"{"):
        return _json(blob, depth)
    if len(blob) <= MOST_JSON and (decoded := _decoded(bytes(blob.data))):
        how, data = decoded
        inner = unwrap(Blob(blob.name, memoryview(data)), depth + 1)
        return inner._replace(how=(how, *inner.how))
    hint = "supported: reports, quotes, TDREPORTs; raw, base64, hex, HCL reports, JSON"
    problem = "not an SNP attestation report, TDX quote or TDREPORT"
    raise UnsupportedError(problem, at=blob.name, hint=hint)


def _decoded(data: bytes) -> tuple[str, bytes] | None:
    """Return how text is encoded, and the bytes; None where it is neither hex nor base64."""
    joined = data.translate(None, b" \t\r\n\v\f")
    try:
        if _HEX.fullmatch(joined):
            return "hex", bytes.fromhex(joined.decode().removeprefix("0x"))
        if _BASE64.fullmatch(joined):
            digits = joined.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
            return "base64", b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except ValueError:
        pass
    return None


def _hcl(blob: Blob) -> Unwrapped:
    """Return the hardware's report in an HCL report, and the hash that it is bound to."""
    if len(blob) > MOST_HCL:
        raise MalformedError(f"an HCL report of more than {MOST_HCL >> 10} KiB", at=blob.name)
    header = blob.take(HclHeader, 0)
    if header.version not in (1, 2):
        problem = f"an HCL report of version {header.version}"
        raise UnsupportedError(problem, at=blob.where(4), hint="supported: 1 and 2")
    at = HclHeader.LAYOUT.size + _SLOT
    data = blob.take(HclData, at)
    if data.report_type not in _KINDS or data.hash_type not in _HASHES:
        problem = f"a report of type {data.report_type}, bound by hash {data.hash_type}"
        hint = "supported: types 2 (SNP) and 4 (TDX), and hashes 1 to 3"
        raise UnsupportedError(problem, at=blob.where(at + 8), hint=hint)
    size, begin = _KINDS[data.report_type], HclHeader.LAYOUT.size
    body = blob.slice(begin, begin + size)
    start = at + HclData.LAYOUT.size
    claims = blob.slice(start, start + data.variable_size)
    rest = blob.data[begin + size : at], blob.data[start + data.variable_size :]
    if any(bytes(part).strip(b"\0") for part in rest):
        raise MalformedError("non-zero bytes after its parts", at=blob.name)
    bound = _HASHES[data.hash_type](claims.data).digest()
    return Unwrapped(body, ("Azure HCL report",), bound=bound)


def _json(blob: Blob, depth: int) -> Unwrapped:
    if len(blob) > MOST_JSON:
        raise MalformedError(f"more than {MOST_JSON >> 20} MiB of JSON", at=blob.name)
    return _document(blob.name, parse(blob), depth)


def _document(name: str, document: Json, depth: int) -> Unwrapped:
    """Return the evidence that a JSON object has, with its certificates and its event log."""
    if depth > DEEPEST or not isinstance(document, dict):
        raise MalformedError("is not an object with evidence", at=name)
    for key in _NESTED:
        value, place = document.get(key), f"{name}: {key}"
        if key == "quote" and isinstance(value, dict):  # that of a TPM
            continue
        if value is not None:
            inner = _value(place, key, value, depth + 1)
            break
    else:
        hint = f"supported: {', '.join(_NESTED)}"
        raise UnsupportedError("JSON that has no evidence", at=name, hint=hint)
    certificates = (*inner.certificates, *_certificates(name, document))
    log = inner.event_log or _event_log(name, document)
    return inner._replace(
        how=("JSON", *(h for h in inner.how if h != "JSON")),
        certificates=certificates,
        event_log=log,
    )


def _value(name: str, key: str, value: Json, depth: int) -> Unwrapped:
    if isinstance(value, dict):
        if key == "attestation_report" and "signature" in value:
            return Unwrapped(Blob(name, memoryview(snp_report_json.report_bytes(name, value))))
        return _document(name, value, depth)
    return unwrap(Blob(name, memoryview(_octets(name, value))), depth)


def _octets(name: str, value: Json) -> bytes:
    """Return bytes that JSON has as a list of numbers, or as text that is yet to be decoded."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return snp_report_json.octets(name, value)


def _certificates(name: str, document: Mapping[str, Json]) -> Iterator[Blob]:
    """Yield the certificates of a document, the signer's first."""
    if isinstance(pem := document.get("vcek"), str):
        yield Blob(f"{name}: vcek", memoryview(pem.encode()))
    chain = document.get("cert_chain")
    if chain is None:
        return
    if not isinstance(chain, list) or len(chain) > 16:
        raise MalformedError("is not a list of certificates", at=f"{name}: cert_chain")
    found = []
    for number, entry in enumerate(chain):
        place = f"{name}: cert_chain[{number}]"
        kind = entry.get("cert_type") if isinstance(entry, dict) else None
        if not isinstance(kind, str):
            raise MalformedError("has no cert_type", at=place)
        if kind.upper() in _ORDER:
            data = _octets(place, entry.get("data"))
            blob = Blob(place, memoryview(data))
            found.append((_ORDER.index(kind.upper()), blob))
    yield from (blob for _, blob in sorted(found, key=lambda one: one[0]))


def _event_log(name: str, document: Mapping[str, Json]) -> Blob | None:
    """Return the event log of a document: base64 of TCG2, or JSON in a string."""
    for key in _LOGS:
        value, place = document.get(key), f"{name}: {key}"
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise InputError("is not text", at=place)
        data = value.encode("utf-8", "surrogatepass")
        if data.lstrip()[:1] in (b"[", b"{"):
            return Blob(place, memoryview(data))
        decoded = _decoded(data)
        if decoded is None:
            raise MalformedError("is neither JSON nor base64", at=place)
        return Blob(place, memoryview(decoded[1]))
    return None
