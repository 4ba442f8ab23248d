"""cvmplan.td-params/1 and cvmplan.td-info/1: what `td-params` and `td-info` print."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from cvmplan.documents.fields import Address, Count, Document, WithSecureEpt
from cvmplan.documents.results import FindingDocument, InputDocument

Mask = Address
Hex = Annotated[str, Field(pattern="^([0-9a-f]{2})*$")]
Hex48 = Annotated[str, Field(pattern="^[0-9a-f]{96}$")]


class ModuleDocument(Document):
    """The TDX module whose rules were applied, and where they are from."""

    name: str
    source: str
    confidence: str


class CpuidDocument(Document):
    """One CPUID configuration; TD_PARAMS hold no leaves, so a file that is read has none."""

    leaf: Mask | None = None
    subleaf: Mask | None = None
    eax: Mask
    ebx: Mask
    ecx: Mask
    edx: Mask


class TdParamsFields(Document):
    """TD_PARAMS; `tsc_frequency` in units of 25 MHz."""

    attributes: Mask
    xfam: Mask
    max_vcpus: Count
    num_l2_vms: Count
    msr_config_ctls: Mask
    reserved_0: Hex
    eptp_controls: Mask
    config_flags: Mask
    tsc_frequency: Count
    reserved_1: Hex
    mrconfigid: Hex48
    mrowner: Hex48
    mrownerconfig: Hex48
    ia32_arch_capabilities_config: Mask
    reserved_2: Hex
    cpuid_config: list[CpuidDocument]


class ParamsNames(Document):
    """Names of the bits that are set."""

    attributes: list[str]
    xfam: list[str]
    config_flags: list[str]
    msr_config_ctls: list[str]


class TdParamsDocument(Document):
    """cvmplan.td-params/1; `hex` are the 1024 bytes, null where the module refuses them."""

    model_config = ConfigDict(title="cvmplan.td-params/1")
    schema_: Literal["cvmplan.td-params/1"] = Field(alias="schema")
    module: ModuleDocument
    inputs: list[InputDocument]
    given: dict[str, Any]
    assumed: dict[str, Any]
    td_params: TdParamsFields
    names: ParamsNames
    hex: Annotated[str, Field(pattern="^[0-9a-f]{2048}$")] | None
    findings: list[FindingDocument]


class TdInfoFields(Document):
    """TDINFO."""

    attributes: Mask
    xfam: Mask
    mrtd: Hex48
    mrconfigid: Hex48
    mrowner: Hex48
    mrownerconfig: Hex48
    rtmr0: Hex48
    rtmr1: Hex48
    rtmr2: Hex48
    rtmr3: Hex48
    servtd_hash: Hex48


class InfoNames(Document):
    """Names of the bits that are set."""

    attributes: list[str]
    xfam: list[str]


class ServiceTdDocument(Document):
    """The service TD that is bound."""

    info_hash: Hex48
    type: Count
    attributes: Mask


class TdInfoDocument(Document):
    """cvmplan.td-info/1; RTMRs that are not among `rtmrs_given` are zero."""

    model_config = ConfigDict(title="cvmplan.td-info/1")
    schema_: Literal["cvmplan.td-info/1"] = Field(alias="schema")
    platform: WithSecureEpt
    vmm: str
    abi: str
    inputs: list[InputDocument]
    given: dict[str, Any]
    assumed: dict[str, Any]
    tdinfo: TdInfoFields
    names: InfoNames
    rtmrs_given: list[Literal["rtmr0", "rtmr1", "rtmr2", "rtmr3"]]
    service_td: ServiceTdDocument | None
    hex: Annotated[str, Field(pattern="^[0-9a-f]{1024}$")] | None
    tee_info_hash: Hex48
    findings: list[FindingDocument]
