"""cvmplan.events/1: what `events` prints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from cvmplan.documents.fields import Address, Count, Document

Octets = Annotated[str, Field(pattern="^([0-9a-f]{2})*$")]
Sha384 = Annotated[str, Field(pattern="^[0-9a-f]{96}$")]
Rtmr = Literal["RTMR0", "RTMR1", "RTMR2", "RTMR3"]
Register = Literal["MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3"]


class AlgorithmDocument(Document):
    """An algorithm of which the log has digests, and their size in bytes."""

    algorithm: str
    size: Count


class DigestDocument(Document):
    """A digest by another algorithm than SHA-384."""

    algorithm: str
    digest: Octets


class HeaderDocument(Document):
    """What a binary log says of itself in its first event; `uintn_size` in units of 4 bytes."""

    mr_index: Count
    platform_class: Count
    spec_errata: Count
    uintn_size: Count
    algorithms: list[AlgorithmDocument]
    vendor_info: Octets


class FillDocument(Document):
    """The byte that fills the log's area behind the last event, and how often it stands there."""

    byte: Address
    size: Count


class EventDocument(Document):
    """
    One event: `number` from 1, SHA-384 `digest` (`computed` where the log has none), its data.

    `name` and `version` are those of dstack's JSON.  `check`: whether the digest is that of
    what the data say was hashed.
    """

    number: Count
    at: str
    register_: Register = Field(alias="register")
    type: Address
    type_name: str | None
    digest: Sha384
    computed: bool
    others: list[DigestDocument]
    data: Octets
    name: str | None
    version: Count
    description: str
    check: Literal["fits", "differs", "not-checkable", "not-extended"]
    why: str


class RegisterDocument(Document):
    """A register after the last of its events."""

    register_: Rtmr = Field(alias="register")
    events: Count
    value: Sha384


class ComparedDocument(Document):
    """
    A register beside its expected value.

    `equal_after`: the event after which it was reached, 0 before all; `left_out`: the event
    without which it is; `added`: an event of another register with which it is, at its place in
    the log; `swapped`: the event that comes after the one behind it; `separator` and `after`: the
    separator that comes after another event.
    """

    register_: Rtmr = Field(alias="register")
    expected: Sha384
    equal: bool
    equal_after: Count | None
    left_out: Count | None
    added: Count | None = None
    swapped: Count | None = None
    separator: Count | None = None
    after: Count | None = None
    why: str


class EventsDocument(Document):
    """cvmplan.events/1: a TD's event log, and the registers that it leads to."""

    model_config = ConfigDict(title="cvmplan.events/1")
    schema_: Literal["cvmplan.events/1"] = Field(alias="schema")
    form: Literal["ccel", "dstack", "trustee", "pasted"]
    complete: bool = True
    header: HeaderDocument | None
    fill: FillDocument | None
    events: list[EventDocument]
    registers: list[RegisterDocument]
    compared: list[ComparedDocument]


class LogEventDocument(Document):
    """An event of one of two logs."""

    number: Count
    type: Address
    type_name: str | None
    digest: Sha384
    description: str


class LogDifferenceDocument(Document):
    """The first event of a register that differs; null where that log has ended."""

    register_: Rtmr = Field(alias="register")
    a: LogEventDocument | None
    b: LogEventDocument | None
    more: Count


class LogDiffDocument(Document):
    """cvmplan.log-diff/1: where two event logs differ."""

    model_config = ConfigDict(title="cvmplan.log-diff/1")
    schema_: Literal["cvmplan.log-diff/1"] = Field(alias="schema")
    equal: bool
    differences: list[LogDifferenceDocument]
