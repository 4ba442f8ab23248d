"""
PSP commands of an SNP launch, as runs of pages.

Source: AMD 56860, SEV-SNP Firmware ABI, "SNP_LAUNCH_START", "SNP_LAUNCH_UPDATE",
"SNP_LAUNCH_FINISH"; the page types are those of SNP_LAUNCH_UPDATE's PAGE_TYPE.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Self

from cvmplan.core.errors import PlanError
from cvmplan.core.records import record
from cvmplan.core.values import PAGE
from cvmplan.memory.contents import Contents, DigestAfter, check_fits, part
from cvmplan.operations.lowering import check_pages
from cvmplan.operations.steps import Begin, Order, Step


class PageType(IntEnum):
    """PAGE_TYPE of SNP_LAUNCH_UPDATE."""

    NORMAL = 1
    VMSA = 2
    ZERO = 3
    UNMEASURED = 4
    SECRETS = 5
    CPUID = 6

    @property
    def label(self) -> str:
        """The name that documents use: "normal"."""
        return self.name.lower()


PHYSICAL_END = 1 << 52  # AMD 24593, APM volume 2: at most 52 bits of physical address


def _check_private(gpa: int, size: int) -> None:
    check_pages(gpa, size)
    if gpa + size > PHYSICAL_END:
        raise PlanError(f"{size:#x} bytes at {gpa:#x} end past 52 bits of physical address")


MEASURED_CONTENTS = frozenset({PageType.NORMAL, PageType.VMSA})


@record
class LaunchStart(Step):
    """Create the guest context; the launch digest is zero."""

    command = "SNP_LAUNCH_START"
    policy: int


@record
class LaunchUpdate(Step):
    """Hand a run of pages to the PSP, one after the other, upwards."""

    command = "SNP_LAUNCH_UPDATE"
    page_type: PageType
    gpa: int
    size: int
    contents: Contents

    def __post_init__(self) -> None:
        _check_private(self.gpa, self.size)
        check_fits(self.contents, self.size)

    def commands(self) -> Iterator[Self]:
        """Yield one-page runs; a run known only by its digest stays whole."""
        if isinstance(self.contents, DigestAfter):
            yield self
            return
        for at in range(0, self.size, PAGE):
            contents = part(self.contents, at, PAGE)
            yield type(self)(self.page_type, self.gpa + at, PAGE, contents)


@record
class VmsaUpdate(Step):
    """Hand the same VMSA page to the PSP for each of `vcpus`, all at `gpa`."""

    command = "SNP_LAUNCH_UPDATE"
    gpa: int
    vcpus: range
    page: bytes

    def __post_init__(self) -> None:
        _check_private(self.gpa, PAGE)
        if len(self.page) != PAGE or not self.vcpus:
            raise PlanError(f"a VMSA of {len(self.page)} bytes for {len(self.vcpus)} vCPUs")

    def commands(self) -> Iterator[Self]:
        """Yield one update a vCPU."""
        for vcpu in self.vcpus:
            yield type(self)(self.gpa, range(vcpu, vcpu + 1), self.page)


@record
class LaunchFinish(Step):
    """Seal the launch digest."""

    command = "SNP_LAUNCH_FINISH"


ORDER: Order = {
    Begin: frozenset({LaunchStart}),
    LaunchStart: frozenset({LaunchUpdate, VmsaUpdate, LaunchFinish}),
    LaunchUpdate: frozenset({LaunchUpdate, VmsaUpdate, LaunchFinish}),
    VmsaUpdate: frozenset({LaunchUpdate, VmsaUpdate, LaunchFinish}),
    LaunchFinish: frozenset(),
}
