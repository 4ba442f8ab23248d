"""
The state in which operations are lowered: what has happened in the guest so far.

What depends on addresses holds here: a page is free when it is added, added when it is
extended, and states are handed over for the vCPUs that exist.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from cvmplan.contents import Contents, check_fits
from cvmplan.errors import PlanError, UnsupportedError
from cvmplan.order import PAGE, Step
from cvmplan.spans import Spans
from cvmplan.values import MOST_VCPUS

MOST_ADDED: Final = 1 << 24  # pages (64 GiB) that a launch may add; hashing is linear in them


class Lowering:
    """
    What has happened in the guest so far: pages mapped, pages added.

    Mapping twice is a no-op, adding twice is refused.  Mapping has no firmware command
    here; a platform where it has one (secure EPT) overrides `map`.
    """

    def __init__(self, platform: str, guest: Mapping[str, Any]) -> None:
        self.platform = platform
        self.guest = guest
        self.mapped = Spans()
        self.added = Spans()
        self.vcpus: int | None = None
        self.handed_over = False
        self._work = Counter[str]()

    def create_vm(self, vm_type: str) -> None:
        """Check that the VM is of the plan's platform; PlanError."""
        if vm_type != self.platform:
            raise PlanError(f"a VM of type {vm_type} in a plan for {self.platform}")

    def create_vcpus(self, count: int) -> None:
        """Note the number of vCPUs; PlanError for a second call, a late or an impossible one."""
        if self.handed_over:
            raise PlanError("vCPUs are created after their states were handed over")
        if self.vcpus is not None or not 1 <= count <= MOST_VCPUS:
            raise PlanError(f"{count} vCPUs are created, where {self.vcpus or 0} are")
        self.vcpus = count

    def hand_over(self, count: int) -> None:
        """Check that `count` vCPU states are those of the vCPUs created, once; PlanError."""
        if self.handed_over:
            raise PlanError("the vCPU states were handed over before")
        self.handed_over = True
        if count > MOST_VCPUS or self.vcpus not in (None, count):
            raise PlanError(f"{count} vCPU states for {self.vcpus or 'no'} vCPUs")

    def map(self, gpa: int, size: int) -> Iterator[Step]:
        """Note that [gpa, gpa + size) is mapped, and yield what firmware is asked for that."""
        check_pages(gpa, size)
        self.mapped.add(gpa, gpa + size)
        yield from ()

    def add(self, gpa: int, size: int, contents: Contents) -> None:
        """Note that [gpa, gpa + size) is added; PlanError where a page already was."""
        check_pages(gpa, size)
        check_fits(contents, size)
        twice = self.added.overlap(gpa, gpa + size)
        if twice is not None:
            raise PlanError(f"the page at {twice[0]:#x} was added before")
        self.added.add(gpa, gpa + size)
        self._bound("adds", size)

    def extend(self, gpa: int, size: int) -> Iterator[tuple[int, int, Contents]]:
        """Yield (gpa, size, contents) of the pages to extend; PlanError where none can be."""
        raise PlanError(f"{size:#x} bytes at {gpa:#x} cannot be extended apart from their add")

    def _bound(self, what: str, size: int) -> None:
        self._work[what] += size // PAGE
        if self._work[what] > MOST_ADDED:
            raise UnsupportedError(
                f"the launch {what} more than {MOST_ADDED} pages (64 GiB)",
                hint="pages that the guest needs later are not part of its initial image",
            )

    def finalize(self) -> None:
        """Check what must hold when the guest is finalized; PlanError where it does not."""


def check_pages(gpa: int, size: int) -> None:
    """Raise PlanError unless [gpa, gpa + size) is one or more whole pages below 2^64."""
    if gpa < 0 or size <= 0 or gpa % PAGE or size % PAGE or gpa + size > 1 << 64:
        raise PlanError(f"{size:#x} bytes at {gpa:#x} are not whole 4 KiB pages")
