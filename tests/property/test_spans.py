"""Spans in many small blocks against a set of numbers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvmplan.core import spans
from cvmplan.core.spans import Spans

RANGES = st.lists(st.tuples(st.integers(0, 120), st.integers(0, 9)), max_size=60)


@pytest.mark.parametrize("block", [1, 2, 5, 1024])
@settings(deadline=None, max_examples=60)
@given(ranges=RANGES, probe=st.tuples(st.integers(0, 130), st.integers(0, 20)))
def test_spans_are_a_set(block: int, ranges: list[tuple[int, int]], probe: tuple[int, int]) -> None:
    before, spans.BLOCK = spans.BLOCK, block
    try:
        held = Spans((start, start + size) for start, size in ranges)
        numbers = {n for start, size in ranges for n in range(start, start + size)}
        assert {n for start, end in held for n in range(start, end)} == numbers
        runs = list(held)
        assert len(held) == len(runs)
        assert all(a[1] < b[0] for a, b in itertools.pairwise(runs))
        start, size = probe
        wanted = set(range(start, start + size))
        gaps = {n for low, high in held.missing(start, start + size) for n in range(low, high)}
        assert gaps == wanted - numbers
        first = held.overlap(start, start + size)
        assert (first[0] if first else None) == min(wanted & numbers, default=None)
    finally:
        spans.BLOCK = before
