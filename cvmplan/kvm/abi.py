"""
Kernel interfaces as data: what the host kernel offers to launch a confidential VM.

Here are those that no release of Linux has, and the registry of all; `kvm.releases` has the
releases.  What the fields mean is said in `kvm.interface`.
"""

from __future__ import annotations

import re
from typing import Final

from cvmplan.core.errors import UnsupportedError
from cvmplan.core.names import spelled, unknown
from cvmplan.core.platform import CONFIDENTIAL, OPEN, SNP, TDX, VBS, Platform
from cvmplan.kvm.interface import FIRMWARE_POLICY, LARGE, PAGE, Abi, Fact
from cvmplan.kvm.releases import (
    KVM_6_11,
    KVM_6_18,
    KVM_7_3,
    RELEASES,
    facts_but,
)

SEED = "kvm mailing list, 2024-04-03, 'Re: [RFC PATCH 6/8] KVM: x86: Implement kvm_arch_{, pre_}"
SEED += "vcpu_map_memory()'"
_IN_PLACE = "kvm mailing list, 2026-06-18, guest_memfd in-place conversion v8"

IN_PLACE = KVM_7_3._replace(
    name="kvm-in-place",
    title="not released: guest_memfd in-place conversion, v8 of June 2026; pages are added where "
    "they are",
    released=False,
    attributes="gmem",
    in_place=True,
    facts=(
        *facts_but(KVM_7_3, "no-source", "attributes"),
        Fact(
            "not-released",
            "Linux 7.3.4 does not have it: not released",
            "linux 7.3.4 include/uapi/linux/kvm.h",
        ),
        Fact(
            "attributes",
            "private attributes are set on the guest_memfd (KVM_SET_MEMORY_ATTRIBUTES2), by "
            "offset; PRESERVE keeps the contents from shared to private, until the guest is "
            "finalized; a source of 0 adds the page as it is there",
            _IN_PLACE,
        ),
        Fact(
            "vm-attributes",
            "the VM's own attributes are not compiled in: ENOTTY",
            _IN_PLACE,
            "inferred",
        ),
        Fact("capability", "the capability number after merging is not known", _IN_PLACE),
    ),
)
_NOT_READ = (
    (SNP, "guest policies and SEV_FEATURES that the kernel refuses"),
    (TDX, "ATTRIBUTES and XFAM that the kernel refuses"),
)
SVSM = KVM_6_11._replace(
    name="kvm-svsm",
    released=False,
    title="AMD's kernels with VMPLs for an SVSM: only the boot vCPU's VMSA is measured",
    vmsa_scope="boot-vcpu",
    vm_types=(SNP,),
    snp_policy=FIRMWARE_POLICY,
    snp_features=None,
    not_modelled=_NOT_READ[:1],
    facts=(
        *facts_but(KVM_6_11, "snp-policy", "sev-features"),
        Fact(
            "boot-vcpu",
            "SNP_LAUNCH_FINISH hands over the boot vCPU's VMSA and no other",
            "AMDESE linux, KVM_SEV_SNP_SVSM; coconut-svsm issue 353",
        ),
    ),
)
TDX_V19 = Abi(
    name="kvm-tdx-v19",
    not_modelled=_NOT_READ[1:],
    title="Intel's TDX patches v19 of 2024: maps with its source first, then extends (two-pass)",
    tdx_extend="separate",
    vm_types=(TDX,),
    map_call="",
    map_early=(),
    tdx_add=("tdx-init-mem-region", "tdx-extend"),
    double_add=((TDX, None),),
    facts=(
        Fact(
            "tdx-add",
            "KVM_MEMORY_MAPPING (vCPU, capability 236) with a source builds the secure EPT and "
            "adds; KVM_TDX_EXTEND_MEMORY (VM) extends what was added",
            "kvm mailing list, 2024-02-26, TDX v19, 'KVM: TDX: Extend memory measurement with "
            "initial guest memory'",
        ),
        Fact(
            "added-again",
            "the result of a second add of a page is not known",
            "the same",
            "inferred",
        ),
    ),
)
MAP_MEMORY = Abi(
    name="map-memory",
    title="the agreement of 2024-04-03: mapping is pure, a vendor call adds and measures",
    tdx_extend="either",
    runs=False,
    map_call="map-memory",
    map_early=(*OPEN, *CONFIDENTIAL),
    add_wants_map=(TDX,),
    tdx_add=("tdx-add", "tdx-extend"),
    double_add=((SNP, None), (TDX, None)),
    empty_add="EINVAL",
    gmem_flags=KVM_6_18.gmem_flags,
    gmem_default=True,
    nearest="Linux 6.11 and later for SNP (kvm-6.11), 6.16 and later for TDX (kvm-6.16): pages are "
    "mapped inside the call that adds them, and a mapping of its own is refused before the launch "
    "is final",
    facts=(
        Fact(
            "pure-mapping",
            "mapping is a read fault in advance; mapped pages stay as they are, without an error",
            SEED,
        ),
        Fact(
            "level", "user space cannot choose a level; TDX maps 4 KiB, default VMs any level", SEED
        ),
        Fact("added-once", "user space must add each page at most once", SEED),
        Fact(
            "order",
            "on TDX a page is mapped before it is added, and added before the end; on SNP mapping "
            "touches the nested page table only",
            "kvm mailing list, Ze-TJh0BBOWm9spT, Ze-XW-EbT9vXaagC, v2 2024-04-10",
        ),
        Fact(
            "differs-from-merged",
            "mapping changes no owner of a page (SNP: no RMP entry). In merged kernels it does: a "
            "mapped private page is assigned in the RMP, and SNP_LAUNCH_UPDATE refuses an assigned "
            "page (EEXIST inside, EIO to user space), so KVM_PRE_FAULT_MEMORY answers EOPNOTSUPP "
            "until SNP_LAUNCH_FINISH, and on TDX until KVM_TDX_FINALIZE_VM",
            "linux 0097f9df arch/x86/kvm/svm/sev.c, sev_gmem_prepare, sev_gmem_post_populate; "
            "3829d81b arch/x86/kvm/vmx/tdx.c, tdx_td_finalize; kvm mailing list, July 2024",
        ),
        Fact(
            "not-released",
            "no released kernel has it; its errnos were never defined",
            SEED,
        ),
    ),
)
COUPLED = MAP_MEMORY._replace(
    name="rfc-coupled",
    not_modelled=_NOT_READ,
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
            "coupled",
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
    facts=(
        Fact(
            "exact", "nothing around the range is mapped", f"{SEED}, the quoted part; not adopted"
        ),
    ),
)
EEXIST = MAP_MEMORY._replace(
    name="rfc-eexist",
    not_modelled=_NOT_READ,
    title="pure mapping that answers EEXIST where a page is mapped, as the seed asks and denies",
    plans=False,
    map_again="EEXIST",
    nearest="",
    facts=(Fact("mapped-again", "mapping what is mapped would be EEXIST", f"{SEED}: turned down"),),
)
IMPORT = Abi(
    name="isolated-import",
    title="the Microsoft hypervisor: each page is imported with its type, vCPU states in place",
    vm_types=(*CONFIDENTIAL, VBS),
    simulates=False,
    map_call="",
    map_early=(),
    tdx_add=("import-page",),
    double_add=(),
    imports=True,
    facts=(
        Fact(
            "import",
            "pages go to the hypervisor with type and address; a VMSA is a page of the image",
            "linux include/uapi/linux/mshv.h, MSHV_IMPORT_ISOLATED_PAGES",
        ),
        Fact(
            "refusals",
            "what a refusal answers is not in public text, so it is not simulated",
            "-",
            "inferred",
        ),
    ),
)

_VERSION: Final = re.compile(r"\d{1,4}")
ABIS: Final = {
    abi.name: abi
    for abi in (
        MAP_MEMORY, *RELEASES, IN_PLACE, SVSM, TDX_V19,
        IMPORT, COUPLED, EXACT, EEXIST,
    )
}  # fmt: skip
DEFAULT: Final = MAP_MEMORY.name


def find(name: str, at: str = "--abi") -> Abi:
    """Return the interface `name`, in any case; ConfigError at `at` for others."""
    found = ABIS.get(spelled(name, ABIS))
    if found is None:
        raise unknown("kernel interface", name, ABIS, at)
    return found


def earliest(platform: Platform) -> Abi:
    """Return the first release of Linux that has guests of `platform`."""
    return next(abi for abi in RELEASES if platform in abi.vm_types)


def newest(platform: Platform) -> Abi:
    """Return the newest release of Linux that has guests of `platform`."""
    return next(abi for abi in reversed(RELEASES) if platform in abi.vm_types)


def of_release(release: str) -> Abi | None:
    """Return the interface that a release of Linux has, None for one before the first."""
    own = tuple(int(part) for part in _VERSION.findall(release)[:2])
    held = [abi for abi in RELEASES if tuple(map(int, _VERSION.findall(abi.name))) <= own]
    return held[-1] if held else None


def for_plan(abi: Abi, platform: Platform, at: str = "--abi") -> Abi:
    """Return `abi`; UnsupportedError where no plan for `platform` can be made for it."""
    if abi.plans and platform in abi.vm_types:
        return abi
    others = [a.name for a in ABIS.values() if a.plans and platform in a.vm_types]
    problem = f"{abi.name} has no {platform} guests" if abi.plans else f"{abi.name} never existed"
    raise UnsupportedError(problem, at=at, hint=f"plans can be for {', '.join(others)}")
