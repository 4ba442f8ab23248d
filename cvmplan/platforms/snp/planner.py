"""From a launch to SNP regions, rules and operations.  VMMs differ only in the profile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cvmplan.core.errors import ConfigError
from cvmplan.core.findings import Finding
from cvmplan.core.values import PAGE
from cvmplan.kvm import memory
from cvmplan.launch import igvm_loader
from cvmplan.launch.model import Image, Launch, Layout
from cvmplan.memory.contents import Contents, DigestAfter, Filled, Made, Zeros
from cvmplan.memory.gpamap import GpaMap, Limits
from cvmplan.memory.notes import two_megabyte_neighbours, unmeasured_contents
from cvmplan.memory.regions import Region, Role
from cvmplan.operations.plan import CreateVcpu, CreateVm, Init, Op
from cvmplan.platforms.amd import (
    SNP_ACTIVE,
    _template,
    entry_findings,
    features_findings,
    passes_features,
    vcpu_pages,
)
from cvmplan.platforms.snp import portable, states
from cvmplan.platforms.snp.hashes import TABLE_SIZE
from cvmplan.platforms.snp.ops import (
    ImportComplete,
    ImportPage,
    SnpLaunchFinish,
    SnpLaunchStart,
    SnpLaunchUpdate,
    Vmsa,
)
from cvmplan.platforms.snp.rules import id_block_findings, policy_findings
from cvmplan.platforms.snp.steps import PHYSICAL_END, PageType

PAGE_TYPES = {t.label: t for t in PageType}
FILLED: dict[str, Contents] = {t: Filled(t) for t in ("secrets", "cpuid")}
EMPTY = (Role.SEC_MEM, Role.SVSM_CAA, Role.KERNEL_HASHES)
"""Sections of which length 0 adds nothing: VMMs hand them on, and kernels up to 6.17 take that."""
HOST_FILLED = ("unmeasured", "secrets", "cpuid")


def layout(launch: Launch) -> Layout:
    """Return the regions of `launch` with their page types, KVM's VMSAs last, and the findings."""
    declared = igvm_loader.typed(launch) if igvm_loader.is_igvm(launch) else _in_order(launch)
    regions = tuple(_typed(launch, region) for region in declared)
    findings = (
        *_metadata_findings(launch),
        *_state_findings(launch, regions),
        *policy_findings(launch),
        *id_block_findings(launch),
        *features_findings(launch),
        *unmeasured_contents(regions, HOST_FILLED),
        *two_megabyte_neighbours(regions, launch.abi.map_level),
    )
    if launch.image and igvm_loader.is_igvm(launch):
        findings += (
            *states.findings(launch, launch.image),
            portable.finding(launch, launch.image, vmsas),
        )
    limits = Limits(PHYSICAL_END, "the 52 bits of a physical address", launch.guest.c_bit)
    vcpus = () if launch.abi.imports else (_vmsa_region(launch),)
    return Layout((*regions, *vcpus), limits, findings)


def operations(launch: Launch, gpa_map: GpaMap) -> Iterator[Op]:
    """Yield the calls that launch `gpa_map`, in order."""
    guest, abi = launch.guest, launch.abi
    added = [r for r in igvm_loader.added(gpa_map.regions) if r.role is not Role.VMSA]
    yield CreateVm(launch.platform)
    if abi.imports:
        yield from _imported(launch, added)
        return
    made_of = memory.backing(launch.platform, guest.backing, abi)
    told = guest.sev_features & ~SNP_ACTIVE
    if abi.snp_features and not passes_features(launch):
        told &= abi.snp_features.known
    yield Init(told)
    yield SnpLaunchStart(guest.policy, guest.gosvw)
    made = memory.operations(launch.platform, abi, made_of, launch.memory, gpa_map.regions)
    created = CreateVcpu(guest.vcpus)
    yield from made.files
    yield from made.slots_and(created, vcpus_first=launch.profile.vcpus_first)
    yield from made.later
    for region in added:
        yield from memory.private_again(abi, launch.memory, region)
        if launch.platform in abi.map_early:
            yield memory.mapping(abi, region.gpa, region.size)
        page_type = PAGE_TYPES[region.page_type or ""]
        source = None if abi.in_place else region.contents or Zeros()
        retries = page_type is PageType.CPUID and launch.profile.retries_cpuid and abi.runs
        retry = "invalid-param-once" if retries else None
        yield SnpLaunchUpdate(region.gpa, region.size, page_type, source, retry)
    yield SnpLaunchFinish(
        vmsas(launch),
        guest.host_data,
        guest.id_block,
        guest.id_auth,
        guest.author_key_enabled,
        guest.vcek_disabled,
    )


def _imported(launch: Launch, added: Sequence[Region]) -> Iterator[Op]:
    """Yield the calls of a hypervisor that imports pages, vCPU states among them."""
    guest = launch.guest
    yield SnpLaunchStart(guest.policy, guest.gosvw)
    yield CreateVcpu(guest.vcpus)
    for region in added:
        page_type = PAGE_TYPES[region.page_type or ""]
        yield ImportPage(region.gpa, region.size, page_type, region.contents or Zeros())
    yield ImportComplete(guest.host_data, guest.id_block, guest.id_auth)


def vmsas(launch: Launch) -> tuple[Vmsa, ...]:
    """Return the initial states of all vCPUs whose VMSA is measured."""
    gpa = _template(launch).gpa
    return tuple(Vmsa(vcpus, gpa, page) for vcpus, page in vcpu_pages(launch))


def _in_order(launch: Launch) -> tuple[Region, ...]:
    """Return the regions in the order in which the VMM adds them."""
    image = [
        r for r in launch.regions if r.role is not Role.REGION and not _adds_nothing(launch, r)
    ]
    rest = [r for r in launch.regions if r.role is Role.REGION]
    if launch.profile.hashes_first:
        image = [*_hashes_first(launch, image)]
    if launch.profile.cpuid_last:
        image.sort(key=lambda r: r.role is Role.CPUID)
    return (*image, *rest)


def _adds_nothing(launch: Launch, region: Region) -> bool:
    """Whether a metadata section has no page, and the interface takes an add of none."""
    refused = launch.abi.runs and launch.abi.empty_add
    return not region.size and region.role in EMPTY and not refused


def _hashes_first(launch: Launch, regions: Sequence[Region]) -> Iterator[Region]:
    """Yield `regions` with the page of the hash table, where a kernel is given, second."""
    others = [r for r in regions if r.role is not Role.KERNEL_HASHES]
    yield from others[:1]
    if launch.hash_table and launch.image and launch.image.hash_table:
        gpa, name = launch.image.hash_table[0], launch.image.blob.name
        origin = f"{name}: SEV hash table"
        yield Region(gpa - gpa % PAGE, PAGE, Role.KERNEL_HASHES, origin, at=name)
    yield from others[1:]


def _typed(launch: Launch, region: Region) -> Region:
    """Return `region` with its page type, and contents where the platform knows them."""
    if region.page_type is not None and region.contents is not None:
        return region
    if region.role is Role.FIRMWARE and launch.guest.firmware_digest:
        return replace(
            region, page_type="normal", contents=DigestAfter(launch.guest.firmware_digest)
        )
    if region.role is Role.KERNEL_HASHES and launch.hash_table:
        gpa = launch.image.hash_table[0] if launch.image and launch.image.hash_table else 0
        table = Made(launch.hash_table, gpa % PAGE)
        return replace(region, page_type="normal", contents=table)
    if region.role in (Role.FIRMWARE, Role.SVSM):
        return replace(region, page_type="normal")
    page_type = region.page_type or _profile_type(launch, region.role)
    contents = region.contents or FILLED.get(page_type, Zeros())
    return replace(region, page_type=page_type, contents=contents)


def _profile_type(launch: Launch, role: Role) -> str:
    """Return the page type that the profile gives a role; ConfigError where it gives none."""
    if role is Role.UNKNOWN:
        return "zero"
    if role not in launch.profile.page_types:
        raise ConfigError(f"profile {launch.profile.name} has no page type for {role}", at="--vmm")
    return launch.profile.page_types[role]


def _vmsa_region(launch: Launch) -> Region:
    count = launch.guest.vcpus
    origin = f"KVM: VMSA of vCPU{'s 0 to ' + str(count - 1) if count > 1 else ' 0'}"
    return Region(_template(launch).gpa, PAGE, Role.VMSA, origin, "vmsa")


def _metadata_findings(launch: Launch) -> Iterator[Finding]:
    """Yield what is wrong with the sections that firmware must have, and with the hash table."""
    if igvm_loader.is_igvm(launch):
        return
    yield from _one_page_each(launch)
    if launch.image:
        yield from _hash_page_findings(launch, launch.image)
    elif launch.hash_table:
        problem = "a kernel is given, but the launch has no firmware with a hashes page"
        yield Finding("hash-table-outside-page", problem, at=launch.name)


def _one_page_each(launch: Launch) -> Iterator[Finding]:
    for role, rule in (
        (Role.SECRETS, "secrets-not-one-page"),
        (Role.CPUID, "cpuid-not-one-page"),
    ):
        found = [r for r in launch.regions if role in (r.role, r.page_type)]
        count = sum(max(r.size, 0) for r in found) // PAGE
        if count > 1 or (count == 0 and _has_metadata(launch.regions)):
            at = found[-1].at if found else launch.name
            origins = tuple(r.origin for r in found[:10])
            problem = f"the launch has {count} {role} pages, expected 1"
            yield Finding(rule, problem, *_extent(found), origins=origins, at=at)


def _extent(regions: Sequence[Region]) -> tuple[int | None, int | None]:
    """Return the first and the last page of `regions`, None for both where there are none."""
    held = [r for r in regions if r.size > 0]
    if not held:
        return None, None
    return min(r.first_page for r in held), max(r.end_page for r in held) - PAGE


def _has_metadata(regions: tuple[Region, ...]) -> bool:
    return any(r.role in (Role.SEC_MEM, Role.SVSM_CAA, Role.KERNEL_HASHES) for r in regions)


def _hash_page_findings(launch: Launch, image: Image) -> Iterator[Finding]:
    def finding(problem: str, *sections: Region) -> Finding:
        at = sections[-1].at if sections else image.blob.name
        origins = tuple(s.origin for s in sections)
        pages = _extent(sections)
        return Finding("hash-table-outside-page", problem, *pages, origins=origins, at=at)

    sections = [r for r in _in_order(launch) if r.role is Role.KERNEL_HASHES]
    if len(sections) > 1 or any(s.size != PAGE for s in sections):
        yield finding("the kernel-hashes section is not exactly one page", *sections)
    elif launch.hash_table and image.hash_table is None:
        yield finding("a kernel was given, and the firmware names no SEV hash table", *sections)
    elif launch.hash_table and not sections:
        problem = "the firmware has a hash table and no kernel-hashes section: the digest does "
        problem += "not cover kernel, initrd and command line"
        yield Finding("kernel-hashes-not-measured", problem, at=image.blob.name)
    elif launch.hash_table and image.hash_table:
        gpa, size = image.hash_table
        page = sections[0]
        if size < TABLE_SIZE or gpa < page.gpa or gpa + TABLE_SIZE > page.end:
            problem = (
                f"the SEV hash table ({size:#x} bytes at {gpa:#x}) does not hold "
                f"{TABLE_SIZE:#x} bytes inside the page at {page.gpa:#x}"
            )
            yield finding(problem, *sections)


def _state_findings(launch: Launch, regions: Sequence[Region]) -> Iterator[Finding]:
    """Yield what is wrong with where the vCPUs' initial states come from."""
    mine = (r for r in regions if r.role is not Role.OTHER_CONTEXT)
    held = [r for r in mine if r.page_type == "vmsa"]
    if igvm_loader.is_igvm(launch) and not launch.abi.imports:
        return
    if not launch.abi.imports:
        yield from entry_findings(launch)
        yield from _refused(held)
    elif not held and igvm_loader.is_igvm(launch):
        yield Finding("no-vcpu-state", "the file has no VMSA: no vCPU could start", at=launch.name)
    elif not held:
        problem = f"{launch.abi.name} takes vCPU states from the image, which has none"
        yield Finding("loader-refuses", problem, at=launch.name)
    elif sum(r.size for r in held) // PAGE != launch.guest.vcpus:
        count = sum(r.size for r in held) // PAGE
        yield Finding("vmsa-count", f"{count} VMSAs for {launch.guest.vcpus} vCPUs", at=launch.name)


def _refused(held: Sequence[Region]) -> Iterator[Finding]:
    for region in held:
        problem = f"{region.origin}: the kernel makes the VMSAs and takes none from the image"
        yield Finding("loader-refuses", problem, origins=(region.origin,), at=region.at)
