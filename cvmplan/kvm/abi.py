"""
Kernel interfaces as data: what the host kernel offers to launch a confidential VM.

The only module that names a kernel; what the fields mean is said in `kvm.interface`.
"""

from __future__ import annotations

from typing import Final

from cvmplan.errors import ConfigError, UnsupportedError
from cvmplan.kvm.interface import CONFIDENTIAL, LARGE, OPEN, PAGE, Abi, Fact

SEED = "kvm mailing list, 2024-04-03, 'Re: [RFC PATCH 6/8] KVM: x86: Implement kvm_arch_{, pre_}"
SEED += "vcpu_map_memory()'"
_SEV = "linux 0097f9df arch/x86/kvm/svm/sev.c"
_TDX = "linux 3829d81b arch/x86/kvm/vmx/tdx.c"
_GMEM = "linux 01f492e1 virt/kvm/guest_memfd.c"
_TDX_NEW = "kvm-x86 09c6f74e arch/x86/kvm/vmx/tdx.c"
_API = "linux Documentation/virt/kvm/api.rst"
_IN_PLACE = "kvm mailing list, 2026-06-18, guest_memfd in-place conversion v8"

_PRE_FAULT = Fact(
    "KVM_PRE_FAULT_MEMORY (capability 236) has read-fault semantics: what is mapped stays as it "
    "is, the kernel chooses the level; success when one page was done, the rest in gpa and size",
    f"{_API}, KVM_PRE_FAULT_MEMORY; linux 6.11 virt/kvm/kvm_main.c, arch/x86/kvm/mmu/mmu.c",
)
_SNP_LATE = Fact(
    "mapping an SNP guest before SNP_LAUNCH_FINISH succeeded is EOPNOTSUPP",
    f"{_SEV} pre_fault_allowed; linux 5932ca411e53 (6.11-rc2)",
)
_SNP_ADD = Fact(
    "SNP_LAUNCH_UPDATE answers EIO whatever refused its first page; a refusal later, and the end "
    "of the memslot, answer 0 with what is left in the struct, so user space calls again",
    f"{_SEV} snp_launch_update; {_GMEM} kvm_gmem_populate",
)
_SNP_TWICE = Fact(
    "a page populated before is refused (EEXIST, seen as EIO); after PUNCH_HOLE and a new private "
    "attribute it is accepted again, and measured twice",
    f"{_GMEM} kvm_gmem_populate (folio uptodate), {_SEV} sev_gmem_post_populate",
    "inferred",
)
_GMEM_4K = Fact(
    "a guest_memfd allocates single pages, so private memory is mapped at 4 KiB",
    f"{_GMEM} (order 0); private_max_mapping_level, gmem_max_mapping_level",
)
_BINDING = Fact(
    "a range of a guest_memfd is bound to one memslot; a second binding is EINVAL",
    "linux virt/kvm/guest_memfd.c kvm_gmem_bind",
)
_TDX_ADD = Fact(
    "KVM_TDX_INIT_MEM_REGION builds the secure EPT, adds, and extends where it measures, page by "
    "page; its struct says how far it came, on errors too",
    f"{_TDX} tdx_vcpu_init_mem_region, tdx_gmem_post_populate",
)
_TDX_LATE = Fact(
    "mapping a TD before KVM_TDX_FINALIZE_VM succeeded is EOPNOTSUPP", f"{_TDX} pre_fault_allowed"
)
_PREMAPPED = Fact(
    "KVM_TDX_FINALIZE_VM is EINVAL while a page was mapped and its add failed",
    f"{_TDX} nr_premapped",
)
_ALIGNED = Fact(
    "every call takes whole 4 KiB pages below 2^64 and no empty range; others are EINVAL",
    f"{_API}; {_SEV} snp_launch_update, {_TDX} tdx_vcpu_init_mem_region",
)

KVM_6_11 = Abi(
    name="kvm-6.11",
    title="Linux 6.11: SNP guests, KVM_PRE_FAULT_MEMORY",
    vm_types=(*OPEN, "snp"),
    double_add=(("snp", "EIO"),),
    facts=(_PRE_FAULT, _ALIGNED, _SNP_LATE, _SNP_ADD, _SNP_TWICE, _GMEM_4K, _BINDING),
)
KVM_6_16 = KVM_6_11._replace(
    name="kvm-6.16",
    title="Linux 6.16: also TDX guests",
    vm_types=(*OPEN, "snp", "tdx"),
    double_add=(("snp", "EIO"), ("tdx", "EEXIST")),
    counts_mapped=True,
    facts=(
        *KVM_6_11.facts,
        _TDX_ADD,
        _TDX_LATE,
        Fact("a page of a TD that was added before is EEXIST", f"{_GMEM} kvm_gmem_populate"),
        _PREMAPPED,
    ),
)
KVM_6_18 = KVM_6_16._replace(
    name="kvm-6.18",
    title="Linux 6.18: guest_memfd can be mapped by user space, for default VMs too",
    gmem_flags=("mmap", "init-shared"),
    gmem_default=True,
    facts=(
        *KVM_6_16.facts,
        Fact(
            "GUEST_MEMFD_FLAG_MMAP and _INIT_SHARED (capability 244); INIT_SHARED is EINVAL on VMs "
            "with private memory",
            "linux 6.18 include/uapi/linux/kvm.h; virt/kvm/guest_memfd.c",
        ),
    ),
)
KVM_6_19 = KVM_6_18._replace(
    name="kvm-6.19",
    title="Linux 6.19: secure EPT and add in one step, a TD dies with a failed add",
    dies=True,
    counts_mapped=False,
    facts=(
        *(f for f in KVM_6_18.facts if f != _PREMAPPED),
        Fact(
            "an add that the TDX module refuses, but for busy, is EIO and the VM is dead "
            "(KVM_BUG_ON): each later call is EIO",
            f"{_TDX_NEW} tdx_mem_page_add; the release by date",
        ),
    ),
)
KVM_7_0 = KVM_6_19._replace(
    name="kvm-7.0",
    title="Linux 7.0: guest_memfd no longer remembers what was populated",
    double_add=(("snp", "EIO"), ("tdx", "EIO")),
    folio_check=False,
    empty_add="EINVAL",
    facts=(
        *(f for f in KVM_6_19.facts if "EEXIST" not in f.fact),
        Fact(
            "a second add is EIO: on SNP the RMP entry is assigned, on TDX the leaf is present "
            "(RET_PF_SPURIOUS); after private, shared and private again it is accepted on TDX, on "
            "SNP after PUNCH_HOLE, and measured twice",
            "linux 8622ef05709f, dcbcc2323c80, 2a62345b3052; kvm mailing list, 2026-06-29",
            "inferred",
        ),
        Fact(
            "SNP_LAUNCH_UPDATE of no page, or from an unaligned address, is EINVAL",
            "kvm-x86 1a27afa0 arch/x86/kvm/svm/sev.c; the release by date",
            "inferred",
        ),
    ),
)
IN_PLACE = KVM_7_0._replace(
    name="kvm-in-place",
    title="guest_memfd in-place conversion, v8 of June 2026: pages are added where they lie",
    attributes="gmem",
    in_place=True,
    facts=(
        *KVM_7_0.facts,
        Fact(
            "private attributes are set on the guest_memfd (KVM_SET_MEMORY_ATTRIBUTES2), by "
            "offset; PRESERVE keeps the contents from shared to private, until the guest is "
            "finalized; a source of 0 adds the page as it lies there",
            _IN_PLACE,
        ),
        Fact("the VM's own attributes are not compiled in: ENOTTY", _IN_PLACE, "inferred"),
        Fact("whether and with which capability number this was merged is open", _IN_PLACE),
    ),
)
SVSM = KVM_6_11._replace(
    name="kvm-svsm",
    title="AMD's kernels with VMPLs for an SVSM: only the boot vCPU's VMSA is measured",
    vmsa_scope="boot-vcpu",
    vm_types=("snp",),
    facts=(
        *KVM_6_11.facts,
        Fact(
            "SNP_LAUNCH_FINISH hands over the boot vCPU's VMSA and no other",
            "AMDESE linux, KVM_SEV_SNP_SVSM; coconut-svsm issue 353",
        ),
    ),
)
TDX_V19 = Abi(
    name="kvm-tdx-v19",
    title="Intel's TDX patches v19 of 2024: maps with its source first, then extends (two-pass)",
    tdx_extend="separate",
    vm_types=("tdx",),
    map_call="",
    map_early=(),
    tdx_add=("tdx-init-mem-region", "tdx-extend"),
    double_add=(("tdx", None),),
    facts=(
        Fact(
            "KVM_MEMORY_MAPPING (vCPU, capability 236) with a source builds the secure EPT and "
            "adds; KVM_TDX_EXTEND_MEMORY (VM) extends what was added",
            "kvm mailing list, 2024-02-26, TDX v19, 'KVM: TDX: Extend memory measurement with "
            "initial guest memory'",
        ),
        Fact("what a second add of a page answers was not established", "the same", "inferred"),
    ),
)
MAP_MEMORY = Abi(
    name="map-memory",
    title="the agreement of 2024-04-03: mapping is pure, a vendor call adds and measures",
    tdx_extend="either",
    runs=False,
    map_call="map-memory",
    map_early=(*OPEN, *CONFIDENTIAL),
    add_wants_map=("tdx",),
    tdx_add=("tdx-add", "tdx-extend"),
    double_add=(("snp", None), ("tdx", None)),
    gmem_flags=KVM_6_18.gmem_flags,
    gmem_default=True,
    nearest="Linux 6.11 and later for SNP (kvm-6.11), 6.16 and later for TDX (kvm-6.16): pages are "
    "mapped inside the call that adds them, and a mapping of its own is refused before the launch "
    "is final",
    facts=(
        Fact("mapping is a read fault in advance: what is mapped is left alone, no error", SEED),
        Fact("user space chooses no level; TDX maps 4 KiB, default VMs as it suits", SEED),
        Fact("each page is added at most once, which is user space's duty", SEED),
        Fact(
            "on TDX a page is mapped before it is added, and added before the end; on SNP mapping "
            "touches the nested page table only",
            "kvm mailing list, Ze-TJh0BBOWm9spT, Ze-XW-EbT9vXaagC, v2 2024-04-10",
        ),
        Fact("no released kernel has it; what a refusal answers was never fixed", SEED),
    ),
)
COUPLED = MAP_MEMORY._replace(
    name="rfc-coupled",
    title="the RFC of March 2024: mapping also adds and measures, at the level that fits",
    plans=False,
    tdx_extend="fused",
    map_adds=True,
    tdx_add=("tdx-add",),
    map_level=LARGE,
    add_wants_map=(),
    nearest="",
    facts=(
        Fact(
            "KVM_MAP_MEMORY adds and extends what it maps; a large mapping takes in its "
            "neighbours, as zeros, measured early, so that their own add fails",
            f"RFC v1 2024-03-01 (cover.1709288671); {SEED}, the quoted part",
        ),
    ),
)
EXACT = COUPLED._replace(
    name="rfc-exact",
    title="the flag EXACT_MAPPING that the seed quotes: coupled, and never beyond the range",
    map_level=PAGE,
    facts=(Fact("nothing around the range is mapped", f"{SEED}, the quoted part; not adopted"),),
)
EEXIST = MAP_MEMORY._replace(
    name="rfc-eexist",
    title="pure mapping that answers EEXIST where a page is mapped, as the seed asks and denies",
    plans=False,
    map_again="EEXIST",
    nearest="",
    facts=(Fact("mapping what is mapped would be EEXIST", f"{SEED}: turned down"),),
)
IMPORT = Abi(
    name="isolated-import",
    title="the Microsoft hypervisor: each page is imported with its type, vCPU states in place",
    vm_types=(*CONFIDENTIAL, "vbs"),
    simulates=False,
    map_call="",
    map_early=(),
    tdx_add=("import-page",),
    double_add=(),
    imports=True,
    facts=(
        Fact(
            "pages go to the hypervisor with type and address; a VMSA is a page of the image",
            "linux include/uapi/linux/mshv.h, MSHV_IMPORT_ISOLATED_PAGES",
        ),
        Fact("what a refusal answers is not in public text, so it is not simulated", "-", "known"),
    ),
)

ABIS: Final = {
    abi.name: abi
    for abi in (
        MAP_MEMORY, KVM_6_11, KVM_6_16, KVM_6_18, KVM_6_19, KVM_7_0, IN_PLACE, SVSM, TDX_V19,
        IMPORT, COUPLED, EXACT, EEXIST,
    )
}  # fmt: skip
DEFAULT: Final = MAP_MEMORY.name


def find(name: str, at: str = "--abi") -> Abi:
    """Return the interface `name`; ConfigError at `at` lists those that exist."""
    if name not in ABIS:
        raise ConfigError(
            f"there is no kernel interface {name!r}",
            at=at,
            hint=f"known are {', '.join(ABIS)}",
        )
    return ABIS[name]


def earliest(platform: str) -> Abi:
    """Return the first kernel that has guests of `platform`."""
    kernels = (a for a in ABIS.values() if a.runs and a.simulates and platform in a.vm_types)
    return next(kernels)


def for_plan(abi: Abi, platform: str, at: str = "--abi") -> Abi:
    """Return `abi`; UnsupportedError where no plan for `platform` can be made for it."""
    if abi.plans and platform in abi.vm_types:
        return abi
    others = [a.name for a in ABIS.values() if a.plans and platform in a.vm_types]
    problem = f"{abi.name} has no {platform} guests" if abi.plans else f"{abi.name} never existed"
    raise UnsupportedError(problem, at=at, hint=f"plans can be for {', '.join(others)}")
