"""
An SNP attestation report that was taken apart into JSON, put together again.

The signature is over the bytes of the report, so each field has to come back to its place.
Source: virtee/sev, src/firmware/guest/types/snp.rs, AttestationReport, as serde writes it, in the
crate's versions before and since 6 (current_build …, or current {major, minor, build}).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.values import Json
from cvmplan.platforms.snp.report import SIZE, TCB_PARTS

_NUMBERS: Final = {
    "version": (0x0, 4), "guest_svn": (0x4, 4), "policy": (0x8, 8), "vmpl": (0x30, 4),
    "sig_algo": (0x34, 4), "plat_info": (0x40, 8), "key_info": (0x48, 4),
    "_author_key_en": (0x48, 4), "_reserved_0": (0x4C, 4), "cpuid_fam_id": (0x188, 1),
    "cpuid_mod_id": (0x189, 1), "cpuid_step": (0x18A, 1), "launch_mit_vector": (0x1F8, 8),
    "current_mit_vector": (0x200, 8), "current_build": (0x1E8, 1), "current_minor": (0x1E9, 1),
    "current_major": (0x1EA, 1), "_reserved_2": (0x1EB, 1), "committed_build": (0x1EC, 1),
    "committed_minor": (0x1ED, 1), "committed_major": (0x1EE, 1), "_reserved_3": (0x1EF, 1),
}  # fmt: skip
_BYTES: Final = {
    "family_id": (0x10, 16), "image_id": (0x20, 16), "report_data": (0x50, 64),
    "measurement": (0x90, 48), "host_data": (0xC0, 32), "id_key_digest": (0xE0, 48),
    "author_key_digest": (0x110, 48), "report_id": (0x140, 32), "report_id_ma": (0x160, 32),
    "_reserved_1": (0x188, None), "chip_id": (0x1A0, 64), "_reserved_4": (0x1F8, None),
}  # fmt: skip
_TCBS: Final = {
    "current_tcb": 0x38, "reported_tcb": 0x180, "committed_tcb": 0x1E0, "launch_tcb": 0x1F0,
}  # fmt: skip
_VERSIONS: Final = {"current": 0x1E8, "committed": 0x1EC}
_REQUIRED: Final = {
    "version", "guest_svn", "policy", "vmpl", "sig_algo", "plat_info", "report_data",
    "measurement", "host_data", "chip_id", "signature", *_TCBS,
}  # fmt: skip


def recognises(key: str, fields: Mapping[str, Json]) -> bool:
    """Whether an object, a member of name `key`, is a report taken apart."""
    signature = fields.get("signature")
    if key == "attestation_report" and "signature" in fields:
        return True
    return isinstance(signature, dict) and "measurement" in fields and {"r", "s"} <= {*signature}


def report_bytes(name: str, fields: Mapping[str, Json]) -> bytes:
    """Return the 1184 bytes of a report; MalformedError, UnsupportedError for other fields."""
    missing = sorted(_REQUIRED - set(fields))
    if missing:
        raise MalformedError(f"has no {missing[0]}", at=name)
    made = bytearray(SIZE)
    for key, value in fields.items():
        place = f"{name}.{key}"
        if value is None:
            continue
        if key in _NUMBERS:
            at, size = _NUMBERS[key]
            made[at : at + size] = _number(place, value, size)
        elif key in _BYTES:
            _put(made, place, _BYTES[key], octets(place, value))
        elif key in _TCBS:
            at = _TCBS[key]
            made[at : at + 8] = _tcb(place, value)
        elif key in _VERSIONS:
            parts = [_part(place, value, one) for one in ("build", "minor", "major")]
            made[_VERSIONS[key] : _VERSIONS[key] + 3] = b"".join(parts)
        elif key == "signature":
            for at, half in ((0x2A0, "r"), (0x2E8, "s")):
                number = octets(f"{place}.{half}", _member(place, value, half))
                _put(made, f"{place}.{half}", (at, 72), number)
        else:
            raise UnsupportedError("unknown field of a report", at=place)
    return bytes(made)


def _put(made: bytearray, place: str, field: tuple[int, int | None], value: bytes) -> None:
    """Put bytes in their place; those without a size are reserved, and zero."""
    at, size = field
    if size is None:
        if any(value):
            raise UnsupportedError("reserved bytes are not zero", at=place)
    elif len(value) != size:
        raise MalformedError(f"{len(value)} bytes, expected {size}", at=place)
    else:
        made[at : at + size] = value


def _number(place: str, value: Json, size: int) -> bytes:
    if type(value) is not int or not 0 <= value < 1 << 8 * size:
        raise MalformedError(f"is not an integer of {size} bytes", at=place)
    return value.to_bytes(size, "little")


def _member(place: str, value: Json, name: str) -> Json:
    if not isinstance(value, dict) or name not in value:
        raise MalformedError(f"has no {name}", at=place)
    found: Json = value[name]
    return found


def _part(place: str, value: Json, name: str) -> bytes:
    return _number(f"{place}.{name}", _member(place, value, name), 1)


def _tcb(place: str, value: Json) -> bytes:
    made = bytearray(8)
    turin = isinstance(value, dict) and value.get("fmc") is not None
    for name, at in TCB_PARTS[turin].items():
        made[at : at + 1] = _part(place, value, name)
    return bytes(made)


def octets(place: str, value: Json) -> bytes:
    """Return bytes that JSON has as a list of numbers or as hex; MalformedError."""
    try:
        if isinstance(value, str):
            return bytes.fromhex(value)
        if isinstance(value, list) and all(type(one) is int for one in value):
            return bytes(value)
    except ValueError:
        pass
    raise MalformedError("is neither a list of bytes nor hex", at=place)
