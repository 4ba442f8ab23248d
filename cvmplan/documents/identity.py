"""cvmplan.idblock/1, and the lines of a comparison."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Base64Bytes, ConfigDict, Field

from cvmplan.documents.fields import Address, Count, Document

Sha384 = Annotated[str, Field(pattern="^[0-9a-f]{96}$")]
Id16 = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class LineDocument(Document):
    """
    What was expected, what was found, and whether it holds; `why` names the error.

    "not in plan": nothing was expected.  "assumed": not what the plan assumed, which nobody
    asked for.  "unsigned": nothing shows that hardware wrote it.
    """

    name: str
    expected: str | None
    found: str
    status: Literal["ok", "differs", "not in plan", "assumed", "unsigned"]
    why: str


class IdBlockDocument(Document):
    """cvmplan.idblock/1: an ID block, its keys' digests, and what was checked, null where not."""

    model_config = ConfigDict(title="cvmplan.idblock/1")
    schema_: Literal["cvmplan.idblock/1"] = Field(alias="schema")
    launch_digest: Sha384
    family_id: Id16
    image_id: Id16
    version: Count
    guest_svn: Count
    policy: Address
    id_key_digest: Sha384
    author_key_digest: Sha384 | None
    id_block: Base64Bytes
    id_auth: Base64Bytes
    files: list[str]
    checks: list[LineDocument] | None
