"""
Evidence in what people have it in: a registry of small decoders, tried on contents, nested.

Nothing is trusted for what it says about itself: who wraps a report can wrap another one, and
certificates that come with it are as good as the key that they end at.  A new wrapper is a
function that recognises it, one that takes it off, and a line of `DECODERS`.
"""

from __future__ import annotations

from typing import Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, MalformedError, UnsupportedError
from cvmplan.evidence.wrappers import documents, dstack, hardware, hcl, texts
from cvmplan.evidence.wrappers.piece import DEEPEST, MOST, Decoder, Inside, Unwrapped

__all__ = ["DECODERS", "DEEPEST", "Decoder", "Inside", "Unwrapped", "pieces", "unwrap"]

_TSM = "Linux, Documentation/ABI/testing/configfs-tsm; RFC 8949"
DECODERS: Final = (
    Decoder("alone", "AMD 56860; Intel DCAP; Intel 348551", hardware.is_alone, hardware.alone),
    Decoder("extended report", "AMD 56421", hardware.is_extended, hardware.extended),
    Decoder("MSG_REPORT_RSP", "AMD 56860", hardware.is_response, hardware.response),
    Decoder("HCL", "Microsoft, attestation report format", hcl.is_hcl, hcl.hcl),
    Decoder("dstack 0", "dstack-attest/src/attestation.rs", dstack.is_scale, dstack.scale),
    Decoder("dstack 1", "dstack-attest/src/v1.rs", dstack.is_packed, dstack.packed),
    Decoder(
        "JSON", "RFC 8259, and evidence/wrappers/members.py", documents.is_json, documents.json
    ),
    Decoder("text", "RFC 4648", texts.is_text, texts.text),
    Decoder("CBOR", _TSM, documents.is_cbor, documents.cbor),
)
"""All wrappers, the first that recognises the bytes first."""


def unwrap(blob: Blob, select: str | None = None) -> Unwrapped:
    """
    Return the evidence in `blob`; `select` names one piece of several, by name or number.

    UnsupportedError where there is none, MalformedError, and ConfigError where several pieces
    are there and none, or another one, was selected.
    """
    found = pieces(blob)
    if select is None and len(found) == 1:
        return found[0]
    for number, one in enumerate(found, 1):
        if select is not None and select in (one.select, str(number)):
            return one
    names = "; ".join(f"{n} {one.select or 'the file'}" for n, one in enumerate(found, 1))
    if select is None:
        problem = f"{len(found)} pieces of evidence: {names}"
        hint = f"--select {found[0].select or 1}"
        raise ConfigError(problem, at=blob.name, hint=hint)
    problem = f"{select!r} is not a piece of evidence of {blob.name}"
    raise ConfigError(problem, at="--select", hint=f"choose from {names}")


def pieces(blob: Blob) -> list[Unwrapped]:
    """
    Return all pieces of evidence in `blob`, each once; UnsupportedError, MalformedError.

    Finds of equal bytes are joined, with all certificates, the event log and the bound hash.  If
    two logs or two hashes differ, they stay separate pieces: a copy removes no check.
    """
    every = _pieces(blob, 0)
    if len(every) == 1:  # which may be as large as its file
        return every
    found: dict[bytes, list[Unwrapped]] = {}
    for one in every:
        same = found.setdefault(bytes(one.body.data).rstrip(b"\0"), [])
        for number, other in enumerate(same):
            if _agree(one, other):
                same[number] = _joined(one, other)
                break
        else:
            same.append(one)
        if sum(map(len, found.values())) > MOST:
            raise MalformedError(f"more than {MOST} pieces of evidence", at=blob.name)
    return [one for same in found.values() for one in same]


def _agree(one: Unwrapped, other: Unwrapped) -> bool:
    """Whether two finds of the same bytes have the same event log and bound hash, if any."""
    logs = [bytes(log.data) for log in (one.event_log, other.event_log) if log is not None]
    bounds = [bound for bound in (one.bound, other.bound) if bound]
    return len({*logs}) < 2 and len({*bounds}) < 2


def _joined(one: Unwrapped, other: Unwrapped) -> Unwrapped:
    """Return two finds as one, named as the one with more certificates, else as the second."""
    more_with_one = len(one.certificates) > len(other.certificates)
    first, second = (one, other) if more_with_one else (other, one)
    known = {bytes(each.data) for each in first.certificates}
    more = [each for each in second.certificates if bytes(each.data) not in known]
    return first._replace(
        certificates=(*first.certificates, *more),
        event_log=second.event_log if first.event_log is None else first.event_log,
        bound=first.bound or second.bound,
    )


def _pieces(blob: Blob, depth: int) -> list[Unwrapped]:
    if depth > DEEPEST:
        raise MalformedError(f"more than {DEEPEST} wrappers nested", at=blob.name)
    for decoder in DECODERS:
        if decoder.recognises(blob):
            found = decoder.decode(blob, lambda inner: _pieces(inner, depth + 1))
            if found:
                return found
    hint = "supported: reports, quotes, TDREPORTs; raw, base64, hex, HCL reports, JSON, CBOR"
    problem = "not an SNP attestation report, TDX quote or TDREPORT"
    raise UnsupportedError(problem, at=blob.name, hint=hint)
