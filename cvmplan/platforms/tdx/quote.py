"""
TDX quotes and TDREPORTs, read and not verified.

Source: Intel TDX DCAP quoting library API, "Quote Format" version 4 and 5; Intel TDX Module
ABI specification (348551), "TDREPORT_STRUCT", "REPORTMACSTRUCT", "TEE_TCB_INFO".  Nothing here
computes a signature or a MAC.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Any, ClassVar, Final, NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError

TEE_TYPE: Final = 0x81
REPORT_SIZE: Final = 1024
TDINFO_AT: Final = 512
TCB_INFO: Final = slice(256, 495)  # what TEE_TCB_INFO_HASH is of
BODIES: Final = {2: 584, 3: 648}  # type of a version 5 body to its size: TDX 1.0, TDX 1.5
ECDSA_P256: Final = 2  # attestation key type
QE_REPORT: Final = 6  # certification data: the QE's report, and what certifies that
PCK_CHAIN: Final = 5  # certification data: the PCK certificate chain in PEM
SHORTEST: Final = 48 + 584 + 4 + 128 + 6 + 384 + 64 + 2 + 6  # bytes, without certificates


@dataclass(frozen=True, slots=True)
class Header:
    """Header of a quote; QE and PCE versions are 0 where the quote does not tell them."""

    LAYOUT: ClassVar = Struct("<HHIHH16s20s")
    version: int
    att_key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor_id: bytes
    user_data: bytes


@dataclass(frozen=True, slots=True)
class BodyDescriptor:
    """What a version 5 quote has between header and body."""

    LAYOUT: ClassVar = Struct("<HI")
    type: int
    size: int


@dataclass(frozen=True, slots=True)
class Body:
    """TD10 report body; that of TDX 1.5 has `BodyTail` behind it."""

    LAYOUT: ClassVar = Struct("<16s48s48sQQQ48s48s48s48s48s48s48s48s64s")
    tee_tcb_svn: bytes
    mrseam: bytes
    mrsignerseam: bytes
    seam_attributes: int
    td_attributes: int
    xfam: int
    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    report_data: bytes


@dataclass(frozen=True, slots=True)
class BodyTail:
    """What the TD15 report body has more."""

    LAYOUT: ClassVar = Struct("<16s48s")
    tee_tcb_svn2: bytes
    mrservicetd: bytes


@dataclass(frozen=True, slots=True)
class ReportMac:
    """The half of a TDREPORT that a MAC is over, which only the same platform can check."""

    LAYOUT: ClassVar = Struct("<BBBB12s16s48s48s64s32s32s")
    type: int
    subtype: int
    version: int
    reserved_03: int
    reserved_04: bytes
    cpu_svn: bytes
    tee_tcb_info_hash: bytes
    tee_info_hash: bytes
    report_data: bytes
    reserved_c0: bytes
    mac: bytes


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """The part of a TDREPORT that is about the TDX module."""

    LAYOUT: ClassVar = Struct("<8s16s48s48sQ16s95s17s")
    valid: bytes
    tee_tcb_svn: bytes
    mrseam: bytes
    mrsignerseam: bytes
    attributes: int
    tee_tcb_svn2: bytes
    reserved: bytes
    padding: bytes


@dataclass(frozen=True, slots=True)
class TdInfo:
    """The half of a TDREPORT that is about the TD."""

    LAYOUT: ClassVar = Struct("<QQ48s48s48s48s48s48s48s48s48s64s")
    attributes: int
    xfam: int
    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    servtd_hash: bytes
    reserved: bytes


class Td(NamedTuple):
    """What a quote and a TDREPORT both say; `mrservicetd` is None where a quote has none."""

    attributes: int
    xfam: int
    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    mrseam: bytes
    mrservicetd: bytes | None
    report_data: bytes
    mrsignerseam: bytes
    seam_attributes: int
    tee_tcb_svn: bytes
    tee_tcb_svn2: bytes | None


class Signed(NamedTuple):
    """
    Who signs a quote: what the signatures are over, the signatures, the keys, the certificates.

    Signatures and the attestation key are 64 bytes, two big-endian numbers.
    """

    message: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    qe_signature: bytes
    qe_authentication: bytes
    certification_type: int
    certificates: Blob


class Quote(NamedTuple):
    """A quote of a TD; `end` is where it ends in its blob."""

    header: Header
    td: Td
    signed: Signed
    end: int

    @property
    def version(self) -> int:
        """The version of the format, 4 or 5."""
        return self.header.version


def is_quote(blob: Blob) -> bool:
    """Whether the bytes begin as a quote of a TD does."""
    return len(blob) >= SHORTEST and blob.take(Header, 0).tee_type == TEE_TYPE


def is_report(blob: Blob) -> bool:
    """Whether the bytes are as long as a TDREPORT and begin as one."""
    return len(blob) == REPORT_SIZE and blob.data[0] == TEE_TYPE


def read_quote(blob: Blob) -> Quote:
    """Return what a quote says; MalformedError, TruncatedError, UnsupportedError."""
    header = blob.take(Header, 0)
    if header.version not in (4, 5):
        problem = f"a quote of version {header.version}"
        raise UnsupportedError(problem, at=blob.where(0), hint="supported: 4 and 5")
    if header.att_key_type != ECDSA_P256:
        problem = f"an attestation key of type {header.att_key_type}"
        raise UnsupportedError(problem, at=blob.where(2), hint="supported: 2, ECDSA P-256")
    at, size = Header.LAYOUT.size, BODIES[2]
    if header.version == 5:
        descriptor = blob.take(BodyDescriptor, at)
        size = descriptor.size
        if BODIES.get(descriptor.type) != size:
            problem = f"a body of type {descriptor.type} and {size} bytes"
            raise MalformedError(problem, at=blob.where(at))
        at += BodyDescriptor.LAYOUT.size
    end = blob.slice(at, at + size).base - blob.base + size
    td = _td(blob, at, size)
    length = _u32(blob, end)
    signed = _signed(blob.slice(end + 4, end + 4 + length), bytes(blob.data[:end]))
    return Quote(header, td, signed, end + 4 + length)


def _td(blob: Blob, at: int, size: int) -> Td:
    body = blob.take(Body, at)
    tail = blob.take(BodyTail, at + BODIES[2]) if size == BODIES[3] else None
    service = tail.mrservicetd if tail else None
    svns = body.tee_tcb_svn, tail.tee_tcb_svn2 if tail else None
    seam = body.mrseam, body.mrsignerseam, body.seam_attributes, *svns
    return _as_td(body, body.td_attributes, seam, service, body.report_data)


def _as_td(
    record: Any,
    attributes: int,
    seam: tuple[bytes, bytes, int, bytes, bytes | None],
    mrservicetd: bytes | None,
    report_data: bytes,
) -> Td:
    return Td(
        attributes, record.xfam, record.mrtd, record.mrconfigid, record.mrowner,
        record.mrownerconfig, (record.rtmr0, record.rtmr1, record.rtmr2, record.rtmr3),
        seam[0], mrservicetd, report_data, *seam[1:],
    )  # fmt: skip


def _u32(blob: Blob, at: int) -> int:
    return int.from_bytes(blob.slice(at, at + 4).data, "little")


def _signed(data: Blob, message: bytes) -> Signed:
    """Return what stands behind the body of a quote: signature, key, and what certifies it."""
    outer_type, outer = _certification(data, 128)
    if outer_type != QE_REPORT:
        raise UnsupportedError(
            f"certification data of type {outer_type}", at=data.where(128), hint="supported: 6"
        )
    size = int.from_bytes(outer.slice(448, 450).data, "little")
    inner_type, certificates = _certification(outer, 450 + size)
    return Signed(
        message,
        bytes(data.slice(0, 64).data),
        bytes(data.slice(64, 128).data),
        bytes(outer.slice(0, 384).data),
        bytes(outer.slice(384, 448).data),
        bytes(outer.slice(450, 450 + size).data),
        inner_type,
        certificates,
    )


def _certification(blob: Blob, at: int) -> tuple[int, Blob]:
    """Return type and bytes of certification data, which end where `blob` ends."""
    kind = int.from_bytes(blob.slice(at, at + 2).data, "little")
    end = at + 6 + _u32(blob, at + 2)
    data = blob.slice(at + 6, end)
    if end != len(blob):
        problem = f"{len(blob) - end} bytes more than the certification data have"
        raise MalformedError(problem, at=blob.where(end))
    return kind, data


def read_report(blob: Blob) -> tuple[Td, ReportMac]:
    """Return what a TDREPORT says; MalformedError, TruncatedError, UnsupportedError."""
    if len(blob) != REPORT_SIZE:
        raise MalformedError(f"{len(blob)} bytes, a TDREPORT has {REPORT_SIZE}", at=blob.name)
    mac, tcb, info = blob.take(ReportMac, 0), blob.take(TcbInfo, 256), blob.take(TdInfo, TDINFO_AT)
    if mac.type != TEE_TYPE or mac.subtype or mac.version not in (0, 1):
        problem = f"a report of type {mac.type:#x}, subtype {mac.subtype}, version {mac.version}"
        hint = "supported: 0x81, 0, and 0 or 1"
        raise UnsupportedError(problem, at=blob.where(0), hint=hint)
    reserved = (mac.reserved_03, *mac.reserved_04, *mac.reserved_c0, *tcb.padding)
    if any((*reserved, *info.reserved)):
        raise MalformedError("reserved bytes are not zero", at=blob.name)
    seam = tcb.mrseam, tcb.mrsignerseam, tcb.attributes, tcb.tee_tcb_svn, tcb.tee_tcb_svn2
    return _as_td(info, info.attributes, seam, info.servtd_hash, mac.report_data), mac
