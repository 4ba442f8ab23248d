"""
Azure's HCL report, which binds the report of the hardware to keys of a virtual TPM.

Sources: Microsoft, "Guest attestation for confidential VMs", "Attestation report format";
azure-cvm-tooling, az-cvm-vtpm/src/hcl/mod.rs.
"""

from __future__ import annotations

from hashlib import sha256, sha384, sha512
from struct import Struct
from typing import ClassVar, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.records import Frozen, record
from cvmplan.evidence.wrappers.piece import Inside, Unwrapped
from cvmplan.platforms.snp import report
from cvmplan.platforms.tdx import quote

MOST_HCL: Final = 1 << 16  # bytes; an NV index of a TPM, which holds it, has 2600
_HASHES: Final = {1: sha256, 2: sha384, 3: sha512}
_SLOT: Final = 1184  # bytes of an HCL report for that of the hardware
_KINDS: Final = {2: report.SIZE, 4: quote.REPORT_SIZE}  # HCL's report type: SNP, TDX


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


def is_hcl(blob: Blob) -> bool:
    """Whether the bytes begin with the signature of an HCL report."""
    return bytes(blob.data[:4]) == b"HCLA"


def hcl(blob: Blob, _inside: Inside) -> list[Unwrapped]:
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
    return [Unwrapped(body, ("Azure HCL report",), bound=bound)]
