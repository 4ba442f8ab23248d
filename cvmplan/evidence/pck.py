"""
What a PCK certificate says of its platform.

Source: Intel, SGX PCK Certificate and Certificate Revocation List Profile Specification, "Intel
SGX extensions": OID 1.2.840.113741.1.13.1 and what stands below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from cvmplan.core.errors import MalformedError
from cvmplan.evidence.chains import Certificate, extension

OID: Final = "1.2.840.113741.1.13.1"
_PREFIX: Final = bytes.fromhex("2a864886f84d010d01")  # the DER of OID's numbers
_SEQUENCE, _OID, _INTEGER, _OCTETS = 0x30, 0x06, 0x02, 0x04  # tags; ITU-T X.690
_TCB, _PCE_ID, _FMSPC = b"\2", b"\3", b"\4"
_PCE_SVN: Final = b"\2\x11"  # 1.2.17; 1.2.1 to 1.2.16 are the components of CPUSVN


class Platform(NamedTuple):
    """FMSPC and PCE ID in hex, the SVNs of the sixteen components, the PCE's SVN."""

    fmspc: str
    pce_id: str
    components: tuple[int, ...]
    pce_svn: int


def platform(one: Certificate) -> Platform:
    """Return what a PCK certificate says; MalformedError where it does not say all of it."""
    value = extension(one, OID)
    if value is None:
        raise MalformedError("has no SGX extension: no PCK certificate", at=one.at)
    try:
        members = dict(_pairs(value))
        tcb = dict(_pairs(members[_TCB]))
        svns = tuple(_integer(tcb[_TCB + bytes([n])]) for n in range(1, 17))
        pce_id, fmspc = _octets(members[_PCE_ID], 2), _octets(members[_FMSPC], 6)
        return Platform(fmspc.hex(), pce_id.hex(), svns, _integer(tcb[_PCE_SVN]))
    except (KeyError, ValueError, IndexError) as error:
        raise MalformedError("its SGX extension cannot be read", at=one.at) from error


def _pairs(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (OID below ours, value in DER) of a SEQUENCE of pairs; ValueError for other DER."""
    tag, inner, rest = _value(data)
    if tag != _SEQUENCE or rest:
        raise ValueError("no sequence")
    while inner:
        tag, pair, inner = _value(inner)
        kind, oid, value = _value(pair)
        if tag != _SEQUENCE or kind != _OID:
            raise ValueError("no pair")
        if oid.startswith(_PREFIX):
            yield oid.removeprefix(_PREFIX), value


def _value(data: bytes) -> tuple[int, bytes, bytes]:
    """Return (tag, contents, what follows) of the first value of DER; ValueError."""
    size, at = data[1], 2
    if size & 0x80:
        count = size & 0x7F
        if not 1 <= count <= 3:
            raise ValueError("a length of other bytes")
        size, at = int.from_bytes(data[2 : 2 + count], "big"), 2 + count
    if len(data) < at + size:
        raise ValueError("too short")
    return data[0], data[at : at + size], data[at + size :]


def _integer(data: bytes) -> int:
    tag, value, rest = _value(data)
    if tag != _INTEGER or rest or not 1 <= len(value) <= 3 or value[0] & 0x80:
        raise ValueError("no integer")
    return int.from_bytes(value, "big")


def _octets(data: bytes, length: int) -> bytes:
    tag, value, rest = _value(data)
    if tag != _OCTETS or rest or len(value) != length:
        raise ValueError("no octet string")
    return value
