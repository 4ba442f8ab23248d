"""What `launch-measure` and `session` print; no secret is part of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from cvmplan.documents.fields import Address, Document, WithFlatDigest
from cvmplan.documents.results import FindingDocument, InputDocument

Hex16 = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Hex32 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Byte = Annotated[int, Field(ge=0, le=255)]


class ApiDocument(Document):
    """The version of the firmware's API."""

    major: Byte
    minor: Byte


class LaunchMeasureDocument(Document):
    """
    cvmplan.launch-measure/1: what LAUNCH_MEASURE returns.

    `reported` is measurement and MNONCE in base64; the platform is null where it was not
    given beside the digest.
    """

    model_config = ConfigDict(title="cvmplan.launch-measure/1")
    schema_: Literal["cvmplan.launch-measure/1"] = Field(alias="schema")
    platform: WithFlatDigest | None
    digest: Hex32
    policy: Address
    api: ApiDocument
    build: Byte
    mnonce: Hex16
    measurement: Hex32
    reported: Annotated[str, Field(pattern="^[0-9A-Za-z+/]{64}$")]
    inputs: list[InputDocument]
    given: dict[str, Any]
    assumed: dict[str, Any]
    findings: list[FindingDocument]


class SessionFields(Document):
    """The session as firmware takes it, in this order."""

    nonce: Hex16
    wrap_tk: Hex32
    wrap_iv: Hex16
    wrap_mac: Hex32
    policy_mac: Hex32


class SessionDocument(Document):
    """
    cvmplan.session/1: a session that was made or verified.

    `random` names what was made up, `files` what was written into `folder`, and `verified`
    what was found to hold.
    """

    model_config = ConfigDict(title="cvmplan.session/1")
    schema_: Literal["cvmplan.session/1"] = Field(alias="schema")
    policy: Address
    inputs: list[InputDocument]
    session: SessionFields
    random: list[Literal["tek", "tik", "nonce", "iv"]]
    folder: str | None
    files: list[str]
    verified: list[Literal["WRAP_MAC", "POLICY_MAC", "TEK", "TIK"]]
