"""
Where the guest has its memory: as a manifest lists it, or as the VMM's machine lays it out.

The machine counts where the VMM's profile names it and --memory says how much RAM there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cvmplan.core.errors import ConfigError
from cvmplan.core.findings import Finding
from cvmplan.core.platform import Platform
from cvmplan.kvm.interface import Abi
from cvmplan.launch.given import Given
from cvmplan.memory.gpamap import Memory
from cvmplan.memory.regions import Region, Role
from cvmplan.planning.read import Place
from cvmplan.planning.source import Source
from cvmplan.profiles import Profile
from cvmplan.profiles.machines import MACHINES, MINIMAL, Machine


def choose_layout(
    source: Source, platform: Platform, profile: Profile, abi: Abi, given: Given, place: Place
) -> Given:
    """
    Return what the layout of the guest's memory is called, as a setting.

    There is none where the guest has no memslots, and where a manifest lists its memory and
    --memory is not given.  ConfigError for --memory without memslots.
    """
    if platform.vm_type is None or abi.imports:
        if "memory" in given:
            raise ConfigError(f"{abi.name} has no memslots", at=place("memory"))
        return Given()
    if "memory" not in given:
        listed = source.declared.memory.ram is not None
        return Given() if listed else Given({"layout": MINIMAL})
    machine = None if source.format == "igvm" else _machine(platform, profile, given)
    return Given({"layout": machine.name if machine else MINIMAL})


def _machine(platform: Platform, profile: Profile, given: Given) -> Machine | None:
    """Return the machine of a VMM, None where its memory is not known."""
    machine = MACHINES.get(profile.machine)
    if machine is None or platform not in machine.windows:
        return None
    return machine if machine.name in (given.text("machine") or machine.name) else None


def lay_out(
    memory: Memory, platform: Platform, settings: Given, regions: Iterable[Region], firmware: int
) -> Memory:
    """
    Return the guest's memory with that of the machine, where the settings name one.

    `firmware`: bytes of the firmware's file, 0 where there is none; `memory`: what a manifest
    lists.  ConfigError, UnsupportedError for a size of RAM that the machine does not have.
    """
    machine, size = MACHINES.get(settings.text("layout") or ""), settings.number("memory")
    if machine is None or size is None:
        return memory
    held = next((r.size for r in regions if r.role is Role.FIRMWARE), firmware)
    protected = platform.vmsa and settings.text("es_init") != "legacy"  # kvm READONLY_MEM is 0
    made = machine.memory(platform, size, held, readonly=not (platform.private or protected))
    origin = f"{machine.name} with {size:#x} bytes of RAM"
    return memory._replace(ram=tuple((*r, origin) for r in made.ranges), machine=made)


def layout_findings(settings: Given, profile: Profile, platform: Platform) -> Iterator[Finding]:
    """Yield a note where --memory changes nothing, since the VMM's layout is not known."""
    if "memory" in settings and settings.text("layout") == MINIMAL:
        problem = f"not checked: where {profile.name} has the memory of this {platform} guest; "
        problem += "its memslots are the fewest that contain its pages (minimal layout)"
        yield Finding("not-checked", problem)
