"""
The releases of Linux as kernel interfaces, each as what differs from the one before.

Kernels read: 6.12.117, 6.17.8, 6.18.15, 6.19.11, 7.1.13, 7.2.13, 7.3.4; 6.16 and 7.0 follow
from their neighbours and from patches.  What the fields mean is said in `kvm.interface`.
"""

from __future__ import annotations

from collections.abc import Mapping

from cvmplan.core.platform import OPEN, SNP, TDX
from cvmplan.kvm.interface import Abi, Bits, Fact

_SEV = "linux 0097f9df arch/x86/kvm/svm/sev.c"
_TDX = "linux 3829d81b arch/x86/kvm/vmx/tdx.c"
_GMEM = "linux 01f492e1 virt/kvm/guest_memfd.c"
_TDX_NEW = "kvm-x86 09c6f74e arch/x86/kvm/vmx/tdx.c"
_API = "linux Documentation/virt/kvm/api.rst"

_PRE_FAULT = Fact(
    "pre-fault",
    "KVM_PRE_FAULT_MEMORY (capability 236) has read-fault semantics: what is mapped stays as it "
    "is, the kernel chooses the level; success when one page was done, the rest in gpa and size",
    f"{_API}, KVM_PRE_FAULT_MEMORY; linux 6.11 virt/kvm/kvm_main.c, arch/x86/kvm/mmu/mmu.c",
)
_SNP_LATE = Fact(
    "snp-late",
    "mapping an SNP guest before SNP_LAUNCH_FINISH succeeded is EOPNOTSUPP",
    f"{_SEV} pre_fault_allowed; linux 5932ca411e53 (6.11-rc2)",
)
_SNP_ADD = Fact(
    "snp-add",
    "SNP_LAUNCH_UPDATE answers EIO whatever refused its first page; a refusal later, and the end "
    "of the memslot, answer 0 with what is left in the struct, so user space calls again",
    f"{_SEV} snp_launch_update; {_GMEM} kvm_gmem_populate",
)
_SNP_TWICE = Fact(
    "added-again",
    "a page populated before is refused (EEXIST, seen as EIO); after PUNCH_HOLE and a new private "
    "attribute it is accepted again, and measured twice",
    f"{_GMEM} kvm_gmem_populate (folio uptodate), {_SEV} sev_gmem_post_populate",
    "inferred",
)
_GMEM_4K = Fact(
    "page-size",
    "a guest_memfd allocates single pages, so private memory is mapped at 4 KiB",
    f"{_GMEM} (order 0); private_max_mapping_level, gmem_max_mapping_level",
)
_BINDING = Fact(
    "binding",
    "a range of a guest_memfd is bound to one memslot; a second binding is EINVAL",
    "linux virt/kvm/guest_memfd.c kvm_gmem_bind; booted: 6.12.117 to 7.1.13",
)
_BINDING_EEXIST = Fact(
    "binding",
    "a range of a guest_memfd is bound to one memslot; a second binding is EEXIST",
    "linux 7.2.13, 7.3.4 virt/kvm/guest_memfd.c kvm_gmem_bind; both booted",
)
_EMPTY_ADD = Fact(
    "empty-add",
    "SNP_LAUNCH_UPDATE of length 0 succeeds and adds nothing",
    "linux 6.12.117, 6.17.8 arch/x86/kvm/svm/sev.c snp_launch_update",
)
_NO_EMPTY_ADD = Fact(
    "empty-add",
    "SNP_LAUNCH_UPDATE of length 0 is EINVAL",
    "linux 6.18.15 to 7.3.4 arch/x86/kvm/svm/sev.c snp_launch_update",
)
_POLICY_SMT = Fact(
    "snp-policy",
    "SNP_LAUNCH_START takes policy bits 0 to 17, 19 and 20; bits 16 (SMT) and 17 must be set, "
    "bit 20 (SINGLE_SOCKET) must be clear; others are EINVAL",
    "linux 6.12.117 arch/x86/kvm/svm/sev.c snp_launch_start",
)
_POLICY_17 = Fact(
    "snp-policy",
    "SNP_LAUNCH_START takes policy bits 0 to 17, 19 and 20; bit 17 must be set; bit 18 "
    "(MIGRATE_MA) and others are EINVAL",
    "linux 6.17.8, 6.18.15 arch/x86/kvm/svm/sev.c snp_launch_start; 9f4701e05fae, 24be2b7956a5",
)
_POLICY_FIRMWARE = Fact(
    "snp-policy",
    "SNP_LAUNCH_START takes policy bits 0 to 17 and 19 to 25, of which 21 to 25 only where the "
    "firmware has them (KVM_X86_SNP_POLICY_BITS); bit 17 must be set; others are EINVAL",
    "linux 6.19.11, 7.1.13 to 7.3.4 arch/x86/kvm/svm/sev.c snp_launch_start",
)
_FEATURES = Fact(
    "sev-features",
    "KVM_SEV_INIT2 takes DEBUG_SWAP (0x20) where the host has it and sets SNP active (0x1) by "
    "itself; any other bit of SEV_FEATURES is EINVAL",
    "linux 6.12.117 to 7.1.13 arch/x86/kvm/svm/sev.c sev_guest_init, sev_supported_vmsa_features",
)
_FEATURES_TSC = Fact(
    "sev-features",
    "KVM_SEV_INIT2 takes DEBUG_SWAP (0x20), and for SNP SECURE_TSC (0x200), where the host has "
    "them, and sets SNP active (0x1) by itself; any other bit of SEV_FEATURES is EINVAL",
    "linux 7.2.13, 7.3.4 arch/x86/kvm/svm/sev.c sev_guest_init, sev_supported_vmsa_features",
)
_FINISHED = Fact(
    "finished",
    "a second SNP_LAUNCH_FINISH is EINVAL, also after one that failed on the ID block",
    "linux 6.12.117 to 7.3.4 arch/x86/kvm/svm/sev.c snp_launch_finish",
)
_NO_VCPUS = Fact(
    "no-vcpus",
    "KVM_TDX_FINALIZE_VM of a TD without a vCPU is EIO and the VM is dead (TDX_NO_VCPUS)",
    "linux 6.17.8 to 7.3.4 arch/x86/kvm/vmx/tdx.c tdx_td_finalize; intel/tdx-module, "
    "TDH.MR.FINALIZE",
)
_TD_MASKS = Fact(
    "td-masks",
    "KVM_TDX_INIT_VM takes of ATTRIBUTES only SEPT_VE_DISABLE, of XFAM 0x602e7 where host and "
    "module have it; other bits (CET, PT, UINTR, LBR) are EINVAL; then it sets the bits that the "
    "module needs set (XFAM 0x3), and what TDH.MNG.INIT refuses is EINVAL too",
    "linux 6.17.8, 3829d81b arch/x86/kvm/vmx/tdx.c tdx_get_supported_attrs, "
    "tdx_get_supported_xfam, setup_tdparams; KVM_SUPPORTED_TD_ATTRS, KVM_SUPPORTED_XCR0; "
    "KVM_SUPPORTED_XSS is 0",
)
_TD_MASKS_CET = Fact(
    "td-masks",
    "KVM_TDX_INIT_VM takes of ATTRIBUTES only SEPT_VE_DISABLE, of XFAM 0x61ae7 where host and "
    "module have it; other bits (PT, UINTR, LBR) are EINVAL; then it sets the bits that the "
    "module needs set (XFAM 0x3), and what TDH.MNG.INIT refuses is EINVAL too",
    "linux 6.18.15 to 7.3.4 arch/x86/kvm/vmx/tdx.c, the same functions; KVM_SUPPORTED_XSS has "
    "CET since KVM virtualizes it (arch/x86/kvm/x86.c; the release by date)",
    "inferred",
)
SEPT_VE_DISABLE = 1 << 28
TD_XFAM = 0x602E7  # X87, SSE, AVX, AVX-512, PKRU, AMX: KVM_SUPPORTED_XCR0 within XFAM_FIXED0
TD_XFAM_CET = TD_XFAM | 0x1800
_BIT_17, _BIT_16, _BIT_20 = 1 << 17, 1 << 16, 1 << 20
_OLD_BITS = (1 << 18) - 1 | 1 << 19 | _BIT_20
_NEW_BITS = _OLD_BITS | 0x1F << 21
SNP_ACTIVE, DEBUG_SWAP, SECURE_TSC = 0x1, 0x20, 0x200  # AMD 24593, APM volume 2, "SEV_FEATURES"
_TDX_ADD = Fact(
    "tdx-add",
    "KVM_TDX_INIT_MEM_REGION builds the secure EPT, adds, and extends where it measures, page by "
    "page; its struct says how far it came, on errors too",
    f"{_TDX} tdx_vcpu_init_mem_region, tdx_gmem_post_populate",
)
_TDX_LATE = Fact(
    "tdx-late",
    "mapping a TD before KVM_TDX_FINALIZE_VM succeeded is EOPNOTSUPP",
    f"{_TDX} pre_fault_allowed",
)
_PREMAPPED = Fact(
    "premapped",
    "KVM_TDX_FINALIZE_VM is EINVAL while a page was mapped and its add failed",
    f"{_TDX} nr_premapped",
)
_BUILT = Fact(
    "built",
    "a host has KVM_PRE_FAULT_MEMORY where its processor translates guest addresses (TDP), else "
    "EOPNOTSUPP; guest_memfd where it was built with KVM_PRIVATE_MEM (later KVM_GUEST_MEMFD), "
    "private attributes with KVM_GENERIC_MEMORY_ATTRIBUTES, else ENOTTY; VMs of type 1 with "
    "KVM_SW_PROTECTED_VM, memslots of system management mode with KVM_SMM, else EINVAL",
    "linux arch/x86/kvm/Kconfig, virt/kvm/Kconfig; arch/x86/kvm/mmu/mmu.c kvm_tdp_map_page; "
    "a host of 6.18.44 without TDP, attributes and SMM answered so on 2026-11-27",
)
_ATTRIBUTES = Fact(
    "attributes",
    "private attributes are set on the VM (KVM_SET_MEMORY_ATTRIBUTES) for any whole pages below "
    "2^64, with and without memslots; memory that is private and has no guest_memfd is EFAULT",
    f"{_API}, KVM_SET_MEMORY_ATTRIBUTES; linux 6.12 virt/kvm/kvm_main.c",
)
_ALIGNED = Fact(
    "aligned",
    "every call takes whole 4 KiB pages below 2^64 and no empty range; others are EINVAL",
    f"{_API}; {_SEV} snp_launch_update, {_TDX} tdx_vcpu_init_mem_region",
)


def _instead(abi: Abi, changes: Mapping[Fact, Fact]) -> tuple[Fact, ...]:
    """Return the facts of `abi`, with those replaced that changed."""
    return tuple(changes.get(fact, fact) for fact in abi.facts)


def facts_but(abi: Abi, *about: str) -> tuple[Fact, ...]:
    """Return the facts of `abi` but those about `about`, by their ids."""
    return tuple(fact for fact in abi.facts if fact.id not in about)


KVM_6_11 = Abi(
    name="kvm-6.11",
    released=True,
    title="Linux 6.11: SNP guests, KVM_PRE_FAULT_MEMORY",
    vm_types=(*OPEN, SNP),
    double_add=((SNP, "EIO"),),
    snp_policy=Bits(_OLD_BITS, must=_BIT_16 | _BIT_17, clear=_BIT_20),
    snp_features=Bits(SNP_ACTIVE | DEBUG_SWAP, must=SNP_ACTIVE, host=DEBUG_SWAP),
    es_features=Bits(DEBUG_SWAP, host=DEBUG_SWAP),
    facts=(
        _PRE_FAULT, _ALIGNED, _ATTRIBUTES, _BUILT, _SNP_LATE, _SNP_ADD, _SNP_TWICE, _EMPTY_ADD,
        _GMEM_4K, _BINDING, _POLICY_SMT, _FEATURES, _FINISHED,
    ),
)  # fmt: skip
KVM_6_16 = KVM_6_11._replace(
    name="kvm-6.16",
    title="Linux 6.16: also TDX guests",
    vm_types=(*OPEN, SNP, TDX),
    double_add=((SNP, "EIO"), (TDX, "EEXIST")),
    counts_mapped=True,
    td_attributes=Bits(SEPT_VE_DISABLE),
    td_xfam=Bits(TD_XFAM, host=TD_XFAM & ~0x3),
    facts=(
        *KVM_6_11.facts,
        _TDX_ADD,
        _TDX_LATE,
        Fact(
            "tdx-added-again",
            "a page of a TD that was added before is EEXIST",
            f"{_GMEM} kvm_gmem_populate",
        ),
        Fact(
            "no-source",
            "KVM_TDX_INIT_MEM_REGION from address 0 is EFAULT",
            "linux 6.17.8 to 6.19.11 arch/x86/kvm/vmx/tdx.c tdx_gmem_post_populate (GUP)",
        ),
        _PREMAPPED,
        _NO_VCPUS,
        _TD_MASKS,
    ),
)
KVM_6_18 = KVM_6_16._replace(
    name="kvm-6.18",
    title="Linux 6.18: guest_memfd can be mapped by user space, for default VMs too",
    gmem_flags=("mmap", "init-shared"),
    gmem_default=True,
    empty_add="EINVAL",
    snp_policy=Bits(_OLD_BITS, must=_BIT_17),
    td_xfam=Bits(TD_XFAM_CET, host=TD_XFAM_CET & ~0x3),
    facts=(
        *_instead(
            KVM_6_16,
            {_EMPTY_ADD: _NO_EMPTY_ADD, _POLICY_SMT: _POLICY_17, _TD_MASKS: _TD_MASKS_CET},
        ),
        Fact(
            "gmem-flags",
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
    snp_policy=Bits(_NEW_BITS, must=_BIT_17, host=0x1F << 21),
    facts=(
        *(f for f in _instead(KVM_6_18, {_POLICY_17: _POLICY_FIRMWARE}) if f != _PREMAPPED),
        Fact(
            "dies",
            "an add that the TDX module refuses, but for busy, is EIO and the VM is dead "
            "(KVM_BUG_ON): each later call is EIO",
            f"{_TDX_NEW} tdx_mem_page_add; the release by date",
        ),
    ),
)
KVM_7_0 = KVM_6_19._replace(
    name="kvm-7.0",
    title="Linux 7.0: guest_memfd no longer remembers what was populated",
    double_add=((SNP, "EIO"), (TDX, "EIO")),
    folio_check=False,
    facts=(
        *facts_but(KVM_6_19, "added-again", "tdx-added-again"),
        Fact(
            "added-again",
            "a second add is EIO: on SNP the RMP entry is assigned, on TDX the leaf is present "
            "(RET_PF_SPURIOUS); after private, shared and private again it is accepted on TDX, on "
            "SNP after PUNCH_HOLE, and measured twice",
            "linux 8622ef05709f, dcbcc2323c80, 2a62345b3052; kvm mailing list, 2026-06-29",
            "inferred",
        ),
        Fact(
            "unaligned-source",
            "SNP_LAUNCH_UPDATE from an unaligned address is EINVAL",
            "kvm-x86 1a27afa0 arch/x86/kvm/svm/sev.c; the release by date",
            "inferred",
        ),
    ),
)
KVM_7_1 = KVM_7_0._replace(
    name="kvm-7.1",
    title="Linux 7.1: a TDX add without a source is EOPNOTSUPP",
    no_source=((SNP, "EIO"), (TDX, "EOPNOTSUPP")),
    facts=(
        *facts_but(KVM_7_0, "no-source"),
        Fact(
            "no-source",
            "KVM_TDX_INIT_MEM_REGION from address 0 is EOPNOTSUPP",
            "linux 7.1.13, 7.2.13 arch/x86/kvm/vmx/tdx.c",
        ),
        Fact(
            "certificates",
            "KVM_EXIT_SNP_REQ_CERTS (43) asks user space for certificates where "
            "SNP_ENABLE_REQ_CERTS (103) was called; nothing of it is measured",
            "linux 7.1.13 include/uapi/linux/kvm.h",
        ),
    ),
)
KVM_7_2 = KVM_7_1._replace(
    name="kvm-7.2",
    title="Linux 7.2: Secure TSC, a guest_memfd range bound twice is EEXIST",
    bound_twice="EEXIST",
    snp_features=Bits(
        SNP_ACTIVE | DEBUG_SWAP | SECURE_TSC, must=SNP_ACTIVE, host=DEBUG_SWAP | SECURE_TSC
    ),
    facts=(*_instead(KVM_7_1, {_FEATURES: _FEATURES_TSC, _BINDING: _BINDING_EEXIST}),),
)
KVM_7_3 = KVM_7_2._replace(
    name="kvm-7.3",
    title="Linux 7.3: an add without a source is EINVAL on SNP and TDX",
    no_source=((SNP, "EINVAL"), (TDX, "EINVAL")),
    facts=(
        *facts_but(KVM_7_2, "no-source"),
        Fact(
            "no-source",
            "an add from address 0 is EINVAL: SNP_LAUNCH_UPDATE of a different type than ZERO, and "
            "KVM_TDX_INIT_MEM_REGION",
            "linux 7.3.4 arch/x86/kvm/svm/sev.c, arch/x86/kvm/vmx/tdx.c",
        ),
    ),
)

RELEASES = (KVM_6_11, KVM_6_16, KVM_6_18, KVM_6_19, KVM_7_0, KVM_7_1, KVM_7_2, KVM_7_3)
