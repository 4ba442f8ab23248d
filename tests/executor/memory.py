"""The memory of one process: regions apart from each other, and a fault wherever there is none."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

PAGE: Final = 0x1000
GAP: Final = 16 * PAGE  # a read past the end of a region meets nothing


class Segfault(Exception):  # noqa: N818 - named as what it is
    """Nothing is mapped there."""


class Memory:
    """Sparse: a page that was never written holds its region's fill byte."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._regions: list[tuple[int, bytes]] = []  # (end, one page of fill)
        self._pages: dict[int, bytearray] = {}
        self._next = 0x7F00_0000_0000

    def reserve(self, size: int, fill: int = 0) -> int:
        """Map `size` bytes at a page of their own and return its address."""
        start = self._next
        self._starts.append(start)
        self._regions.append((start + size, bytes([fill]) * PAGE))
        self._next += -(-size // PAGE) * PAGE + GAP
        return start

    def put(self, data: bytes) -> int:
        """Map memory that holds `data` and return its address."""
        start = self.reserve(len(data))
        self.write(start, data)
        return start

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes."""
        fill = self._fill(address, size)
        pages = range(address // PAGE, -(-(address + size) // PAGE))
        data = b"".join(self._pages.get(page, fill) for page in pages)
        return data[address % PAGE : address % PAGE + size]

    def number(self, address: int, size: int) -> int:
        """Return an integer of `size` bytes, little-endian."""
        return int.from_bytes(self.read(address, size), "little")

    def write(self, address: int, data: bytes) -> None:
        """Put `data` there."""
        fill = self._fill(address, len(data))
        while data:
            at = address % PAGE
            page = self._pages.setdefault(address // PAGE, bytearray(fill))
            part = data[: PAGE - at]
            page[at : at + len(part)] = part
            address, data = address + len(part), data[len(part) :]

    def _fill(self, address: int, size: int) -> bytes:
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address + size > self._regions[index][0]:
            raise Segfault(f"{size} bytes at {address:#x}")
        return self._regions[index][1]
