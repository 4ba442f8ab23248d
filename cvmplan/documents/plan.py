"""cvmplan.plan/1."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import ConfigDict, Field, create_model, model_validator

from cvmplan.documents.fields import (
    Address,
    Count,
    Document,
    HexBytes,
    Integer,
    Many,
    Octets16,
    Octets32,
    Octets48,
    Octets96,
    Octets4096,
    PlatformName,
    VcpuCount,
)
from cvmplan.documents.practice import PracticeDocument
from cvmplan.documents.results import FindingDocument, InputDocument


class PlanSource(Document):
    """Where an operation's contents are; see the manifest's `source`."""

    input: Count | None = None
    offset: Count | None = None
    length: Count | None = None
    hex: HexBytes | None = None
    at: Count | None = None
    zeros: Literal[True] | None = None
    vmm: Literal["cpuid", "secrets", "hob", "parameters"] | None = None
    digest_after: Octets48 | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> PlanSource:
        names = ("input", "hex", "zeros", "vmm", "digest_after")
        kinds = [n for n in names if getattr(self, n) is not None]
        if len(kinds) != 1:
            raise ValueError("needs exactly one of input, hex, zeros, vmm, digest_after")
        if self.input is not None and (self.offset is None or self.length is None):
            raise ValueError("input needs offset and length")
        return self


class VmsaDocument(Document):
    """The initial state of a run of vCPUs; `hex` without the zeros at its end."""

    vcpus: Annotated[str, Field(pattern="^[0-9]{1,4}(-[0-9]{1,4})?$")]
    hex: Annotated[HexBytes, Field(max_length=4096)]
    gpa: Integer | None = None


class RegisterDocument(Document):
    """A register of a vCPU: its number in the hypervisor's interface, and 16 bytes."""

    name: Integer
    value: Octets16


_OPTIONAL: dict[str, Any] = {
    "gosvw": Octets16, "host_data": Octets32, "id_block": Octets96, "id_auth": Octets4096,
    "mrconfigid": Octets48, "mrowner": Octets48, "mrownerconfig": Octets48,
    "digest_after": Octets48, "gmem": Count, "largest_level": Address, "author_key_enabled": bool,
    "vcek_disabled": bool, "legacy": bool, "gmem_offset": Integer, "preserve": bool,
    "memory": Count, "memory_offset": Integer, "readonly": bool,
    "flags": Many[Literal["mmap", "init-shared"]], "source": PlanSource,
    "fd": Annotated[str, Field(pattern="^(kvm|vm|(gmem|vcpu):[0-9]{1,10}(-[0-9]{1,4})?)$")],
    "retry": Literal["invalid-param-once"],
}  # fmt: skip
_RUN: dict[str, Any] = {"gpa": Integer, "size": Integer}
_PAGES: dict[str, Any] = {**_RUN, "source": PlanSource}
_SNP_TYPE: Any = Literal["normal", "vmsa", "zero", "unmeasured", "secrets", "cpuid"]
_IMPORT_TYPE: Any = Literal[
    "normal", "vmsa", "zero", "unmeasured", "secrets", "cpuid", "measured", "error-range"
]  # fmt: skip
_VCPUS: dict[str, Any] = {"count": VcpuCount}
_OPS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    # operation: (kind, required fields, optional fields); the classes say what they mean
    "create-vm": ("control", {"vm_type": PlatformName}, ()),
    "init": ("control", {"vmsa_features": Integer}, ("legacy",)),
    "create-vcpu": ("control", _VCPUS, ()),
    "create-gmem": ("memory", {"gmem": Count, "size": Integer}, ("flags",)),
    "set-memslot": (
        "memory",
        {"slot": Count, **_RUN},
        ("gmem", "gmem_offset", "memory", "memory_offset", "readonly"),
    ),
    "set-private": ("memory", _RUN, ("gmem", "preserve")),
    "set-shared": ("memory", _RUN, ("gmem",)),
    "punch-hole": ("memory", {"gmem": Count, "offset": Integer, "size": Integer}, ()),
    "madvise": ("memory", {**_RUN, "advice": Literal["hugepage", "nohugepage"]}, ()),
    "write": ("memory", _PAGES, ()),
    "map-memory": ("map", _RUN, ("largest_level",)),
    "pre-fault-memory": ("map", _RUN, ("largest_level",)),
    "snp-launch-start": ("control", {"policy": Integer}, ("gosvw",)),
    "snp-launch-update": (
        "add",
        {**_RUN, "page_type": _SNP_TYPE},
        ("source", "digest_after", "retry"),
    ),
    "snp-launch-finish": (
        "control",
        {"vmsas": Many[VmsaDocument]},
        ("host_data", "id_block", "id_auth", "author_key_enabled", "vcek_disabled"),
    ),
    "tdx-init-vm": (
        "control",
        {"attributes": Integer, "xfam": Integer},
        ("mrconfigid", "mrowner", "mrownerconfig"),
    ),
    "tdx-init-vcpu": ("control", {**_VCPUS, "rcx": Integer}, ()),
    "tdx-add": ("add", {**_PAGES, "measured": bool}, ()),
    "tdx-init-mem-region": ("add", {**_RUN, "measured": bool}, ("source",)),
    "tdx-page-aug": ("map", _RUN, ()),
    "tdx-extend": ("extend", _RUN, ()),
    "tdx-finalize": ("control", {}, ()),
    "sev-launch-start": ("control", {"policy": Integer}, ()),
    "sev-launch-update-data": ("add", _PAGES, ()),
    "sev-launch-update-vmsa": ("add", {"vmsas": Many[VmsaDocument]}, ()),
    "sev-launch-measure": ("control", {}, ()),
    "sev-launch-finish": ("control", {}, ()),
    "import-page": ("add", {**_PAGES, "page_type": _IMPORT_TYPE}, ("digest_after",)),
    "import-registers": (
        "control",
        {"vtl": Count, "registers": Many[RegisterDocument]},
        (),
    ),
    "import-complete": ("control", {}, ("host_data", "id_block", "id_auth")),
}


def _op_model(name: str) -> type[Document]:
    kind, required, optional = _OPS[name]
    fields: dict[str, Any] = {
        "seq": (Count, ...),
        "kind": (Literal[kind], ...),
        "op": (Literal[name], ...),
        **{field: (kind_of, ...) for field, kind_of in required.items()},
        **{field: (_OPTIONAL[field] | None, None) for field in (*optional, "fd")},
    }
    return create_model(name, __base__=Document, **fields)


OpDocument: Any = Annotated[
    Union[tuple(_op_model(name) for name in _OPS)],  # noqa: UP007 a union made of data
    Field(discriminator="op"),
]


class Tool(Document):
    """Who wrote the plan."""

    name: str
    version: str


class PlanMeasurement(Document):
    """The measurement that the plan leads to."""

    register_: Literal["MEASUREMENT", "MRTD", "LD", "BOOT_DIGEST"] = Field(alias="register")
    algorithm: Literal["sha384", "sha256"]
    digest: Annotated[str, Field(pattern="^([0-9a-f]{64}|[0-9a-f]{96})$")]
    pages: Count


class PlanDocument(Document):
    """cvmplan.plan/1: the ordered operations; whoever has the inputs can measure it again."""

    model_config = ConfigDict(title="cvmplan.plan/1")
    schema_: Literal["cvmplan.plan/1"] = Field(alias="schema")
    tool: Tool
    platform: PlatformName
    vmm: str
    abi: str
    inputs: Many[InputDocument]
    given: dict[str, Any]
    assumed: dict[str, Any]
    places: dict[str, str] = {}
    practice: PracticeDocument | None = None
    ops: Many[OpDocument]
    measurement: PlanMeasurement | None = None
    findings: Many[FindingDocument]
