"""What holds at each address: runs against a plain list, with blocks so small that they split."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvmplan.simulator import ranges
from cvmplan.simulator.ranges import END, Ranges

SIZE = 60
changes = st.lists(
    st.tuples(st.integers(0, SIZE), st.integers(0, SIZE), st.integers(0, 2)), max_size=40
)


@pytest.mark.parametrize("block", [2, 4, 2048])
@settings(deadline=None, max_examples=150)
@given(drawn=changes)
def test_runs_hold_what_was_set_last(block: int, drawn: list[tuple[int, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "BLOCK", block)
        made = Ranges(0)
        wanted = [0] * SIZE
        for low, high, value in drawn:
            made.set(low, high, value)
            wanted[low:high] = [value] * max(high - low, 0)
            found = [v for start, end, v in made.runs(0, SIZE) for _ in range(start, end)]
            assert found == wanted
            runs = list(made.runs(0, END))
            assert all(one[1] == two[0] and one[2] != two[2] for one, two in pairwise(runs))
            assert len(made) == len(runs)
            for value_of in (0, 1, 2):
                first = made.first(3, SIZE, value_of)
                assert first == next((n for n in range(3, SIZE) if wanted[n] == value_of), None)


def test_a_run_that_grows_page_by_page_stays_one_run() -> None:
    made = Ranges(value=False)
    for page in range(10_000):
        made.set(page * 4096, page * 4096 + 4096, value=True)
    assert len(made) == 2
