"""cvmplan.firmware/1: firmware that is known by its digests, one or a catalogue of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from cvmplan.core.values import PAGE
from cvmplan.documents.fields import Address32, Document, Many, Octets32, Octets48

MOST_KNOWN = 1000  # firmware of one catalogue
MOST_SECTIONS = 64  # of one table, as readers of images take them
MOST_SECTION = 16 << 20  # bytes of a section

MOST_TEXT = 400  # characters
NAME = "^[A-Za-z0-9][A-Za-z0-9._+~-]{0,99}$"


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError(f"{value[:40]!r} is not printable")
    return value


Text = Annotated[str, Field(max_length=MOST_TEXT), AfterValidator(_printable)]


def _section_size(value: int) -> int:
    if value > MOST_SECTION or value % PAGE:
        raise ValueError(f"{value:#x} is not whole pages, at most {MOST_SECTION:#x} bytes")
    return value


class SevSectionDocument(Document):
    """A section of the SEV metadata, `type` as the firmware has it."""

    gpa: Address32
    size: Annotated[Address32, AfterValidator(_section_size)]
    type: Address32


class HashTableDocument(Document):
    """Where the firmware expects the table of kernel hashes."""

    gpa: Address32
    size: Address32


class SnpDocument(Document):
    """
    What an SNP launch needs of the firmware.

    `digest` is the launch digest after the pages of the firmware, `sections` what is added
    after them, `reset_eip` where application processors start.
    """

    digest: Octets48
    sections: Annotated[Many[SevSectionDocument], Field(min_length=1, max_length=MOST_SECTIONS)]
    hash_table: HashTableDocument | None = None
    reset_eip: Address32 | None = None


class TdxDocument(Document):
    """MRTD of the firmware by the order in which pages are added and extended."""

    single_pass: Octets48 = Field(alias="single-pass")
    two_pass: Octets48 = Field(alias="two-pass")


class KnownDocument(Document):
    """
    One firmware: what it is called, where it can be had, and its digests.

    `file` is the name of the file, `size` its bytes, `sha256` its hash.
    """

    name: Annotated[str, Field(pattern=NAME)]
    version: Text
    source: Text
    file: Text
    sha256: Octets32
    size: Annotated[int, Field(ge=PAGE, le=1 << 32)]
    snp: SnpDocument | None = None
    tdx: TdxDocument | None = None

    @model_validator(mode="after")
    def _of_a_platform(self) -> KnownDocument:
        if self.snp is None and self.tdx is None:
            raise ValueError("needs snp or tdx")
        if self.size % PAGE:
            raise ValueError(f"a size of {self.size} bytes is not whole pages")
        return self


class FirmwareDocument(Document):
    """cvmplan.firmware/1: firmware known by its digests, a catalogue of it or one alone."""

    model_config = ConfigDict(title="cvmplan.firmware/1")
    schema_: Literal["cvmplan.firmware/1"] = Field(alias="schema")
    firmware: Annotated[Many[KnownDocument], Field(max_length=MOST_KNOWN)]
