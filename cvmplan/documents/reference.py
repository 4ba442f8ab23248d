"""cvmplan.reference/1: accepted values, each with what it depends on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from cvmplan.documents.fields import Document, Many, PlatformName

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Tool(Document):
    """What computed the values."""

    name: str
    version: str


class ValueDocument(Document):
    """A launch measurement in lower-case hex, the image, and the settings of its launch."""

    platform: PlatformName
    register_: str = Field(alias="register")
    algorithm: str
    digest: Annotated[str, Field(pattern="^([0-9a-f]{64}|[0-9a-f]{96})$")]
    image: str
    image_sha256: Sha256
    settings: dict[str, str | int]


class ReferenceDocument(Document):
    """cvmplan.reference/1: the predicate of in-toto statements, and provenance beside a file."""

    model_config = ConfigDict(title="cvmplan.reference/1")
    schema_: Literal["cvmplan.reference/1"] = Field(alias="schema")
    tool: Tool
    values: Many[ValueDocument]
