"""cvmplan.manifest/1."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from cvmplan.documents.fields import (
    Address32,
    BitPosition,
    Document,
    HexBytes,
    Identity48,
    Integer,
    Many,
    Octets16,
    Octets32,
    Octets48,
    Octets96,
    Octets4096,
    PlatformName,
    Size,
    VcpuCount,
)


class Source(Document):
    """Where a region's contents are: exactly one of `file`, `hex`, `zeros`."""

    file: str | None = None
    offset: Integer | None = None
    length: Size | None = None
    sha256: Octets32 | None = None
    hex: HexBytes | None = None
    zeros: Literal[True] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Source:
        kinds = [k for k in ("file", "hex", "zeros") if getattr(self, k) is not None]
        if len(kinds) != 1:
            raise ValueError("needs exactly one of file, hex, zeros")
        if self.file is None and any(v is not None for v in (self.offset, self.length)):
            raise ValueError("offset and length need file")
        if self.zeros and self.sha256 is not None:
            raise ValueError("sha256 needs file or hex")
        return self


class RegionDocument(Document):
    """One region of a manifest; `size` defaults to that of the contents."""

    gpa: Integer
    type: Literal[
        "normal", "zero", "unmeasured", "secrets", "cpuid", "vmsa", "measured", "augmented",
        "mapped",
    ]  # fmt: skip
    name: str | None = None
    size: Size | None = None
    source: Source | None = None
    pad: Literal["zero"] | None = None


class Range(Document):
    """A range of guest-physical addresses."""

    gpa: Integer
    size: Size


class FileReference(Document):
    """A file beside the manifest."""

    file: str
    sha256: Octets32 | None = None


class FirmwareDocument(Document):
    """The firmware, or its digest; `size` is that of the whole, where `file` is only its end."""

    file: str | None = None
    sha256: Octets32 | None = None
    digest: Octets48 | None = None
    size: Size | None = None

    @model_validator(mode="after")
    def _is_there(self) -> FirmwareDocument:
        if self.file is None and self.digest is None:
            raise ValueError("needs file, digest or both")
        if self.file is None and self.sha256 is not None:
            raise ValueError("sha256 needs file")
        return self


class BootDocument(Document):
    """Direct boot: files, or the SHA-256 of each (the command line's with its NUL)."""

    kernel: FileReference | None = None
    initrd: FileReference | None = None
    append: str | None = None
    kernel_hash: Octets32 | None = None
    initrd_hash: Octets32 | None = None
    append_hash: Octets32 | None = None


class GuestDocument(Document):
    """Settings of the virtual machine; each is an option too."""

    vcpus: VcpuCount | None = None
    cpu: str | None = None
    family: Integer | None = None
    model: Integer | None = None
    stepping: Integer | None = None
    sev_features: Integer | None = None
    policy: Integer | None = None
    es_init: Literal["legacy", "init2"] | None = None
    gpaw: Literal[48, 52] | None = None
    c_bit: BitPosition | None = None
    page_order: Literal["single-pass", "two-pass"] | None = None
    pad: Literal["zero", "file"] | None = None
    reset_eip: Address32 | None = None
    hob_gpa: Integer | None = None
    svsm: FileReference | str | None = None
    vars_size: Size | None = None
    machine: str | None = None
    tsc_khz: Integer | None = None
    host_data: Octets32 | None = None
    id_block: Octets96 | None = None
    id_auth: Octets4096 | None = None
    author_key_enabled: bool | None = None
    uki_sections: bool | None = None
    uki_profile: str | None = None
    vcek_disabled: bool | None = None
    gosvw: Octets16 | None = None
    attributes: Integer | None = None
    xfam: Integer | None = None
    mrconfigid: Identity48 | None = None
    mrowner: Identity48 | None = None
    mrownerconfig: Identity48 | None = None


class Manifest(Document):
    """cvmplan.manifest/1: an image as a list of regions, with or without firmware."""

    model_config = ConfigDict(title="cvmplan.manifest/1")
    schema_: Literal["cvmplan.manifest/1"] = Field(alias="schema")
    platform: PlatformName | None = None
    vmm: str | None = None
    abi: str | None = None
    guest: GuestDocument = GuestDocument()
    memory: Many[Range] | None = None
    required: Many[Range] = []
    firmware: FirmwareDocument | None = None
    boot: BootDocument | None = None
    backing: Literal["guest-memfd", "vma"] | None = None
    prefault: Many[Range] = []
    regions: Many[RegionDocument] = []
