"""cvmplan.matrix/1: what varies in a sweep."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field

from cvmplan.documents.fields import Document, Many

Value: TypeAlias = str | Annotated[int, Field(ge=0, strict=True)]
Values: TypeAlias = Value | Annotated[Many[Value], Field(min_length=1)]
Texts: TypeAlias = str | Annotated[Many[str], Field(min_length=1)]


class SweepDocument(Document):
    """
    Every image with every combination of values, one or a list for each setting.

    `vcpus` also takes ranges ("1-512"); file names belong to the folder of the document.
    """

    images: Annotated[Many[str], Field(min_length=1)]
    vcpus: Values | None = None
    platform: Texts | None = None
    vmm: Texts | None = None
    abi: Texts | None = None
    cpu: Texts | None = None
    sev_features: Values | None = None
    es_init: Texts | None = None
    kernel: Texts | None = None
    kernel_hash: Texts | None = None
    initrd: Texts | None = None
    initrd_hash: Texts | None = None
    append: Texts | None = None
    append_hash: Texts | None = None
    firmware_digest: Texts | None = None
    firmware_size: Values | None = None
    svsm: Texts | None = None
    vars_size: Values | None = None
    reset_eip: Values | None = None
    c_bit: Values | None = None
    gpaw: Values | None = None
    page_order: Texts | None = None
    pad: Texts | None = None


class Matrix(Document):
    """cvmplan.matrix/1: sweeps, done one after the other."""

    model_config = ConfigDict(title="cvmplan.matrix/1")
    schema_: Literal["cvmplan.matrix/1"] = Field(alias="schema")
    sweeps: Annotated[Many[SweepDocument], Field(min_length=1)]


class SweepLine(Document):
    """
    One line that `sweep` prints: a launch with all that its digest depends on, and the digest.

    A launch that is refused has an `error` in place of the measurement.
    """

    model_config = ConfigDict(title="a line of cvmplan sweep")
    image: str
    image_sha256: str
    files: str | None = None
    svsm: str | None = None
    profile: str | None = None
    platform: str | None = None
    vmm: str | None = None
    abi: str | None = None
    cpu_signature: str | None = None
    sev_features: str | None = None
    es_init: str | None = None
    vmsa_scope: str | None = None
    kernel_hash: str | None = None
    initrd_hash: str | None = None
    append_hash: str | None = None
    firmware_digest: str | None = None
    firmware_size: str | None = None
    vars_size: str | None = None
    reset_eip: str | None = None
    c_bit: str | None = None
    gpaw: str | None = None
    page_order: str | None = None
    pad: str | None = None
    vcpus: Annotated[int, Field(ge=1)] | None = None
    cpu: str | None = None
    kernel: str | None = None
    initrd: str | None = None
    append: str | None = None
    register_: str | None = Field(default=None, alias="register")
    algorithm: str | None = None
    digest: Annotated[str, Field(pattern="^([0-9a-f]{64}|[0-9a-f]{96})$")] | None = None
    pages: Annotated[int, Field(ge=1)] | None = None
    error: str | None = None
    version: str
