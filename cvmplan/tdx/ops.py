"""
KVM's calls for a TD, in the shape that the seed agreed on: mapping, adding and extending apart.

Source: kvm mailing list, 2024-04-03 (map-memory); Linux
Documentation/virt/kvm/x86/intel-tdx.rst for the calls that are not memory.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from cvmplan import lowering
from cvmplan.contents import Contents, part
from cvmplan.errors import PlanError
from cvmplan.lowering import check_pages
from cvmplan.order import Step
from cvmplan.plan import Op
from cvmplan.spans import Spans
from cvmplan.tdx.steps import (
    LEVEL_SPAN,
    ORDER,
    SHARED_BIT,
    MemPageAdd,
    MemPageAddExtend,
    MemSeptAdd,
    MngInit,
    MrExtend,
    MrFinalize,
    VpInit,
)

__all__ = [
    "ORDER",
    "Lowering",
    "TdxAdd",
    "TdxExtend",
    "TdxFinalize",
    "TdxInitVcpu",
    "TdxInitVm",
]


class Lowering(lowering.Lowering):
    """
    Also which secure-EPT tables exist.

    A page must be mapped before it is added (its tables exist), added before it is
    extended, and a page that is mapped but not added when the TD is finalized is refused.
    """

    def __init__(self, platform: str, guest: Mapping[str, Any]) -> None:
        super().__init__(platform, guest)
        gpaw = guest.get("gpaw", 48)
        self.tables = {level: Spans() for level in ((4, 3, 2, 1) if gpaw == 52 else (3, 2, 1))}
        self._end = 1 << SHARED_BIT[gpaw]
        self._filled: list[tuple[int, int, Contents]] = []

    def map(self, gpa: int, size: int) -> Iterator[Step]:
        """Yield TDH.MEM.SEPT.ADD of the tables that are still missing, from the top down."""
        yield from super().map(gpa, size)
        if gpa + size > self._end:
            raise PlanError(f"{size:#x} bytes at {gpa:#x} end past the shared bit")
        for level, present in self.tables.items():
            span = LEVEL_SPAN[level]
            first, end = gpa - gpa % span, -(-(gpa + size) // span) * span
            for start, stop in tuple(present.missing(first, end)):
                present.add(start, stop)
                yield MemSeptAdd(level, start, (stop - start) // span)

    def add(self, gpa: int, size: int, contents: Contents) -> None:
        """Note what pages hold when they are added; PlanError where one is not mapped."""
        super().add(gpa, size, contents)
        for start, _ in self.mapped.missing(gpa, gpa + size):
            raise PlanError(f"the page at {start:#x} is added before it is mapped")
        insort(self._filled, (gpa, size, contents), key=itemgetter(0))

    def extend(self, gpa: int, size: int) -> Iterator[tuple[int, int, Contents]]:
        """Yield the added runs in [gpa, gpa + size), upwards; PlanError where one is missing."""
        check_pages(gpa, size)
        for start, _ in self.added.missing(gpa, gpa + size):
            raise PlanError(f"the page at {start:#x} is extended before it is added")
        self._bound("extends", size)
        index = max(bisect_right(self._filled, gpa, key=itemgetter(0)) - 1, 0)
        for start, length, contents in map(
            self._filled.__getitem__, range(index, len(self._filled))
        ):
            low, high = max(start, gpa), min(start + length, gpa + size)
            if low < high:
                yield low, high - low, part(contents, low - start, high - low)
            if high < start + length:
                return

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

    def lower(self, state: lowering.Lowering) -> Iterator[Step]:
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

    def lower(self, state: lowering.Lowering) -> Iterator[Step]:
        """Yield TDH.VP.INIT of each vCPU."""
        state.hand_over(self.count)
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

    def lower(self, state: lowering.Lowering) -> Iterator[Step]:
        """Yield TDH.MEM.PAGE.ADD, and where measured TDH.MR.EXTEND, page by page."""
        state.add(self.gpa, self.size, self.source)
        step = MemPageAddExtend if self.measured else MemPageAdd
        yield step(self.gpa, self.size, self.source)


@dataclass(frozen=True, slots=True)
class TdxExtend(Op):
    """Extend MRTD by what the pages hold since they were added."""

    name = "tdx-extend"
    kind = "extend"
    gpa: int
    size: int

    def lower(self, state: lowering.Lowering) -> Iterator[Step]:
        """Yield TDH.MR.EXTEND of each chunk."""
        for gpa, size, contents in state.extend(self.gpa, self.size):
            yield MrExtend(gpa, size, contents)


@dataclass(frozen=True, slots=True)
class TdxFinalize(Op):
    """KVM_TDX_FINALIZE_VM."""

    name = "tdx-finalize"
    kind = "control"

    def lower(self, state: lowering.Lowering) -> Iterator[Step]:
        """Yield TDH.MR.FINALIZE."""
        state.finalize()
        yield MrFinalize()
