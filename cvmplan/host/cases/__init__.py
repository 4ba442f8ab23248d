"""The cases that kernels are asked, of a VM each."""

from __future__ import annotations

from typing import Final

from cvmplan.host.cases import mapping, memory
from cvmplan.host.cases.words import DEFAULT, PROTECTED, Case

__all__ = ("CASES", "DEFAULT", "PROTECTED", "Case", "text")

GROUPS: Final = (
    mapping.of_mapping, mapping.of_advice, mapping.of_other_vcpus, mapping.of_giving_back,
    mapping.of_large_backing, memory.of_slots, memory.of_capabilities, memory.of_gmem,
    memory.of_shared_gmem, memory.of_attributes,
)  # fmt: skip
CASES: Final = tuple(
    Case(name, vm, lines)
    for vm in (DEFAULT, PROTECTED)
    for group in GROUPS
    for name, lines in group()
)
"""Every case on a default VM, and once more on a software-protected one."""


def text() -> str:
    """Return the cases as /init reads them."""
    return "".join("\n".join((f"case {one.vm}", *one.lines)) + "\n" for one in CASES)
