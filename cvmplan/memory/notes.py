"""What is worth knowing about the regions of a launch, and forbids nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cvmplan.core.findings import Finding
from cvmplan.core.values import PAGE
from cvmplan.memory.regions import Region, Role


def two_megabyte_neighbours(regions: Sequence[Region], map_level: int) -> Iterator[Finding]:
    """
    Yield a note when 2 MiB blocks contain pages of several regions; where the kernel may map
    `map_level` bytes at once and that is such a block, a warning.

    The seed's hazard: were a kernel to map such a block at once for its first page, the
    later pages of the block would be covered before they are added.
    """
    block = 2 << 20
    shared: list[int] = []
    last_block = -1
    for region in sorted(regions, key=lambda r: r.gpa):
        if region.size <= 0 or region.role is Role.VMSA:
            continue
        if region.gpa // block == last_block and (not shared or shared[-1] != last_block):
            shared.append(last_block)
        last_block = max(last_block, (region.end - 1) // block)
    if shared:
        plural = "s contain" if len(shared) > 1 else " contains"
        yield Finding(
            "two-megabyte-neighbour",
            f"{len(shared)} block{plural} pages of several regions, the first at "
            f"{shared[0] * block:#x}",
            severity="warning" if map_level >= block else "",
        )


def unmeasured_contents(regions: Iterable[Region], host_filled: Iterable[str]) -> Iterator[Finding]:
    """Yield a note that names the regions whose page type is one of `host_filled`."""
    types = frozenset(host_filled)
    chosen = [r for r in regions if r.page_type in types]
    if chosen:
        pages = sum(r.size for r in chosen) // PAGE
        yield Finding(
            "unmeasured-contents",
            f"the host chooses what {pages} pages contain ({len(chosen)} regions)",
            origins=tuple(r.origin for r in chosen[:10]),
        )
