"""
SEAMCALLs of a TD build, as runs of pages.

Source: Intel TDX Module ABI specification (348551), "TDH.MNG.INIT", "TDH.VP.INIT",
"TDH.MEM.SEPT.ADD", "TDH.MEM.PAGE.ADD", "TDH.MR.EXTEND", "TDH.MR.FINALIZE", "TDH.MEM.PAGE.AUG";
intel/tdx-module 72d8cff (tdx_1.5).  Order is measured, so there are three kinds of page
runs: added, extended, and added and extended one by one.
"""

from __future__ import annotations

from collections.abc import Iterator

from cvmplan.core.errors import PlanError
from cvmplan.core.records import record
from cvmplan.core.values import PAGE
from cvmplan.memory.contents import Contents, check_fits, part
from cvmplan.operations.lowering import check_pages
from cvmplan.operations.steps import Begin, End, Order, Step

CHUNK = 256
SHARED_BIT = {48: 47, 52: 51}  # Intel TDX Module base specification, "GPAW": width to bit
LEVEL_SPAN = {1: 1 << 21, 2: 1 << 30, 3: 1 << 39, 4: 1 << 48}
"""Level of TDH.MEM.SEPT.ADD to the bytes that the added table maps."""


@record
class MngInit(Step):
    """TDH.MNG.INIT: take TD_PARAMS, begin MRTD."""

    command = "TDH.MNG.INIT"
    attributes: int
    xfam: int


@record
class VpInit(Step):
    """TDH.VP.INIT of vCPUs 0 to `count` - 1, with `rcx` in RCX and R8."""

    command = "TDH.VP.INIT"
    count: int
    rcx: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise PlanError(f"{self.count} vCPUs")

    def commands(self) -> Iterator[VpInit]:
        """Yield one call a vCPU."""
        for _ in range(self.count):
            yield VpInit(1, self.rcx)


@record
class MemSeptAdd(Step):
    """TDH.MEM.SEPT.ADD of `count` neighbouring tables of one level, from `gpa` upwards."""

    command = "TDH.MEM.SEPT.ADD"
    level: int
    gpa: int
    count: int

    def __post_init__(self) -> None:
        if self.level not in LEVEL_SPAN or self.gpa % LEVEL_SPAN[self.level] or self.count < 1:
            problem = f"{self.count} secure-EPT tables of level {self.level} at {self.gpa:#x}"
            raise PlanError(problem)

    def commands(self) -> Iterator[MemSeptAdd]:
        """Yield one call a table."""
        span = LEVEL_SPAN[self.level]
        for index in range(self.count):
            yield type(self)(self.level, self.gpa + index * span, 1)


@record
class LateMemSeptAdd(MemSeptAdd):
    """TDH.MEM.SEPT.ADD after TDH.MR.FINALIZE, for pages that the TD gets while it runs."""


@record
class MemPageAug(Step):
    """
    TDH.MEM.PAGE.AUG of a run, after TDH.MR.FINALIZE: not measured.

    Each page is pending until the guest accepts it (TDG.MEM.PAGE.ACCEPT).  Source: intel/tdx-module
    72d8cff, tdh_mem_page_aug.c; linux 3829d81b, arch/x86/kvm/vmx/tdx.c, tdx_mem_page_aug: 4 KiB.
    """

    command = "TDH.MEM.PAGE.AUG"
    gpa: int
    size: int

    def __post_init__(self) -> None:
        check_pages(self.gpa, self.size)

    def commands(self) -> Iterator[MemPageAug]:
        """Yield one call a page."""
        for at in range(0, self.size, PAGE):
            yield MemPageAug(self.gpa + at, PAGE)


@record
class MemPageAdd(Step):
    """TDH.MEM.PAGE.ADD of a run; contents are copied into the TD, only addresses measured."""

    command = "TDH.MEM.PAGE.ADD"
    gpa: int
    size: int
    contents: Contents

    def __post_init__(self) -> None:
        check_pages(self.gpa, self.size)
        check_fits(self.contents, self.size)

    def commands(self) -> Iterator[MemPageAdd]:
        """Yield one call a page."""
        for at in range(0, self.size, PAGE):
            yield MemPageAdd(self.gpa + at, PAGE, part(self.contents, at, PAGE))


@record
class MrExtend(Step):
    """TDH.MR.EXTEND of each 256-byte chunk of a run, upwards."""

    command = "TDH.MR.EXTEND"
    gpa: int
    size: int
    contents: Contents

    def __post_init__(self) -> None:
        if self.gpa < 0 or self.gpa % CHUNK or self.size <= 0 or self.size % CHUNK:
            raise PlanError(f"{self.size:#x} bytes at {self.gpa:#x} are not 256-byte chunks")
        check_fits(self.contents, self.size)

    def commands(self) -> Iterator[MrExtend]:
        """Yield one call a chunk."""
        for at in range(0, self.size, CHUNK):
            yield MrExtend(self.gpa + at, CHUNK, part(self.contents, at, CHUNK))


@record
class MemPageAddExtend(Step):
    """Of each page of a run: TDH.MEM.PAGE.ADD, then TDH.MR.EXTEND of its 16 chunks."""

    command = "TDH.MEM.PAGE.ADD+MR.EXTEND"
    gpa: int
    size: int
    contents: Contents

    def __post_init__(self) -> None:
        check_pages(self.gpa, self.size)
        check_fits(self.contents, self.size)

    def commands(self) -> Iterator[Step]:
        """Yield the 17 calls of each page."""
        for page in MemPageAdd(self.gpa, self.size, self.contents).commands():
            yield page
            yield from MrExtend(page.gpa, PAGE, page.contents).commands()


@record
class MrFinalize(Step):
    """TDH.MR.FINALIZE: seal MRTD."""

    command = "TDH.MR.FINALIZE"


_BUILD = frozenset({MemSeptAdd, MemPageAdd, MrExtend, MemPageAddExtend, MrFinalize})
_LATER = frozenset({End, LateMemSeptAdd, MemPageAug})
ORDER: Order = {
    Begin: frozenset({MngInit}),
    MngInit: frozenset({VpInit}),
    VpInit: frozenset({VpInit}) | _BUILD,
    MemSeptAdd: _BUILD,
    MemPageAdd: _BUILD,
    MrExtend: _BUILD,
    MemPageAddExtend: _BUILD,
    MrFinalize: _LATER,
    LateMemSeptAdd: _LATER - {End},
    MemPageAug: _LATER,
}
