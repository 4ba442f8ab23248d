"""
TDX quotes and TDREPORTs, read and not verified.

Source: Intel TDX DCAP quoting library API, "Quote Format" version 4 and 5; Intel TDX Module
ABI specification (348551), "TDREPORT_STRUCT".  Nothing here looks at a signature or a MAC.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Final, NamedTuple

from cvmplan.blob import Blob
from cvmplan.errors import MalformedError, UnsupportedError

TEE_TYPE: Final = 0x81
REPORT_SIZE: Final = 1024
TDINFO_AT: Final = 512
BODIES: Final = {2: 584, 3: 648}  # type of a version 5 body to its size: TDX 1.0, TDX 1.5


@dataclass(frozen=True, slots=True)
class Header:
    """Header of a quote; what follows identifies who signs it."""

    LAYOUT: ClassVar = Struct("<HHI40s")
    version: int
    att_key_type: int
    tee_type: int
    rest: bytes


@dataclass(frozen=True, slots=True)
class BodyDescriptor:
    """What a version 5 quote has between header and body."""

    LAYOUT: ClassVar = Struct("<HI")
    type: int
    size: int


@dataclass(frozen=True, slots=True)
class Body:
    """TD10 report body; that of TDX 1.5 has two more fields behind it."""

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
    """What a quote and a TDREPORT both say about a TD."""

    attributes: int
    xfam: int
    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes


def is_quote(blob: Blob) -> bool:
    """Whether the bytes begin as a quote of a TD does."""
    return len(blob) >= Header.LAYOUT.size and blob.take(Header, 0).tee_type == TEE_TYPE


def is_report(blob: Blob) -> bool:
    """Whether the bytes are as long as a TDREPORT and begin as one."""
    return len(blob) == REPORT_SIZE and blob.data[0] == TEE_TYPE


def read_quote(blob: Blob) -> Td:
    """Return what a quote says; MalformedError, TruncatedError, UnsupportedError."""
    header = blob.take(Header, 0)
    at = Header.LAYOUT.size
    if header.version == 5:
        descriptor = blob.take(BodyDescriptor, at)
        if BODIES.get(descriptor.type) != descriptor.size:
            problem = f"a body of type {descriptor.type} and {descriptor.size} bytes"
            raise MalformedError(problem, at=blob.where(at))
        at += BodyDescriptor.LAYOUT.size
        blob.slice(at, at + descriptor.size)
    elif header.version != 4:
        problem = f"a quote of version {header.version}"
        raise UnsupportedError(problem, at=blob.where(0), hint="known are 4 and 5")
    body = blob.take(Body, at)
    identities = body.mrconfigid, body.mrowner, body.mrownerconfig
    return Td(body.td_attributes, body.xfam, body.mrtd, *identities)


def read_report(blob: Blob) -> Td:
    """Return what a TDREPORT says; TruncatedError."""
    info = blob.take(TdInfo, TDINFO_AT)
    identities = info.mrconfigid, info.mrowner, info.mrownerconfig
    return Td(info.attributes, info.xfam, info.mrtd, *identities)
