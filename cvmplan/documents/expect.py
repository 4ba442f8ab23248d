"""cvmplan.expect/1: what images must measure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from cvmplan.core import values
from cvmplan.core.platform import Platform
from cvmplan.documents.fields import Document, Many

MOST = 10_000  # launches of a document, each of which is planned and measured
Setting: TypeAlias = str | bool | Annotated[int, Field(ge=0)] | list[str]


def _digest(written: Any) -> bytes:
    if not isinstance(written, str):
        raise ValueError("a digest is a string")  # noqa: TRY004 as in `values`
    return values.digest(written)


Digest = Annotated[
    bytes,
    BeforeValidator(_digest),
    WithJsonSchema({"type": "string", "description": "32 or 48 bytes, hex or base64"}),
]
if TYPE_CHECKING:
    Register: TypeAlias = str
else:
    Register = Literal[tuple(dict.fromkeys(p.register for p in Platform if p.register))]


class ExpectedLaunch(Document):
    """
    A launch by its settings, which are options by their names, and what each register must hold.

    `image` is a file beside this document; without it the launch is one of every image.
    """

    image: str | None = None
    settings: dict[str, Setting] = {}
    registers: Annotated[dict[Register, Digest], Field(min_length=1)]


class ExpectDocument(Document):
    """cvmplan.expect/1: launches and the measurements that they must have."""

    model_config = ConfigDict(title="cvmplan.expect/1")
    schema_: Literal["cvmplan.expect/1"] = Field(alias="schema")
    launches: Annotated[Many[ExpectedLaunch], Field(min_length=1, max_length=MOST)]
