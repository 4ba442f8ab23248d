"""
What QEMU prints when an SNP launch fails: the result of the call, and what CPUID was refused.

Source: qemu target/i386/sev.c (10.0), sev_snp_launch_update, sev_snp_cpuid_report_mismatches,
snp_populate_metadata_pages.  Each pattern is anchored to a word that is searched for once.
"""

from __future__ import annotations

import re
from typing import Final

REFUSED: Final = b"SNP_LAUNCH_UPDATE ret="
_RESULT = re.compile(r"SNP_LAUNCH_UPDATE ret=(-\d{1,4}) fw_error=(\d{1,5})")
_LEAF = re.compile(
    r"CPUID validation failed for function (0x[0-9a-f]{1,8}), index: (0x[0-9a-f]{1,8})"
)
_REGISTERS = re.compile(r"(provided|expected):((?:\s{0,4}e[abcd]x:\s{0,4}0x[0-9a-f]{1,8},?){4})")
_REGISTER = re.compile(r"(e[abcd]x):\s{0,4}(0x[0-9a-f]{1,8})")
_PAGE = re.compile(
    r"Failed to add metadata page gpa (0x[0-9a-f]{1,16})\+([0-9a-f]{1,16}) type (\d{1,3})"
)
SECTION_TYPES: Final = {1: "zero", 2: "secrets", 3: "cpuid", 4: "zero", 16: "normal"}
"""Type of an OVMF metadata section to the page type that QEMU adds it as."""


class Log:
    """The lines between two calls: result, firmware error, CPUID correction, page."""

    def __init__(self) -> None:
        self.ret: int | None = None
        self.fw_error: int | None = None
        self.page: tuple[int, int, str] | None = None
        self._leaf = ""
        self._registers: dict[str, dict[str, int]] = {}
        self._corrections: list[str] = []

    def read(self, line: str) -> None:
        """Take in one line; what it does not know is passed over."""
        if result := _RESULT.search(line):
            self.ret, self.fw_error = int(result[1]), int(result[2])
        elif leaf := _LEAF.search(line):
            self._leaf = f"{leaf[1]}[{leaf[2]}]"
            self._registers = {}
        elif registers := _REGISTERS.search(line):
            values = {name: int(value, 16) for name, value in _REGISTER.findall(registers[2])}
            self._registers[registers[1]] = values
            self._compare()
        elif page := _PAGE.search(line):
            kind = SECTION_TYPES.get(int(page[3]), "zero")
            self.page = (int(page[1], 16), int(page[2], 16), kind)

    def _compare(self) -> None:
        """Note which registers of the leaf the firmware wants otherwise."""
        if len(self._registers) < 2 or not self._leaf or len(self._corrections) >= MOST:
            return
        given, wanted = self._registers["provided"], self._registers["expected"]
        for name, value in wanted.items():
            if given.get(name) != value:
                told = f"{self._leaf} {name} {given.get(name, 0):#x} to {value:#x}"
                self._corrections.append(told)

    def correction(self) -> str:
        """Return what the firmware corrected, "" where the log does not say."""
        if not self._corrections:
            return ""
        return f"the firmware corrected CPUID {', '.join(self._corrections)}"


MOST: Final = 16  # corrections that are named
