"""Agreement within and across groups, against definitions that loop over pairs of ratings."""

import warnings
from collections import Counter
from itertools import permutations, product
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from sklearn.metrics import cohen_kappa_score

from peftlab.audits.raters import cohesion
from peftlab.audits.raters.cohesion import METRICS, distances, irr, measure, xrr
from peftlab.audits.raters.counts import Counts, count, count_weighted
from peftlab.audits.raters.ratings import Ratings

LEVELS = ("nominal", "ordinal", "interval")
MISSING = -1
KRIPPENDORFF = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
THREE_CODERS = """
. . . . . 3 4 1 2 1 1 3 3 . 3
1 . 2 1 3 3 4 3 . . . . . . .
. . 2 1 3 4 4 . 2 1 1 3 3 . 4
"""
ORDERED = """
1 1 2 3 5 4 . 2
1 2 2 3 4 4 1 .
. 1 3 3 5 5 1 2
"""
TABLES = {"krippendorff": KRIPPENDORFF, "three_coders": THREE_CODERS, "ordered": ORDERED}


def read(text):
    """Return ratings (raters, items) as 0, 1, ... of a table in which 1 is the lowest label."""
    return np.array([
        [MISSING if cell == "." else int(cell) - 1 for cell in line.split()]
        for line in text.strip().splitlines()
    ])  # fmt: skip


def tally(matrix, labels):
    """Return counts (K, I) of ratings (raters, items), one rating at a time."""
    n = np.zeros((labels, matrix.shape[1]))
    for row in matrix:
        for i, label in enumerate(row):
            if label != MISSING:
                n[label, i] += 1
    return n


def plain(*matrices, labels):
    return Counts.plain(np.stack([tally(matrix, labels) for matrix in matrices]))


def weights(items):
    return np.ones((1, items))


def random_ratings(rng, raters=6, items=9, labels=3, missing=0.3):
    """Return ratings that agree somewhat, with holes."""
    truth = rng.integers(0, labels, items)
    matrix = np.where(
        rng.random((raters, items)) < 0.5, truth, rng.integers(0, labels, (raters, items))
    )
    return np.where(rng.random((raters, items)) < missing, MISSING, matrix)


def square_distance(level, given_labels, values):
    """Return a function of two labels: the published distance, by counting labels between."""
    times = Counter(given_labels)

    def distance(a, b):
        if a == b:
            return 0.0
        if level == "nominal":
            return 1.0
        if level == "interval":
            return float(values[a] - values[b]) ** 2
        low, high = min(a, b), max(a, b)
        between = sum(times[k] for k in range(low, high + 1))
        return (between - (times[a] + times[b]) / 2) ** 2

    return distance


def slow_alpha(matrix, level="nominal", values=None):
    """Krippendorff's alpha from all pairs of ratings: within units, and overall."""
    columns = [[int(label) for label in column if label != MISSING] for column in matrix.T]
    units = [unit for unit in columns if len(unit) >= 2]
    everything = [label for unit in units for label in unit]
    n = len(everything)
    if n == 0:
        return float("nan")
    values = range(1000) if values is None else values
    distance = square_distance(level, everything, values)
    observed = 0.0
    for unit in units:
        for j, a in enumerate(unit):
            for k, b in enumerate(unit):
                if j != k:
                    observed += distance(a, b) / (len(unit) - 1) / n
    expected = 0.0
    for j, a in enumerate(everything):
        for k, b in enumerate(everything):
            if j != k:
                expected += distance(a, b) / (n * (n - 1))
    return float("nan") if expected == 0 else 1 - observed / expected


def slow_xrr(one, other, level="nominal", values=None):
    """kappa_x: one rating from each side, over all pairs of an item, and over all pairs."""
    left, right, parts = [], [], []
    for column, column_other in zip(one.T, other.T, strict=True):
        a = [int(label) for label in column if label != MISSING]
        b = [int(label) for label in column_other if label != MISSING]
        if a and b:
            left += a
            right += b
            parts.append((a, b))
    if not parts:
        return float("nan")
    values = range(1000) if values is None else values
    distance = square_distance(level, left + right, values)
    observed = sum(
        (len(a) + len(b)) * sum(distance(x, y) for x in a for y in b) / (len(a) * len(b))
        for a, b in parts
    ) / (len(left) + len(right))
    expected = sum(distance(x, y) for x in left for y in right) / (len(left) * len(right))
    return float("nan") if expected == 0 else 1 - observed / expected


def pool_of(matrix, labels):
    rater, item = np.nonzero(matrix != MISSING)
    return Ratings(
        tuple(f"i{k}" for k in range(matrix.shape[1])),
        tuple(f"r{k}" for k in range(matrix.shape[0])),
        tuple(str(k) for k in range(labels)), item, rater, matrix[rater, item],
    )  # fmt: skip


# --- alpha


@pytest.mark.parametrize(
    ("level", "published"), [("nominal", 0.7434), ("ordinal", 0.8154), ("interval", 0.8491)]
)
def test_alpha_of_krippendorffs_own_example(level, published):
    found = irr(plain(read(KRIPPENDORFF), labels=5), level)[0]
    assert round(float(found), 4) == published


@pytest.mark.parametrize(
    ("name", "level", "reference"),
    [
        ("krippendorff", "nominal", 0.743421052632),
        ("krippendorff", "ordinal", 0.815387503755),
        ("krippendorff", "interval", 0.849107142857),
        ("three_coders", "nominal", 0.691358024691),  # published as 0.691
        ("three_coders", "ordinal", 0.806721419941),
        ("three_coders", "interval", 0.810844892812),  # published as 0.811
        ("ordered", "nominal", 0.537572254335),
        ("ordered", "ordinal", 0.911059174863),
        ("ordered", "interval", 0.906976744186),
    ],
)
def test_reference_values_hold_for_both_definitions(name, level, reference):
    matrix = read(TABLES[name])
    assert slow_alpha(matrix, level) == pytest.approx(reference, abs=1e-9)
    assert irr(plain(matrix, labels=5), level)[0] == pytest.approx(reference, abs=1e-9)


def test_alpha_is_that_of_all_pairs_of_ratings_on_random_tables():
    rng = np.random.default_rng(0)
    for trial in range(200):
        labels = 2 + trial % 4
        matrix = random_ratings(
            rng, int(rng.integers(2, 7)), int(rng.integers(2, 10)), labels,
            float(rng.uniform(0, 0.6)),
        )  # fmt: skip
        values = np.sort(rng.normal(size=labels)) * 3
        counts = plain(matrix, labels=labels)
        for level in LEVELS:
            expected = slow_alpha(matrix, level, values)
            found = irr(counts, level, values)[0]
            assert found == pytest.approx(expected, abs=1e-9, nan_ok=True), (trial, level)


def test_all_groups_and_leading_axes_at_once_equal_one_by_one():
    rng = np.random.default_rng(1)
    tables = rng.integers(0, 4, (3, 2, 3, 7)).astype(float)
    for level in LEVELS:
        together = measure(Counts.plain(tables), level)
        for b in range(3):
            alone = measure(Counts.plain(tables[b]), level)
            for metric in METRICS:
                np.testing.assert_allclose(together[metric][b], alone[metric], atol=1e-12)


def test_one_group_can_be_picked():
    rng = np.random.default_rng(2)
    counts = Counts.plain(rng.integers(0, 4, (3, 3, 7)).astype(float))
    assert irr(counts.pick(1))[0] == pytest.approx(irr(counts)[1])


def test_only_the_metrics_asked_for_come_back_in_that_order():
    counts = Counts.plain(np.random.default_rng(3).integers(0, 4, (2, 3, 7)).astype(float))
    for wanted in (("gai",), ("gap", "irr"), ("voting", "plurality"), METRICS):
        found = measure(counts, metrics=wanted)
        assert tuple(found) == wanted
        for name in wanted:
            np.testing.assert_array_equal(found[name], measure(counts)[name])


def test_items_with_one_rating_say_nothing_about_alpha():
    matrix = read(KRIPPENDORFF)
    extra = np.full((4, 3), MISSING)
    extra[0] = [0, 1, 4]
    wide = np.hstack([matrix, extra])
    for level in LEVELS:
        assert irr(plain(wide, labels=5), level)[0] == pytest.approx(
            irr(plain(matrix, labels=5), level)[0], abs=1e-12
        )


def test_interval_alpha_does_not_depend_on_unit_or_origin():
    counts = plain(read(KRIPPENDORFF), labels=5)
    values = np.array([1.0, 2.0, 4.0, 5.0, 9.0])
    reference = irr(counts, "interval", values)[0]
    for scale, shift in ((1000.0, 0.0), (1e-3, 7.0), (-1.0, 2.0)):
        assert irr(counts, "interval", scale * values + shift)[0] == pytest.approx(reference)


@pytest.mark.parametrize("unit", [1e-6, 1e-7])
def test_interval_alpha_does_not_depend_on_a_small_unit(unit):
    """Labels such as 0.000001 and 0.000002 are two labels."""
    counts = plain(read(KRIPPENDORFF), labels=5)
    values = np.arange(5.0)
    found = irr(counts, "interval", values * unit)[0]
    assert found == pytest.approx(irr(counts, "interval", values)[0])


def test_ordinal_distance_looks_at_the_order_alone():
    counts = plain(read(KRIPPENDORFF), labels=5)
    stretched = irr(counts, "ordinal", np.array([0.0, 1.0, 10.0, 50.0, 51.0]))
    np.testing.assert_allclose(stretched, irr(counts, "ordinal"))
    turned = Counts.plain(counts.n[:, ::-1])
    np.testing.assert_allclose(irr(turned, "ordinal"), irr(counts, "ordinal"))


def test_distances_are_symmetric_and_zero_on_the_diagonal():
    totals = np.array([4.0, 1.0, 0.0, 3.0])
    for level in LEVELS:
        d2 = distances(level, totals, np.arange(4.0))
        np.testing.assert_allclose(d2, d2.T)
        assert not d2.diagonal().any()
    reference = square_distance("ordinal", [0] * 4 + [1] + [3] * 3, range(4))
    ordinal = distances("ordinal", totals, np.arange(4.0))
    for a, b in product(range(4), repeat=2):
        assert ordinal[a, b] == pytest.approx(reference(a, b))


# --- xrr


def test_xrr_is_the_double_loop_of_the_published_formula():
    rng = np.random.default_rng(4)
    for trial in range(200):
        labels, items = 2 + trial % 3, int(rng.integers(2, 10))
        sides = [
            random_ratings(rng, int(rng.integers(1, 6)), items, labels, float(rng.uniform(0, 0.6)))
            for _ in range(2)
        ]
        one, other = (tally(side, labels)[None] for side in sides)
        expected = slow_xrr(*sides)
        assert xrr(one, other, weights(items))[0] == pytest.approx(
            expected, abs=1e-12, nan_ok=True
        ), trial


def test_xrr_of_ordered_labels_is_that_of_all_pairs():
    rng = np.random.default_rng(5)
    for trial in range(100):
        labels, items = 2 + trial % 4, int(rng.integers(2, 9))
        sides = [random_ratings(rng, int(rng.integers(1, 5)), items, labels) for _ in range(2)]
        values = np.sort(rng.normal(size=labels)) * 3
        one, other = (tally(side, labels)[None] for side in sides)
        for level in ("ordinal", "interval"):
            found = xrr(one, other, weights(items), level, values)[0]
            expected = slow_xrr(*sides, level, values)
            assert found == pytest.approx(expected, abs=1e-9, nan_ok=True), (trial, level)


def test_xrr_with_one_rater_a_side_is_cohens_kappa():
    rng = np.random.default_rng(6)
    for _ in range(50):
        one, other = random_ratings(rng, 2, 30, 3, missing=0.0)
        tables = [tally(side[None], 3)[None] for side in (one, other)]
        found = xrr(*tables, weights(30))[0]
        assert found == pytest.approx(cohen_kappa_score(one, other), abs=1e-12)
        squares = xrr(*tables, weights(30), "interval")[0]
        assert squares == pytest.approx(
            cohen_kappa_score(one, other, weights="quadratic"), abs=1e-12
        )


@given(st.integers(0, 10_000))
@settings(max_examples=60)
def test_xrr_is_symmetric(seed):
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 4, (2, 1, 3, 8)).astype(float)
    for level in LEVELS:
        there, back = (xrr(*pair, weights(8), level) for pair in ((one, other), (other, one)))
        np.testing.assert_allclose(there, back, atol=1e-12)


def test_every_group_is_compared_with_everybody_else():
    rng = np.random.default_rng(7)
    sides = [random_ratings(rng, raters, 12, 3) for raters in (3, 4, 5)]
    found = measure(plain(*sides, labels=3))
    for k in range(3):
        rest = np.vstack([side for j, side in enumerate(sides) if j != k])
        assert found["xrr"][k] == pytest.approx(slow_xrr(sides[k], rest), abs=1e-12)
        assert found["gap"][k] == pytest.approx(
            slow_alpha(sides[k]) - slow_xrr(sides[k], rest), abs=1e-9
        )
        assert found["gai"][k] == pytest.approx(
            slow_alpha(sides[k]) / slow_xrr(sides[k], rest), abs=1e-9
        )


# --- plurality, negentropy, voting


def slow_shares(matrix, labels):
    for column in matrix.T:
        given_labels = [label for label in column if label != MISSING]
        if given_labels:
            yield [given_labels.count(k) / len(given_labels) for k in range(labels)]


def test_plurality_and_negentropy_are_means_over_rated_items():
    rng = np.random.default_rng(8)
    for labels in (2, 3, 5):
        matrix = random_ratings(rng, 4, 15, labels, missing=0.5)
        shares = list(slow_shares(matrix, labels))
        counts = plain(matrix, labels=labels)
        assert cohesion.plurality(counts)[0] == pytest.approx(np.mean([max(p) for p in shares]))
        assert cohesion.negentropy(counts)[0] == pytest.approx(
            np.mean([log(labels) - entropy(p) for p in shares])
        )


@pytest.mark.parametrize("smoothing", [0.5, 0.01, 2.0])
def test_cross_negentropy_smooths_the_others_alone(smoothing):
    rng = np.random.default_rng(9)
    sides = [random_ratings(rng, 4, 15, 3, missing=0.5) for _ in range(2)]
    terms = []
    for i in range(15):
        own, other = ([list(side[:, i]).count(k) for k in range(3)] for side in sides)
        if sum(own) and sum(other):
            q = [(k + smoothing) / (sum(other) + 3 * smoothing) for k in other]
            terms.append(log(3) + sum(k / sum(own) * log(x) for k, x in zip(own, q, strict=True)))
    tables = [tally(side, 3)[None] for side in sides]
    found = cohesion.cross_negentropy(*tables, weights(15), smoothing)[0]
    assert found == pytest.approx(np.mean(terms))


def slow_votes(matrix, labels, ties):
    votes = []
    for column in matrix.T:
        times = [list(column).count(k) for k in range(labels)]
        winners = [k for k in range(labels) if times[k] == max(times) > 0]
        tied = len(winners) > 1 and ties == "drop"
        votes.append(MISSING if not winners or tied else winners[0])
    return np.array(votes)


@pytest.mark.parametrize("ties", ["lowest", "drop"])
def test_voting_is_alpha_of_two_raters_who_vote_for_their_side(ties):
    rng = np.random.default_rng(10)
    for _ in range(50):
        sides = [random_ratings(rng, 4, 20, 3, missing=0.4) for _ in range(2)]
        tables = [tally(side, 3)[None] for side in sides]
        expected = slow_alpha(np.stack([slow_votes(side, 3, ties) for side in sides]))
        assert cohesion.voting(*tables, weights(20), ties)[0] == pytest.approx(
            expected, abs=1e-9, nan_ok=True
        )


def test_tie_share_counts_rated_items_only():
    n = np.array([[[2.0, 1.0, 0.0, 3.0], [2.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]]])
    assert cohesion.tie_share(n)[0] == pytest.approx(2 / 3)


# --- extremes


def test_perfect_agreement_is_one_without_warnings():
    rows = np.tile([0, 1, 2, 0, 1], (4, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure(plain(rows[:2], rows[2:], labels=3))
    for metric in ("irr", "xrr", "plurality", "voting", "gai"):
        np.testing.assert_allclose(found[metric], 1.0)
    np.testing.assert_allclose(found["negentropy"], log(3))
    np.testing.assert_allclose(found["gap"], 0.0, atol=1e-15)


@pytest.mark.parametrize("level", LEVELS)
def test_one_label_only_is_undefined_without_warnings(level):
    rows = np.zeros((4, 6), dtype=int)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure(plain(rows[:2], rows[2:], labels=3), level)
    for metric in ("irr", "xrr", "voting", "gai", "gap"):
        assert np.isnan(found[metric]).all(), metric
    np.testing.assert_allclose(found["plurality"], 1.0)
    np.testing.assert_allclose(found["negentropy"], log(3))


@pytest.mark.parametrize("level", LEVELS)
def test_a_group_without_ratings_is_undefined_without_warnings(level):
    nobody = np.full((1, 12), MISSING)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure(plain(nobody, read(KRIPPENDORFF), labels=5), level)
    for metric in METRICS:
        assert np.isnan(found[metric][0]), metric
    assert found["irr"][1] > 0.7


def test_systematic_disagreement_is_below_zero():
    one, other = np.tile([0, 1, 0, 1], (3, 1)), np.tile([1, 0, 1, 0], (3, 1))
    found = measure(plain(one, other, labels=2))
    np.testing.assert_allclose(found["xrr"], -1.0)
    assert np.isnan(found["gai"]).all()
    np.testing.assert_allclose(found["gap"], 2.0)


def test_the_ratio_is_left_out_at_its_pole_and_below_the_spread():
    within, across = np.array([0.3, 0.3, 0.3, 0.3]), np.array([0.2, 0.0, -0.1, 0.04])
    gai, gap = cohesion.indices(within, across, least=0.05)
    assert gai[0] == pytest.approx(1.5)
    assert np.isnan(gai[1:]).all()
    np.testing.assert_allclose(gap, within - across)


# --- invariants


@given(st.integers(0, 10_000))
@settings(max_examples=60)
def test_duplicating_every_rater_leaves_shares_and_votes(seed):
    counts = Counts.plain(np.random.default_rng(seed).integers(0, 4, (2, 3, 8)).astype(float))
    twice = Counts.plain(2 * counts.n)
    for metric in ("plurality", "negentropy", "voting", "xrr"):
        before, after = (measure(one)[metric] for one in (counts, twice))
        np.testing.assert_allclose(before, after, atol=1e-12)
    np.testing.assert_allclose(cohesion.tie_share(counts.n), cohesion.tie_share(twice.n))


@given(st.integers(0, 10_000))
@settings(max_examples=60)
def test_names_of_groups_and_labels_and_the_order_of_items_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    n = rng.integers(0, 4, (3, 4, 8)).astype(float)
    groups, labels, items = rng.permutation(3), rng.permutation(4), rng.permutation(8)
    before = measure(Counts.plain(n), ties="drop")
    after = measure(Counts.plain(n[groups][:, labels][:, :, items]), ties="drop")
    for metric in METRICS:
        np.testing.assert_allclose(after[metric], before[metric][groups], atol=1e-12)


@given(st.integers(0, 10_000))
@settings(max_examples=40)
def test_a_label_that_nobody_gave_changes_entropies_alone(seed):
    n = np.random.default_rng(seed).integers(0, 4, (2, 3, 8)).astype(float)
    wide = np.concatenate([n, np.zeros((2, 1, 8))], axis=1)
    for level in LEVELS:
        before, after = (measure(Counts.plain(table), level) for table in (n, wide))
        for metric in set(METRICS) - {"negentropy", "cross_negentropy"}:
            np.testing.assert_allclose(before[metric], after[metric], atol=1e-12)
        np.testing.assert_allclose(after["negentropy"] - before["negentropy"], log(4 / 3))


@given(st.integers(0, 10_000))
@settings(max_examples=60)
def test_values_stay_in_their_ranges(seed):
    counts = Counts.plain(np.random.default_rng(seed).integers(0, 3, (2, 3, 6)).astype(float))
    found = measure(counts)
    for metric, low, high in (
        ("irr", -1.0, 1.0), ("xrr", -1.0, 1.0), ("voting", -1.0, 1.0), ("plurality", 1 / 3, 1.0),
        ("negentropy", 0.0, log(3)),
    ):  # fmt: skip
        known = found[metric][~np.isnan(found[metric])]
        assert (known >= low - 1e-12).all(), metric
        assert (known <= high + 1e-12).all(), metric


@given(st.integers(0, 10_000))
@settings(max_examples=40)
def test_two_groups_have_the_same_agreement_across(seed):
    counts = Counts.plain(np.random.default_rng(seed).integers(0, 4, (2, 3, 8)).astype(float))
    found = measure(counts)
    for metric in ("xrr", "voting"):
        np.testing.assert_allclose(found[metric][0], found[metric][1], atol=1e-12)


# --- bootstrap weights


def test_a_draw_of_everybody_once_is_the_plain_count():
    rng = np.random.default_rng(11)
    matrix = random_ratings(rng, 8, 12, 3)
    pool, groups = pool_of(matrix, 3), np.array([0, 0, 0, 1, 1, 1, -1, 0])
    once = count_weighted(pool, groups, 2, np.ones(8, dtype=int), np.ones(12, dtype=int))
    plainly = count(pool, groups, 2)
    np.testing.assert_array_equal(once.n, plainly.n)
    np.testing.assert_array_equal(
        plainly.n, np.stack([tally(matrix[groups == k], 3) for k in (0, 1)])
    )
    for level in LEVELS:
        drawn, whole = measure(once, level), measure(plainly, level)
        for metric in METRICS:
            np.testing.assert_allclose(drawn[metric], whole[metric], atol=1e-12)


def slow_drawn_alpha(matrix, raters, items, level):
    """Alpha of copies of raters and items, without pairs of a rating with its own copy."""
    copies = []  # one entry a copied item: (original item, [(original rater, label)])
    for i, times in enumerate(items):
        unit = [
            (j, int(label))
            for j, label in enumerate(matrix[:, i])
            if label != MISSING
            for _ in range(raters[j])
        ]
        if len({j for j, _ in unit}) >= 2:
            copies += [(i, unit)] * times
    everything = [(i, j, label) for i, unit in copies for j, label in unit]
    if not everything:
        return float("nan")
    distance = square_distance(level, [label for _, _, label in everything], range(99))
    observed = 0.0
    for _, unit in copies:
        pairs = [distance(a, b) for j, a in unit for k, b in unit if j != k]
        observed += len(unit) * np.mean(pairs) / len(everything)
    pairs = [distance(a, b) for i, j, a in everything for h, k, b in everything if (i, j) != (h, k)]
    return float("nan") if not any(pairs) else 1 - observed / float(np.mean(pairs))


def test_a_drawn_rater_is_never_paired_with_itself():
    rng = np.random.default_rng(12)
    for trial in range(30):
        matrix = random_ratings(rng, 5, 6, 3)
        raters = np.bincount(rng.integers(0, 5, 5), minlength=5)
        items = np.bincount(rng.integers(0, 6, 6), minlength=6)
        drawn = count_weighted(pool_of(matrix, 3), np.zeros(5, dtype=int), 1, raters, items)
        for level in LEVELS:
            expected = slow_drawn_alpha(matrix, raters, items, level)
            assert irr(drawn, level)[0] == pytest.approx(expected, abs=1e-9, nan_ok=True), trial


def test_counting_self_pairs_would_inflate_alpha():
    """What the rule above is for: raters who answer at random seem to agree with their copies."""
    rng = np.random.default_rng(13)
    matrix = rng.integers(0, 3, (6, 400))
    raters = np.array([3, 2, 1, 0, 0, 0])
    drawn = count_weighted(
        pool_of(matrix, 3), np.zeros(6, dtype=int), 1, raters, np.ones(400, dtype=int)
    )
    assert abs(irr(drawn)[0]) < 0.06
    assert irr(Counts.plain(drawn.n))[0] > 0.2


def test_other_statistics_of_a_draw_are_those_of_the_copies():
    rng = np.random.default_rng(14)
    for _ in range(20):
        matrix, groups = random_ratings(rng, 7, 6, 3), np.array([0, 0, 0, 1, 1, 1, 1])
        raters = np.bincount(rng.integers(0, 7, 7), minlength=7)
        items = np.bincount(rng.integers(0, 6, 6), minlength=6)
        drawn = measure(count_weighted(pool_of(matrix, 3), groups, 2, raters, items))
        sides = [
            np.repeat(np.repeat(matrix[groups == k], raters[groups == k], axis=0), items, axis=1)
            for k in (0, 1)
        ]
        copied = measure(plain(*sides, labels=3))
        for metric in ("xrr", "plurality", "negentropy", "cross_negentropy"):
            np.testing.assert_allclose(drawn[metric], copied[metric], atol=1e-12)


def test_ties_follow_the_order_of_labels_so_renaming_can_move_votes():
    """With the lowest label winning, voting depends on the order; dropping ties does not."""
    n = np.array([[[2.0, 0.0, 1.0], [2.0, 3.0, 0.0]], [[3.0, 0.0, 2.0], [0.0, 3.0, 0.0]]])
    found = {
        ties: [measure(Counts.plain(n[:, list(order)]), ties=ties)["voting"][0]
               for order in permutations(range(2))]
        for ties in ("lowest", "drop")
    }  # fmt: skip
    assert found["lowest"][0] != found["lowest"][1]
    assert found["drop"][0] == pytest.approx(found["drop"][1])
