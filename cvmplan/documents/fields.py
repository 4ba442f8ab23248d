"""
The types that documents are made of, and what pydantic's complaints become.

Integers follow `values`: guest addresses, sizes, masks and register values are written as
hex strings, counts and file offsets as integers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)

from cvmplan.core import values
from cvmplan.core.platform import FLAT, WITH_SECURE_EPT, Platform

HEX = "^0x[0-9a-f]{1,16}$"
MOST = (1 << 63) - 1  # of a count: file offsets and sizes are signed on every system
_NUMBER: list[dict[str, Any]] = [
    {"type": "integer", "minimum": 0},
    {"type": "string", "pattern": "^(0x[0-9a-fA-F]{1,16}|0|[1-9][0-9]{0,19})$"},
]
_SIZE = [*_NUMBER, {"type": "string", "pattern": "^(0x[0-9a-fA-F]+|0|[1-9][0-9]*) ?[KMGT]iB$"}]

Integer = Annotated[int, BeforeValidator(values.integer), WithJsonSchema({"anyOf": _NUMBER})]
Size = Annotated[int, BeforeValidator(values.size), WithJsonSchema({"anyOf": _SIZE})]


_OCTETS = WithJsonSchema(
    {"type": "string", "description": "exactly this many bytes, hex or base64"}
)
Octets16 = Annotated[bytes, BeforeValidator(values.octets(16)), _OCTETS]
Octets32 = Annotated[bytes, BeforeValidator(values.octets(32)), _OCTETS]
Octets48 = Annotated[bytes, BeforeValidator(values.octets(48)), _OCTETS]
Octets96 = Annotated[bytes, BeforeValidator(values.octets(96)), _OCTETS]
Octets4096 = Annotated[bytes, BeforeValidator(values.octets(4096)), _OCTETS]
Identity48 = Annotated[
    bytes | str,
    BeforeValidator(values.octets_or_file(48)),
    WithJsonSchema(
        {"type": "string", "description": "48 bytes, hex or base64; file:PATH is its SHA-384"}
    ),
]
VcpuCount = Annotated[
    int,
    BeforeValidator(values.within(1, values.MOST_VCPUS)),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": values.MOST_VCPUS}),
]
BitPosition = Annotated[
    int,
    BeforeValidator(values.within(*values.C_BITS)),
    WithJsonSchema({"type": "integer", "minimum": values.C_BITS[0], "maximum": values.C_BITS[1]}),
]
Address32 = Annotated[
    int, BeforeValidator(values.within(0, 0xFFFFFFFF)), WithJsonSchema({"anyOf": _NUMBER})
]
HexBytes = Annotated[
    bytes,
    BeforeValidator(values.hex_string),
    WithJsonSchema({"type": "string", "pattern": "^([0-9a-fA-F]{2})*$"}),
]
Address = Annotated[str, Field(pattern=HEX)]
Count = Annotated[int, Field(ge=0, le=MOST)]
if TYPE_CHECKING:
    PlatformName: TypeAlias = Platform
    WithEvidence: TypeAlias = Platform
    WithSecureEpt: TypeAlias = Platform
    WithFlatDigest: TypeAlias = Platform
else:

    def _platform(name: str) -> Platform:
        return Platform(name)  # from Python 3.12 on pydantic cannot call an enum by itself

    def _one_of(platforms: Iterable[Platform]) -> object:
        return Annotated[Literal[tuple(map(str, platforms))], AfterValidator(_platform)]

    PlatformName = _one_of(Platform)
    WithEvidence = _one_of(p for p in Platform if p.evidence)
    WithSecureEpt = _one_of(WITH_SECURE_EPT)
    WithFlatDigest = _one_of(FLAT)


T = TypeVar("T")
Many: TypeAlias = Annotated[list[T], Field(fail_fast=True)]
"""A list that is read up to its first wrong item: a million of them say no more than one."""


class Document(BaseModel):
    """Every object: no unknown keys, no conversions but those that a field names."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def problems(error: ValidationError) -> list[tuple[tuple[str | int, ...], str]]:
    """Return (path, reason) of each thing that is wrong in a document."""
    return [(_path(e["loc"]), _reason(e)) for e in error.errors(include_url=False)]


def _path(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Return the path without the name of the operation that pydantic puts behind its number."""
    return loc[:2] + loc[3:] if loc[:1] == ("ops",) else loc


def _reason(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown key"
    if error["type"] == "missing":
        return "missing"
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "is not an object"
    if error["type"] == "union_tag_invalid":
        return f"unknown operation {str(error['ctx']['tag'])[:40]!r}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
