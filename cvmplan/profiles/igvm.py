"""Loaders of IGVM files, and a tool that measures them."""

from __future__ import annotations

from dataclasses import replace

from cvmplan.core.platform import SNP, TDX, VBS
from cvmplan.core.practice import MAP_GPA_RANGE, Practice
from cvmplan.kvm.abi import IMPORT
from cvmplan.profiles.record import SOURCE, TWO, Fact, Profile, Vmsa
from cvmplan.profiles.states import KVM_STATE, PLAIN_STATE, WHOLE_STATE

IMPORTS = (IMPORT.name,)
_KVM_RESET = {"rdx": 0x600, "mxcsr": 0x1F80, "x87_fcw": 0x37F}
_AT_KVM = Vmsa(_KVM_RESET, _KVM_RESET)
"""A vCPU for which the file has no state keeps what KVM has after reset."""
HYPER_V = Profile(
    name="hyper-v",
    title="Hyper-V: directives in file order, as the igvm crate measures them",
    platforms=(SNP, TDX, VBS),
    loads_igvm=True,
    abis=IMPORTS,
    wants_policy=True,
    sources=(
        Fact(
            "file order, a page without data as NORMAL zeros, shared pages left out, all pages of "
            "an insert UNMEASURED, a VMSA at its place and address; TDX adds and extends page by "
            "page; VBS registers last",
            "microsoft/igvm igvm/src/measurement/snp.rs, tdx.rs, vbs.rs; an independent reference "
            "computes all its digests alike",
            TWO,
            commit="e6c3ff1",
            id="igvm-order",
        ),
    ),
)
CLOUD_HYPERVISOR = Profile(
    name="cloud-hypervisor",
    title="Cloud Hypervisor on KVM",
    platforms=(SNP,),
    loads_igvm=True,
    zero_pages="zero",
    shared_pages="add",
    vmsa=_AT_KVM,
    carries=PLAIN_STATE,
    cuts_tables=False,
    passes_features=False,
    vmsa_apart=True,
    guest_policy="first-set",
    one_id_block=True,
    refuses=("CPUID_XF", "ERROR_RANGE", "IS_2MB_PAGE"),
    retries_cpuid=True,
    practices={SNP: Practice((), {"EXIT_HYPERCALL": MAP_GPA_RANGE})},
    sources=(
        Fact(
            "each add is one call, without a loop over what is left; a CPUID page that the "
            "firmware refuses is added once more, as it corrected it",
            "cloud-hypervisor hypervisor/src/kvm/x86_64/sev.rs, hypervisor/src/kvm/mod.rs",
            SOURCE,
            commit="ae44c29",
            id="igvm-calls",
        ),
        Fact(
            "file order, a page without data as ZERO, the flag shared is not looked at, VMSAs by "
            "KVM and not over a page with data; CPUID_XF and ERROR_RANGE are not implemented",
            "cloud-hypervisor vmm/src/igvm/igvm_loader.rs",
            SOURCE,
            commit="ae44c29",
            id="igvm-order",
        ),
        Fact(
            "of a VMSA it sets segments, GDT and IDT, CR0, CR3, CR4, EFER, the general registers, "
            "RIP and RFLAGS; PAT, XCR0, debug and FPU registers keep KVM's reset values, other "
            "fields are not looked at; limits of GDT and IDT above 16 bits are an error; vCPUs "
            "without a VMSA keep KVM's reset state",
            "cloud-hypervisor hypervisor/src/kvm/mod.rs setup_sev_snp_regs",
            SOURCE,
            commit="ae44c29",
            id="igvm-vmsa",
        ),
        *KVM_STATE,
    ),
)
CLOUD_HYPERVISOR_MSHV = replace(
    CLOUD_HYPERVISOR,
    name="cloud-hypervisor-mshv",
    title="Cloud Hypervisor on the Microsoft hypervisor",
    abis=IMPORTS,
    zero_pages="normal",
    insert_pages="first",
    sorted_by_gpa=True,
    vmsa=None,
    carries=None,
    cuts_tables=True,
    sources=(
        Fact(
            "pages sorted by address, VMSA among them, one page of an insert; the flag shared is "
            "not looked at",
            "cloud-hypervisor vmm/src/igvm/igvm_loader.rs",
            SOURCE,
            commit="ae44c29",
            id="igvm-order",
        ),
    ),
)
OPENVMM = Profile(
    name="openvmm",
    title="openvmm on KVM",
    platforms=(SNP,),
    loads_igvm=True,
    shared_pages="skip-normal",
    vmsa=_AT_KVM,
    takes=(*WHOLE_STATE, "xss", "x87_fsw", "x87_dp", "x87_fop", "x87_rip"),
    doubts={"cr0": 0x80000001, "cr4": 0x20, "efer": 0xD00, "cs.attrib": 0x280},
    cuts_tables=False,
    passes_features=False,
    once=("VP_CONTEXT",),
    wants_policy=True,
    refuses=("CPUID_XF", "RELOCATABLE_REGION", "PAGE_TABLE_RELOCATION_REGION", "IS_2MB_PAGE"),
    sources=(
        Fact(
            "file order, a page without data as NORMAL zeros, shared measured pages left out, "
            "VMSAs by KVM; CPUID_XF and relocation are refused",
            "microsoft/openvmm openvmm_core/src/worker/vm_loaders/igvm.rs, virt_kvm/src/snp.rs",
            SOURCE,
            commit="1488a37",
            id="igvm-order",
        ),
        Fact(
            "one VMSA, of vCPU 0, of which all fields are set that KVM can be given, and others "
            "refused; further vCPUs keep KVM's reset state",
            "microsoft/openvmm virt_kvm/src/snp.rs prepare_snp_config, "
            "validate_snp_igvm_vmsa_state, set_snp_igvm_vmsa_state",
            SOURCE,
            commit="1488a37",
            id="igvm-vmsa",
        ),
        Fact(
            "this commit refuses a vCPU that is not in long mode with paging, a VMSA elsewhere "
            "than 0xfffffffff000, a VTL above 0, a shared GPA boundary, and features that KVM does "
            "not have; the state and address are warned about, the others not looked at",
            "microsoft/openvmm virt_kvm/src/snp.rs validate_snp_bsp_register_state, "
            "prepare_snp_config; virt_kvm/src/arch/x86_64/mod.rs build",
            SOURCE,
            commit="1488a37",
            id="refusals",
        ),
        *KVM_STATE,
    ),
)
OPENVMM_MSHV = replace(
    OPENVMM,
    name="openvmm-mshv",
    title="openvmm on the Microsoft hypervisor since pull request 4361: the file's order is kept",
    platforms=(SNP, VBS),
    abis=IMPORTS,
    vmsa=None,
    takes=None,
    doubts={},
    cuts_tables=True,
    once=(),
    refuses=("CPUID_XF", "RELOCATABLE_REGION", "PAGE_TABLE_RELOCATION_REGION"),
    sources=(
        Fact(
            "imports in file order, policy and ID block of the file, a VMSA at its place, shared "
            "measured pages left out; with relocation page tables are built anew after all "
            "headers, which is not modelled",
            "microsoft/openvmm pull request 4361 (2026-09), by its description only",
            SOURCE,
            id="igvm-order",
        ),
    ),
)
OPENVMM_MSHV_SORTED = replace(
    OPENVMM_MSHV,
    name="openvmm-mshv-before-4361",
    title="openvmm on the Microsoft hypervisor before pull request 4361: sorted by address",
    platforms=(SNP,),
    sorted_by_gpa=True,
    shared_pages="skip",
    once=("VP_CONTEXT", "CPUID"),
    fixed_policy=0x3001F,
    ignores_id_block=True,
    wants_policy=False,
    earlier=True,
    sources=(
        Fact(
            "pages sorted by address, exactly one VMSA and one CPUID page, policy 0x3001f, no ID "
            "block, shared pages left out",
            "microsoft/openvmm, the MSHV backend for SNP",
            SOURCE,
            commit="105e7d3f, 0035832e, 1858731e",
            id="igvm-order",
        ),
    ),
)
IGVMMEASURE = Profile(
    name="igvmmeasure",
    title="igvmmeasure of coconut-svsm: a tool, not a loader",
    platforms=(SNP,),
    loads_igvm=True,
    abis=IMPORTS,
    shared_pages="add",
    insert_pages="first",
    refuses=("IS_2MB_PAGE",),
    all_contexts=True,
    is_tool=True,
    sources=(
        Fact(
            "the compatibility mask is not applied to VP contexts: VMSAs of the file's other "
            "SEV platforms are measured too",
            "coconut-svsm/svsm tools/igvmmeasure/src/igvm_measure.rs, the SnpVpContext arm",
            SOURCE,
            commit="f4bc4bc",
            id="all-contexts",
        ),
        Fact(
            "file order, the flag shared is not looked at, one page of an insert, a VMSA at its "
            "place; 2 MiB pages end it",
            "coconut-svsm/svsm tools/igvmmeasure/src",
            SOURCE,
            commit="f4bc4bc",
            id="igvm-order",
        ),
    ),
)
IGVMMEASURE_ZERO = replace(
    IGVMMEASURE,
    name="igvmmeasure-native-zero",
    title="igvmmeasure --native-zero: a page without data is ZERO; a tool, not a loader",
    zero_pages="zero",
)
