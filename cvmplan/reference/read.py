"""
Files of reference values, as verifiers and other tools have them, read back.

Recognised by content: messages of Trustee's RVPS, CoRIM unsigned and in COSE_Sign1, Azure's
reference info, configurations of go-sev-guest and go-tdx-guest, endorsements of Google Compute
Engine, JSON of in-toto, Contrast, igvmfilegen and of this program, policies in Rego that contain
the values, and lists of hex or base64.

Sources: the modules of `emit.references`; gce-tcb-verifier 74582c0, proto/endorsement.proto;
edgelesssys/contrast, internal/manifest; hcsshim, reference_info.cose; openvmm 1488a37,
igvmfilegen/src/identity_mapping.rs.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from cvmplan.core import values
from cvmplan.core.blob import Blob
from cvmplan.core.errors import CvmplanError, MalformedError, MismatchError, UnsupportedError
from cvmplan.core.platform import SNP, TDX, VBS, Platform
from cvmplan.documents import text
from cvmplan.evidence import cose
from cvmplan.evidence.chains import Certificate
from cvmplan.reference import protobuf, signed
from cvmplan.reference.found import MOST_ENTRIES, Entry, Found

LARGEST: Final = 8 << 20  # bytes of a file of reference values
_CORIM: Final = (b"\xd9\x01\xf5", b"\xd2")
_NAMED: Final[Mapping[str, Platform | None]] = {
    "trustedmeasurement": SNP, "launchdigest": SNP, "snpld": SNP, "snplaunchmeasurement": SNP,
    "xmssevsnpvmlaunchmeasurement": SNP, "snpmeasurement": SNP, "launchmeasurement": None,
    "mrtd": TDX, "tdxmrtd": TDX, "measurement": None, "measurements": None,
    "referencevalue": None, "referencevalues": None,
}  # fmt: skip
"""Name of a member, in lower case and without other characters, to the platform of its values."""
_OTHERS: Final = ("rtmr", "xfam", "tdvfkernel", "mrseam", "pcr", "initdata", "hostdata")
"""How names of an RVPS message begin whose values are no launch measurements."""
_TEXTPROTO: Final = {"measurement": SNP, "mr_td": TDX, "any_mr_td": TDX}
_POLICY: Final = re.compile(rb"^package \w+", re.MULTILINE)
_CONFIGURATION: Final = re.compile(rb"^[ \t]*+(measurement|mr_td|any_mr_td)[ \t]*+:", re.MULTILINE)
_QUOTED: Final = re.compile(r'"([0-9a-fA-F]{64}|[0-9a-fA-F]{96})"')
_COMID: Final = 506  # tag
_REFUSED: Final = ("revoked", "denied", "deny", "rejected", "blocked")
_COMMENT: Final = re.compile(r"#.*")
_REFUSING: Final = re.compile(r"\b(?:deny|not)\b|!=")
_CLASSES: Final[Mapping[object, tuple[Platform, tuple[object, ...]]]] = {
    ("AMD", "SEV-SNP"): (SNP, (None, "MEASUREMENT")),
    ("Intel", "TDX"): (TDX, (None, "MRTD")),
    ("Microsoft", "VBS"): (VBS, (None, "MEASUREMENT")),
    b"\x2b\x06\x01\x04\x01\x9c\x78\x03\x01": (SNP, (None, 641)),
}
"""
Vendor and model, or the identity of a class (an OID), to the platform and the keys of its launch
measurement.  The OID is that of tag:amd.com,2024:snp-corim-profile, 1.3.6.1.4.1.3704.3.1.
"""
_SIZES: Final = {1: 32, 7: 48}  # bytes of SHA-256 and SHA-384, by RFC 6920's numbers


class Vouching(NamedTuple):
    """Certificates at which a signature has to end, if any, and the time at which it holds."""

    anchors: Sequence[Certificate]
    at: datetime


def read(blob: Blob, anchors: Sequence[Certificate] = (), at: datetime | None = None) -> Found:
    """
    Return the reference values of a file.

    `anchors` are certificates at which the file's signature has to end, `at` is the time at which
    it has to hold, None: now.  UnsupportedError for another file, MalformedError, MismatchError
    where a signature does not hold or is over, or where there is none and certificates were given.
    """
    vouching = Vouching(anchors, at or datetime.now(UTC))
    if len(blob) > LARGEST:
        raise MalformedError(f"{len(blob)} bytes are not reference values", at=blob.name)
    data = bytes(blob.data)
    for recognises, reader in _FORMS:
        if recognises(data):
            found = reader(blob, data, vouching)
            break
    else:
        raise UnsupportedError("not a file of reference values that is known", at=blob.name)
    if anchors and not found.checked:
        hint = "without certificates its values are taken as they are"
        raise MismatchError(f"{found.kind} that is not signed", at=blob.name, hint=hint)
    if not found.entries:
        raise UnsupportedError(f"{found.kind} without launch measurements", at=blob.name)
    if len(found.entries) > MOST_ENTRIES:
        raise MalformedError(f"more than {MOST_ENTRIES} values", at=blob.name)
    return found


def _corim(blob: Blob, data: bytes, vouching: Vouching) -> Found:
    """Return what a CoRIM says, or Azure's reference info: both are signed by COSE."""
    signature, checked, content = "", False, None
    if data[:1] == b"\xd2":
        whole, signature, checked = signed.payload(blob, *vouching)
        data, content = whole.payload, whole.content
    if data.lstrip()[:1] == b"{":
        if content != "application/json":
            raise MalformedError(f"signed as {content!r:.40}, expected JSON", at=blob.name)
        document = text.parse(Blob(blob.name, memoryview(data)))
        return Found("reference info", tuple(_members(document)), signature, checked)
    if content not in (None, cose.RIM):
        raise MalformedError(f"signed as {content!r:.40}, expected {cose.RIM}", at=blob.name)
    return Found("CoRIM", tuple(_triples(blob.name, data, vouching.at)), signature, checked)


def _triples(place: str, data: bytes, at: datetime) -> Iterator[Entry]:
    """Yield the launch digests of a CoRIM's reference triples; MalformedError, MismatchError."""
    cbor2 = signed.library(place)
    try:
        document = cbor2.loads(data).value
        cose.check_validity(document.get(4), at, place)
        for tag in document[1]:
            comid = cbor2.loads(tag.value) if tag.tag == _COMID else {4: {}}
            for environment, measurements in comid[4].get(0, ()):
                yield from _measured(environment[0], measurements)
    except CvmplanError:
        raise
    except Exception as error:
        raise MalformedError("is not a CoRIM with reference triples", at=place) from error


def _measured(of: Mapping[int, Any], measurements: Any) -> Iterator[Entry]:
    """Yield the launch digests that are said of one environment, none of other products."""
    identity = of.get(0)
    product = (of.get(1), of.get(2)) if identity is None else identity.value
    platform, keys = _CLASSES.get(product, (None, ()))
    for one in measurements:
        name = one.get(0)
        if name not in keys:
            continue
        for algorithm, digest in one[1].get(2, ()):
            if isinstance(digest, bytes) and _SIZES.get(algorithm) == len(digest):
                yield Entry("digest" if name is None else str(name), digest, platform)


def _endorsement(blob: Blob, data: bytes, vouching: Vouching) -> Found:
    """Return what an endorsement of Google Compute Engine says of SNP and TDX launches."""
    outer = dict(protobuf.fields(data, blob.name))
    golden, signature = outer.get(1), outer.get(2)
    if not isinstance(golden, bytes) or not isinstance(signature, bytes):
        raise MalformedError("is not an endorsement", at=blob.name)
    parts = dict(protobuf.fields(golden, blob.name))
    who, checked = signed.endorsement(blob, golden, signature, parts.get(4), *vouching)
    return Found("endorsement of the cloud", tuple(_golden(parts, blob.name)), who, checked)


def _golden(parts: Mapping[int, int | bytes], at: str) -> Iterator[Entry]:
    """Yield the measurements of VMGoldenMeasurement: SNP by VMSAs, TDX by memory."""
    for number, value in protobuf.fields(_bytes(parts.get(7)), at):
        if number == 2:
            pair = dict(protobuf.fields(_bytes(value), at))
            vcpus = _number(pair.get(1))
            name = f"sev_snp.measurements[{vcpus}]"
            yield Entry(name, _bytes(pair.get(2)), SNP, {"vcpus": vcpus})
        elif number == 7:
            yield Entry("sev_snp.svsm_measurement", _bytes(value), SNP)
    for number, value in protobuf.fields(_bytes(parts.get(8)), at):
        if number == 2:
            made = dict(protobuf.fields(_bytes(value), at))
            name = f"tdx.measurements, {_number(made.get(1))} GiB"
            yield Entry(name, _bytes(made.get(3)), TDX)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""


def _json(blob: Blob, _: bytes, __: Vouching) -> Found:
    document = text.parse(blob)
    if isinstance(document, dict) and "payload" in document and "type" in document:
        return Found("RVPS message", tuple(_message(blob.name, document)))
    if isinstance(document, dict) and document.get("predicateType"):
        return Found("in-toto statement", tuple(_members(document.get("predicate"))))
    if isinstance(document, list) and all(isinstance(one, str) for one in document):
        return Found("list", tuple(_digests("", document, None)))
    return Found("JSON", tuple(_members(document)))


def _message(place: str, document: Mapping[str, Any]) -> Iterator[Entry]:
    """Yield the values of a message of Trustee's RVPS, whose payload is JSON in base64."""
    try:
        data = b64decode(str(document["payload"]), validate=True)
        held = json.loads(data)
    except ValueError:
        raise MalformedError("payload is not JSON in base64", at=place) from None
    for name, value in held.items() if isinstance(held, dict) else ():
        if not name.lower().replace("_", "").startswith(_OTHERS):
            yield from _digests(str(name)[:80], value, _NAMED.get(_plain(str(name))))


def _plain(name: str) -> str:
    return "".join(one for one in name.lower() if one.isalnum())


def _members(document: Any) -> Iterator[Entry]:
    """Yield the values in a document by the names of their members; ours with their settings."""
    level: deque[tuple[str, Any]] = deque([("", document)])
    while level:
        path, value = level.popleft()
        if isinstance(value, list):
            level += ((f"{path}[{n}]", one) for n, one in enumerate(value) if one)
        elif isinstance(value, dict):
            if {"platform", "digest", "settings"} <= value.keys():
                yield from _ours(path, value)
                continue
            for name, one in value.items():
                below = f"{path}.{name}" if path else str(name)
                if _plain(str(name)) in _REFUSED:
                    raise UnsupportedError("has values that are refused", at=below[:80])
                if _plain(str(name)) in _NAMED:
                    yield from _digests(below, one, _NAMED[_plain(str(name))])
                if isinstance(one, (dict, list)):
                    level.append((below, one))


def _ours(path: str, value: Mapping[str, Any]) -> Iterator[Entry]:
    """Yield a value of cvmplan.reference/1."""
    settings = value["settings"] if isinstance(value["settings"], dict) else {}
    platform = next((one for one in Platform if one == value["platform"]), None)
    for one in _digests(path, value["digest"], platform):
        yield one._replace(settings=settings)


def _digests(name: str, value: Any, platform: Platform | None) -> Iterator[Entry]:
    """Yield the digests that a value is, or that its list has."""
    for number, one in enumerate(value if isinstance(value, list) else [value]):
        digest = _digest(one)
        if digest is not None:
            place = f"{name}[{number}]" if isinstance(value, list) else name
            yield Entry(place, digest, platform)


def _digest(written: Any) -> bytes | None:
    if not isinstance(written, str):
        return None
    try:
        return values.digest(written)
    except ValueError:
        return None


def _textproto(_: Blob, data: bytes, __: Vouching) -> Found:
    entries = [
        Entry(name, value, _TEXTPROTO[name])
        for name, value in protobuf.strings(data.decode(errors="replace"))
        if name in _TEXTPROTO and len(value) in values.DIGESTS
    ]
    return Found("configuration of a verifier", tuple(entries))


def _rego(blob: Blob, data: bytes, _: Vouching) -> Found:
    """Return the values of a policy that only accepts; UnsupportedError for one that refuses."""
    written = _COMMENT.sub("", data.decode(errors="replace"))
    refused = _REFUSING.search(written)
    if refused:
        problem = f"a policy with {refused[0]!r}: the values that it accepts are not known"
        raise UnsupportedError(problem, at=blob.name)
    found = _QUOTED.findall(written)
    entries = [Entry(f"value {n}", bytes.fromhex(one)) for n, one in enumerate(found, 1)]
    return Found("policy in Rego", tuple(entries))


def _list(blob: Blob, data: bytes, _: Vouching) -> Found:
    """Return the digests of a list, one on each line; MalformedError for another line."""
    entries = []
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        written = line.partition("#")[0].strip()
        if not written:
            continue
        digest = _digest(written)
        if digest is None:
            raise MalformedError("is not a digest in hex or base64", at=f"{blob.name}:{number}")
        entries.append(Entry(f"line {number}", digest))
    return Found("list", tuple(entries))


def _is_list(data: bytes) -> bool:
    lines = (line.partition(b"#")[0].strip() for line in data[:8192].splitlines())
    first = next((line for line in lines if line), b"")
    return _digest(first.decode(errors="replace")) is not None


_Reader = Callable[[Blob, bytes, Vouching], Found]
_FORMS: Final[tuple[tuple[Callable[[bytes], bool], _Reader], ...]] = (
    (lambda data: data.startswith(_CORIM), _corim),
    (lambda data: data.lstrip()[:1] in (b"{", b"["), _json),
    (lambda data: _POLICY.search(data) is not None, _rego),
    (lambda data: _CONFIGURATION.search(data) is not None, _textproto),
    (_is_list, _list),
    (lambda data: data[:1] == b"\x0a", _endorsement),
)  # fmt: skip
"""What recognises a form, and what reads it, the most particular first."""
