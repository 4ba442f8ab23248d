"""
What a VMM profile is: the record that the other modules of this package fill in.

Each quirk is a field named for what differs; each fact has its source, the versions it was
checked for, and how sure it is: "hardware" (agrees with signed evidence),
"two-implementations" (computed alike by independent programs), "recorded" (the calls of the
real VMM, with its version and the date), "source-only".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from cvmplan.core.platform import SNP, VMSA_GPA, Platform
from cvmplan.core.practice import Practice, usual
from cvmplan.core.records import Frozen, record

State: TypeAlias = Mapping[str, int | str]
"""VMSA field to value, or the name of the setting that it takes ("cpu_signature")."""

HARDWARE: Final = "hardware"
TWO: Final = "two-implementations"
RECORDED: Final = "recorded"
SOURCE: Final = "source-only"


@dataclass(frozen=True, slots=True)
class Fact:
    """
    One thing that a profile says, and why it is believed.

    `id` is what it is about; a profile that was read has none, and is the same without.
    """

    fact: str
    source: str
    confidence: str
    commit: str = ""
    since: str = ""
    until: str = ""
    id: str = field(default="", repr=False, compare=False)


class Vmsa(NamedTuple):
    """
    The vCPU state that a VMM sets beyond the processor's reset state.

    `gpa`: where it is measured.  `boot` for vCPU 0, `others` for the rest.  `entry`:
    "real-mode" splits the start address into CS base and RIP, "flat" keeps it in RIP.
    `boot_entry`: vCPU 0 starts at the "reset-vector", or where the "image" says; so do the
    others by `others_entry`.
    """

    boot: State
    others: State
    gpa: int = VMSA_GPA
    entry: str = "real-mode"
    boot_entry: str = "reset-vector"
    others_entry: str = "image"


@record
class Profile(Frozen):
    """
    One VMM, or one generation of it.

    page_types      role of a metadata section to SNP page type (firmware is NORMAL)
    cpuid_last      the CPUID page is added after all other metadata pages
    hashes_first    the page of kernel hashes is added right after the firmware
    machine         the machine in whose memory it launches guests, by its name in `machines`;
                    "" where that is not known
    vcpus_first     vCPUs are created before the VM has memslots
    start_first     SEV: the launch is started before the VM has memslots
    page_order      TDX: "single-pass" or "two-pass" (a section's adds, then its extends)
    extends_all     TDX: every section that is added is extended, whatever its attribute
    augmented       TDX sections with PAGE.AUG: "skip" (not added before finalize) or "add"
    section_types   TDX section types that the loader takes, None for all that exist
    legacy_pointer  TDX metadata is also found without a GUID table
    aligned_data    TDX section data must begin on a page of the file
    covers_file     TDX: BFV and CFV together must be as long as the file
    padding         TDX: measured sections longer than their data: "refuse", "zero", "file"
    policies        platform to the guest policy that is assumed
    sev_features    the SEV_FEATURES that are assumed for SNP
    td_attributes   the ATTRIBUTES that are assumed for a TD
    td_xfam         the XFAM that is assumed for a TD: the least that one can have
    unhashed_kernels  kernel formats that it boots without hashing them ("elf", "multiboot"),
                    which ends a launch that needs the hashes
    retries_cpuid   SNP: a CPUID page that the firmware refuses is added once more, as it
                    corrected it
    sev_init        SEV and SEV-ES: "legacy" (KVM_SEV_INIT, KVM_SEV_ES_INIT) or "init2"
    readonly_pflash  it gives firmware as pflash a read-only memslot, which KVM lacks for VMs of a
                    type that protects the state of vCPUs
    practices       platform to how it makes its calls there, where that is not the usual way
    svsm            an SVSM binary is launched below the firmware and owns the metadata

    IGVM files:
    loads_igvm      it takes such files at all
    abis            kernel interfaces that it runs on, the usual first; empty: all of KVM's
    zero_pages      a measured page without data is "normal", or "zero"
    shared_pages    pages with the flag shared: "skip", "skip-normal" (not those that are
                    unmeasured, SECRETS or CPUID), or "add" as if it were not there
    insert_pages    of a parameter insert "all" pages are added, or the "first"
    large_pages     of a 2 MiB page the "first" 4 KiB are added, or the "whole"
    sorted_by_gpa   pages are added by address, not in the file's order
    inserts_first   a run of pages waits until another begins, inserts do not
    fixed_vmsa      a VMSA must lie where KVM measures it
    carries         VMSA fields of a file that it sets on KVM, which keeps its reset state for the
                    others; None: all that KVM can be given
    takes           VMSA fields that a file may set: it refuses a state with any other; None: the
                    others are not looked at
    sets            VMSA bits that it sets itself, beside those of the file
    doubts          VMSA bits without which some of its versions refuse a state, as they do one at
                    a different address than KVM's; what others do is not known, and said
    cuts_tables     limits of GDT and IDT above 16 bits are cut on KVM; False: refused
    passes_features  SEV_FEATURES of a file are what the kernel is asked for, so that they are
                    refused where it refuses them; False: that is not checked
    all_contexts    VMSAs of the file's other platforms are added as well
    once            what a file must have exactly once: "VP_CONTEXT", "CPUID"
    fixed_policy    the guest policy, whatever the file says
    ignores_id_block  it launches without the file's ID block
    vmsa_apart      a VMSA may not share the address of a page with data
    guest_policy    of several guest policies the "first", the "last", the "first-set"
    wants_policy    a file without a guest policy is refused
    one_id_block    a file with several ID blocks is refused
    refuses         headers that it cannot do
    refuses_all     those of other platforms as well
    is_tool         it computes a digest and launches nothing
    earlier         an earlier generation, beside which there is a later one
    """

    name: str
    title: str
    platforms: tuple[Platform, ...]
    sources: tuple[Fact, ...]
    page_types: Mapping[str, str] = field(default_factory=dict)
    cpuid_last: bool = False
    hashes_first: bool = False
    machine: str = ""
    vcpus_first: bool = False
    start_first: bool = False
    page_order: str = "single-pass"
    extends_all: bool = False
    augmented: str = "skip"
    section_types: tuple[int, ...] | None = None
    legacy_pointer: bool = True
    aligned_data: bool = False
    covers_file: bool = False
    padding: str = "refuse"
    policies: Mapping[Platform, int] = field(default_factory=lambda: {SNP: 0x30000})
    sev_features: int = 1
    td_attributes: int = 0
    td_xfam: int = 0x3
    unhashed_kernels: tuple[str, ...] = ()
    retries_cpuid: bool = False
    sev_init: str = "legacy"
    readonly_pflash: bool = False
    practices: Mapping[Platform, Practice] = field(default_factory=dict)
    vmsa: Vmsa | None = None
    svsm: bool = False
    loads_igvm: bool = False
    abis: tuple[str, ...] = ()
    zero_pages: str = "normal"
    shared_pages: str = "skip"
    insert_pages: str = "all"
    large_pages: str = "first"
    sorted_by_gpa: bool = False
    inserts_first: bool = False
    fixed_vmsa: bool = False
    carries: tuple[str, ...] | None = None
    takes: tuple[str, ...] | None = None
    sets: Mapping[str, int] = field(default_factory=dict)
    doubts: Mapping[str, int] = field(default_factory=dict)
    cuts_tables: bool = True
    passes_features: bool = True
    all_contexts: bool = False
    once: tuple[str, ...] = ()
    fixed_policy: int | None = None
    ignores_id_block: bool = False
    vmsa_apart: bool = False
    guest_policy: str = "first"
    wants_policy: bool = False
    one_id_block: bool = False
    refuses: tuple[str, ...] = ()
    refuses_all: bool = False
    is_tool: bool = False
    earlier: bool = False

    @property
    def is_current(self) -> bool:
        """Whether it launches guests today."""
        return not (self.is_tool or self.earlier)

    def practice(self, platform: Platform) -> Practice:
        """Return how it makes its calls on a platform."""
        return self.practices.get(platform) or usual(platform)


IGVM_FIELDS: Final = (
    "loads_igvm", "zero_pages", "shared_pages", "insert_pages", "large_pages", "fixed_vmsa",
    "vmsa_apart", "guest_policy", "wants_policy", "one_id_block", "refuses_all", "is_tool",
    "cuts_tables", "passes_features", "retries_cpuid", "all_contexts", "ignores_id_block",
    "earlier", "sev_init", "readonly_pflash",
)  # fmt: skip
"""Fields that documents have as they are, most about IGVM files."""
