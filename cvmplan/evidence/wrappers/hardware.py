"""
Reports and quotes as hardware and kernel hand them out.

Sources: AMD 56860, "MSG_REPORT_RSP Message Structure"; Linux, include/uapi/linux/sev-guest.h,
snp_report_resp (a buffer of 4000 bytes); AMD 56421 (GHCB), SNP Extended Guest Request (the
report, and behind it the certificate table).
"""

from __future__ import annotations

from struct import Struct
from typing import ClassVar

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError
from cvmplan.core.records import Frozen, record
from cvmplan.evidence import guid_table
from cvmplan.evidence.wrappers.piece import Inside, Unwrapped, is_padding
from cvmplan.platforms.snp import report
from cvmplan.platforms.tdx import quote


@record
class ResponseHeader(Frozen):
    """Header of MSG_REPORT_RSP."""

    LAYOUT: ClassVar = Struct("<II24s")
    status: int
    report_size: int
    reserved: bytes


@record
class ReportHead(Frozen):
    """The fields of an SNP report by which it is recognised."""

    LAYOUT: ClassVar = Struct("<II44xI")
    version: int
    guest_svn: int
    signature_algo: int


def is_alone(blob: Blob) -> bool:
    """Whether the bytes are a report, a quote or a TDREPORT, and nothing before it."""
    if len(blob) == report.SIZE and blob.data[0] <= report.MOST:
        return True
    return quote.is_report(blob) or (quote.is_quote(blob) and not is_extended(blob))


def alone(blob: Blob, _inside: Inside) -> list[Unwrapped]:
    """Return the bytes as they are."""
    return [Unwrapped(blob)]


def is_extended(blob: Blob) -> bool:
    """
    Whether the bytes begin with a report and go on behind it.

    Where a quote has the type of its attestation key, 2 or 3, a report has the upper half of
    its version.
    """
    if len(blob) <= report.SIZE:
        return False
    head = blob.take(ReportHead, 0)
    known = head.version in range(report.VERSIONS[0], report.MOST + 1)
    return known and head.signature_algo == report.ECDSA_P384_SHA384


def extended(blob: Blob, _inside: Inside) -> list[Unwrapped]:
    """Return the report, and the certificate table behind it."""
    body, rest = blob.slice(0, report.SIZE), blob.slice(report.SIZE, len(blob))
    if guid_table.is_table(rest):
        return [Unwrapped(body, ("extended report",), certificates=(rest,))]
    if not is_padding(rest.data):
        problem = f"{len(rest)} bytes follow the report, not all zero"
        hint = "supported: zeros, or a table of certificates (GHCB)"
        raise MalformedError(problem, at=rest.where(0), hint=hint)
    return [Unwrapped(body, notes=(f"zero bytes after the report: {len(rest)}",))]


def is_response(blob: Blob) -> bool:
    """Whether the bytes begin as MSG_REPORT_RSP does."""
    if len(blob) < ResponseHeader.LAYOUT.size + report.SIZE:
        return False
    header = blob.take(ResponseHeader, 0)
    return header.report_size == report.SIZE and not any(header.reserved)


def response(blob: Blob, _inside: Inside) -> list[Unwrapped]:
    """Return the report of MSG_REPORT_RSP; zeros may follow it."""
    at = ResponseHeader.LAYOUT.size
    status = blob.take(ResponseHeader, 0).status
    if status:
        raise MalformedError(f"firmware returned no report: status {status:#x}", at=blob.where(0))
    body, rest = blob.slice(at, at + report.SIZE), blob.slice(at + report.SIZE, len(blob))
    if not is_padding(rest.data):
        problem = f"{len(rest)} bytes follow the report, not all zero"
        raise MalformedError(problem, at=rest.where(0), hint="zeros may follow")
    return [Unwrapped(body, ("MSG_REPORT_RSP",))]
