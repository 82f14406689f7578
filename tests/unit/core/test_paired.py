"""Paired comparisons: against brute force, a peer, and by simulation."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from peftlab.core.corrections import corrected
from peftlab.core.paired import (
    DRAWS,
    bootstrap_interval,
    mean_of_blocks,
    parts_table,
    sign_flip_p,
    smallest_p,
)

PARTS = st.lists(st.integers(-6, 6).map(lambda n: n / 8), max_size=9)


def rng(seed=0):
    return np.random.default_rng(seed)


def flip(parts):
    """Return the p value of one comparison."""
    return float(sign_flip_p(np.array(parts, dtype=np.float64)[:, None], rng())[0])


def every_sign(parts):
    """Return the p value by trying all 2^n sign vectors, one at a time, in whole numbers."""
    whole = [round(8 * part) for part in parts]
    observed = abs(sum(whole))
    sums = [
        abs(sum(s * w for s, w in zip(signs, whole, strict=True)))
        for signs in product((1, -1), repeat=len(whole))
    ]
    return sum(one >= observed for one in sums) / len(sums)


@given(PARTS)
@settings(max_examples=150, deadline=None)
def test_few_parts_are_tried_with_every_sign(parts):
    assert flip(parts) == every_sign(parts)


def test_as_scipy_has_it():
    for seed in range(5):
        values = rng(seed).normal(0.3, 1, 10)
        peer = stats.permutation_test(
            (values,), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        assert flip(values) == pytest.approx(peer.pvalue, abs=1e-12)


def test_many_parts_are_drawn_and_agree_with_every_sign():
    values = rng(3).normal(0.25, 1, 18)
    signs = 1.0 - 2.0 * ((np.arange(2**17)[:, None] >> np.arange(18)) & 1)
    exact = (np.abs(signs @ values) >= abs(values.sum()) - 1e-12).mean()
    drawn = flip(values)
    assert abs(drawn - exact) < 4 * np.sqrt(exact * (1 - exact) / DRAWS)
    assert flip(values) == drawn


def test_parts_of_one_size_are_not_split_by_rounding():
    """0.1 + 0.2 is not 0.3: sums that are equal on paper count as equal."""
    assert flip([0.1, 0.2, -0.3, 0.3]) == every_sign([1 / 8, 2 / 8, -3 / 8, 3 / 8])


def test_the_smallest_p_is_reached_when_all_agree():
    for n in (1, 2, 5, 16):
        assert flip([0.3] * n) == smallest_p(n) == 2.0 ** (1 - n)
    assert flip([0.3] * 60) == smallest_p(60) == 1 / (DRAWS + 1)


def test_without_a_difference_p_is_1():
    assert flip([]) == flip([0.0, 0.0]) == 1.0
    assert flip([0.0, 0.1, 0.0, 0.1]) == flip([0.1, 0.1])


@given(PARTS, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_neither_order_nor_direction_matters(parts, random):
    mixed = random.sample(parts, len(parts))
    assert flip(mixed) == flip(parts)
    assert flip([-part for part in parts]) == flip(parts)


def test_comparisons_at_once_are_those_one_by_one():
    together = rng(4).normal(0.2, 1, (11, 5))
    together[3, 1] = together[7, 2] = 0
    found = sign_flip_p(together, rng())
    assert list(found) == [flip(column) for column in together.T]
    many = np.repeat(together, 3, axis=0)
    assert list(sign_flip_p(many, rng())) == [flip(column) for column in many.T]


def test_alike_methods_are_seldom_told_apart():
    draws = rng(5)
    p = sign_flip_p(draws.normal(size=(9, 3000)), draws)
    for alpha in (0.05, 0.1, 0.3):
        assert (p <= alpha).mean() <= alpha + 4 * np.sqrt(alpha * (1 - alpha) / len(p))


# --- blocks

BLOCKS = {"badnets": [0.2, 0.4, 0.3], "insent": [0.1], "lwp": [-0.2, 0.1]}


def test_each_block_counts_once():
    assert mean_of_blocks(BLOCKS) == pytest.approx((0.3 + 0.1 - 0.05) / 3)
    for whole, units in ((False, 6), (True, 3)):
        table = parts_table([BLOCKS], whole=whole)
        assert table.shape == (units, 1)
        assert table.sum() == pytest.approx(mean_of_blocks(BLOCKS))


def test_comparisons_share_their_units():
    other = {"insent": [0.4, 0.2], "ep": [0.1]}
    table = parts_table([BLOCKS, other], whole=False)
    assert table.shape == (8, 2)  # six cases of one; of the other's three, one is shared
    assert np.count_nonzero(table, axis=0).tolist() == [6, 3]
    assert table.sum(axis=0) == pytest.approx([mean_of_blocks(BLOCKS), mean_of_blocks(other)])
    assert parts_table([], whole=True).shape == (0, 0)


def all_resamples(values):
    """Return the means of all draws of n - 1 of n values, each as likely as the others."""
    return np.array([np.mean(drawn) for drawn in product(values, repeat=len(values) - 1)])


@pytest.mark.parametrize("n", [2, 3, 4, 6])
def test_the_interval_is_that_of_all_resamples(n):
    values = rng(n).normal(size=n)
    means = np.sort(all_resamples(values))
    low, high = bootstrap_interval({str(i): [one] for i, one in enumerate(values)}, rng())
    # The ends are quantiles of a step function: take the steps around 2.5 % and 97.5 %.
    for end, at in ((low, 0.025), (high, 0.975)):
        below = np.quantile(means, max(at - 0.01, 0), method="lower")
        above = np.quantile(means, min(at + 0.01, 1), method="higher")
        assert below - 1e-12 <= end <= above + 1e-12


def test_resamples_have_the_variance_of_a_mean():
    values = rng(1).normal(size=5)
    assert all_resamples(values).var() == pytest.approx(values.var(ddof=1) / 5)


def test_one_block_is_resampled_by_its_cases():
    cases = [0.1, 0.3, 0.2]
    alone = bootstrap_interval({"badnets": cases}, rng())
    assert alone == bootstrap_interval({str(i): [one] for i, one in enumerate(cases)}, rng())
    assert bootstrap_interval({"badnets": [0.1]}, rng()) is None
    assert bootstrap_interval({"a": [0.5, 0.5], "b": [0.5]}, rng()) == (0.5, 0.5)


def test_the_interval_of_many_blocks_holds_the_truth():
    """Blocks of their own and cases within them: 95 % at 20 blocks, up to the bootstrap's own."""
    draws, held = rng(7), 0
    for _ in range(300):
        own = draws.normal(0.1, 0.1, 20)
        blocks = {str(b): draws.normal(own[b], 0.05, 3) for b in range(20)}
        low, high = bootstrap_interval(blocks, draws)
        held += low <= 0.1 <= high
    assert held >= stats.binom.ppf(1e-3, 300, 0.92)


# --- a family of comparisons


def closed_testing(p):
    """Return Holm's p values by their meaning: the worst Bonferroni test of any subset with i."""
    n = len(p)
    subsets = [s for size in range(1, n + 1) for s in combinations(range(n), size)]
    return [
        min(1.0, max(len(s) * min(p[k] for k in s) for s in subsets if i in s)) for i in range(n)
    ]


def test_holm_is_closed_testing_by_bonferroni():
    for seed in range(20):
        p = list(rng(seed).random(6) ** 3)
        assert corrected(p, "holm") == pytest.approx(closed_testing(p), abs=1e-11)
