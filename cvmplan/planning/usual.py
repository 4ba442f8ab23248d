"""
What a user assumes where nothing is given: which of it counts for a launch.

Options and documents beat it.  What the platform, the image or the VMM has no use for is left out,
since it was written for other launches.
"""

from __future__ import annotations

from typing import Final

from cvmplan.core import platform as platforms
from cvmplan.core.platform import Platform
from cvmplan.kvm import abi as abis
from cvmplan.launch.given import Given, Usual, Value
from cvmplan.launch.model import Declared
from cvmplan.launch.settings import READ_WITH, SETTINGS, TOP
from cvmplan.planning.read import BOOT, Place
from cvmplan.profiles import Profile

CPU: Final = ("cpu", "family", "model", "stepping", "cpu_signature")
OF_ONE_IMAGE: Final = (
    "firmware_digest", "firmware_size", "svsm", "vars_size", "id_block", "id_auth", "kernel_hash",
    "initrd_hash", "append_hash", "uki_sections", "uki_profile",
)  # fmt: skip
"""Settings that belong to one image, and so cannot be usual."""
CAN_BE_USUAL: Final = tuple(n for n in (*TOP, *SETTINGS) if n not in OF_ONE_IMAGE)
IN_IGVM: Final = (*CPU, *BOOT, "vcpus", "sev_features", "policy")
"""What an IGVM file says itself, or has no use for."""


def usual_platform(options: Given) -> Platform | None:
    """Return the platform that is usual, None where none is."""
    name = options.usual.values.get("platform")
    return platforms.find(name) if isinstance(name, str) else None


def usual_settings(
    usual: Usual, chosen: Given, declared: Declared, platform: Platform, kind: str
) -> Given:
    """Return what counts of `usual` for an image of a `kind`, beneath the settings `chosen`."""
    found = {
        name: value
        for name, value in usual.values.items()
        if not _is_chosen(name, chosen) and _fits(name, value, declared, platform, kind)
    }
    kernel = "kernel" in found or {"kernel", "kernel_hash"} & {*chosen}
    return Given(found if kernel else {n: v for n, v in found.items() if n not in BOOT})


def _is_chosen(name: str, chosen: Given) -> bool:
    """Whether a setting, or one that stands for it, was given."""
    if name in CPU:
        return any(one in chosen for one in CPU)
    return name == "platform" or name in chosen or f"{name}_hash" in chosen


def _fits(name: str, value: Value, declared: Declared, platform: Platform, kind: str) -> bool:
    """Whether a setting can count for such a launch."""
    if isinstance(value, Profile):
        return platform in value.platforms
    if name == "abi":
        abi = abis.find(str(value))
        return abi.plans and platform in abi.vm_types
    setting = SETTINGS[name]
    if kind == "igvm" and (setting.firmware or name in IN_IGVM):
        return False
    if name in READ_WITH:
        return name in declared.reads
    return setting.platforms is None or platform in setting.platforms


def usual_place(name: str, usual: Usual) -> str:
    """Return where a setting, or what follows from it, was found; "" for others."""
    origin = {"cpu_signature": next((n for n in CPU if n in usual.places), "")}
    return usual.places.get(origin.get(name, name.removesuffix("_hash")), "")


def name_usual(place: Place, beneath: Given, usual: Usual) -> Place:
    """Return what names the place of a setting, also of one that is usual."""

    def named(name: str) -> str:
        if name not in beneath:
            return place(name)
        found = usual.places[name]
        return found if found.endswith(name.upper()) else f"{found}: {name}"

    return named
