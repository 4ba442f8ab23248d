"""From a launch to SEV and SEV-ES regions, rules and operations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cvmplan.core.findings import Finding
from cvmplan.core.values import PAGE
from cvmplan.kvm import memory
from cvmplan.launch import igvm_loader
from cvmplan.launch.model import Launch, Layout
from cvmplan.memory.contents import Contents, Made, Zeros
from cvmplan.memory.gpamap import GpaMap, Limits
from cvmplan.memory.regions import Region, Role
from cvmplan.operations.plan import CreateVcpu, CreateVm, Init, MapMemory, Op
from cvmplan.platforms.amd import entry_findings, features_findings, mask_findings, vcpu_pages
from cvmplan.platforms.sev.ops import (
    SevLaunchFinish,
    SevLaunchMeasure,
    SevLaunchStart,
    SevLaunchUpdateData,
    SevLaunchUpdateVmsa,
    Vcpus,
)
from cvmplan.platforms.sev.steps import GRANULE
from cvmplan.platforms.snp import states
from cvmplan.platforms.snp.hashes import TABLE_SIZE
from cvmplan.platforms.snp.steps import PHYSICAL_END

POLICY_NODBG, POLICY_ES = 1 << 0, 1 << 2  # AMD 55766, SEV API, "Guest Policy Structure"
POLICY_RESERVED = 0xFFC0  # the same: bits 6 to 15; above them is the API version
LEGACY_FPU = {"mxcsr": 0, "x87_fcw": 0}


def layout(launch: Launch) -> Layout:
    """Return the regions of `launch`, the hash table's page behind the firmware, and findings."""
    if igvm_loader.is_igvm(launch):
        typed = [*igvm_loader.typed(launch)]
    else:
        typed = [replace(r, page_type="measured") for r in launch.regions]
    regions = [r for r in typed if r.role is not Role.REGION]
    findings = [*_policy_findings(launch), *_pflash_findings(launch)]
    if launch.hash_table:
        page, wrong = _hash_page(launch, launch.hash_table)
        regions += page
        findings += wrong
    regions += [r for r in typed if r.role is Role.REGION]
    if launch.platform.vmsa and not igvm_loader.is_igvm(launch):
        findings += entry_findings(launch)
    if launch.platform.vmsa:
        findings += [*features_findings(launch), *_legacy_findings(launch)]
        if launch.image and igvm_loader.is_igvm(launch):
            findings += states.findings(launch, launch.image)
    limits = Limits(PHYSICAL_END, "the 52 bits of a physical address", launch.guest.c_bit)
    return Layout(tuple(regions), limits, tuple(findings))


def operations(launch: Launch, gpa_map: GpaMap) -> Iterator[Op]:
    """Yield the calls that launch `gpa_map`, in order."""
    guest, profile, regions = launch.guest, launch.profile, gpa_map.regions
    yield CreateVm(launch.platform)
    yield Init(guest.sev_features, legacy=_is_legacy(launch))
    made_of = memory.backing(launch.platform, guest.backing, launch.abi)
    made = memory.operations(launch.platform, launch.abi, made_of, launch.memory, regions)
    start = SevLaunchStart(guest.policy)
    yield from (start,) if profile.start_first else ()
    yield from (CreateVcpu(guest.vcpus),) if profile.vcpus_first else ()
    yield from made.slots
    yield from () if profile.start_first else (start,)
    yield from () if profile.vcpus_first else (CreateVcpu(guest.vcpus),)
    for region in igvm_loader.added(regions):
        if launch.abi.map_call == MapMemory.name:
            yield MapMemory(region.gpa, region.size)
        yield _update(region)
    if launch.platform.vmsa:
        yield SevLaunchUpdateVmsa(vmsas(launch))
    yield SevLaunchMeasure()
    yield from made.later
    yield SevLaunchFinish()


def _is_legacy(launch: Launch) -> bool:
    """Whether the VM is opened by KVM_SEV_INIT or KVM_SEV_ES_INIT (FPU state zero)."""
    chosen = (launch.platform.vmsa and launch.abi.es_fpu_state) or launch.guest.es_init
    return chosen == "legacy"


def _pflash_findings(launch: Launch) -> Iterator[Finding]:
    """
    Note where firmware cannot be given as pflash.

    KVM has no read-only memslots on VMs of a type that protects the state of vCPUs, which
    KVM_SEV_INIT2 wants for SEV-ES (linux arch/x86/include/asm/kvm_host.h,
    kvm_arch_has_readonly_mem; arch/x86/kvm/svm/svm.c svm_vm_init).
    """
    protected = launch.platform.vmsa and not _is_legacy(launch)
    if launch.profile.readonly_pflash and launch.image and protected:
        problem = f"{launch.profile.name} ends where the firmware is given as pflash: an SEV-ES VM "
        problem += "of KVM_SEV_INIT2 has no read-only memory"
        yield Finding("pflash", problem, hint="give it as the BIOS", at=launch.name)


def _legacy_findings(launch: Launch) -> Iterator[Finding]:
    """Yield an error for SEV_FEATURES that KVM_SEV_ES_INIT cannot set."""
    features = launch.guest.sev_features
    bits = launch.abi.es_features
    if bits is not None and features and not bits.refuses(features) and _is_legacy(launch):
        problem = f"{launch.abi.name} refuses SEV_FEATURES {features:#x}: KVM_SEV_ES_INIT sets none"
        hint = "--es-init init2"
        yield Finding("sev-features", problem, severity="error", hint=hint)


def vmsas(launch: Launch) -> tuple[Vcpus, ...]:
    """Return the initial states of all vCPUs."""
    made = vcpu_pages(launch, LEGACY_FPU if _is_legacy(launch) else {})
    return tuple(Vcpus(vcpus, page) for vcpus, page in made)


def _update(region: Region) -> SevLaunchUpdateData:
    contents: Contents = region.contents or Zeros()
    if region.role is Role.KERNEL_HASHES and isinstance(contents, Made):
        return SevLaunchUpdateData(
            region.gpa + contents.at, len(contents.data), Made(contents.data)
        )
    return SevLaunchUpdateData(region.gpa, region.size, contents)


def _hash_page(launch: Launch, table: bytes) -> tuple[list[Region], list[Finding]]:
    """Return the page that holds the SEV hash table, or why there is none."""
    name = launch.image.blob.name if launch.image else ""
    place = launch.image.hash_table if launch.image else None
    if place is None:
        problem = "a kernel was given, and the firmware names no SEV hash table"
        return [], [Finding("hash-table-outside-page", problem, at=name)]
    gpa, size = place
    origin = f"{name}: SEV hash table"
    contents = Made(table, gpa % PAGE)
    region = Region(gpa - gpa % PAGE, PAGE, Role.KERNEL_HASHES, origin, "measured", contents, name)
    if size < TABLE_SIZE or gpa % PAGE + TABLE_SIZE > PAGE or gpa % GRANULE:
        problem = (
            f"{size:#x} bytes at {gpa:#x} do not contain {TABLE_SIZE:#x} bytes inside one page, "
            f"at a multiple of {GRANULE}"
        )
        wrong = Finding("hash-table-outside-page", problem, origins=(origin,), at=name)
        return [region], [wrong]
    return [region], []


def _policy_findings(launch: Launch) -> Iterator[Finding]:
    """
    Yield what is wrong or doubtful about a guest policy.

    A guest whose policy asks for encrypted state gets none of the ASIDs that SEV guests have,
    and the reverse.  Source: linux arch/x86/kvm/svm/sev.c sev_asid_new; AMD 55766, ACTIVATE.
    """
    policy = launch.guest.policy
    yield from mask_findings(
        "policy-mask", f"policy {policy:#x}", policy, launch.abi.sev_policy, launch
    )
    if policy & POLICY_RESERVED:
        problem = "not checked: whether the firmware takes reserved bits of the policy "
        yield Finding("not-checked", f"{problem}({policy & POLICY_RESERVED:#x})")
    if not policy & POLICY_NODBG:
        yield Finding("policy-debug", f"policy {policy:#x} allows debugging")
    if bool(policy & POLICY_ES) != launch.platform.vmsa:
        problem = f"policy {policy:#x} and platform {launch.platform} disagree on encrypted state"
        yield Finding("policy-mask", problem)
