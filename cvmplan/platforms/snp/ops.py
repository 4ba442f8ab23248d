"""KVM's calls for an SNP launch (Linux, Documentation/virt/kvm/x86/amd-memory-encryption.rst)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cvmplan.core.errors import PlanError
from cvmplan.core.records import record
from cvmplan.core.values import PAGE
from cvmplan.memory.contents import Contents
from cvmplan.operations.lowering import Lowering
from cvmplan.operations.plan import Op
from cvmplan.operations.steps import Step
from cvmplan.platforms.snp.steps import (
    ORDER,
    LaunchFinish,
    LaunchStart,
    LaunchUpdate,
    PageType,
    VmsaUpdate,
)

__all__ = [
    "ORDER",
    "ImportComplete",
    "ImportPage",
    "Lowering",
    "SnpLaunchFinish",
    "SnpLaunchStart",
    "SnpLaunchUpdate",
    "Vmsa",
]


@record
class SnpLaunchStart(Op):
    """KVM_SEV_SNP_LAUNCH_START; `gosvw` (16 bytes) is reported, not measured."""

    name = "snp-launch-start"
    kind = "control"
    policy: int
    gosvw: bytes | None = None

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield SNP_LAUNCH_START."""
        del state
        yield LaunchStart(self.policy)


@record
class SnpLaunchUpdate(Op):
    """
    KVM_SEV_SNP_LAUNCH_UPDATE of one run of pages of one type.

    Without a `source` the pages are added as they were written.  `retry` says how the VMM goes
    on where the firmware refuses the page: "invalid-param-once", or None: it ends.
    """

    name = "snp-launch-update"
    kind = "add"
    gpa: int
    size: int
    page_type: PageType
    source: Contents | None = None
    retry: str | None = None

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield SNP_LAUNCH_UPDATE of each page, upwards; a page added before is refused."""
        if self.page_type is PageType.VMSA:
            raise PlanError("the kernel takes no VMSA from user space")
        yield from _added(state, self)


@record
class ImportPage(Op):
    """Import pages of one type through the hypervisor; a VMSA is such a page."""

    name = "import-page"
    kind = "add"
    gpa: int
    size: int
    page_type: PageType
    source: Contents

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield SNP_LAUNCH_UPDATE of each page, upwards; a page added before is refused."""
        yield from _added(state, self)


def _added(state: Lowering, op: SnpLaunchUpdate | ImportPage) -> Iterator[Step]:
    for gpa, size, contents in state.add(op.gpa, op.size, op.source):
        yield LaunchUpdate(op.page_type, gpa, size, contents)


class Vmsa(NamedTuple):
    """The same initial state (a 4096-byte VMSA) for each of `vcpus`, measured at `gpa`."""

    vcpus: range
    gpa: int
    page: bytes


@record
class SnpLaunchFinish(Op):
    """
    KVM_SEV_SNP_LAUNCH_FINISH; KVM hands over each vCPU's VMSA first, all at one address.

    What is reported but not measured: `host_data` (32 bytes), `id_block` (96), `id_auth`
    (4096), and two flags.  Source: linux 0097f9df, arch/x86/kvm/svm/sev.c,
    snp_launch_update_vmsa, snp_launch_finish.
    """

    name = "snp-launch-finish"
    kind = "control"
    finalizes = True
    vmsas: tuple[Vmsa, ...]
    host_data: bytes | None = None
    id_block: bytes | None = None
    id_auth: bytes | None = None
    author_key_enabled: bool = False
    vcek_disabled: bool = False

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield SNP_LAUNCH_UPDATE of the VMSAs in vCPU order, then SNP_LAUNCH_FINISH."""
        state.finalize()
        state.hand_over(sum(len(vmsa.vcpus) for vmsa in self.vmsas))
        for vmsa in self.vmsas:
            if state.added.overlap(vmsa.gpa, vmsa.gpa + PAGE):
                raise PlanError(f"the page at {vmsa.gpa:#x} was added, where the VMSAs go")
            yield VmsaUpdate(vmsa.gpa, vmsa.vcpus, vmsa.page)
        yield LaunchFinish()


@record
class ImportComplete(Op):
    """The hypervisor's end of the import; identities as in `SnpLaunchFinish`."""

    name = "import-complete"
    kind = "control"
    finalizes = True
    host_data: bytes | None = None
    id_block: bytes | None = None
    id_auth: bytes | None = None

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield SNP_LAUNCH_FINISH."""
        state.finalize()
        yield LaunchFinish()
