"""Kernel command lines that say how many vCPUs there are."""

from __future__ import annotations

from typing import Final

from cvmplan.launch.given import Given
from cvmplan.launch.settings import SETTINGS

VCPUS: Final = "{vcpus}"
"""Stands in a command line for the number of vCPUs."""


def for_vcpus(*settings: Given) -> tuple[Given, ...]:
    """Return settings, each beating those before, with the number of vCPUs in command lines."""
    counts = [told for one in settings if (told := one.number("vcpus")) is not None]
    count = str(counts[-1] if counts else SETTINGS["vcpus"].default)
    return tuple(
        one | {"append": line.replace(VCPUS, count)} if VCPUS in (line := _line_of(one)) else one
        for one in settings
    )


def is_template(*settings: Given) -> bool:
    """Whether a command line depends on the number of vCPUs."""
    return any(VCPUS in _line_of(one) for one in settings)


def _line_of(settings: Given) -> str:
    return settings.text("append") or ""
