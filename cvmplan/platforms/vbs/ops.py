"""What a hypervisor with VBS isolation is told: pages, registers of the boot vCPU, the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cvmplan.core.errors import PlanError
from cvmplan.core.records import record
from cvmplan.memory.contents import Contents
from cvmplan.operations.lowering import Lowering
from cvmplan.operations.plan import Op
from cvmplan.operations.steps import Step
from cvmplan.platforms.vbs import steps
from cvmplan.platforms.vbs.steps import ORDER, READABLE, WRITABLE

__all__ = [
    "ORDER",
    "PAGE_TYPES",
    "ImportComplete",
    "ImportPage",
    "ImportRegisters",
    "Lowering",
]

PAGE_TYPES: Final = {
    "measured": (0, True),
    "unmeasured": (0, False),
    "error-range": (READABLE | WRITABLE, False),
}
"""Page type to (acceptance, whether contents are measured); the host reads error ranges."""


@record
class ImportPage(Op):
    """Import pages of one type: "measured", "unmeasured" or "error-range"."""

    name = "import-page"
    kind = "add"
    gpa: int
    size: int
    page_type: str
    source: Contents

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield the import of each page, upwards; a page added before is refused."""
        if self.page_type not in PAGE_TYPES:
            raise PlanError(f"{state.platform} has no page type {self.page_type!r}")
        acceptance, measured = PAGE_TYPES[self.page_type]
        for gpa, size, contents in state.add(self.gpa, self.size, self.source):
            yield steps.ImportPages(gpa, size, acceptance, measured, contents)


@record
class ImportRegisters(Op):
    """Set registers of the boot vCPU at one trust level: (name, 16-byte value) each, in order."""

    name = "import-registers"
    kind = "control"
    vtl: int
    registers: tuple[tuple[int, bytes], ...]

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield the import of each register; no page can be imported after it."""
        del state
        yield steps.ImportRegisters(self.vtl, self.registers)


@record
class ImportComplete(Op):
    """The hypervisor's end of the import."""

    name = "import-complete"
    kind = "control"
    finalizes = True

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield the seal of the boot digest."""
        state.finalize()
        yield steps.Complete()
