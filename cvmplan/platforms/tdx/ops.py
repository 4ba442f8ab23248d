"""
KVM's calls for a TD: mapping, adding and extending apart, as the seed has it, or in one call.

Source: kvm mailing list, 2024-04-03 (map-memory); Linux
Documentation/virt/kvm/x86/intel-tdx.rst for the calls that are not memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cvmplan.core.errors import PlanError
from cvmplan.core.platform import Platform
from cvmplan.core.records import record
from cvmplan.core.spans import Spans
from cvmplan.core.values import Json
from cvmplan.memory.contents import Contents, Held
from cvmplan.operations import lowering
from cvmplan.operations.lowering import Run, check_pages
from cvmplan.operations.plan import Op
from cvmplan.operations.steps import Step
from cvmplan.platforms.tdx.steps import (
    LEVEL_SPAN,
    ORDER,
    SHARED_BIT,
    LateMemSeptAdd,
    MemPageAdd,
    MemPageAddExtend,
    MemPageAug,
    MemSeptAdd,
    MngInit,
    MrExtend,
    MrFinalize,
    VpInit,
)

__all__ = [
    "ORDER",
    "ImportComplete",
    "ImportPage",
    "Lowering",
    "TdxAdd",
    "TdxExtend",
    "TdxFinalize",
    "TdxInitMemRegion",
    "TdxInitVcpu",
    "TdxInitVm",
]


class Lowering(lowering.Lowering):
    """
    Also which secure-EPT tables exist, and which pages a finalized TD was given.

    A page must be mapped before it is added (its tables exist), added before it is
    extended, and a page that is mapped but not added when the TD is finalized is refused.
    """

    def __init__(self, platform: Platform, guest: Mapping[str, Json]) -> None:
        super().__init__(platform, guest)
        told = guest.get("gpaw")
        gpaw = told if isinstance(told, int) else 48
        self.tables = {level: Spans() for level in ((4, 3, 2, 1) if gpaw == 52 else (3, 2, 1))}
        self._end = 1 << SHARED_BIT[gpaw]
        self._held = Held()
        self._augmented = Spans()

    def map(self, gpa: int, size: int) -> Iterator[Step]:
        """
        Yield TDH.MEM.SEPT.ADD of the tables that are still missing, from the top down.

        In a TD that is finalized also TDH.MEM.PAGE.AUG.
        """
        yield from super().map(gpa, size)
        if self.finalized:
            yield from self._augment(gpa, size)
        else:
            yield from self._tables(MemSeptAdd, gpa, size)

    def map_later(self, gpa: int, size: int) -> Iterator[Step]:
        """Yield what the module is asked for a mapping of a TD that is finalized."""
        yield from super().map_later(gpa, size)
        yield from self._augment(gpa, size)

    def _augment(self, gpa: int, size: int) -> Iterator[Step]:
        """Yield TDH.MEM.PAGE.AUG of private pages that the TD lacks, after their tables."""
        self._check_private(gpa, size)
        for private in tuple(self.private.inside(gpa, gpa + size)):
            for low, high in tuple(self.added.missing(*private)):
                for start, end in tuple(self._augmented.missing(low, high)):
                    self._augmented.add(start, end)
                    yield from self._tables(LateMemSeptAdd, start, end - start)
                    yield MemPageAug(start, end - start)

    def _tables(self, step: type[MemSeptAdd], gpa: int, size: int) -> Iterator[Step]:
        """Yield a `step` for each run of tables that [gpa, gpa + size) still lacks."""
        self._check_private(gpa, size)
        for level, present in self.tables.items():
            span = LEVEL_SPAN[level]
            first, end = gpa - gpa % span, -(-(gpa + size) // span) * span
            for start, stop in tuple(present.missing(first, end)):
                present.add(start, stop)
                yield step(level, start, (stop - start) // span)

    def _check_private(self, gpa: int, size: int) -> None:
        if gpa + size > self._end:
            raise PlanError(f"{size:#x} bytes at {gpa:#x} end past the shared bit")

    def add(self, gpa: int, size: int, contents: Contents | None) -> list[Run]:
        """Note what pages hold when they are added; PlanError where one is not mapped."""
        runs = super().add(gpa, size, contents)
        for start, _ in self.mapped.missing(gpa, gpa + size):
            raise PlanError(f"the page at {start:#x} is added before it is mapped")
        for run in runs:
            self._held.put(*run)
        return runs

    def extend(self, gpa: int, size: int) -> Iterator[Run]:
        """Yield the added runs in [gpa, gpa + size), upwards; PlanError where one is missing."""
        check_pages(gpa, size)
        for start, _ in self.added.missing(gpa, gpa + size):
            raise PlanError(f"the page at {start:#x} is extended before it is added")
        self._bound("extends", size)
        yield from self._held.cut(gpa, size)

    def finalize(self) -> None:
        """Check that nothing waits for its add; PlanError where something does."""
        for start, end in self.mapped:
            for page, _ in self.added.missing(start, end):
                raise PlanError(f"the page at {page:#x} is mapped, and never added")
        super().finalize()


@record
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


@record
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


@record
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
        yield from _added(state, self)


@record
class TdxInitMemRegion(Op):
    """
    KVM_TDX_INIT_MEM_REGION: map and add pages, and where `measured` extend each after its add.

    Without a `source` the pages are added as they were written.
    Source: linux 3829d81b, arch/x86/kvm/vmx/tdx.c, tdx_vcpu_init_mem_region.
    """

    name = "tdx-init-mem-region"
    kind = "add"
    gpa: int
    size: int
    measured: bool
    source: Contents | None = None

    def lower(self, state: lowering.Lowering) -> Iterator[Step]:
        """Yield TDH.MEM.SEPT.ADD of missing tables, then what `TdxAdd` yields."""
        yield from state.map(self.gpa, self.size)
        yield from _added(state, self)


@record
class ImportPage(Op):
    """Import pages through the hypervisor, as "measured" or "unmeasured"."""

    name = "import-page"
    kind = "add"
    gpa: int
    size: int
    page_type: str
    source: Contents

    @property
    def measured(self) -> bool:
        """Whether each page is extended after its add."""
        return self.page_type == "measured"

    def lower(self, state: lowering.Lowering) -> Iterator[Step]:
        """Yield TDH.MEM.SEPT.ADD of missing tables, then what `TdxAdd` yields."""
        yield from state.map(self.gpa, self.size)
        yield from _added(state, self)


def _added(state: lowering.Lowering, op: TdxAdd | TdxInitMemRegion | ImportPage) -> Iterator[Step]:
    step = MemPageAddExtend if op.measured else MemPageAdd
    for run in state.add(op.gpa, op.size, op.source):
        yield step(*run)


@record
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


@record
class TdxFinalize(Op):
    """KVM_TDX_FINALIZE_VM."""

    name = "tdx-finalize"
    kind = "control"
    finalizes = True

    def lower(self, state: lowering.Lowering) -> Iterator[Step]:
        """Yield TDH.MR.FINALIZE."""
        state.finalize()
        yield MrFinalize()


class ImportComplete(TdxFinalize):
    """The hypervisor's end of the import."""

    __slots__ = ()
    name = "import-complete"
