"""A set of addresses, kept as sorted intervals: a terabyte costs what a page costs."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Spans:
    """Disjoint intervals [start, end) in ascending order; adjacent ones are merged."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in spans:
            self.add(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, start: int, end: int) -> None:
        """Put [start, end) into the set."""
        if start >= end:
            return
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        if low < high:
            start = min(start, self._starts[low])
            end = max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]

    def overlap(self, start: int, end: int) -> tuple[int, int] | None:
        """Return the lowest part of [start, end) that is in the set, None where there is none."""
        index = bisect_right(self._ends, start)
        if start < end and index < len(self._starts) and self._starts[index] < end:
            return max(start, self._starts[index]), min(end, self._ends[index])
        return None

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
