"""What a call's pages hold, as the plan document says it; the simulator's own reading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cvmplan.simulator.digest import PAGE, ZEROS, Bytes


class Source(NamedTuple):
    """
    Bytes `at` from the first page's begin; zeros before and behind them.

    `known` is false for what only the host will fill in; `digest_after` is the launch
    digest that stands in for the first `size` bytes of a launch (48 bytes), `sha256` that of
    `size` bytes that are not known.
    """

    data: memoryview = memoryview(b"")
    at: int = 0
    known: bool = True
    digest_after: bytes | None = None
    size: int = 0
    sha256: bytes | None = None

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

    def chunks(self, offset: int, size: int) -> Iterator[Bytes]:
        """Yield exactly `size` bytes from `offset` on, in pieces; None where not known."""
        if not self.known:
            yield None
            return
        at, stop, end = offset, offset + size, self.at + len(self.data)
        while at < stop:
            if self.at <= at < end:
                high = min(end, stop, at + CHUNK)
                yield self.data[at - self.at : high - self.at]
            else:
                border = self.at if at < self.at else stop
                high = min(border, stop, at + CHUNK)
                yield ZERO_CHUNK[: high - at]
            at = high


CHUNK = 1 << 20
ZERO_CHUNK = bytes(CHUNK)
NOTHING = Source()
UNKNOWN = Source(known=False)
