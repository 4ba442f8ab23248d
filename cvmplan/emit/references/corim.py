"""
CoRIM: the profile of launch measurements, which the crate `igvm` and IGVM files use.

Sources: draft-ietf-rats-corim-11 (tags 501 and 506, triples, SVN); microsoft/igvm 6b327b2,
igvm/src/corim/launch_measurement/{profile,mod}.rs (profile, vendor and model, tag-id, one digest
and one exact SVN).  The CBOR is deterministic (RFC 8949, 4.2): the same values, the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

from cvmplan.core.errors import UnsupportedError
from cvmplan.core.platform import SNP, TDX, VBS, Platform
from cvmplan.reference.values import Reference

PROFILE: Final = "tag:microsoft.com,2026:launch-measurement/v1"
_NAMESPACE: Final = UUID("85f3f1c2-22a8-441e-a1b9-bccfb63ed5f7")
_CORIM, _COMID, _URI, _EXACT_SVN = 501, 506, 32, 552  # tags


class Class(NamedTuple):
    """Vendor and model of a platform, the key of its measurement, and the hash algorithm."""

    vendor: str
    model: str
    key: str
    algorithm: int


CLASSES: Final[Mapping[Platform, Class]] = {
    SNP: Class("AMD", "SEV-SNP", "MEASUREMENT", 7),
    TDX: Class("Intel", "TDX", "MRTD", 7),
    VBS: Class("Microsoft", "VBS", "MEASUREMENT", 1),
}
"""Algorithms are those of RFC 6920: 1 is SHA-256, 7 is SHA-384."""


def reference(made: Reference) -> list[bytes]:
    """Return the unsigned CoRIM of the value; UnsupportedError where cbor2 is not installed."""
    cbor2 = _library()
    platform = made.platforms[0]
    (value,) = made.of(platform)
    known = CLASSES[platform]
    environment = {0: {1: known.vendor, 2: known.model}}
    measurement = {0: known.key, 1: {2: [[known.algorithm, value.digest]]}}
    svn = {1: {1: cbor2.CBORTag(_EXACT_SVN, made.wanted.svn)}}
    name = f"{known.vendor}/{known.model}"
    comid = {
        1: {0: str(uuid5(_NAMESPACE, name))},
        4: {
            0: [[environment, [measurement]]],
            8: [[[environment, []], [[[measurement], [svn]]]]],
        },
    }
    document = {
        0: f"{name}/launch-measurement",
        1: [cbor2.CBORTag(_COMID, _dumps(cbor2, comid))],
        3: cbor2.CBORTag(_URI, PROFILE),
    }
    return [_dumps(cbor2, cbor2.CBORTag(_CORIM, document))]


def _dumps(cbor2: Any, value: Any) -> bytes:
    encoded: bytes = cbor2.dumps(value, canonical=True)
    return encoded


def _library() -> Any:
    try:
        import cbor2
    except ImportError:
        hint = "pip install 'cvmplan[corim]'"
        raise UnsupportedError("CoRIM needs the package cbor2", at="--to", hint=hint) from None
    return cbor2
