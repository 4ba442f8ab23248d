"""KVM's calls for a SEV or SEV-ES launch (Linux, amd-memory-encryption.rst)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cvmplan.core.errors import PlanError
from cvmplan.core.records import record
from cvmplan.core.values import PAGE
from cvmplan.memory.contents import Contents
from cvmplan.operations import lowering
from cvmplan.operations.plan import Op
from cvmplan.operations.steps import Step
from cvmplan.platforms.sev.steps import (
    ORDER,
    LaunchFinish,
    LaunchMeasure,
    LaunchStart,
    LaunchUpdateData,
    LaunchUpdateVmsa,
)

__all__ = [
    "ORDER",
    "Lowering",
    "SevLaunchFinish",
    "SevLaunchMeasure",
    "SevLaunchStart",
    "SevLaunchUpdateData",
    "SevLaunchUpdateVmsa",
    "Vcpus",
]


class Lowering(lowering.Lowering):
    """Also whether vCPU states were handed over: SEV-ES must, SEV cannot."""

    def hand_over(self, count: int) -> None:
        """Note that vCPU states are encrypted; PlanError without encrypted state."""
        if not self.platform.vmsa:
            raise PlanError(f"{self.platform} has no encrypted vCPU state")
        super().hand_over(count)

    def finalize(self) -> None:
        """Check that SEV-ES has its vCPU states; PlanError."""
        if self.platform.vmsa and not self.handed_over:
            raise PlanError("no vCPU state was handed over")
        super().finalize()


@record
class SevLaunchStart(Op):
    """KVM_SEV_LAUNCH_START."""

    name = "sev-launch-start"
    kind = "control"
    policy: int

    def lower(self, state: lowering.Lowering) -> Iterator[Step]:
        """Yield LAUNCH_START."""
        del state
        yield LaunchStart(self.policy)


@record
class SevLaunchUpdateData(Op):
    """KVM_SEV_LAUNCH_UPDATE_DATA of exactly `size` bytes."""

    name = "sev-launch-update-data"
    kind = "add"
    gpa: int
    size: int
    source: Contents

    def lower(self, state: lowering.Lowering) -> Iterator[Step]:
        """Yield LAUNCH_UPDATE_DATA; bytes in a page that was encrypted before are refused."""
        first = self.gpa - self.gpa % PAGE
        end = -(-(self.gpa + self.size) // PAGE) * PAGE
        state.add(first, end - first, self.source)
        yield LaunchUpdateData(self.gpa, self.size, self.source)


class Vcpus(NamedTuple):
    """The same initial state (a 4096-byte VMSA) for each of `vcpus`."""

    vcpus: range
    page: bytes


@record
class SevLaunchUpdateVmsa(Op):
    """KVM_SEV_LAUNCH_UPDATE_VMSA: all vCPUs in index order."""

    name = "sev-launch-update-vmsa"
    kind = "add"
    vmsas: tuple[Vcpus, ...]

    def lower(self, state: lowering.Lowering) -> Iterator[Step]:
        """Yield LAUNCH_UPDATE_VMSA for each vCPU; refused without encrypted state."""
        state.hand_over(sum(len(vmsa.vcpus) for vmsa in self.vmsas))
        for vmsa in self.vmsas:
            yield LaunchUpdateVmsa(vmsa.vcpus, vmsa.page)


@record
class SevLaunchMeasure(Op):
    """KVM_SEV_LAUNCH_MEASURE."""

    name = "sev-launch-measure"
    kind = "control"

    def lower(self, state: lowering.Lowering) -> Iterator[Step]:
        """Yield LAUNCH_MEASURE."""
        state.finalize()
        yield LaunchMeasure()


@record
class SevLaunchFinish(Op):
    """KVM_SEV_LAUNCH_FINISH."""

    name = "sev-launch-finish"
    kind = "control"
    finalizes = True

    def lower(self, state: lowering.Lowering) -> Iterator[Step]:
        """Yield LAUNCH_FINISH."""
        del state
        yield LaunchFinish()
