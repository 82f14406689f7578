"""The width of a window against an oracle: a dense walk along the same straight lines."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.engine.window.width import mean_rate, stretches, widest

GRID = 4001


@st.composite
def rates_by_step(draw):
    gaps = draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))
    steps = [0, *np.cumsum(gaps).tolist()]
    rates = draw(st.lists(st.floats(0, 1), min_size=len(steps), max_size=len(steps)))
    return steps, rates, draw(st.floats(0.05, 1))


def oracle(steps, rates, bar):
    """Return the width of the widest run of dense points at or above the bar, and the spacing."""
    dense = np.linspace(steps[0], steps[-1], GRID)
    above = np.interp(dense, steps, rates) >= bar
    longest = run = 0
    for hit in above:
        run = run + 1 if hit else 0
        longest = max(longest, run)
    spacing = dense[1] - dense[0]
    return max(longest - 1, 0) * spacing, spacing


@given(rates_by_step())
def test_width_is_that_of_a_dense_walk(case):
    steps, rates, bar = case
    found = widest(steps, rates, bar)
    width, spacing = oracle(steps, rates, bar)
    mine = 0.0 if found is None else found.width
    # a dip that is narrower than the spacing is no dip to the oracle, so it may see more
    assert mine <= width + 2 * spacing + 1e-9 or mine == pytest.approx(width, abs=2 * spacing)
    total = sum(each.width for each in stretches(steps, rates, bar))
    dense = np.interp(np.linspace(steps[0], steps[-1], GRID), steps, rates) >= bar
    assert total == pytest.approx(dense.mean() * (steps[-1] - steps[0]), abs=15 * spacing)


@given(rates_by_step())
def test_stretches_are_apart_in_order_and_above(case):
    steps, rates, bar = case
    found = stretches(steps, rates, bar)
    ends = [end for each in found for end in (each.start, each.end)]
    assert ends == sorted(ends)
    assert all(a.end < b.start for a, b in pairwise(found))
    for each in found:
        assert each.width > 0
        assert each.open == (each.end == steps[-1])
        inside = np.interp(np.linspace(each.start, each.end, 50), steps, rates)
        assert inside.min() >= bar - 1e-9


@pytest.mark.parametrize(
    ("rates", "bar", "wanted"),
    [
        ([0.0, 0.0, 0.0], 0.8, []),
        ([1.0, 1.0, 1.0], 0.8, [(0, 20, True)]),
        ([0.0, 1.0, 0.0], 0.8, [(8, 12, False)]),
        ([1.0, 0.0, 1.0], 0.5, [(0, 5, False), (15, 20, True)]),
        ([0.0, 0.8, 0.0], 0.8, []),  # touches it
        ([0.8, 0.8, 0.0], 0.8, [(0, 10, False)]),
        ([1.0, 0.8, 1.0], 0.8, [(0, 20, True)]),
    ],
)
def test_by_hand(rates, bar, wanted):
    found = stretches([0, 10, 20], rates, bar)
    assert [(each.start, each.end, each.open) for each in found] == [
        (pytest.approx(start), pytest.approx(end), is_open) for start, end, is_open in wanted
    ]
    assert (widest([0, 10, 20], rates, bar) is None) == (not wanted)


def test_the_first_of_equals_is_the_widest():
    assert widest([0, 10, 20], [1.0, 0.0, 1.0], 0.5).start == 0


def test_mean_rate_weighs_steps_not_looks():
    assert mean_rate([0, 1, 2, 100], [1.0, 1.0, 1.0, 1.0]) == pytest.approx(1)
    assert mean_rate([0, 90, 100], [0.0, 0.0, 1.0]) == pytest.approx(0.05)
