"""From a launch to the mappings of a default or software-protected VM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cvmplan.kvm import memory
from cvmplan.launch.model import Launch, Layout
from cvmplan.memory.gpamap import GpaMap, Limits
from cvmplan.operations.plan import CreateVcpu, CreateVm, Op

PHYSICAL_END = 1 << 52  # x86-64: at most 52 bits of physical address


def layout(launch: Launch) -> Layout:
    """Return the regions of `launch`, all of them only mapped, and the findings."""
    regions = tuple(replace(r, page_type="mapped") for r in launch.regions)
    limits = Limits(PHYSICAL_END, "the 52 bits of a physical address")
    return Layout(regions, limits)


def operations(launch: Launch, gpa_map: GpaMap) -> Iterator[Op]:
    """Yield the calls that create the VM and map `gpa_map`, in order."""
    yield CreateVm(launch.platform)
    abi, regions = launch.abi, gpa_map.regions
    made_of = memory.backing(launch.platform, launch.guest.backing, abi)
    made = memory.operations(launch.platform, abi, made_of, launch.memory, regions)
    created = CreateVcpu(launch.guest.vcpus)
    yield from made.files
    yield from made.slots_and(created, vcpus_first=launch.profile.vcpus_first)
    yield from made.later
    for region in regions:
        yield memory.mapping(abi, region.gpa, region.size)
