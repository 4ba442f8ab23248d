"""
The hand-off blocks that QEMU builds for a TD: what firmware measures first.

Sources: Debian's qemu 10.2.2+ds-1, hw/i386/tdvf-hob.c (tdvf_hob_create) and
target/i386/kvm/tdx.c (tdx_init_ram_entries, tdx_accept_ram_range); UEFI PI 1.8, volume 3, 4.5
(EFI_HOB_HANDOFF_INFO_TABLE) and 5.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import pack
from typing import Final

from cvmplan.core.errors import UnsupportedError
from cvmplan.core.values import write_span
from cvmplan.memory.regions import Region, Role

TD_HOB, TEMP_MEM = 2, 3  # types of sections that take RAM
_KINDS: Final = {Role.TD_HOB: TD_HOB, Role.TEMP_MEM: TEMP_MEM}
_ADDED, _UNACCEPTED = 0, 7
_ATTRIBUTES: Final = 7
_END: Final = pack("<HHI", 0xFFFF, 8, 0)

Section = tuple[int, int, int]
"""Type, address and size of a section of the TDX metadata, in the table's order."""


def sections_of(regions: Iterable[Region]) -> tuple[Section, ...]:
    """Return the sections of a firmware that take RAM, in the table's order."""
    return tuple((_KINDS[r.role], r.gpa, r.size) for r in regions if r.role in _KINDS)


def hob_memory(sections: Iterable[Section], ram: Iterable[tuple[int, int]]) -> bytes:
    """Return what the memory of the section begins with: the list and the block at its end."""
    return hob_list(sections, ram) + _END


def hob_list(sections: Iterable[Section], ram: Iterable[tuple[int, int]]) -> bytes:
    """
    Return the list without the block at its end, which is not measured.

    `ram`: address and bytes of RAM below and above 4 GiB.  UnsupportedError where QEMU would not
    start such a guest.
    """
    table = list(sections)
    hobs = [(at, size) for kind, at, size in table if kind == TD_HOB]
    if len(hobs) != 1:
        raise UnsupportedError(
            f"{len(hobs)} sections for hand-off blocks, expected one", at="TD_HOB"
        )
    ranges = _ranges(table, ram)
    start, room = hobs[0]
    size = 56 + 48 * len(ranges) + len(_END)
    if size > room:
        raise UnsupportedError(f"{size} bytes of blocks do not fit in {room}", at="TD_HOB")
    head = pack("<HHIII4QQ", 1, 56, 0, 9, 0, 0, 0, 0, 0, start + size)
    rows = (
        pack("<HHI16xIIQQ", 3, 48, 0, kind, _ATTRIBUTES, at, end - at) for at, end, kind in ranges
    )
    return head + b"".join(rows)


def _ranges(table: list[Section], ram: Iterable[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Return start, end and type of each range of RAM, by address."""
    entries = [(start, start + size, _UNACCEPTED) for start, size in ram]
    for kind, at, size in table:
        if kind in (TD_HOB, TEMP_MEM):
            entries = _accepted(entries, at, at + size)
    return sorted(entries)


def _accepted(
    entries: list[tuple[int, int, int]], start: int, end: int
) -> list[tuple[int, int, int]]:
    """Return the entries with [start, end) as one of its own."""
    for number, (low, high, kind) in enumerate(entries):
        if end <= low or start >= high:
            continue
        if start < low or end > high:
            problem = f"{write_span(start, end - start)} is not inside one range of RAM"
            raise UnsupportedError(problem, at="TDX metadata")
        if kind == _ADDED:
            return entries
        pieces = [(start, end, _ADDED)]
        if start > low:
            pieces.append((low, start, _UNACCEPTED))
        if end < high:
            pieces.append((end, high, _UNACCEPTED))
        return entries[:number] + pieces + entries[number + 1 :]
    raise UnsupportedError(f"{write_span(start, end - start)} is not RAM", at="TDX metadata")
