"""Permutation tests, strata and bootstrap: against slow versions and by simulation."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from peftlab.audits.raters import intervals
from peftlab.audits.raters.axes import make_axis, strata
from peftlab.audits.raters.cohesion import irr, measure
from peftlab.audits.raters.counts import (
    Counts,
    batches,
    components,
    count,
    count_many,
    count_weighted,
)
from peftlab.audits.raters.measured import Teller, measure_axis
from peftlab.audits.raters.options import GraspOptions
from peftlab.audits.raters.pools import Pool, draw_pool
from peftlab.audits.raters.ratings import Attribute, Ratings
from peftlab.audits.raters.results import group_rows
from peftlab.audits.raters.significance import p_value, shuffles

MISSING = -1


def pool_of(matrix, **attributes):
    """Return ratings (raters, items) as a pool."""
    matrix = np.asarray(matrix)
    rater, item = np.nonzero(matrix != MISSING)
    return Ratings(
        tuple(f"i{k}" for k in range(matrix.shape[1])),
        tuple(f"r{k}" for k in range(matrix.shape[0])),
        tuple(str(k) for k in range(max(2, int(matrix.max()) + 1))),
        item, rater, matrix[rater, item],
        {name: Attribute.of(name, values) for name, values in attributes.items()},
    )  # fmt: skip


def audit(pool, axis="group", rule="two-sided", **options):
    """Return the rows of an axis by group, without what a report needs besides."""
    chosen = GraspOptions(**{"bootstrap": 0, "metrics": ("irr", "gai"), "min_group": 2} | options)
    made = make_axis(pool, (axis,), min_group=chosen.min_group)
    one = measure_axis(pool, made, chosen, Teller(None, 0))
    rules = (rule,) if isinstance(rule, str) else rule
    found = [
        {row["group"]: row for row in group_rows(one, chosen.model_copy(update={"pvalue": each}))}
        for each in rules
    ]
    return found[0] if isinstance(rule, str) else found


# --- p values


def slow_p(observed, null):
    low = sum(value <= observed for value in null)
    high = sum(value >= observed for value in null)
    return min(1.0, 2 * min((1 + low) / (len(null) + 1), (1 + high) / (len(null) + 1)))


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40), st.integers(-6, 6))
@settings(max_examples=200)
def test_p_value_counts_both_tails_and_ties(null, observed):
    found = p_value(float(observed), np.array(null, dtype=float))
    assert found == pytest.approx(slow_p(observed, null))
    assert 0 < found <= 1


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40), st.integers(-6, 6))
@settings(max_examples=200)
def test_published_p_value_picks_its_side_first(null, observed):
    found = p_value(float(observed), np.array(null, dtype=float), "paper")
    below = observed < float(np.median(null))
    beyond = [value < observed if below else value > observed for value in null]
    assert found == pytest.approx(sum(beyond) / len(null))


def test_published_p_value_can_be_zero_and_ours_cannot():
    null = np.arange(99.0)
    assert p_value(1000.0, null, "paper") == 0.0
    assert p_value(1000.0, null) == pytest.approx(2 / 100)


def test_undefined_draws_do_not_count_and_an_undefined_value_has_no_p():
    null = np.array([np.nan, 1.0, 2.0, np.nan, 3.0])
    assert p_value(5.0, null) == p_value(5.0, np.array([1.0, 2.0, 3.0])) == 0.5
    assert np.isnan(p_value(np.nan, null))
    assert np.isnan(p_value(1.0, np.full(5, np.nan)))
    assert np.isnan(p_value(1.0, np.array([])))


def test_rounding_does_not_break_ties():
    null = np.array([0.1 + 0.2, 0.3, 0.3 - 1e-16, 0.5])
    assert p_value(0.3, null) == p_value(0.1 + 0.2, null) == 1.0


def test_p_values_of_exchangeable_draws_are_not_too_small():
    draws = np.random.default_rng(0).normal(size=(4000, 40))
    p = np.array([p_value(row[0], row[1:]) for row in draws])
    for alpha in (0.05, 0.1, 0.3, 0.5):
        rate = (p <= alpha).mean()
        assert rate <= alpha + 4 * np.sqrt(alpha * (1 - alpha) / len(p))
        assert rate >= alpha - 4 * np.sqrt(alpha * (1 - alpha) / len(p))


# --- shuffles


def test_shuffles_are_uniform():
    draws = np.random.default_rng(4)
    orders = Counter(tuple(order) for order in shuffles(np.zeros(3, dtype=int), 6000, draws))
    assert set(orders) == set(permutations(range(3)))
    assert stats.chisquare(list(orders.values())).pvalue > 1e-3


def test_shuffles_are_uniform_within_strata_that_are_not_in_order():
    layers = np.array([7, 2, 7, 2, 7])
    seen = Counter(tuple(order) for order in shuffles(layers, 6000, np.random.default_rng(5)))
    assert len(seen) == 12  # 3! 2!
    assert all((layers[list(order)] == layers).all() for order in seen)
    assert stats.chisquare(list(seen.values())).pvalue > 1e-3


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(0, 99))
@settings(max_examples=60)
def test_a_shuffle_is_a_permutation_that_keeps_the_strata(layers, seed):
    layers = np.array(layers)
    for order in shuffles(layers, 3, np.random.default_rng(seed)):
        assert sorted(order) == list(range(len(layers)))
        np.testing.assert_array_equal(layers[order], layers)


def test_p_values_of_a_tiny_pool_are_those_of_all_permutations():
    """Every way to name 2 of 5 raters, counted, against the sampled answer."""
    matrix = np.array([
        [0, 1, 2, 0, 1, 2, 0, 1], [0, 1, 2, 0, 2, 2, 0, 1], [1, 1, 0, 0, 2, 2, 0, 0],
        [0, 2, 2, 1, 1, 0, 0, 2], [1, 1, 2, 0, 0, 2, 1, 0],
    ])  # fmt: skip
    pool = pool_of(matrix, group=["a", "a", "b", "b", "b"])
    codes = pool.attributes["group"].codes
    everything = np.stack([codes[list(order)] for order in permutations(range(5))])
    tables = Counts.plain(count_many(pool, everything, 2))
    found = audit(pool, permutations=4000, metrics=("irr", "xrr", "plurality", "negentropy"))
    for metric in ("irr", "xrr", "plurality", "negentropy"):
        exact = measure(tables, metrics=(metric,))[metric]
        for k, group in enumerate(("a", "b")):
            value = measure(count(pool, codes, 2), metrics=(metric,))[metric][k]
            tails = (exact[:, k] <= value + 1e-12).mean(), (exact[:, k] >= value - 1e-12).mean()
            assert found[group][f"p_{metric}"] == pytest.approx(
                min(1.0, 2 * min(tails)), abs=0.04
            ), (metric, group)


# --- calibration and power


def rejections(pools, permutations_each):
    """Return how many pools show the planted group: with our p value, and the published one."""
    ours = published = 0
    for pool in pools:
        two, one = audit(pool, rule=("two-sided", "paper"), permutations=permutations_each)
        ours += two["planted"]["p_gai"] < 0.05
        published += one["planted"]["p_gai"] < 0.05
    return ours, published


def null_pools(total):
    return (
        draw_pool(Pool(raters=104, items=80, planted=13, strength=0), seed) for seed in range(total)
    )


def test_true_nulls_are_rejected_in_2_to_8_percent_of_300_pools():
    ours, published = rejections(null_pools(300), 200)
    assert 0.02 <= ours / 300 <= 0.08
    assert 0.07 <= published / 300 <= 0.15


def test_a_planted_group_of_13_is_found_in_80_percent_of_pools():
    pools = (draw_pool(Pool(strength=0.5), seed) for seed in range(50))
    assert rejections(pools, 150)[0] >= 40


# --- strata


def two_batches(seed, raters=40, items=50):
    """Two batches that differ in how clear their items are; groups a and b say the same."""
    rng = np.random.default_rng(seed)
    matrix = np.full((2 * raters, 2 * items), MISSING)
    for batch, noise in ((0, 0.4), (1, 2.0)):
        truth = rng.normal(size=items)
        answers = truth + noise * rng.normal(size=(raters, items))
        rows, columns = (
            slice(batch * raters, (batch + 1) * raters),
            slice(batch * items, (batch + 1) * items),
        )
        matrix[rows, columns] = np.digitize(answers, np.quantile(answers, (1 / 3, 2 / 3)))
    many, few = round(0.8 * raters), raters - round(0.8 * raters)
    groups = ["a"] * many + ["b"] * few + ["a"] * few + ["b"] * many
    return pool_of(matrix, group=groups)


def test_groups_confounded_with_batches_differ_until_shuffled_within_them():
    plain = within = 0
    for seed in range(20):
        rows = audit(two_batches(seed), permutations=99, within=("items",))
        plain += rows["a"]["p_irr"] < 0.05
        within += rows["a"]["p_within_irr"] < 0.05
    assert plain == 20
    assert within <= stats.binom.isf(1e-3, 20, 0.05)


def test_batches_are_raters_who_share_items_by_others_too():
    matrix = np.full((6, 6), MISSING)
    for rater, rated in enumerate(((0, 1), (1, 2), (2,), (3, 4), (4,), (5,))):
        matrix[rater, list(rated)] = 0
    assert components(pool_of(matrix)).tolist() == [0, 0, 0, 1, 1, 2]


@given(st.integers(0, 10_000))
@settings(max_examples=60)
def test_batches_are_the_components_of_the_graph_of_raters_and_items(seed):
    rng = np.random.default_rng(seed)
    matrix = np.where(rng.random((8, 9)) < 0.15, 0, MISSING)
    parent = list(range(17))

    def root(node):
        return node if parent[node] == node else root(parent[node])

    for rater, item in zip(*np.nonzero(matrix == 0), strict=True):
        parent[root(rater)] = root(8 + item)
    expected = [root(rater) for rater in range(8)]
    found = components(pool_of(matrix)).tolist()
    assert len(set(zip(found, expected, strict=True))) == len(set(found)) == len(set(expected))


def test_strata_combine_attributes_and_keep_the_unknown_apart():
    matrix = np.zeros((6, 2), dtype=int)
    pool = pool_of(matrix, age=["x", "x", "y", "y", None, None], sex=["m", "f", "m", "m", "m", "f"])
    found = strata(pool, ["age", "sex"])
    assert [int(found[k] == found[2]) for k in range(6)] == [0, 0, 1, 1, 0, 0]
    assert len(set(found.tolist())) == 5
    assert len(set(strata(pool, ["age"]).tolist())) == 3


def test_raters_of_unknown_group_do_not_join_the_batches_of_the_others():
    """They are no part of the axis, so that they rated items of both batches changes nothing."""
    pool = two_batches(0)
    matrix = np.full((81, 100), MISSING)
    matrix[pool.rater, pool.item] = pool.label
    matrix[80, [0, 99]] = 1
    values = [pool.attributes["group"].values[k] for k in pool.attributes["group"].codes]
    row = audit(
        pool_of(matrix, group=[*values, None]), permutations=99, within=("items",)
    )["a"]  # fmt: skip
    assert row["p_irr"] < 0.05
    assert row["p_within_irr"] > 0.05


def test_a_group_that_fills_its_strata_has_no_stratified_test():
    rng = np.random.default_rng(6)
    pool = pool_of(rng.integers(0, 3, (20, 30)), group=["a"] * 10 + ["b"] * 10)
    row = audit(pool, permutations=99, within=("group",))["a"]
    assert row["p_within_irr"] is None
    assert row["p_irr"] is not None


def test_a_group_within_an_attribute_is_told_from_the_attribute():
    """Those of x answer alike; of them, a and b are the same: a differs, within x it does not."""
    plain = within = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 3, 60)
        noisy = rng.random((40, 60)) < np.repeat([0.3, 0.8], 20)[:, None]
        matrix = np.where(noisy, rng.integers(0, 3, (40, 60)), truth)
        groups = ["a"] * 15 + ["b"] * 5 + ["a"] * 5 + ["b"] * 15
        pool = pool_of(matrix, group=groups, region=["x"] * 20 + ["y"] * 20)
        row = audit(pool, permutations=99, within=("region",))["a"]
        plain += row["p_irr"] < 0.05
        within += row["p_within_irr"] < 0.05
    assert plain >= 10
    assert within <= stats.binom.isf(1e-3, 12, 0.05)


# --- counts in batches


@given(st.integers(1, 5000))
@settings(max_examples=40)
def test_batches_of_tables_add_up(total):
    pool = pool_of(np.zeros((3, 400), dtype=int))
    sizes = list(batches(total, pool, 7))
    assert sum(sizes) == total
    assert min(sizes) >= 1


def test_many_assignments_are_counted_as_one_by_one():
    rng = np.random.default_rng(7)
    pool = pool_of(np.where(rng.random((9, 11)) < 0.3, MISSING, rng.integers(0, 3, (9, 11))))
    groups = rng.integers(-1, 3, (5, 9))
    tables = count_many(pool, groups, 3)
    for row, table in zip(groups, tables, strict=True):
        slow = np.zeros((3, 3, 11))
        for item, rater, label in zip(pool.item, pool.rater, pool.label, strict=True):
            if row[rater] >= 0:
                slow[row[rater], label, item] += 1
        np.testing.assert_array_equal(table, slow)
        np.testing.assert_array_equal(count(pool, row, 3).n, slow)


# --- bootstrap


def test_raters_are_drawn_within_their_groups_and_items_among_all():
    groups = np.array([0, 1, 0, 1, 1, -1, 0])
    raters, items = map(
        np.array, zip(*intervals.draw(groups, 9, 2000, np.random.default_rng(8)), strict=True)
    )
    for group in (0, 1, -1):
        assert (raters[:, groups == group].sum(axis=1) == (groups == group).sum()).all()
    assert (items.sum(axis=1) == 9).all()
    assert abs(raters.mean(axis=0) - 1).max() < 0.1
    assert abs(items.mean(axis=0) - 1).max() < 0.1
    # of n with replacement a given one is left out with chance (1 - 1/n)^n
    assert (raters[:, 0] == 0).mean() == pytest.approx((2 / 3) ** 3, abs=0.05)
    assert (items[:, 0] == 0).mean() == pytest.approx((8 / 9) ** 9, abs=0.05)


def test_the_interval_is_the_middle_95_percent_of_known_draws():
    values = np.random.default_rng(9).permutation(np.linspace(0, 1, 2001))
    assert intervals.percentile(values) == pytest.approx((0.025, 0.975))
    holes = np.concatenate([values, np.full(2000, np.nan)])
    assert intervals.percentile(holes) == pytest.approx((0.025, 0.975))
    for few in (np.concatenate([values, np.full(2002, np.nan)]), np.full(3, np.nan), np.array([])):
        assert np.isnan(intervals.percentile(few)).all()


NOISE = 1.5


def true_alpha():
    """Alpha of a pool without end: three equal labels of x = z + 1.5 e, by integration over z."""
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(80)
    spread = np.sqrt(1 + NOISE**2)
    ends = stats.norm.ppf((1 / 3, 2 / 3)) * spread
    below = stats.norm.cdf((ends[:, None] - nodes) / NOISE)
    shares = np.diff(np.vstack([np.zeros_like(nodes), below, np.ones_like(nodes)]), axis=0)
    same = ((shares**2).sum(axis=0) * node_weights).sum() / node_weights.sum()
    return 1 - (1 - same) / (2 / 3)


def test_the_interval_covers_the_alpha_of_a_pool_without_end():
    rng = np.random.default_rng(10)
    truth, spread, inside = true_alpha(), np.sqrt(1 + NOISE**2), 0
    ends = stats.norm.ppf((1 / 3, 2 / 3)) * spread
    everybody = np.zeros(15, dtype=int)
    for _ in range(60):
        answers = rng.normal(size=40) + NOISE * rng.normal(size=(15, 40))
        pool = pool_of(np.digitize(answers, ends))
        draws = [
            irr(count_weighted(pool, everybody, 1, raters, items))[0]
            for raters, items in intervals.draw(everybody, 40, 150, rng)
        ]
        low, high = intervals.percentile(np.array(draws))
        inside += low <= truth <= high
    assert 0.85 <= inside / 60 <= 1.0
    assert inside >= stats.binom.ppf(1e-3, 60, 0.9)
