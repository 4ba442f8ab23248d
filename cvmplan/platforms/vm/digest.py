"""No measurement: nothing in these VMs is measured."""

from __future__ import annotations

from collections.abc import Iterable

from cvmplan.core.errors import UnsupportedError
from cvmplan.core.platform import Platform
from cvmplan.operations.measure import Measurement
from cvmplan.operations.steps import Step


def measure(platform: Platform, trace: Iterable[Step]) -> Measurement:
    """Raise UnsupportedError: there is nothing that could be measured."""
    del trace
    raise UnsupportedError(
        f"a {platform} VM is mapped, not measured", hint="'cvmplan plan' shows the mappings"
    )
