"""Loaders of IGVM files, and a tool that measures them."""

from __future__ import annotations

from dataclasses import replace

from cvmplan.kvm.abi import IMPORT
from cvmplan.profiles.record import SOURCE, TWO, Fact, Profile, Vmsa

IMPORTS = (IMPORT.name,)
_AT_KVM = Vmsa({}, {})

HYPER_V = Profile(
    name="hyper-v",
    title="Hyper-V: directives in file order, as the igvm crate measures them",
    platforms=("snp", "tdx", "vbs"),
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
        ),
    ),
)
CLOUD_HYPERVISOR = Profile(
    name="cloud-hypervisor",
    title="Cloud Hypervisor on KVM",
    platforms=("snp",),
    loads_igvm=True,
    zero_pages="zero",
    shared_pages="add",
    vmsa=_AT_KVM,
    vmsa_apart=True,
    guest_policy="first-set",
    one_id_block=True,
    refuses=("CPUID_XF", "ERROR_RANGE", "IS_2MB_PAGE"),
    sources=(
        Fact(
            "file order, a page without data as ZERO, the flag shared is not looked at, VMSAs by "
            "KVM and not over a page with data; CPUID_XF and ERROR_RANGE are not implemented",
            "cloud-hypervisor vmm/src/igvm/igvm_loader.rs",
            SOURCE,
            commit="ae44c29",
        ),
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
    sources=(
        Fact(
            "pages sorted by address, VMSA among them, one page of an insert; the flag shared is "
            "not looked at",
            "cloud-hypervisor vmm/src/igvm/igvm_loader.rs",
            SOURCE,
            commit="ae44c29",
        ),
    ),
)
OPENVMM = Profile(
    name="openvmm",
    title="openvmm on KVM",
    platforms=("snp",),
    loads_igvm=True,
    shared_pages="skip-normal",
    vmsa=_AT_KVM,
    wants_policy=True,
    refuses=("CPUID_XF", "RELOCATABLE_REGION", "PAGE_TABLE_RELOCATION_REGION", "IS_2MB_PAGE"),
    sources=(
        Fact(
            "file order, a page without data as NORMAL zeros, shared measured pages left out, "
            "VMSAs by KVM; CPUID_XF and relocation are refused",
            "microsoft/openvmm openvmm_core/src/worker/vm_loaders/igvm.rs, virt_kvm/src/snp.rs",
            SOURCE,
            commit="1488a37",
        ),
    ),
)
OPENVMM_MSHV = replace(
    OPENVMM,
    name="openvmm-mshv",
    title="openvmm on the Microsoft hypervisor: the order of imports is kept",
    platforms=("snp", "vbs"),
    abis=IMPORTS,
    vmsa=None,
    refuses=("CPUID_XF", "RELOCATABLE_REGION", "PAGE_TABLE_RELOCATION_REGION"),
    sources=(
        Fact(
            "imports in file order, a VMSA at its place, shared measured pages left out; with "
            "relocation page tables are built anew after all headers, which is not modelled",
            "microsoft/openvmm openvmm_core/src/worker/vm_loaders/igvm.rs",
            SOURCE,
            commit="1488a37",
        ),
    ),
)
IGVMMEASURE = Profile(
    name="igvmmeasure",
    title="igvmmeasure of coconut-svsm: a tool, not a loader",
    platforms=("snp",),
    loads_igvm=True,
    abis=IMPORTS,
    shared_pages="add",
    insert_pages="first",
    refuses=("IS_2MB_PAGE",),
    is_tool=True,
    sources=(
        Fact(
            "file order, the flag shared is not looked at, one page of an insert, a VMSA at its "
            "place; 2 MiB pages end it",
            "coconut-svsm/svsm tools/igvmmeasure/src",
            SOURCE,
            commit="f4bc4bc",
        ),
    ),
)
IGVMMEASURE_ZERO = replace(
    IGVMMEASURE,
    name="igvmmeasure-native-zero",
    title="igvmmeasure --native-zero: a page without data is ZERO; a tool, not a loader",
    zero_pages="zero",
)
