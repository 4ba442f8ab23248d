"""
PSP commands of a SEV or SEV-ES launch.

Source: AMD 55766, SEV API, "LAUNCH_START" to "LAUNCH_FINISH".  Addresses are not measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from cvmplan.core.errors import PlanError
from cvmplan.core.records import record
from cvmplan.core.values import PAGE
from cvmplan.memory.contents import Contents, check_fits
from cvmplan.operations.steps import Begin, Order, Step

GRANULE = 16  # LAUNCH_UPDATE_DATA: LENGTH must be a multiple of 16 bytes


@record
class LaunchStart(Step):
    """Create the guest context."""

    command = "LAUNCH_START"
    policy: int


@record
class LaunchUpdateData(Step):
    """Encrypt and measure `size` bytes at `gpa`."""

    command = "LAUNCH_UPDATE_DATA"
    gpa: int
    size: int
    contents: Contents

    def __post_init__(self) -> None:
        if self.size <= 0 or self.size % GRANULE or self.gpa % GRANULE:
            raise PlanError(
                f"{self.size:#x} bytes at {self.gpa:#x} are not multiples of {GRANULE} bytes"
            )
        check_fits(self.contents, self.size)


@record
class LaunchUpdateVmsa(Step):
    """Encrypt and measure the same VMSA page for each of `vcpus`."""

    command = "LAUNCH_UPDATE_VMSA"
    vcpus: range
    page: bytes

    def __post_init__(self) -> None:
        if len(self.page) != PAGE or not self.vcpus:
            raise PlanError(f"a VMSA of {len(self.page)} bytes for {len(self.vcpus)} vCPUs")

    def commands(self) -> Iterator[Self]:
        """Yield one update a vCPU."""
        for vcpu in self.vcpus:
            yield type(self)(range(vcpu, vcpu + 1), self.page)


@record
class LaunchMeasure(Step):
    """Close the digest; the guest owner gets an HMAC over it."""

    command = "LAUNCH_MEASURE"


@record
class LaunchFinish(Step):
    """Make the guest runnable."""

    command = "LAUNCH_FINISH"


_UPDATES = frozenset({LaunchUpdateData, LaunchUpdateVmsa, LaunchMeasure})
ORDER: Order = {
    Begin: frozenset({LaunchStart}),
    LaunchStart: _UPDATES,
    LaunchUpdateData: _UPDATES,
    LaunchUpdateVmsa: _UPDATES,
    LaunchMeasure: frozenset({LaunchFinish}),
    LaunchFinish: frozenset(),
}
