"""
What the hypervisor is asked to do to build a VBS guest, as runs of pages.

Source: microsoft/igvm e6c3ff1, igvm/src/measurement/vbs.rs (what is recorded, and that
registers come last), igvm_defs/src/lib.rs (VbsVpContextRegister), igvm/src/hv_defs.rs (Vtl).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from cvmplan.core.errors import PlanError
from cvmplan.core.records import record
from cvmplan.core.values import PAGE
from cvmplan.memory.contents import Contents, DigestAfter, Filled, check_fits, known_bytes, part
from cvmplan.operations.lowering import check_pages
from cvmplan.operations.steps import Begin, Order, Step

PHYSICAL_END = 1 << 52  # x86-64: at most 52 bits of physical address
MOST_VTL = 2  # the highest virtual trust level that there is
READABLE, WRITABLE = 1 << 0, 1 << 1  # acceptance: what the host may do with a page
VALUE_SIZE = 16  # bytes of a register's value, whatever its width


@record
class ImportPages(Step):
    """Import a run of pages, one after the other, upwards; not `measured`: all but contents."""

    command = "IMPORT_PAGES"
    gpa: int
    size: int
    acceptance: int
    measured: bool
    contents: Contents

    def __post_init__(self) -> None:
        check_pages(self.gpa, self.size)
        if self.gpa + self.size > PHYSICAL_END:
            problem = f"{self.size:#x} bytes at {self.gpa:#x} end past 52 bits of physical address"
            raise PlanError(problem)
        if not 0 <= self.acceptance <= READABLE | WRITABLE:
            raise PlanError(f"acceptance {self.acceptance:#x} has more than two bits")
        check_fits(self.contents, self.size)
        if isinstance(self.contents, DigestAfter) or (
            self.measured and isinstance(self.contents, Filled)
        ):
            known_bytes(self.contents)  # raises, and says why

    def commands(self) -> Iterator[Self]:
        """Yield one import a page."""
        for at in range(0, self.size, PAGE):
            contents = part(self.contents, at, PAGE)
            yield type(self)(self.gpa + at, PAGE, self.acceptance, self.measured, contents)


@record
class ImportRegisters(Step):
    """Set registers of the boot vCPU at one trust level: (name, 16-byte value) each, in order."""

    command = "IMPORT_REGISTERS"
    vtl: int
    registers: tuple[tuple[int, bytes], ...]

    def __post_init__(self) -> None:
        if not 0 <= self.vtl <= MOST_VTL:
            raise PlanError(f"registers of VTL {self.vtl}, there are 0 to {MOST_VTL}")
        if not self.registers:
            raise PlanError(f"no registers of VTL {self.vtl}")
        for name, value in self.registers:
            if not 0 <= name < 1 << 32 or len(value) != VALUE_SIZE:
                raise PlanError(f"register {name:#x} of {len(value)} bytes, expected {VALUE_SIZE}")

    def commands(self) -> Iterator[Self]:
        """Yield one import a register."""
        for register in self.registers:
            yield type(self)(self.vtl, (register,))


@record
class Complete(Step):
    """Seal the boot digest."""

    command = "COMPLETE_IMPORT"


_REGISTERS = frozenset({ImportRegisters, Complete})
_PAGES = frozenset({ImportPages}) | _REGISTERS
ORDER: Order = {
    Begin: _PAGES,
    ImportPages: _PAGES,
    ImportRegisters: _REGISTERS,
    Complete: frozenset(),
}
