"""
Plan and measure confidential-VM launches.

The names below are imported when they are used; importing the package imports nothing else.

    from cvmplan import measure, plan_image

    plan = plan_image("OVMF.fd", platform="snp", vmm="qemu", vcpus=4)
    print(measure(plan).digest.hex())
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cvmplan.core.blob import Blob
    from cvmplan.core.errors import (
        ConfigError,
        CvmplanError,
        InputError,
        MapError,
        PlanError,
        UnsupportedError,
    )
    from cvmplan.core.findings import Finding
    from cvmplan.memory.gpamap import GpaMap
    from cvmplan.memory.regions import Region
    from cvmplan.operations.measure import Measurement, measure
    from cvmplan.operations.plan import Plan
    from cvmplan.planning.api import plan_image
    from cvmplan.profiles import Profile
    from cvmplan.sweep import sweep_image

__version__ = "0.1.0"

_HOMES = {
    "Blob": "core.blob",
    "ConfigError": "core.errors",
    "CvmplanError": "core.errors",
    "Finding": "core.findings",
    "GpaMap": "memory.gpamap",
    "InputError": "core.errors",
    "MapError": "core.errors",
    "Measurement": "operations.measure",
    "Plan": "operations.plan",
    "PlanError": "core.errors",
    "Profile": "profiles",
    "Region": "memory.gpamap",
    "UnsupportedError": "core.errors",
    "measure": "operations.measure",
    "plan_image": "planning.api",
    "sweep_image": "sweep",
}

__all__ = [
    "Blob",
    "ConfigError",
    "CvmplanError",
    "Finding",
    "GpaMap",
    "InputError",
    "MapError",
    "Measurement",
    "Plan",
    "PlanError",
    "Profile",
    "Region",
    "UnsupportedError",
    "measure",
    "plan_image",
    "sweep_image",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
