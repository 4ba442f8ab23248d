"""cvmplan.rtmr/1: what `rtmr` prints."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from cvmplan.documents.events import Rtmr, Sha384
from cvmplan.documents.fields import Address, Count, Document


class PredictedEventDocument(Document):
    """
    One event; `digest` is null where it is not known, and then `needs` says what settles it.

    `verdict`: predicted, or with a template confirmed, replaced, or from template; `number` is
    that of the template's event.  `key` names the event among those of its type.
    """

    register_: Rtmr = Field(alias="register")
    type: Address
    type_name: str | None
    key: str
    what: str
    digest: Sha384 | None
    verdict: Literal["predicted", "confirmed", "replaced", "from template"]
    number: Count | None
    needs: str | None
    depends: list[str]
    condition: str | None
    source: str | None


class PredictedRegisterDocument(Document):
    """
    A register after its events; `value` is null where an event, `unknown`, is not known.

    `independent`: none of its events was taken from a template.
    """

    register_: Rtmr = Field(alias="register")
    events: Count
    value: Sha384 | None
    unknown: str | None
    needs: str | None
    independent: bool
    conditions: list[str]


class DifferenceDocument(Document):
    """
    What a log has otherwise, first in a register: the event's number, and what explains it.

    `number` is null where the log lacks the event; `why` where nothing that was tried does.
    """

    register_: Rtmr = Field(alias="register")
    number: Count | None
    what: str
    why: str | None


class RtmrDocument(Document):
    """cvmplan.rtmr/1: the events that a TD is predicted to measure, and its registers."""

    model_config = ConfigDict(title="cvmplan.rtmr/1")
    schema_: Literal["cvmplan.rtmr/1"] = Field(alias="schema")
    events: list[PredictedEventDocument]
    registers: list[PredictedRegisterDocument]
    differences: list[DifferenceDocument] | None
