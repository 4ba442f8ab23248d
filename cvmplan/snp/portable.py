"""
Which loaders measure the same for an IGVM file.

Loaders agree where all that makes them differ is absent from the file, or handled alike.  What
they do is data of their profiles; here is what of it matters for one file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cvmplan import pages
from cvmplan.findings import Finding
from cvmplan.gpamap import Region, Role
from cvmplan.launch import Image, Launch
from cvmplan.order import PAGE
from cvmplan.snp.vmsa import kvm_page


def finding(launch: Launch, image: Image) -> Finding:
    """Return the finding that names the groups of loaders that measure the same."""
    refused = [*pages.refusing(launch)]
    groups: dict[object, list[str]] = {}
    for other in pages.loaders(launch):
        if other.profile.name not in refused:
            key = (*_handling(other), *_states(other, image))
            groups.setdefault(key, []).append(other.profile.name)
    reasons = [*_differences(launch, image)] if len(groups) > 1 else []
    if len(groups) > 1:
        named = " | ".join(", ".join(names) for names in groups.values())
        reasons.insert(0, f"{len(groups)} groups measure alike: {named}")
    if refused:
        reasons.append(f"{', '.join(refused)} would refuse the file")
    if not reasons:
        return Finding("portable", "all loaders compute one digest for this file")
    return Finding("portable", f"loaders differ: {'; '.join(reasons)}")


def _handling(launch: Launch) -> Iterator[object]:
    """Yield what the loader does about each thing in the file that loaders treat differently."""
    profile, regions = launch.profile, launch.regions
    if _unsorted(regions):
        yield profile.sorted_by_gpa
    if _late_inserts(regions) and not profile.sorted_by_gpa:
        yield profile.inserts_first
    if any(r.role is Role.INSERT and r.size != PAGE for r in regions):
        yield profile.insert_pages
    if any(map(pages.is_shared, regions)):
        yield profile.shared_pages
    if any(r.role is Role.EMPTY_PAGE for r in regions):
        yield profile.zero_pages
    if any(map(pages.is_large, regions)):
        yield profile.large_pages


def _states(launch: Launch, image: Image) -> Iterator[object]:
    """Yield the vCPU states that are measured, and where."""
    in_place = launch.abi.imports
    if in_place and not pages.as_kvm(launch.regions):
        yield "in place, sorted" if launch.profile.sorted_by_gpa else "in place"
    for state in sorted(image.states):
        yield state.page if in_place else kvm_page(state.page, launch.profile.carries)
    if not in_place:
        yield launch.guest.vcpus - len(image.states)
    else:
        yield 0


def _unsorted(regions: Sequence[Region]) -> bool:
    order = [r.gpa for r in regions if r.role is not Role.VP_CONTEXT]
    return order != sorted(order)


def _late_inserts(regions: Sequence[Region]) -> bool:
    first = next((n for n, r in enumerate(regions) if r.kind), len(regions))
    return any(r.role is Role.INSERT for r in regions[first:])


def _differences(launch: Launch, image: Image) -> Iterator[str]:
    """Yield what in the file makes loaders differ, in words."""
    regions = launch.regions
    carried = {o.profile.carries for o in pages.loaders(launch) if not o.abi.imports}
    changed = any(kvm_page(s.page, c) != s.page for s in image.states for c in carried)
    yield from (
        what
        for what, is_so in (
            ("a VMSA is not last, or not where KVM measures it", not pages.as_kvm(regions)),
            ("vCPU states that not every loader on KVM sets as the file has them", changed),
            (
                f"{len(image.states)} VMSAs for {launch.guest.vcpus} vCPUs",
                len(image.states) != launch.guest.vcpus,
            ),
            ("pages are not in the order of their addresses", _unsorted(regions)),
            ("a parameter insert after the first page", _late_inserts(regions)),
            (
                "a parameter area of other than one page",
                any(r.role is Role.INSERT and r.size != PAGE for r in regions),
            ),
            ("2 MiB pages", any(map(pages.is_large, regions))),
        )
        if is_so
    )
    yield from _first_of(regions)


def _first_of(regions: Sequence[Region]) -> Iterator[str]:
    """Yield the first page of each kind that loaders treat differently."""
    shared = next(filter(pages.is_shared, regions), None)
    empty = next((r for r in regions if r.role is Role.EMPTY_PAGE), None)
    xf = next((r for r in regions if r.role is Role.CPUID_XF), None)
    for what, region in (
        ("shared pages", shared), ("measured pages without data", empty), ("CPUID_XF pages", xf),
    ):  # fmt: skip
        if region:
            yield f"{what} ({region.origin})"
