"""
Evidence anywhere in a document: every string, byte string and list of bytes is tried.

Names say little: what decodes to a report or a quote is one.  They decide three things: an error
below a name of `NAMED` is told, certificates and event logs are taken from theirs, and of some
pairs only the first counts.  Sources of the names:
* Trustee and guest-components: attester/src/{snp,tdx,az_snp_vtpm,az_tdx_vtpm}/mod.rs, SnpEvidence,
  TdxEvidence, Evidence; composite evidence: primary_evidence, additional_evidence.
* dstack: sdk, GetQuoteResponse (quote in hex, event_log as JSON in a string), `attestation`.
* Linux, Documentation/ABI/testing/configfs-tsm: outblob, auxblob.
* Azure THIM: vcekCert, certificateChain.  Intel Trust Authority: tdx.quote, tdx.event_log.
* virtee/snpguest#160: the report alone, taken apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from json import dumps
from typing import Any, Final, NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.errors import CvmplanError, InputError, MalformedError, UnsupportedError
from cvmplan.evidence import snp_report_json
from cvmplan.evidence.wrappers.piece import MOST, Inside, Unwrapped
from cvmplan.evidence.wrappers.texts import decoded

NAMED: Final = (
    "tee-evidence", "tee_evidence", "primary_evidence", "evidence", "attestation_report",
    "td_quote", "quote", "hcl_report", "report", "outblob", "attestation",
)  # fmt: skip
_VOUCHED: Final = "hcl_report"
_BEFORE: Final = (("td_quote", "hcl_report"), ("primary_evidence", "additional_evidence"))
_LOGS: Final = ("cc_eventlog", "event_log")
_CERTIFICATES: Final = frozenset({
    "vcek", "vlek", "ask", "asvk", "ark", "certchain", "certificatechain", "certificates",
    "certs", "vcekcert", "vlekcert", "auxblob", "certtable",
})  # fmt: skip
_KINDS: Final = ("VCEK", "VLEK", "ASK", "ASVK", "ARK")
_SHORTEST: Final = 1024  # bytes of the shortest evidence, a TDREPORT
_DEEPEST: Final = 100  # as of documents
_MOST_CERTIFICATES: Final = 64


class VouchedError(MalformedError):
    """What is below a name cannot be read here, and may be taken as it is elsewhere."""


class _Search(NamedTuple):
    """The decoder of contents, and what went wrong below the names that promise evidence."""

    inside: Inside
    wrong: list[CvmplanError]

    def failed(self, key: str, error: CvmplanError) -> None:
        """Note what is wrong below a name; raise it where others take what is not taken here."""
        if key == _VOUCHED or isinstance(error, VouchedError):
            raise VouchedError(str(error.args[0]), at=error.at) from error
        if key in NAMED:
            self.wrong.append(error)


def pieces(blob: Blob, document: Any, inside: Inside, kind: str) -> list[Unwrapped]:
    """
    Return the evidence in a document of `kind`, "JSON" or "CBOR".

    UnsupportedError where there is none, and what is wrong with what should be some.
    """
    if not isinstance(document, dict):
        raise MalformedError("is not an object with evidence", at=blob.name)
    search = _Search(inside, [])
    found = [*_in_value(blob.name, "", "", document, search, 0)]
    if not found and search.wrong:
        raise search.wrong[0]
    if not found:
        hint = f"supported: strings that decode to evidence; names: {', '.join(NAMED)}"
        raise UnsupportedError(f"{kind} that has no evidence", at=blob.name, hint=hint)
    notes = tuple(f"not read: {error}".splitlines()[0] for error in search.wrong[:MOST])
    return [
        one._replace(how=(kind, *(h for h in one.how if h != kind)), notes=(*one.notes, *notes))
        for one in found
    ]


def _in_value(
    root: str, path: str, key: str, value: Any, search: _Search, depth: int
) -> Iterator[Unwrapped]:
    """Yield the evidence in `value`, which is at `path` of the document `root`."""
    if depth > _DEEPEST:
        return
    place = f"{root}: {path}" if path else root
    if isinstance(value, dict):
        yield from _in_object(root, path, key, value, search, depth)
    elif isinstance(value, list) and not _is_bytes(value):
        for number, one in enumerate(value):
            if isinstance(one, (dict, list, str, bytes)):
                yield from _in_value(root, f"{path}[{number}]", key, one, search, depth + 1)
    elif isinstance(value, (str, bytes, list)) and (len(value) >= _SHORTEST or key in NAMED):
        try:
            data = _octets(place, value)
            for one in search.inside(Blob(place, memoryview(data))):
                yield one._replace(select=f"{path}: {one.select}" if one.select else path)
        except (InputError, UnsupportedError) as error:
            search.failed(key, error)


def _in_object(
    root: str, path: str, key: str, value: Mapping[str, Any], search: _Search, depth: int
) -> list[Unwrapped]:
    place = f"{root}: {path}" if path else root
    if snp_report_json.recognises(key, value):
        data = snp_report_json.report_bytes(place, value)
        body = Blob(place, memoryview(data))
        found = [Unwrapped(body, select=path)]
    else:
        below = {
            str(name): [*_in_value(root, _join(path, name), str(name), one, search, depth + 1)]
            for name, one in value.items()
        }
        for first, second in _BEFORE:
            if below.get(first):
                below[first] = _bound(below[first], below.pop(second, []))
        found = [one for some in below.values() for one in some][: MOST + 1]
    if not found:
        return []
    certificates = tuple(_certificates(place, value))
    log = _event_log(place, value)
    return [
        one._replace(
            certificates=(*one.certificates, *certificates), event_log=one.event_log or log
        )
        for one in found
    ]


def _bound(found: list[Unwrapped], left_out: list[Unwrapped]) -> list[Unwrapped]:
    """Return evidence with the hash that the omitted piece is bound to, to be compared later."""
    bound = next((one.bound for one in left_out if one.bound), b"")
    return [one._replace(bound=one.bound or bound) for one in found]


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _is_bytes(value: list[Any]) -> bool:
    return bool(value) and all(type(one) is int for one in value)


def _octets(place: str, value: Any) -> bytes:
    """Return bytes that a document has as such, as numbers, or as text yet to be decoded."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return snp_report_json.octets(place, value)


def _certificates(place: str, document: Mapping[str, Any]) -> list[Blob]:
    """Return what a document names as certificates, unread."""
    found: list[Blob] = []
    for name, value in document.items():
        key = str(name).lower().replace("_", "").replace("-", "")
        if key in _CERTIFICATES:
            found += _certificate(_join_place(place, name), value)
    return found[:_MOST_CERTIFICATES]


def _join_place(place: str, name: object) -> str:
    return f"{place}: {name}"


def _certificate(place: str, value: Any) -> Iterator[Blob]:
    if isinstance(value, list) and not _is_bytes(value):
        for number, one in enumerate(value[:_MOST_CERTIFICATES]):
            yield from _certificate(f"{place}[{number}]", one)
    elif isinstance(value, dict) and "data" in value:
        kind = value.get("cert_type")
        if not isinstance(kind, str) or kind.upper() in _KINDS:
            yield from _certificate(place, value["data"])
    elif isinstance(value, dict):
        for name, one in [*value.items()][:_MOST_CERTIFICATES]:
            if isinstance(one, (str, bytes, list)):
                yield from _certificate(f"{place}.{name}", one)
    elif value:
        try:
            yield Blob(place, memoryview(_octets(place, value)))
        except MalformedError:  # not bytes: whoever reads it says so
            yield Blob(place, memoryview(b""))


def _event_log(place: str, document: Mapping[str, Any]) -> Blob | None:
    """Return the event log of a document; MalformedError where it has two that differ."""
    logs = [
        _log(f"{place}: {key}", document[key])
        for key in _LOGS
        if document.get(key) not in (None, "", b"")
    ]
    if len({bytes(one.data) for one in logs}) > 1:
        raise MalformedError(f"is not {logs[0].name}", at=logs[1].name)
    return logs[0] if logs else None


def _log(at: str, value: Any) -> Blob:
    """Return an event log: base64 of TCG2, or JSON, in a string or as it is."""
    if isinstance(value, bytes):
        return Blob(at, memoryview(value))
    if isinstance(value, list):
        return Blob(at, memoryview(as_json(value)))
    if not isinstance(value, str):
        raise InputError("is not text", at=at)
    data = value.encode("utf-8", "surrogatepass")
    if data.lstrip()[:1] in (b"[", b"{"):
        return Blob(at, memoryview(data))
    found = decoded(data)
    if found is None:
        raise MalformedError("is neither JSON nor base64", at=at)
    return Blob(at, memoryview(found[1]))


def as_json(events: list[Any]) -> bytes:
    """Return the events of a log that a document has as objects as JSON, bytes in hex."""
    return dumps(
        [
            {name: _shown(value) for name, value in one.items()} if isinstance(one, dict) else None
            for one in events
        ]
    ).encode()


def _shown(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        numbers = _is_bytes(value) and all(0 <= one <= 255 for one in value)
        return bytes(value).hex() if numbers else ""
    return "" if isinstance(value, dict) else value
