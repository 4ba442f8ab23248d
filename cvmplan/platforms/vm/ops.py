"""KVM's calls for VMs that nothing measures."""

from __future__ import annotations

from cvmplan.operations.lowering import Lowering
from cvmplan.operations.steps import Begin, Order

__all__ = ["ORDER", "Lowering", "largest_mapping"]

ORDER: Order = {Begin: frozenset()}  # nothing is asked of trusted firmware

LEVELS = (1 << 30, 2 << 20, 4096)


def largest_mapping(gpa: int, size: int) -> int:
    """
    Return the largest page (bytes: 4 KiB, 2 MiB, 1 GiB) that fits into [gpa, gpa + size).

    A kernel could use it if the backing memory allows; user space does not choose it.
    """
    for level in LEVELS:
        first = -(-gpa // level) * level
        if first + level <= gpa + size:
            return level
    return 0
