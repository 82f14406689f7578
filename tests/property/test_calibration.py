"""Statistical promises of the calibration, by simulation and by property."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from peftlab.core.types import Scores
from peftlab.engine.calibrate import Calibration, flags, level, p_values, spacings, threshold

REPETITIONS = 2000
SIZES = st.integers(19, 80)


def realised_rates(m, alpha, *, delta=None, sides="high", seed=0):
    """Return the exact false-positive rate of uniform scores for each of many calibration sets."""
    clean = np.sort(np.random.default_rng(seed).random((REPETITIONS, m)), axis=1)
    count = spacings(m, alpha, delta, sides)
    if sides == "two":
        return 1 - clean[:, m - count // 2] + clean[:, count // 2 - 1]
    return 1 - clean[:, m - count]


def test_rates_used_below_are_those_of_the_rule():
    """Tie the shortcut above to the code under test."""
    grid = (np.arange(4000) + 0.5) / 4000
    for seed, sides, delta in (
        (0, "high", None),
        (1, "two", None),
        (2, "high", 0.1),
        (3, "two", 0.1),
    ):
        clean = np.random.default_rng(seed).random((REPETITIONS, 199))[0]
        rate = realised_rates(199, 0.05, delta=delta, sides=sides, seed=seed)[0]
        calibration = Calibration(clean, 0.05, delta=delta, sides=sides)
        assert flags(calibration, Scores(grid)).mean() == pytest.approx(rate, abs=1e-3)


def test_validity():
    rates = realised_rates(199, 0.05)
    assert 0.045 <= rates.mean() <= 0.0522
    assert stats.kstest(rates, stats.beta(10, 190).cdf).pvalue > 0.01


def test_validity_two_sided():
    rates = realised_rates(199, 0.05, sides="two")
    assert 0.045 <= rates.mean() <= 0.0522
    assert stats.kstest(rates, stats.beta(10, 190).cdf).pvalue > 0.01


@pytest.mark.parametrize("sides", ["high", "two"])
@pytest.mark.parametrize("m", [199, 500])
def test_delta_bound(m, sides):
    rates = realised_rates(m, 0.05, delta=0.1, sides=sides, seed=4)
    assert (rates > 0.05).mean() <= 0.12


def test_p_values_of_clean_texts_are_uniform_or_larger():
    rng = np.random.default_rng(0)
    p = np.concatenate(
        [
            p_values(Calibration(rng.normal(size=99), 0.05), Scores(rng.normal(size=1)))
            for _ in range(1000)
        ]
    )
    for alpha in (0.01, 0.05, 0.1, 0.5):
        assert (p <= alpha).mean() <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / 1000)


@given(
    st.lists(st.integers(-5, 5), min_size=39, max_size=80),
    st.lists(st.integers(-6, 6), max_size=30),
    st.sampled_from([0.05, 0.1, 0.3]),
)
@settings(max_examples=200, deadline=None)
def test_flag_p_value_and_threshold_say_the_same(clean, fresh, alpha):
    calibration = Calibration(np.array(clean, dtype=float), alpha)
    scores = Scores(np.array(fresh, dtype=float))
    flagged = flags(calibration, scores)
    assert flagged.tolist() == (scores.values > threshold(calibration)).tolist()
    assert flagged.tolist() == (p_values(calibration, scores) <= level(calibration)).tolist()
    m = len(clean)
    k = next(k for k in range(1, m + 1) if (m + 1 - k) / (m + 1) <= alpha)
    assert threshold(calibration) == sorted(clean)[k - 1]


@given(st.lists(st.integers(0, 5), min_size=45, max_size=80), st.lists(st.integers(-1, 6)))
@settings(max_examples=100, deadline=None)
def test_delta_and_threshold_say_the_same(clean, fresh):
    calibration = Calibration(np.array(clean, dtype=float), 0.05, delta=0.1)
    scores = Scores(np.array(fresh, dtype=float))
    assert flags(calibration, scores).tolist() == (scores.values > threshold(calibration)).tolist()


def test_boundary_is_the_same_for_clean_and_triggered():
    """A score at the threshold is decided in one way only, whoever it belongs to."""
    rng = np.random.default_rng(0)
    for _ in range(1000):
        calibration = Calibration(np.round(rng.normal(size=40), 1), 0.05)
        edge = threshold(calibration)
        around = Scores(np.array([edge, np.nextafter(edge, np.inf), np.nextafter(edge, -np.inf)]))
        assert flags(calibration, around).tolist() == [False, True, False]


@given(SIZES, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_order_of_calibration_and_batch_mates_do_not_matter(m, random):
    clean = [random.random() for _ in range(m)]
    fresh = [random.random() for _ in range(10)]
    shuffled = random.sample(clean, m)
    whole = p_values(Calibration(np.array(clean), 0.05), Scores(np.array(fresh)))
    single = [
        p_values(Calibration(np.array(shuffled), 0.05), Scores(np.array([x])))[0] for x in fresh
    ]
    assert whole.tolist() == single


def test_contaminated_calibration_is_conservative():
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(200):
        clean = np.concatenate([rng.normal(size=190), rng.normal(4, size=10)])
        rates.append(flags(Calibration(clean, 0.05), Scores(rng.normal(size=200))).mean())
    assert np.mean(rates) < 0.05
