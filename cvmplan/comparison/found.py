"""What a comparison finds: differences, where calls part, and both launches together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cvmplan.comparison.held_calls import CallsCompared
from cvmplan.comparison.sides import Side
from cvmplan.comparison.walk import Parting
from cvmplan.core.documented import as_document, as_picture, summary

WHAT: Final = {
    "platform": "platform",
    "address": "address",
    "page-type": "page type",
    "contents": "contents",
    "added-twice": "added twice",
    "order": "order",
    "states": "vCPU states",
    "state": "vCPU state",
    "call": "call",
}
"""What may be otherwise beside facts, by id, and for people."""


class Difference(NamedTuple):
    """
    One thing that is otherwise, where, and how it is in each.

    `id` is one of `WHAT` or of a fact, `what` its name for people ("page type", "contents" …).
    `first` and `last` are pages.  `measured`: it changes the measurement.
    """

    id: str
    what: str
    where: str
    a: str
    b: str
    measured: bool = True
    first: int | None = None
    last: int | None = None


class Cut(NamedTuple):
    """The operation `op` from which on the calls of two plans differ: its name in each, or None."""

    op: int
    a: str | None
    b: str | None

    @property
    def words(self) -> str:
        """Where that is, for people."""
        end = "the end"
        return f"the calls differ from op {self.op} on: {self.a or end} in A, {self.b or end} in B"


@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """
    Two launches compared.

    `parting` is the first difference.  `calls_differ` says where two plans with the same firmware
    commands differ in their calls.  `unknown` is what could not be compared, `more` the number of
    differences that are not listed.
    `held` says how the calls of a plan compare with recorded ones, where both are there.
    """

    a: Side
    b: Side
    parting: Parting | None
    differences: tuple[Difference, ...]
    more: int
    calls_differ: Cut | None
    unknown: tuple[str, ...]
    held: CallsCompared | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON document that the verb prints."""
        return as_document(self)

    def _repr_html_(self) -> str:
        return as_picture(self)

    def __repr__(self) -> str:
        count = len(self.differences) + self.more
        return summary("Comparison", differences=count, same_measurement=self.same_measurement)

    @property
    def same_measurement(self) -> bool | None:
        """Whether both measure the same; None where that is not known."""
        if self.a.digest is None or self.b.digest is None:
            return None
        return (self.a.register, self.a.digest) == (self.b.register, self.b.digest)

    @property
    def differ(self) -> bool:
        """Whether anything does."""
        known = bool(self.differences or self.parting or self.calls_differ)
        return known or self.same_measurement is False
