"""cvmplan.diff/1: what `diff` prints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from cvmplan.documents.fields import Address, Count, Document, PlatformName


class SideDocument(Document):
    """One launch; no digest where it is not known."""

    name: str
    kind: Literal["plan", "trace", "recorded launch"]
    platform: PlatformName
    register_: str = Field(alias="register")
    digest: Annotated[str, Field(pattern="^([0-9a-f]{64}|[0-9a-f]{96})$")] | None


class PartingDocument(Document):
    """Where the launches part first: the operation, step or line of each, null at its end."""

    a: str | None
    b: str | None
    why: str


class DifferenceDocument(Document):
    """One thing that is otherwise, and whether it is measured; `first` and `last` are pages."""

    what: str
    where: str
    a: str
    b: str
    measured: bool
    first: Address | None = None
    last: Address | None = None


class DeviationDocument(Document):
    """A known difference of calls that changes nothing, how often it occurs, and why."""

    id: str
    count: Count
    reason: str


class CallsDocument(Document):
    """How the calls of a plan compare with recorded ones; `pointers` are the process's own."""

    compared: Count
    fields_equal: Count
    pointers: Count
    differences: Count
    deviations: list[DeviationDocument]


class DiffDocument(Document):
    """cvmplan.diff/1: where two launches part, and what differs; `more` are not listed."""

    model_config = ConfigDict(title="cvmplan.diff/1")
    schema_: Literal["cvmplan.diff/1"] = Field(alias="schema")
    a: SideDocument
    b: SideDocument
    differ: bool
    same_measurement: bool | None
    parting: PartingDocument | None
    differences: list[DifferenceDocument]
    more: Count
    calls_differ: str
    not_compared: list[str]
    calls: CallsDocument | None = None
