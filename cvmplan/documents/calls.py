"""cvmplan.call/1: one line of `plan --format calls`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from cvmplan.documents.fields import Address, Count, Document

HexDigits = Annotated[str, Field(pattern="^([0-9a-f]{2})*$")]


class Relocation(Document):
    """Bytes of a struct that only the VMM can fill in: an address (8), a file descriptor (4)."""

    offset: Count
    address: str


class StructDocument(Document):
    """A C struct: its fields but for reserved ones, and all of its bytes."""

    struct: str
    fields: dict[str, str | dict[str, str]]
    bytes: HexDigits
    relocations: list[Relocation] = []
    followed_by: str | None = None


class CpuidDocument(Document):
    """Bits of a CPUID register that the launch decides; the rest of the CPUID is the host's."""

    function: Address
    register_: Literal["eax"] = Field(alias="register")
    mask: Address
    value: Address


class ContentsDocument(Document):
    """`size` bytes at an address: a part of an input, or bytes at an offset; the rest is zero."""

    input: Count | None = None
    offset: Count | None = None
    length: Count | None = None
    hex: HexDigits | None = None
    at: Count | None = None
    size: Address


class CallLine(Document):
    """
    cvmplan.call/1: one system call, in JSON Lines.

    Either an ioctl with its number and an `argument` or a struct (where that is a
    `command`, its own struct is `data`), another call with its arguments, or, for an
    interface that nothing runs, a `symbolic` operation.  `contents` names what the VMM puts
    at an address before the call.
    """

    model_config = ConfigDict(title="cvmplan.call/1")
    seq: Count
    op: str
    call: str
    fd: str | None = None
    ioctl: Address | None = None
    argument: int | str | None = None
    capability: str | None = None
    wants: str | None = None
    returns: str | None = None
    command: str | None = None
    struct: str | None = None
    fields: dict[str, str | dict[str, str]] | None = None
    cpuid: list[CpuidDocument] | None = None
    bytes: HexDigits | None = None
    relocations: list[Relocation] | None = None
    data: StructDocument | None = None
    repeat: str | None = None
    retry: str | None = None
    address: str | None = None
    to: str | None = None
    from_: str | None = Field(default=None, alias="from")
    size: Address | None = None
    offset: Address | None = None
    advice: str | None = None
    mode: str | None = None
    contents: dict[str, ContentsDocument] | None = None
    symbolic: dict[str, Any] | None = None
