"""What the verbs print: findings, measurements, maps, traces."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from cvmplan.core.values import MOST_VCPUS
from cvmplan.documents.fields import Address, Count, Document, HexBytes, Many, PlatformName


class FindingDocument(Document):
    """One result of a check."""

    rule: str
    severity: Literal["error", "warning", "note"]
    message: str
    first: Address | None = None
    last: Address | None = None
    origins: Many[str] = []
    at: str | None = None
    hint: str | None = None


class PlaceDocument(Document):
    """A place in a file: bytes of a binary, or the line and column in a document, from 1."""

    file: str
    offset: Count | None = None
    length: Count | None = None
    line: Count | None = None
    column: Count | None = None


class PlacedFinding(FindingDocument):
    """One result of `check`: its file, its place, and the places of its `origins` as `owners`."""

    file: str | None = None
    place: PlaceDocument | None = None
    owners: Many[PlaceDocument] = []


class ComparedDocument(Document):
    """A launch, by its settings, whose measurement was expected."""

    register_: str = Field(alias="register")
    launch: str
    expected: HexBytes
    digest: HexBytes
    same: bool


class CheckedDocument(Document):
    """One file, the exit code for it alone, and the measurements that were compared."""

    path: str
    exit_code: Annotated[int, Field(ge=0, le=4)]
    compared: Many[ComparedDocument]


class Findings(Document):
    """cvmplan.findings/1: what `check` found."""

    model_config = ConfigDict(title="cvmplan.findings/1")
    schema_: Literal["cvmplan.findings/1"] = Field(alias="schema")
    findings: Many[PlacedFinding]
    files: Many[CheckedDocument] = []


class InputDocument(Document):
    """A file that the result depends on; no `path` for standard input."""

    role: str
    path: str | None = None
    size: Count
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Covered(Document):
    """Some pages, and their bytes."""

    pages: Count
    bytes: Count


class CoverageDocument(Document):
    """What the measurement covers: contents, address and type alone, or neither."""

    contents: Covered
    address_only: Covered
    host_filled: Covered
    by_digest: Covered
    vmsas: Covered
    not_added: Covered


class MeasurementDocument(Document):
    """cvmplan.measurement/1: one launch measurement and all that it depends on."""

    model_config = ConfigDict(title="cvmplan.measurement/1")
    schema_: Literal["cvmplan.measurement/1"] = Field(alias="schema")
    platform: PlatformName
    vmm: str
    abi: str
    register_: Literal["MEASUREMENT", "MRTD", "LD", "BOOT_DIGEST"] = Field(alias="register")
    algorithm: Literal["sha384", "sha256"]
    digest: Annotated[str, Field(pattern="^([0-9a-f]{64}|[0-9a-f]{96})$")]
    pages: Count
    coverage: CoverageDocument
    inputs: Many[InputDocument]
    given: dict[str, Any]
    assumed: dict[str, Any]
    places: dict[str, str] = {}
    findings: Many[FindingDocument]


class TraceCommand(Document):
    """One firmware command, or a run of equal ones."""

    step: Count
    op: Count
    command: Annotated[str, Field(pattern="^[A-Z][A-Z_.+]{0,63}$")]
    gpa: Address | None = None
    size: Address | None = None
    page_type: Annotated[str, Field(pattern="^[a-z-]{1,32}$")] | None = None
    level: Count | None = None
    count: Count | None = None
    vcpus: Annotated[str, Field(pattern="^[0-9]{1,4}(-[0-9]{1,4})?$")] | None = None
    policy: Address | None = None
    attributes: Address | None = None
    xfam: Address | None = None
    rcx: Address | None = None
    acceptance: Count | None = None
    measured: bool | None = None
    vtl: Count | None = None
    digest: Annotated[str, Field(pattern="^([0-9a-f]{64}|[0-9a-f]{96})$")] | None = None

    @model_validator(mode="after")
    def _is_possible(self) -> TraceCommand:
        if self.vcpus is not None:
            first, _, last = self.vcpus.partition("-")
            if not int(first) <= int(last or first) < MOST_VCPUS:
                raise ValueError(f"{self.vcpus} are not vCPUs of 0 to {MOST_VCPUS - 1}")
        if int(self.gpa or "0", 16) + int(self.size or "0", 16) > 1 << 64:
            raise ValueError(f"{self.size} bytes at {self.gpa} end past 2^64")
        return self


class TracedMapping(Document):
    """
    What an operation maps without a firmware command; the largest page is `level` bytes.

    `why` says why memory behind a user-space address has 4 KiB pages.
    """

    op: Count
    gpa: Address
    size: Address
    level: Address
    why: str | None = None


class Trace(Document):
    """
    cvmplan.trace/1: the firmware commands, and what is mapped without any.

    `jsonl` has one object a command instead.
    """

    model_config = ConfigDict(title="cvmplan.trace/1")
    schema_: Literal["cvmplan.trace/1"] = Field(alias="schema")
    platform: PlatformName
    steps: Many[TraceCommand]
    mappings: Many[TracedMapping] | None = None


class Mapped(Document):
    """What a call mapped: bytes from `gpa`, the largest page `level` bytes."""

    gpa: Address
    size: Address
    level: Address


class Residual(Document):
    """What a call left undone."""

    gpa: Address
    size: Address


class FirstCall(Document):
    """What a call answers by itself that is refused when it is made again for its rest."""

    result: Literal["ok"]
    residual: Residual


class SimulationResult(Document):
    """
    What one call answers; `seq` is its number in the plan, or its line in a recording.

    A call that a VMM repeats for its rest is answered where the repetition ends.
    """

    seq: Count
    op: str
    result: Literal["ok", "nop", "error", "ambiguous"]
    errno: str | None = None
    fw_error: Count | None = None
    seamcall_status: str | None = None
    mapped: Mapped | None = None
    residual: Residual | None = None
    first_call: FirstCall | None = None
    why: str | None = None


class SimulationDocument(Document):
    """cvmplan.simulation/1: what a kernel answers to the calls, and the digest reached."""

    model_config = ConfigDict(title="cvmplan.simulation/1")
    schema_: Literal["cvmplan.simulation/1"] = Field(alias="schema")
    platform: PlatformName
    abi: str
    results: Many[SimulationResult]
    digest: Annotated[str, Field(pattern="^([0-9a-f]{64}|[0-9a-f]{96})$")] | None
    finalized: bool
    findings: Many[FindingDocument]


class MapRegion(Document):
    """One owner of guest memory."""

    gpa: Address
    size: Address
    owner: str
    type: str
    measured: bool


class Gap(Document):
    """Addresses between two regions that nothing maps."""

    gpa: Address
    size: Address


class Map(Document):
    """cvmplan.map/1: who owns which pages, in address order."""

    model_config = ConfigDict(title="cvmplan.map/1")
    schema_: Literal["cvmplan.map/1"] = Field(alias="schema")
    regions: Many[MapRegion]
    gaps: Many[Gap]
    findings: Many[FindingDocument]
