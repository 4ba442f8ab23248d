"""KVM's calls for a SEV or SEV-ES launch (Linux, amd-memory-encryption.rst)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from cvmplan.contents import Contents
from cvmplan.order import PAGE, Step
from cvmplan.plan import Lowering, Op
from cvmplan.sev.steps import (
    LaunchFinish,
    LaunchMeasure,
    LaunchStart,
    LaunchUpdateData,
    LaunchUpdateVmsa,
)

__all__ = [
    "Lowering",
    "SevLaunchFinish",
    "SevLaunchMeasure",
    "SevLaunchStart",
    "SevLaunchUpdateData",
    "SevLaunchUpdateVmsa",
    "Vcpus",
]


@dataclass(frozen=True, slots=True)
class SevLaunchStart(Op):
    """KVM_SEV_LAUNCH_START."""

    name = "sev-launch-start"
    kind = "control"
    policy: int

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield LAUNCH_START."""
        del state
        yield LaunchStart(self.policy)


@dataclass(frozen=True, slots=True)
class SevLaunchUpdateData(Op):
    """KVM_SEV_LAUNCH_UPDATE_DATA of exactly `size` bytes."""

    name = "sev-launch-update-data"
    kind = "add"
    gpa: int
    size: int
    source: Contents

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield LAUNCH_UPDATE_DATA; bytes in a page that was encrypted before are refused."""
        first = self.gpa - self.gpa % PAGE
        end = -(-(self.gpa + self.size) // PAGE) * PAGE
        state.add(first, end - first, self.source)
        yield LaunchUpdateData(self.gpa, self.size, self.source)


class Vcpus(NamedTuple):
    """The same initial state (a 4096-byte VMSA) for each of `vcpus`."""

    vcpus: range
    page: bytes


@dataclass(frozen=True, slots=True)
class SevLaunchUpdateVmsa(Op):
    """KVM_SEV_LAUNCH_UPDATE_VMSA: all vCPUs in index order."""

    name = "sev-launch-update-vmsa"
    kind = "add"
    vmsas: tuple[Vcpus, ...]

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield LAUNCH_UPDATE_VMSA for each vCPU."""
        del state
        for vmsa in self.vmsas:
            yield LaunchUpdateVmsa(vmsa.vcpus, vmsa.page)


@dataclass(frozen=True, slots=True)
class SevLaunchMeasure(Op):
    """KVM_SEV_LAUNCH_MEASURE."""

    name = "sev-launch-measure"
    kind = "control"

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield LAUNCH_MEASURE."""
        state.finalize()
        yield LaunchMeasure()


@dataclass(frozen=True, slots=True)
class SevLaunchFinish(Op):
    """KVM_SEV_LAUNCH_FINISH."""

    name = "sev-launch-finish"
    kind = "control"

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield LAUNCH_FINISH."""
        del state
        yield LaunchFinish()
