"""What a call's pages hold, as the plan document says it; the simulator's own reading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cvmplan.kvm.digest import PAGE, ZEROS, Bytes


class Source(NamedTuple):
    """
    Bytes `at` from the first page's begin; zeros before and behind them.

    `known` is false for what only the host will fill in; `digest_after` is the launch
    digest that stands in for contents nobody has here (48 bytes).
    """

    data: memoryview = memoryview(b"")
    at: int = 0
    known: bool = True
    digest_after: bytes | None = None

    def pages(self, first: int, count: int) -> Iterator[Bytes]:
        """Yield `count` pages from page `first` on."""
        if not self.known:
            yield from [None] * count
            return
        end = self.at + len(self.data)
        for low in range(first * PAGE, (first + count) * PAGE, PAGE):
            if low >= end or low + PAGE <= self.at:
                yield ZEROS
            elif self.at <= low and low + PAGE <= end:
                yield self.data[low - self.at : low - self.at + PAGE]
            else:
                yield self._partly(low)

    def _partly(self, low: int) -> bytes:
        """Return the page at `low` where contents begin or end inside it."""
        before = max(self.at - low, 0)
        piece = self.data[max(low - self.at, 0) : low + PAGE - self.at]
        return (bytes(before) + bytes(piece)).ljust(PAGE, b"\0")

    def exactly(self, size: int) -> Bytes:
        """Return exactly `size` bytes."""
        if not self.known:
            return None
        return (bytes(self.at) + bytes(self.data)).ljust(size, b"\0")[:size]


NOTHING = Source()
UNKNOWN = Source(known=False)
