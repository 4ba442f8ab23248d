"""
What a loader makes of the pages of an IGVM file: page types, order, and what it refuses.

The file says what each page is, the profile what its loader does about that, here both come
together.  Source of each quirk: the profile that has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from cvmplan.core.findings import Finding
from cvmplan.core.platform import VMSA_GPA
from cvmplan.core.values import PAGE
from cvmplan.kvm import abi as abis
from cvmplan.launch.model import Image, Launch
from cvmplan.memory.regions import IS_2MB, NOT_ADDED, SHARED, UNMEASURED, Region, Role
from cvmplan.profiles import PROFILES, Profile


def is_igvm(launch: Launch) -> bool:
    """Whether the image names its pages' types itself."""
    return launch.image is not None and launch.image.format == "igvm"


def typed(launch: Launch) -> tuple[Region, ...]:
    """Return the regions of an IGVM launch with their page types, in the order of the loader."""
    regions = [_typed(launch, region) for region in launch.regions]
    kept = [r for r in regions if r.size or r.added]
    if not launch.profile.all_contexts:
        kept = [r for r in kept if r.role is not Role.OTHER_CONTEXT]
    if not launch.abi.imports:
        kept = [r for r in kept if r.role is not Role.VP_CONTEXT]
    if launch.profile.sorted_by_gpa:
        return tuple(sorted(kept, key=lambda r: r.gpa))
    return tuple(_pending(kept) if launch.profile.inserts_first else kept)


def _typed(launch: Launch, region: Region) -> Region:
    if region.page_type is not None:
        return region
    profile, role = launch.profile, region.role
    if _left_out(profile.shared_pages, region):
        return replace(region, page_type="shared")
    if launch.platform.secure_ept and _flags(region) & UNMEASURED:
        role = Role.UNMEASURED
    page_type = launch.platform.igvm_types.get(role, "inaccessible")
    if role is Role.EMPTY_PAGE and launch.platform.page_info:
        page_type = profile.zero_pages
    added = region.added
    if role is Role.INSERT and profile.insert_pages == "first":
        return replace(region, page_type=page_type, size=region.size or PAGE, added=PAGE)
    if is_large(region) and profile.large_pages == "first":
        added = PAGE
    return replace(region, page_type=page_type, added=added)


def is_large(region: Region) -> bool:
    """Whether a region is one 2 MiB page."""
    return bool(_flags(region) & IS_2MB)


def is_shared(region: Region) -> bool:
    """Whether a region is of pages with the flag shared."""
    return bool(_flags(region) & SHARED)


def _flags(region: Region) -> int:
    return region.kind[1] if region.kind else 0


def _left_out(shared_pages: str, region: Region) -> bool:
    if not is_shared(region) or shared_pages == "add":
        return False
    return shared_pages == "skip" or region.role in (Role.PAGE, Role.EMPTY_PAGE)


def _pending(regions: Iterable[Region]) -> Iterator[Region]:
    """Hold a run of alike, adjoining pages back until another begins; all else goes before it."""
    run: list[Region] = []
    for region in regions:
        if not region.kind:
            yield region
            continue
        if run and not _continues(run[-1], region):
            yield from run
            run = []
        run.append(region)
    yield from run


def _continues(one: Region, two: Region) -> bool:
    alike = one.kind == two.kind and (one.contents is None) == (two.contents is None)
    if not alike or one.end != two.gpa or one.rows is None or two.rows is None:
        return False
    last = one.rows.number + (one.size // PAGE - 1 if one.rows.each else 0)
    return two.rows.number == last + 1


def guest_policy(profile: Profile, policies: Sequence[int]) -> int:
    """Return which of the file's guest policies, one or more, the loader takes."""
    if profile.fixed_policy is not None:
        return profile.fixed_policy
    if profile.guest_policy == "last":
        return policies[-1]
    if profile.guest_policy == "first-set":
        return next((p for p in policies if p), 0)
    return policies[0]


# --- findings ------------------------------------------------------------------------------------


def findings(launch: Launch) -> Iterator[Finding]:
    """Yield what the loader refuses of an IGVM file, and whether another would differ."""
    image = launch.image
    if image is None or not is_igvm(launch):
        return
    yield from refused(launch, image)
    yield from _large(launch)
    if launch.platform.secure_ept and not launch.abi.imports:
        problem = "no VMM on KVM loads IGVM files for TDX yet"
        grave = "warning" if launch.profile.abis else "error"
        yield Finding("loader-refuses", problem, at=launch.name, severity=grave)
    if not launch.profile.page_types and launch.profile.is_tool:
        problem = f"{launch.profile.name} is a tool and cannot launch images"
        yield Finding("portable", problem, at=launch.name)


def _first_of_each(regions: Iterable[Region]) -> dict[Role, Region]:
    """Return the first region of each role that the file declares."""
    found: dict[Role, Region] = {}
    for region in regions:
        if region.page_type is None:
            found.setdefault(region.role, region)
    return found


def refused(launch: Launch, image: Image) -> Iterator[Finding]:
    """Yield what the loader refuses of the file, vCPU states apart."""
    profile = launch.profile

    def finding(what: str, at: str) -> Finding:
        return Finding("loader-refuses", f"{profile.name} cannot do {what}", at=at)

    if not profile.loads_igvm:
        yield finding("IGVM files", launch.name)
    names = image.all_names if profile.refuses_all else image.names
    for name in profile.refuses:
        if name in names:
            yield finding(name, names[name])
    types = launch.platform.igvm_types
    for role, region in _first_of_each(launch.regions).items():
        if role not in types or role.name in profile.refuses:
            yield finding(f"{role} pages on {launch.platform}", region.at)
    yield from (finding(what, launch.name) for what in _not_once(launch))
    if launch.abi.imports and not profile.abis:
        yield finding(f"a launch by {launch.abi.name}: it runs on KVM", launch.name)
    if profile.wants_policy and not image.policies and launch.platform.page_info:
        yield Finding("loader-refuses", f"{profile.name} needs a guest policy", at=launch.name)
    if profile.one_id_block and len(image.id_blocks) > 1:
        yield finding(f"{len(image.id_blocks)} ID blocks", image.id_blocks[1].at)


def _not_once(launch: Launch) -> Iterator[str]:
    """Yield what the loader needs exactly once and the file contains never or more often."""
    for name in launch.profile.once:
        count = sum(r.size // PAGE for r in launch.regions if r.role.name == name)
        if count != 1:
            yield f"{count} {name} pages, expected exactly one"


def _large(launch: Launch) -> Iterator[Finding]:
    for region in launch.regions:
        if is_large(region) and region.gpa % region.size:
            problem = f"{region.origin}: a 2 MiB page at {region.gpa:#x}"
            yield Finding("gpa-unaligned", problem, at=region.at)
        if is_large(region) and launch.profile.large_pages == "first":
            problem = f"{region.origin}: of 2 MiB the first 4 KiB are added"
            yield Finding("large-page", problem, at=region.at, severity="warning")


def as_kvm(regions: Sequence[Region]) -> bool:
    """Whether all VMSAs come last, where KVM has them."""
    roles = [r.role is Role.VP_CONTEXT for r in regions]
    fixed = all(r.gpa == VMSA_GPA for r in regions if r.role is Role.VP_CONTEXT)
    return fixed and roles == sorted(roles)


def loaders(launch: Launch) -> Iterator[Launch]:
    """Yield `launch` as each loader of IGVM files would do it, under its usual kernel."""
    for profile in PROFILES.values():
        if profile.loads_igvm and launch.platform in profile.platforms and profile.is_current:
            usual = abis.find(profile.abis[0] if profile.abis else abis.DEFAULT)
            yield replace(launch, profile=profile, abi=usual)


def added(regions: Iterable[Region]) -> Iterator[Region]:
    """Yield the regions that are added, each as large as what is added of it."""
    for region in regions:
        if region.page_type not in NOT_ADDED:
            yield region if region.added is None else replace(region, size=region.added, added=None)
