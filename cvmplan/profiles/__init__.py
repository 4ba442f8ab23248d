"""VMM profiles: what a VMM does about a region, as data.  The only package that names a VMM."""

from __future__ import annotations

from typing import Final

from cvmplan.core.errors import UnsupportedError
from cvmplan.core.names import spelled, unknown
from cvmplan.profiles.earlier import (
    EC2_RDX_0,
    GCE_2024,
    GCE_GENOA,
    QEMU_2023,
    QEMU_2023_GENOA,
    QEMU_HASHES_FIRST,
)
from cvmplan.profiles.firmware import EC2, GCE, LIBKRUN, QEMU, QEMU_82_TDX, SVSM_QEMU, TD_SHIM
from cvmplan.profiles.igvm import (
    CLOUD_HYPERVISOR,
    CLOUD_HYPERVISOR_MSHV,
    HYPER_V,
    IGVMMEASURE,
    IGVMMEASURE_ZERO,
    OPENVMM,
    OPENVMM_MSHV,
    OPENVMM_MSHV_SORTED,
)
from cvmplan.profiles.record import (
    HARDWARE,
    IGVM_FIELDS,
    RECORDED,
    SOURCE,
    TWO,
    Fact,
    Profile,
    State,
    Vmsa,
)

__all__ = [
    "DEFAULTS", "HARDWARE", "IGVM_FIELDS", "PROFILES", "RECORDED", "SOURCE", "TWO", "Fact",
    "Profile", "State", "Vmsa", "find", "for_platform",
]  # fmt: skip

PROFILES: Final = {
    p.name: p
    for p in (
        QEMU,
        QEMU_82_TDX,
        EC2,
        GCE,
        TD_SHIM,
        SVSM_QEMU,
        LIBKRUN,
        HYPER_V,
        CLOUD_HYPERVISOR,
        CLOUD_HYPERVISOR_MSHV,
        OPENVMM,
        OPENVMM_MSHV,
        OPENVMM_MSHV_SORTED,
        IGVMMEASURE,
        IGVMMEASURE_ZERO,
        QEMU_2023,
        QEMU_2023_GENOA,
        QEMU_HASHES_FIRST,
        EC2_RDX_0,
        GCE_2024,
        GCE_GENOA,
    )
}
DEFAULTS: Final = {"": QEMU.name, "igvm": HYPER_V.name}
"""Format of the image to the profile that is assumed."""


def find(name: str, at: str = "--vmm") -> Profile:
    """Return the built-in profile `name`, in any case; ConfigError at `at` for others."""
    found = PROFILES.get(spelled(name, PROFILES))
    if found is None:
        listed = f"built in are {', '.join(PROFILES)}; a profile file ends in .json or .toml"
        raise unknown("VMM profile", name, PROFILES, at, listed)
    return found


def for_platform(profile: Profile, platform: str, at: str) -> Profile:
    """Return `profile`; UnsupportedError at `at` when it does not know `platform`."""
    if platform in profile.platforms:
        return profile
    others = [p.name for p in PROFILES.values() if platform in p.platforms]
    raise UnsupportedError(
        f"profile {profile.name} is for {', '.join(profile.platforms)}, not {platform}",
        at=at,
        hint=f"for {platform} choose from {', '.join(others)}",
    )
