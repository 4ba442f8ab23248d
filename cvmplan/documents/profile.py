"""cvmplan.profile/1."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from cvmplan.core.platform import VMSA_GPA
from cvmplan.documents.fields import Count, Document, Integer, Many, PlatformName
from cvmplan.documents.practice import PracticeDocument

State = dict[str, Integer | Literal["cpu_signature"]]


class ProfileVmsa(Document):
    """The initial vCPU state that a VMM sets beyond the processor's reset state."""

    boot: State
    others: State
    gpa: Integer = VMSA_GPA
    entry: Literal["real-mode", "flat"] = "real-mode"
    boot_entry: Literal["reset-vector", "image"] = "reset-vector"
    others_entry: Literal["reset-vector", "image"] = "image"


class ProfileOrder(Document):
    """In which order the VMM makes its calls, and adds pages."""

    cpuid_last: bool = False
    hashes_first: bool = False
    sorted_by_gpa: bool = False
    inserts_first: bool = False
    vcpus_first: bool = False
    start_first: bool = False
    page_order: Literal["single-pass", "two-pass"] = "single-pass"


class ProfileSource(Document):
    """One fact of a profile, and why it is believed."""

    fact: str
    source: str
    confidence: Literal["hardware", "two-implementations", "recorded", "source-only"]
    commit: str | None = None
    since: str | None = None
    until: str | None = None


SectionRole = Literal["sec-mem", "secrets", "cpuid", "svsm-caa", "kernel-hashes"]
SnpType = Literal["normal", "zero", "unmeasured", "secrets", "cpuid"]


class ProfileDocument(Document):
    """cvmplan.profile/1: what a VMM does about a region."""

    model_config = ConfigDict(title="cvmplan.profile/1")
    schema_: Literal["cvmplan.profile/1"] = Field(alias="schema")
    name: str
    title: str = ""
    platforms: Many[PlatformName]
    page_types: dict[SectionRole, SnpType] = {}
    order: ProfileOrder = ProfileOrder()
    machine: Literal["", "q35"] = ""
    vmsa: ProfileVmsa | None = None
    extends_all: bool = False
    augmented: Literal["skip", "add"] = "skip"
    section_types: Many[Count] | None = None
    legacy_pointer: bool = True
    aligned_data: bool = False
    covers_file: bool = False
    padding: Literal["refuse", "zero", "file"] = "refuse"
    policies: dict[PlatformName, Integer] = {}
    sev_features: Integer = 1
    td_attributes: Integer = 0
    td_xfam: Integer = 0x3
    unhashed_kernels: Many[Literal["elf", "multiboot"]] = []
    retries_cpuid: bool = False
    sev_init: Literal["legacy", "init2"] = "legacy"
    readonly_pflash: bool = False
    practices: dict[PlatformName, PracticeDocument] = {}
    svsm: bool = False
    abis: Many[str] = []
    loads_igvm: bool = False
    zero_pages: Literal["normal", "zero"] = "normal"
    shared_pages: Literal["skip", "skip-normal", "add"] = "skip"
    insert_pages: Literal["all", "first"] = "all"
    large_pages: Literal["first", "whole"] = "first"
    fixed_vmsa: bool = False
    carries: Many[str] | None = None
    takes: Many[str] | None = None
    sets: dict[str, Integer] = {}
    doubts: dict[str, Integer] = {}
    cuts_tables: bool = True
    passes_features: bool = True
    all_contexts: bool = False
    once: Many[Literal["VP_CONTEXT", "CPUID"]] = []
    fixed_policy: Integer | None = None
    ignores_id_block: bool = False
    vmsa_apart: bool = False
    guest_policy: Literal["first", "last", "first-set"] = "first"
    wants_policy: bool = False
    one_id_block: bool = False
    refuses_all: bool = False
    refuses: Many[str] = []
    is_tool: bool = False
    earlier: bool = False
    sources: Many[ProfileSource] = []
