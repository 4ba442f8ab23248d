"""A set of addresses, kept as sorted intervals: a terabyte costs what a page costs."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator

BLOCK = 1024  # starts kept in one list, so that an insertion moves few of them


class Spans:
    """Disjoint intervals [start, end) in ascending order; adjacent ones are merged."""

    __slots__ = ("_blocks", "_ends", "_firsts")

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        self._ends: dict[int, int] = {}  # start to end
        self._blocks: list[list[int]] = []  # sorted starts, in blocks
        self._firsts: list[int] = []  # the first start of each block
        for start, end in spans:
            self.add(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((start, self._ends[start]) for block in self._blocks for start in block)

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, start: int, end: int) -> None:
        """Put [start, end) into the set."""
        if start >= end:
            return
        before = self._at_or_before(start)
        if before is not None and self._ends[before] >= start:
            start, end = before, max(end, self._remove(before))
        while (after := self._after(start)) is not None and after <= end:
            end = max(end, self._remove(after))
        self._insert(start, end)

    def remove(self, start: int, end: int) -> None:
        """Take [start, end) out of the set."""
        while (held := self.overlap(start, end)) is not None:
            low = self._at_or_before(held[0]) or 0
            high = self._remove(low)
            for first, last in ((low, held[0]), (held[1], high)):
                if first < last:
                    self._insert(first, last)

    def overlap(self, start: int, end: int) -> tuple[int, int] | None:
        """Return the lowest part of [start, end) that is in the set, None where there is none."""
        if start >= end:
            return None
        before = self._at_or_before(start)
        if before is not None and self._ends[before] > start:
            return start, min(end, self._ends[before])
        after = self._after(start)
        if after is not None and after < end:
            return after, min(end, self._ends[after])
        return None

    def inside(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of [start, end) that are in the set, ascending."""
        while (held := self.overlap(start, end)) is not None:
            yield held
            start = held[1]

    def discard(self, start: int, end: int) -> None:
        """Take [start, end) out of the set."""
        for low, high in tuple(self.inside(start, end)):
            first = self._at_or_before(low)
            if first is not None:
                last = self._remove(first)
                self.add(first, low)
                self.add(high, last)

    def missing(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of [start, end) that are not in the set, ascending."""
        while start < end:
            held = self.overlap(start, end)
            if held is None:
                yield start, end
                return
            if start < held[0]:
                yield start, held[0]
            start = held[1]

    def _at_or_before(self, address: int) -> int | None:
        """Return the highest start that is not above `address`."""
        number = bisect_right(self._firsts, address) - 1
        if number < 0:
            return None
        block = self._blocks[number]
        return block[bisect_right(block, address) - 1]

    def _after(self, address: int) -> int | None:
        """Return the lowest start above `address`."""
        number = bisect_right(self._firsts, address)
        if number:
            block = self._blocks[number - 1]
            index = bisect_right(block, address)
            if index < len(block):
                return block[index]
        return self._firsts[number] if number < len(self._firsts) else None

    def _insert(self, start: int, end: int) -> None:
        self._ends[start] = end
        number = max(bisect_right(self._firsts, start) - 1, 0)
        if not self._blocks:
            self._blocks.append([])
            self._firsts.append(start)
        block = self._blocks[number]
        insort(block, start)
        self._firsts[number] = block[0]
        if len(block) > BLOCK:
            half = len(block) // 2
            self._blocks.insert(number + 1, block[half:])
            self._firsts.insert(number + 1, block[half])
            del block[half:]

    def _remove(self, start: int) -> int:
        """Take the interval that begins at `start` out, and return its end."""
        number = bisect_right(self._firsts, start) - 1
        block = self._blocks[number]
        del block[bisect_right(block, start) - 1]
        if block:
            self._firsts[number] = block[0]
        else:
            del self._blocks[number], self._firsts[number]
        return self._ends.pop(start)
