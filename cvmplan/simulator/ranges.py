"""
What holds at each address, kept as runs of equal values: a terabyte costs what a page costs.

The simulator's own; it shares no set of addresses with the planner that it checks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Generic, TypeVar

V = TypeVar("V")
END = 1 << 64
BLOCK = 2048  # starts kept in one list, so that an insertion moves few of them


class Ranges(Generic[V]):
    """A value for each address of [0, 2^64); neighbours of equal value are one run."""

    __slots__ = ("_blocks", "_firsts", "_values")

    def __init__(self, value: V) -> None:
        self._values: dict[int, V] = {0: value}  # start of a run to its value
        self._blocks: list[list[int]] = [[0]]  # sorted starts
        self._firsts: list[int] = [0]  # the first start of each block

    def __len__(self) -> int:
        return len(self._values)

    def runs(self, start: int, end: int) -> Iterator[tuple[int, int, V]]:
        """Yield (low, high, value) of the runs in [start, end), upwards."""
        number = bisect_right(self._firsts, start) - 1
        index = bisect_right(self._blocks[number], start) - 1
        while start < end:
            value = self._values[self._blocks[number][index]]
            index += 1
            if index == len(self._blocks[number]):
                number, index = number + 1, 0
            following = self._blocks[number][index] if number < len(self._blocks) else END
            high = min(end, following)
            yield start, high, value
            start = high

    def first(self, start: int, end: int, value: V) -> int | None:
        """Return the lowest address of [start, end) that has `value`, None where none has."""
        return next((low for low, _, found in self.runs(start, end) if found == value), None)

    def set(self, start: int, end: int, value: V) -> None:
        """Give [start, end) a value."""
        if start >= end or self._grow(start, end, value):
            return
        self._split(end)
        self._split(start)
        for low in [low for low, _, _ in self.runs(start, end)][1:]:
            self._remove(low)
        self._values[start] = value
        self._join(start)
        self._join(end)

    def _grow(self, start: int, end: int, value: V) -> bool:
        """Move the border between two runs from `start` up to `end`, where that is all."""
        if start not in self._values:
            return False
        number = bisect_right(self._firsts, start) - 1
        block = self._blocks[number]
        index = bisect_left(block, start)
        if index == 0 or self._following(number, index + 1) <= end:
            return False
        if self._values[block[index - 1]] != value:
            return False
        block[index] = end
        self._values[end] = self._values.pop(start)
        return True

    def _following(self, number: int, index: int) -> int:
        """Return the start at `index` of block `number`, or that of the next block."""
        if index < len(self._blocks[number]):
            return self._blocks[number][index]
        return self._firsts[number + 1] if number + 1 < len(self._firsts) else END

    def _split(self, at: int) -> None:
        """Begin a run at `at`, of the value that holds there."""
        if at >= END or at in self._values:
            return
        number = bisect_right(self._firsts, at) - 1
        block = self._blocks[number]
        self._values[at] = self._values[block[bisect_right(block, at) - 1]]
        insort(block, at)
        if len(block) > BLOCK:
            half = len(block) // 2
            self._blocks.insert(number + 1, block[half:])
            self._firsts.insert(number + 1, block[half])
            del block[half:]

    def _join(self, at: int) -> None:
        """Make the run that begins at `at` part of the one below, where they are equal."""
        if at == 0 or at not in self._values:
            return
        number = bisect_right(self._firsts, at - 1) - 1
        block = self._blocks[number]
        below = block[bisect_right(block, at - 1) - 1]
        if self._values[below] == self._values[at]:
            self._remove(at)

    def _remove(self, at: int) -> None:
        number = bisect_right(self._firsts, at) - 1
        block = self._blocks[number]
        del block[bisect_left(block, at)]
        del self._values[at]
        if block:
            self._firsts[number] = block[0]
        else:
            del self._blocks[number], self._firsts[number]
