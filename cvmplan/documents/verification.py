"""cvmplan.verification/1: what `verify` prints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from cvmplan.documents.events import EventDocument
from cvmplan.documents.fields import Document, WithEvidence
from cvmplan.documents.identity import LineDocument

Time = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]


class CertificateDocument(Document):
    """One certificate of the chain; `sha256_spki` is the hash of its SubjectPublicKeyInfo."""

    subject: str
    issuer: str
    sha256_spki: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    not_before: Time
    not_after: Time


class LaunchedDocument(Document):
    """Firmware of the catalogue that makes the measurement; `name` is empty where none does."""

    name: str
    version: str
    sha256: str
    command: list[str]
    complete: bool


class VerificationDocument(Document):
    """
    cvmplan.verification/1: evidence, beside a plan where `planned`.

    `verdict` "unsigned": nothing differs, and nothing shows that hardware wrote the evidence;
    `holds` is true then only where that was accepted.  `explain` are the words of a command.
    """

    model_config = ConfigDict(title="cvmplan.verification/1")
    schema_: Literal["cvmplan.verification/1"] = Field(alias="schema")
    platform: WithEvidence
    kind: str
    wrappers: list[str]
    notes: list[str] = []
    certificates: list[CertificateDocument]
    anchor: str | None
    at: Time
    lines: list[LineDocument]
    events: list[EventDocument]
    not_checked: list[str]
    verdict: Literal["ok", "differs", "unsigned"] = "ok"
    planned: bool = True
    launched: LaunchedDocument | None = None
    holds: bool
    explain: list[str]
