"""
KVM's calls for a TD, in the shape that the seed agreed on: mapping, adding and extending apart.

Source: kvm mailing list, 2024-04-03 (map-memory); Linux
Documentation/virt/kvm/x86/intel-tdx.rst for the calls that are not memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cvmplan import plan
from cvmplan.contents import Contents
from cvmplan.errors import PlanError
from cvmplan.order import Step
from cvmplan.plan import Op, check_pages
from cvmplan.spans import Spans
from cvmplan.tdx.steps import (
    LEVEL_SPAN,
    MemPageAdd,
    MemPageAddExtend,
    MemSeptAdd,
    MngInit,
    MrExtend,
    MrFinalize,
    VpInit,
)


class Lowering(plan.Lowering):
    """
    Also which secure-EPT tables exist.

    A page must be mapped before it is added (its tables exist), added before it is
    extended, and a page that is mapped but not added when the TD is finalized is refused.
    """

    def __init__(self, guest: Mapping[str, Any]) -> None:
        super().__init__(guest)
        levels = (4, 3, 2, 1) if guest.get("gpaw", 48) == 52 else (3, 2, 1)
        self.tables = {level: Spans() for level in levels}

    def map(self, gpa: int, size: int) -> Iterator[Step]:
        """Yield TDH.MEM.SEPT.ADD of the tables that are still missing, from the top down."""
        yield from super().map(gpa, size)
        for level, present in self.tables.items():
            span = LEVEL_SPAN[level]
            first, end = gpa - gpa % span, -(-(gpa + size) // span) * span
            for start, stop in tuple(present.missing(first, end)):
                present.add(start, stop)
                yield MemSeptAdd(level, start, (stop - start) // span)

    def add(self, gpa: int, size: int) -> None:
        """Note that pages are added; PlanError where one was, or is not mapped."""
        super().add(gpa, size)
        for start, _ in self.mapped.missing(gpa, gpa + size):
            raise PlanError(f"the page at {start:#x} is added before it is mapped")

    def finalize(self) -> None:
        """Check that nothing waits for its add; PlanError where something does."""
        for start, end in self.mapped:
            for page, _ in self.added.missing(start, end):
                raise PlanError(f"the page at {page:#x} is mapped, and never added")


@dataclass(frozen=True, slots=True)
class TdxInitVm(Op):
    """KVM_TDX_INIT_VM; none of its fields is in MRTD (identities are 48 bytes each)."""

    name = "tdx-init-vm"
    kind = "control"
    attributes: int
    xfam: int
    mrconfigid: bytes | None = None
    mrowner: bytes | None = None
    mrownerconfig: bytes | None = None

    def lower(self, state: plan.Lowering) -> Iterator[Step]:
        """Yield TDH.MNG.INIT."""
        del state
        yield MngInit(self.attributes, self.xfam)


@dataclass(frozen=True, slots=True)
class TdxInitVcpu(Op):
    """KVM_TDX_INIT_VCPU for vCPUs 0 to `count` - 1; `rcx` is where they find the TD HOB."""

    name = "tdx-init-vcpu"
    kind = "control"
    count: int
    rcx: int

    def lower(self, state: plan.Lowering) -> Iterator[Step]:
        """Yield TDH.VP.INIT of each vCPU."""
        del state
        yield VpInit(self.count, self.rcx)


@dataclass(frozen=True, slots=True)
class TdxAdd(Op):
    """Add a run of mapped pages; `measured`: each page is extended right after its add."""

    name = "tdx-add"
    kind = "add"
    gpa: int
    size: int
    measured: bool
    source: Contents

    def lower(self, state: plan.Lowering) -> Iterator[Step]:
        """Yield TDH.MEM.PAGE.ADD, and where measured TDH.MR.EXTEND, page by page."""
        state.add(self.gpa, self.size)
        step = MemPageAddExtend if self.measured else MemPageAdd
        yield step(self.gpa, self.size, self.source)


@dataclass(frozen=True, slots=True)
class TdxExtend(Op):
    """Extend MRTD by the contents of pages that were added before."""

    name = "tdx-extend"
    kind = "extend"
    gpa: int
    size: int
    source: Contents

    def lower(self, state: plan.Lowering) -> Iterator[Step]:
        """Yield TDH.MR.EXTEND of each chunk."""
        check_pages(self.gpa, self.size)
        state.extend(self.gpa, self.size)
        yield MrExtend(self.gpa, self.size, self.source)


@dataclass(frozen=True, slots=True)
class TdxFinalize(Op):
    """KVM_TDX_FINALIZE_VM."""

    name = "tdx-finalize"
    kind = "control"

    def lower(self, state: plan.Lowering) -> Iterator[Step]:
        """Yield TDH.MR.FINALIZE."""
        state.finalize()
        yield MrFinalize()
