"""
The state in which operations are lowered: what has happened in the guest so far.

What depends on addresses holds here: a page is free when it is added, added when it is
extended, and states are handed over for the vCPUs that exist.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from cvmplan.core.errors import PlanError, UnsupportedError
from cvmplan.core.platform import Platform
from cvmplan.core.spans import Spans
from cvmplan.core.values import MOST_VCPUS, PAGE, Json
from cvmplan.memory.contents import Contents, Held, Zeros, check_fits
from cvmplan.operations.steps import Step

MOST_ADDED: Final = 1 << 24  # pages (64 GiB) that a launch may add; hashing is linear in them

Run: TypeAlias = tuple[int, int, Contents]
"""(gpa, size, contents) of memory that is one after the other."""


class Lowering:
    """
    What has happened in the guest so far: pages mapped, pages added.

    Mapping twice is a no-op, adding twice is refused.  Mapping has no firmware command
    here; a platform where it has one (secure EPT) overrides `map`.
    """

    def __init__(self, platform: Platform, guest: Mapping[str, Json]) -> None:
        self.platform = platform
        self.guest = guest
        self.mapped = Spans()
        self.added = Spans()
        self.vcpus: int | None = None
        self.handed_over = False
        self.finalized = False
        self._written = Spans()
        self.private = Spans()
        self._bound_to: dict[int, Spans] = {}
        self._slots: dict[int, list[tuple[int, int, int]]] = {}
        self._memory = Held()
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
        boot_only = self.guest.get("vmsa_scope") == "boot-vcpu"
        if count > MOST_VCPUS or (1 if boot_only else self.vcpus) not in (None, count):
            raise PlanError(f"{count} vCPU states for {self.vcpus or 'no'} vCPUs")

    def map(self, gpa: int, size: int) -> Iterator[Step]:
        """Note that [gpa, gpa + size) is mapped, and yield what firmware is asked for that."""
        check_pages(gpa, size)
        if not self.finalized:
            self.mapped.add(gpa, gpa + size)
        yield from ()

    def bind(self, slot: int, gmem: int, offset: int, size: int) -> None:
        """Note that a memslot shows pages of a guest_memfd; PlanError where one does already."""
        bound = self._bound_to.setdefault(gmem, Spans())
        twice = bound.overlap(offset, offset + size)
        if twice is not None:
            raise PlanError(f"page {twice[0]:#x} of guest_memfd {gmem} is bound at two addresses")
        bound.add(offset, offset + size)
        self._slots.setdefault(slot, []).append((gmem, offset, size))

    def unbind(self, slot: int) -> None:
        """Note that a memslot is deleted: what it shows can be bound again."""
        for gmem, offset, size in self._slots.pop(slot, ()):
            self._bound_to[gmem].remove(offset, offset + size)

    def map_later(self, gpa: int, size: int) -> Iterator[Step]:
        """
        Yield what firmware is asked for a mapping that measures nothing.

        PlanError for a confidential VM that is not finalized.
        """
        check_pages(gpa, size)
        if self.platform.confidential and not self.finalized:
            raise PlanError(f"{size:#x} bytes at {gpa:#x} are mapped before the guest is finalized")
        yield from ()

    def write(self, gpa: int, size: int, contents: Contents) -> None:
        """Note what user space wrote into guest memory; PlanError where it wrote before."""
        check_fits(contents, size)
        twice = self._written.overlap(gpa, gpa + size)
        if twice is not None:
            raise PlanError(f"the page at {twice[0]:#x} was written before")
        if self.private.overlap(gpa, gpa + size) is not None:
            raise PlanError(f"{size:#x} bytes at {gpa:#x} are private and cannot be written")
        self._written.add(gpa, gpa + size)
        self._memory.put(gpa, size, contents)

    def make_private(self, gpa: int, size: int, *, preserve: bool) -> None:
        """Note that a range is private; PlanError where that loses what was written."""
        lost = self._written.overlap(gpa, gpa + size)
        if lost is not None and not preserve and self.platform.confidential:
            raise PlanError(f"what was written at {lost[0]:#x} is not preserved")
        self.private.add(gpa, gpa + size)

    def written(self, gpa: int, size: int) -> Iterator[Run]:
        """Yield (gpa, size, contents) of memory as it lies there, zeros where nobody wrote."""
        at = gpa
        for start, length, contents in self._memory.cut(gpa, size):
            if at < start:
                yield at, start - at, Zeros()
            yield start, length, contents
            at = start + length
        if at < gpa + size:
            yield at, gpa + size - at, Zeros()

    def take_back(self, gpa: int, size: int) -> None:
        """Note that a range is shared; PlanError where a page was added: it stays measured."""
        added = self.added.overlap(gpa, gpa + size)
        if added is not None:
            raise PlanError(f"the page at {added[0]:#x} was added and is taken away again")
        self.private.discard(gpa, gpa + size)

    def add(self, gpa: int, size: int, contents: Contents | None) -> list[Run]:
        """
        Note that [gpa, gpa + size) is added; PlanError where a page already was.

        Return (gpa, size, contents) of what is added: `contents`, or where that is None
        the memory as it was written.
        """
        check_pages(gpa, size)
        twice = self.added.overlap(gpa, gpa + size)
        if twice is not None:
            raise PlanError(f"the page at {twice[0]:#x} was added before")
        if contents is None:
            runs = list(self.written(gpa, size))
        else:
            check_fits(contents, size)
            runs = [(gpa, size, contents)]
        self.added.add(gpa, gpa + size)
        self._bound("adds", size)
        return runs

    def extend(self, gpa: int, size: int) -> Iterator[Run]:
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
        """Note that the guest is finalized; PlanError where it may not be."""
        self.finalized = True


def check_pages(gpa: int, size: int) -> None:
    """Raise PlanError unless [gpa, gpa + size) is one or more whole pages below 2^64."""
    if gpa < 0 or size <= 0 or gpa % PAGE or size % PAGE or gpa + size > 1 << 64:
        raise PlanError(f"{size:#x} bytes at {gpa:#x} are not whole 4 KiB pages")
