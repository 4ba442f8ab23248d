"""
Which loaders measure the same for an IGVM file.

Loaders agree where they add the same pages in the same order, as the same types, and measure the
same vCPU states: that is compared, and nothing is hashed for it but what is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256

from cvmplan.core.findings import Finding
from cvmplan.core.values import PAGE
from cvmplan.launch import igvm_loader
from cvmplan.launch.model import Image, Launch
from cvmplan.memory.regions import Region, Role
from cvmplan.platforms.snp import states
from cvmplan.platforms.snp.ops import Vmsa
from cvmplan.platforms.snp.vmsa import kvm_page

KvmStates = Callable[[Launch], Iterable[Vmsa]]
_CONTENTS = ("normal", "vmsa")  # page types whose contents are measured (AMD 56860, PAGE_INFO)


def finding(launch: Launch, image: Image, kvm_states: KvmStates) -> Finding:
    """
    Return the finding that names the groups of loaders that measure the same.

    `kvm_states` returns the initial vCPU states of a launch that KVM measures.
    """
    refused = [*_refusing(launch, image)]
    groups: dict[bytes, list[str]] = {}
    for other in igvm_loader.loaders(launch):
        if other.profile.name not in refused:
            groups.setdefault(_measured(other, kvm_states), []).append(other.profile.name)
    reasons = [*_differences(launch, image)] if len(groups) > 1 else []
    if len(groups) > 1:
        named = " | ".join(", ".join(names) for names in groups.values())
        reasons.insert(0, f"{len(groups)} groups measure alike: {named}")
    if refused:
        reasons.append(f"{', '.join(refused)} would refuse the file")
    if not reasons:
        return Finding("portable", "all loaders compute one digest for this file")
    return Finding("portable", f"loaders differ: {'; '.join(reasons)}")


def _refusing(launch: Launch, image: Image) -> Iterator[str]:
    """Yield the loaders that refuse the file, or add no page of it, each under its usual kernel."""
    for other in igvm_loader.loaders(launch):
        found = (*igvm_loader.refused(other, image), *states.findings(other, image))
        added = igvm_loader.added(igvm_loader.typed(other))
        starts = any(r.role not in (Role.VP_CONTEXT, Role.OTHER_CONTEXT) for r in added)
        if not starts or any(f.severity == "error" for f in found):
            yield other.profile.name


def _measured(launch: Launch, kvm_states: KvmStates) -> bytes:
    """Return a hash over what is measured; pages of the file are named by their place there."""
    seen = sha256()
    for region in igvm_loader.added(igvm_loader.typed(launch)):
        place = region.at if region.page_type in _CONTENTS else ""
        if region.role in (Role.VP_CONTEXT, Role.OTHER_CONTEXT):
            place = _page_of(region)
        seen.update(f"{region.gpa:x} {region.size:x} {region.page_type} {place}\n".encode())
    for vcpus, gpa, page in () if launch.abi.imports else kvm_states(launch):
        row = f"{gpa:x} {PAGE:x} vmsa {sha256(page).hexdigest()}\n".encode()
        seen.update(row * len(vcpus))
    return seen.digest()


def _page_of(region: Region) -> str:
    data = getattr(region.contents, "data", b"")
    return sha256(data).hexdigest()


def _unsorted(regions: Sequence[Region]) -> bool:
    order = [r.gpa for r in regions if r.role is not Role.VP_CONTEXT]
    return order != sorted(order)


def _late_inserts(regions: Sequence[Region]) -> bool:
    first = next((n for n, r in enumerate(regions) if r.kind), len(regions))
    return any(r.role is Role.INSERT for r in regions[first:])


def _differences(launch: Launch, image: Image) -> Iterator[str]:
    """Yield what in the file makes loaders differ, in words."""
    regions = launch.regions
    on_kvm = [o.profile for o in igvm_loader.loaders(launch) if not o.abi.imports]
    changed = any(
        kvm_page(s.page, p.carries, sets=p.sets) != s.page for s in image.states for p in on_kvm
    )
    yield from (
        what
        for what, is_so in (
            ("a VMSA is not last, or not where KVM measures it", not igvm_loader.as_kvm(regions)),
            (
                "vCPU states that are not measured as the file has them",
                changed,
            ),
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
            ("2 MiB pages", any(map(igvm_loader.is_large, regions))),
        )
        if is_so
    )
    yield from _first_of(regions)


def _first_of(regions: Sequence[Region]) -> Iterator[str]:
    """Yield the first page of each kind that loaders treat differently."""
    shared = next(filter(igvm_loader.is_shared, regions), None)
    empty = next((r for r in regions if r.role is Role.EMPTY_PAGE), None)
    xf = next((r for r in regions if r.role is Role.CPUID_XF), None)
    for what, region in (
        ("shared pages", shared), ("measured pages without data", empty), ("CPUID_XF pages", xf),
    ):  # fmt: skip
        if region:
            yield f"{what} ({region.origin})"
