"""cvmplan.explanation/1: what `explain` prints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from cvmplan.documents.fields import Count, Document, PlatformName


class ChangeDocument(Document):
    """One thing that is otherwise than was given: as typed, what it was, why it matters."""

    typed: str
    was: str
    why: str


class SearchedDocument(Document):
    """One thing that was varied, and what was tried for it."""

    name: str
    values: str


class StartedDocument(Document):
    """The firmware of a catalogue with which the launch begins."""

    name: str
    version: str
    source: str
    file: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: Count


class ExplanationDocument(Document):
    """cvmplan.explanation/1: the settings that produce a measurement, or what was searched."""

    model_config = ConfigDict(title="cvmplan.explanation/1")
    schema_: Literal["cvmplan.explanation/1"] = Field(alias="schema")
    expected: Annotated[str, Field(pattern="^([0-9a-f]{64}|[0-9a-f]{96})$")]
    explained: bool
    platform: PlatformName
    command: list[str]
    changes: list[ChangeDocument]
    candidates: Count
    complete: bool
    searched: list[SearchedDocument]
    not_searched: list[str]
    evidence: str
    doubts: list[str]
    settings: dict[str, str | int | list[str]] = {}
    firmware: StartedDocument | None = None
