"""From a launch to TDX regions, rules and operations.  VMMs differ only in the profile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cvmplan.core.errors import UnsupportedError
from cvmplan.core.findings import Finding
from cvmplan.core.spans import Spans
from cvmplan.core.values import PAGE
from cvmplan.kvm import memory
from cvmplan.kvm.interface import bit_numbers
from cvmplan.launch import igvm_loader
from cvmplan.launch.model import Launch, Layout
from cvmplan.memory.contents import Filled, Made, Zeros
from cvmplan.memory.gpamap import GpaMap, Limits
from cvmplan.memory.notes import two_megabyte_neighbours, unmeasured_contents
from cvmplan.memory.regions import Region, Role
from cvmplan.operations.plan import CreateVcpu, CreateVm, Op
from cvmplan.platforms.tdx.hob import hob_memory, sections_of
from cvmplan.platforms.tdx.ops import (
    ImportComplete,
    ImportPage,
    TdxAdd,
    TdxExtend,
    TdxFinalize,
    TdxInitMemRegion,
    TdxInitVcpu,
    TdxInitVm,
)
from cvmplan.platforms.tdx.params import launch_findings
from cvmplan.platforms.tdx.steps import SHARED_BIT

RESET_PAGE = 0xFFFFF000  # Intel TDX Module base specification: vCPUs start at 0xfffffff0
OF_TD_SHIM = range(4, 9)  # td-shim-interface/src/metadata.rs: PermMem, Payload, … TdParams
FIXED_XFAM = 0x3  # X87 and SSE: TDX_XFAM_FIXED1


def layout(launch: Launch) -> Layout:
    """Return the regions of `launch` with their page types, and the findings."""
    declared = igvm_loader.typed(launch) if igvm_loader.is_igvm(launch) else launch.regions
    regions = tuple(_typed(launch, region) for region in declared)
    bit = SHARED_BIT[launch.guest.gpaw]
    limits = Limits(1 << bit, f"the shared bit ({bit}) of a GPAW of {launch.guest.gpaw}")
    findings = (
        *_refused(launch),
        *_for_other_platform(launch),
        *_mask_findings(launch),
        *_no_reset_vector(launch, regions),
        *_order_note(launch, regions),
        *unmeasured_contents(regions, ("unmeasured",)),
        *two_megabyte_neighbours(regions, launch.abi.map_level),
    )
    return Layout(regions, limits, findings)


def operations(launch: Launch, gpa_map: GpaMap) -> Iterator[Op]:
    """Yield the calls that build the TD from `gpa_map`, in order."""
    guest, abi = launch.guest, launch.abi
    _check_order(launch)
    made_of = memory.backing(launch.platform, guest.backing, abi)
    made = memory.MemoryCalls()
    if not abi.imports:
        made = memory.operations(launch.platform, abi, made_of, launch.memory, gpa_map.regions)
    yield CreateVm(launch.platform)
    yield from made.files
    yield TdxInitVm(
        guest.attributes, guest.xfam, guest.mrconfigid, guest.mrowner, guest.mrownerconfig
    )
    created = CreateVcpu(guest.vcpus)
    yield from made.slots_and(created, vcpus_first=launch.profile.vcpus_first)
    yield from made.later
    yield TdxInitVcpu(guest.vcpus, _hob_gpa(launch, gpa_map))
    for region in igvm_loader.added(gpa_map.regions):
        yield from memory.private_again(abi, launch.memory, region)
        yield from _added(launch, region)
    yield ImportComplete() if abi.imports else TdxFinalize()


def _check_order(launch: Launch) -> None:
    """Raise UnsupportedError for an order of adds and extends that the interface cannot do."""
    possible = {"fused": ("single-pass",), "separate": ("two-pass",)}
    orders = possible.get(launch.abi.tdx_extend, ("single-pass", "two-pass"))
    if launch.guest.page_order not in orders:
        how = "in one call" if launch.abi.tdx_extend == "fused" else "one region after the other"
        raise UnsupportedError(
            f"{launch.abi.name} adds and extends {how}: {launch.guest.page_order} is not possible",
            at="--page-order",
        )


def _added(launch: Launch, region: Region) -> Iterator[Op]:
    """Yield the calls that map, add and where it is measured extend one region."""
    abi, gpa, size = launch.abi, region.gpa, region.size
    measured = region.page_type == "measured"
    fused = measured and launch.guest.page_order == "single-pass"
    contents = region.contents or Zeros()
    if abi.imports:
        yield ImportPage(gpa, size, region.page_type or "", contents)
        return
    if launch.platform in abi.add_wants_map:
        yield memory.mapping(abi, gpa, size)
    if TdxAdd.name in abi.tdx_add:
        yield TdxAdd(gpa, size, fused, contents)
    else:
        yield TdxInitMemRegion(gpa, size, fused, None if abi.in_place else contents)
    if measured and not fused:
        yield TdxExtend(gpa, size)


def _hob_gpa(launch: Launch, gpa_map: GpaMap) -> int:
    """Return the address of the TD HOB, which each vCPU gets in RCX; 0 where there is none."""
    if launch.guest.hob_gpa is not None:
        return launch.guest.hob_gpa
    return next((r.gpa for r in gpa_map.regions if r.role is Role.TD_HOB), 0)


def _typed(launch: Launch, region: Region) -> Region:
    if region.role is Role.REGION:
        return region
    if region.role is Role.TD_HOB:
        region = replace(region, contents=_hob(launch) or region.contents)
    if region.page_type == "augmented" and launch.profile.augmented == "add":
        region = replace(region, page_type="unmeasured")
    if region.page_type == "unmeasured" and launch.profile.extends_all:
        known = None if isinstance(region.contents, Filled) else region.contents
        return replace(region, page_type="measured", contents=known)
    return region


def _hob(launch: Launch) -> Made | None:
    """Return what the VMM writes into the TD HOB, None where RAM is not known to hold it."""
    machine, image = launch.memory.machine, launch.image
    if machine is None or image is None:
        return None
    sections = sections_of(image.regions)
    held = Spans((gpa, gpa + size) for gpa, size in machine.ram)
    if any([*held.missing(gpa, gpa + size)] for _, gpa, size in sections):
        return None  # these sections are found outside the guest's memory
    return Made(hob_memory(sections, machine.ram))


def _refused(launch: Launch) -> Iterator[Finding]:
    """Yield what the VMM's loader refuses about the image's sections."""
    image, profile = launch.image, launch.profile
    if image is None or igvm_loader.is_igvm(launch):
        return

    def finding(problem: str, at: str, hint: str = "") -> Finding:
        return Finding("loader-refuses", f"{profile.name} refuses {problem}", at=at, hint=hint)

    sections = image.sections
    types = profile.section_types
    for section in sections:
        if types is not None and section.type not in types:
            problem = f"TDX section {section.number} of type {section.type}"
            shim = "--vmm td-shim" if section.type in OF_TD_SHIM else ""
            yield finding(problem, section.at, shim)
        if profile.aligned_data and section.raw_size and section.data_offset % PAGE:
            problem = f"TDX section {section.number}: its data begins at {section.data_offset:#x}"
            yield finding(f"{problem}, not on a page", section.at)
    if not profile.legacy_pointer and image.legacy_pointer:
        problem = f"{profile.name} finds TDX metadata only in the GUID table"
        yield Finding("loader-refuses", problem, at=image.blob.name, severity="warning")
    if types is not None and [s.type for s in sections].count(2) != 1:
        yield finding("TDX metadata without exactly one TD_HOB", image.blob.name)
    volumes = sum(s.raw_size for s in sections if s.type in (0, 1))
    if profile.covers_file and volumes != len(image.blob):
        problem = f"BFV and CFV of {volumes:#x} bytes in a file of {len(image.blob):#x}"
        yield finding(problem, image.blob.name)


def _for_other_platform(launch: Launch) -> Iterator[Finding]:
    """Warn about firmware whose direct boot is verified through SEV's hash table."""
    if launch.image and launch.image.hash_table:
        problem = "the firmware was built for SEV (it has a SEV hash table)"
        yield Finding("firmware-for-other-platform", problem, at=launch.image.blob.name)


def _mask_findings(launch: Launch) -> Iterator[Finding]:
    """
    Yield what is wrong with ATTRIBUTES and XFAM, in KVM's order.

    First the bits that the kernel takes, then, with those set that it sets itself, what every
    known TDX module refuses.  Source: linux 7.3.4 arch/x86/kvm/vmx/tdx.c setup_tdparams.
    """
    guest, abi = launch.guest, launch.abi
    refused = False
    for rule, name, mask, bits in (
        ("td-attributes", "ATTRIBUTES", guest.attributes, abi.td_attributes),
        ("td-xfam", "XFAM", guest.xfam, abi.td_xfam),
    ):
        why = bits.refuses(mask) if bits else None
        if why is not None:
            refused = True
            yield Finding(rule, f"{abi.name} refuses {name} {mask:#x}: {why}")
        elif bits and mask & bits.host:
            problem = f"XFAM {mask:#x}: {bit_numbers(mask & bits.host)} taken only if the host has"
            yield Finding(rule, f"{problem} them", severity="note")
    xfam = guest.xfam | (0 if abi.imports else FIXED_XFAM)
    if not refused:
        yield from launch_findings(guest.attributes, xfam, guest.vcpus, launch.name)


def _no_reset_vector(launch: Launch, regions: tuple[Region, ...]) -> Iterator[Finding]:
    """Warn where no page is added at which the vCPUs of a TD start."""
    held = any(r.gpa <= RESET_PAGE < r.end for r in igvm_loader.added(regions) if r.size > 0)
    if not held:
        problem = f"no page is added at {RESET_PAGE:#x}, where the vCPUs of a TD start"
        yield Finding("no-reset-vector", problem, RESET_PAGE, RESET_PAGE, at=launch.name)


def _order_note(launch: Launch, regions: tuple[Region, ...]) -> Iterator[Finding]:
    """Note that another order gives another MRTD, where the interface has both."""
    several = launch.abi.tdx_extend == "either"
    if several and any(r.page_type == "measured" and r.size > PAGE for r in regions):
        other = "two-pass" if launch.guest.page_order == "single-pass" else "single-pass"
        problem = f"pages are added {launch.guest.page_order}; {other} gives a different MRTD"
        yield Finding("order-differs", problem, hint=f"--page-order {other}")
