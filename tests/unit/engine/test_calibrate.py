"""Calibration: refusals, boundaries, groups, and oracles from scipy."""

import json

import numpy as np
import pytest
from scipy import stats

from peftlab.core.errors import ConfigError, InputRejected, RunFailed
from peftlab.core.types import Scores
from peftlab.engine.calibrate import (
    Calibration,
    benjamini_hochberg,
    flags,
    merge_p_values,
    p_values,
    randomised_p_values,
    shift_test,
    smallest_m,
    smallest_p,
    spacings,
    threshold,
)
from peftlab.engine.distributions import (
    beta_binomial_pmf,
    beta_cdf,
    binomial_tails,
    kolmogorov_tail,
    t_quantile_975,
)


def test_p_values_equal_the_definition_with_ties():
    rng = np.random.default_rng(0)
    clean, fresh = rng.integers(0, 9, 60).astype(float), rng.integers(-1, 10, 80).astype(float)
    high = [(1 + sum(s >= x for s in clean)) / 61 for x in fresh]
    low = [(1 + sum(s <= x for s in clean)) / 61 for x in fresh]
    got = p_values(Calibration(clean, 0.05), Scores(fresh))
    np.testing.assert_allclose(got, high, rtol=0, atol=0)
    both = p_values(Calibration(clean, 0.05, sides="two"), Scores(fresh))
    expected = [min(1, 2 * min(pair)) for pair in zip(high, low, strict=True)]
    np.testing.assert_allclose(both, expected, rtol=0, atol=0)


@pytest.mark.parametrize("sides", ["high", "two"])
def test_the_smallest_p_value_is_that_of_the_smallest_group(sides):
    scores, groups = np.arange(60.0), np.repeat([0, 1], [41, 19])
    whole = Calibration(scores, 0.2, sides=sides)
    parted = Calibration(scores, 0.2, groups, conditional=True, sides=sides)
    extreme = Scores(np.array([99.0, 99.0]), np.array([0, 1]))
    assert smallest_p(whole) == p_values(whole, extreme).max()
    assert smallest_p(parted) == p_values(parted, extreme).max() > smallest_p(whole)


def test_refuses_too_few():
    with pytest.raises(ConfigError) as error:
        Calibration(np.arange(12.0), 0.05)
    assert error.value.code == "CAL-FEW"
    assert error.value.what == (
        "threshold not calibrated: 12 clean samples, 19 needed for alpha=0.05; "
        "pass more calibration data or raise alpha"
    )
    with pytest.raises(ConfigError, match=r"50 clean samples, 99 needed for alpha=0.01"):
        Calibration(np.arange(50.0), 0.01)
    with pytest.raises(ConfigError, match=r"38 clean samples, 39 needed for alpha=0.05, two-sided"):
        Calibration(np.arange(38.0), 0.05, sides="two")
    with pytest.raises(ConfigError, match="0 clean samples, 19 needed"):
        Calibration(np.zeros(0), 0.05)
    with pytest.raises(ConfigError, match=r"alpha=0.05 with delta=0.1"):
        Calibration(np.arange(44.0), 0.05, delta=0.1)
    Calibration(np.arange(45.0), 0.05, delta=0.1)  # 1 - 0.95 ** 45 = 0.9006


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05, 0.07, 0.1, 0.15, 0.2, 0.29, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("sides", ["high", "two"])
def test_smallest_m_is_enough_and_one_less_is_not(alpha, sides):
    m = smallest_m(alpha, sides=sides)
    tails = 2 if sides == "two" else 1
    assert tails / (m + 1) <= alpha
    assert m == 1 or tails / m > alpha
    clean = np.arange(float(m))
    assert flags(Calibration(clean, alpha, sides=sides), Scores(np.array([1e9]))).all()


@pytest.mark.parametrize("sides", ["high", "two"])
def test_smallest_m_with_delta(sides):
    for alpha, delta in ((0.05, 0.1), (0.01, 0.05), (0.2, 0.5)):
        m = smallest_m(alpha, delta, sides)
        assert spacings(m, alpha, delta, sides) > 0
        assert spacings(m - 1, alpha, delta, sides) == 0
    assert smallest_m(1e-9, 0.1, sides) > 10**9  # at once, without a table of that size


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0, float("nan")])
def test_refuses_rates_that_are_none(alpha):
    for values in ({"alpha": alpha}, {"alpha": 0.5, "delta": alpha}):
        with pytest.raises(ConfigError) as error:
            Calibration(np.arange(50.0), **values)
        assert error.value.code == "CAL-RATE"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_scores_are_errors_never_decisions(bad):
    clean = np.arange(30.0)
    spoilt = np.append(clean, bad)
    calibration = Calibration(clean, 0.05)
    for call in (
        lambda: Calibration(spoilt, 0.05),
        lambda: p_values(calibration, Scores(spoilt)),
        lambda: flags(calibration, Scores(spoilt)),
        lambda: shift_test(clean, spoilt),
    ):
        with pytest.raises(RunFailed) as error:
            call()
        assert error.value.code == "CAL-NONFINITE"


def test_groups_are_calibrated_apart():
    clean = np.concatenate([np.arange(19.0), 100 + np.arange(19.0)])
    groups = np.repeat([0, 3], 19)
    calibration = Calibration(clean, 0.05, groups, conditional=True)
    scores = Scores(np.array([50.0, 50.0, 18.0, 119.0]), np.array([0, 3, 0, 3]))
    assert flags(calibration, scores).tolist() == [True, False, False, True]
    assert p_values(calibration, scores).tolist() == [0.05, 1.0, 0.1, 0.05]
    assert (threshold(calibration, 0), threshold(calibration, 3)) == (18.0, 118.0)


def test_a_small_or_unknown_group_is_named():
    clean, groups = np.arange(30.0), np.repeat([0, 1], [20, 10])
    with pytest.raises(ConfigError, match="10 clean samples predicted as class 1, 19 needed"):
        Calibration(clean, 0.05, groups, conditional=True)
    calibration = Calibration(clean, 0.05, np.zeros(30, dtype=int), conditional=True)
    with pytest.raises(ConfigError, match="0 clean samples predicted as class 2"):
        p_values(calibration, Scores(np.zeros(1), np.array([2])))
    for call in (
        lambda: Calibration(clean, 0.05, conditional=True),
        lambda: Calibration(clean, 0.05, groups[:5], conditional=True),
        lambda: p_values(calibration, Scores(np.zeros(1))),
    ):
        with pytest.raises(ConfigError) as error:
            call()
        assert error.value.code == "CAL-GROUPS"


@pytest.mark.parametrize("conditional", [False, True])
def test_json_round_trip(conditional):
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1], 50)
    before = Calibration(rng.normal(size=100), 0.07, groups, 0.2, conditional, "two")
    after = Calibration.from_dict(json.loads(json.dumps(before.to_dict())))
    scores = Scores(rng.normal(size=40), np.arange(40) % 2)
    assert np.array_equal(p_values(before, scores), p_values(after, scores))
    assert after.to_dict() == before.to_dict()


@pytest.mark.parametrize(
    "change", [{"format": "x"}, {"sides": "low"}, {"scores": "no"}, {"scores": None}]
)
def test_hostile_states_are_rejected(change):
    state = {**Calibration(np.arange(20.0), 0.05).to_dict(), **change}
    with pytest.raises(InputRejected) as error:
        Calibration.from_dict(state)
    assert error.value.code == "CAL-STATE"
    with pytest.raises(InputRejected):
        Calibration.from_dict({})


def test_no_scores_no_flags():
    calibration = Calibration(np.arange(19.0), 0.05)
    assert flags(calibration, Scores(np.zeros(0))).shape == (0,)


def test_constant_scores():
    fresh = Scores(np.zeros(20_000))
    for sides in ("high", "two"):
        calibration = Calibration(np.zeros(199), 0.05, sides=sides)
        assert not flags(calibration, fresh).any()
        assert flags(calibration, fresh, ties_seed=1).mean() == pytest.approx(0.05, abs=0.01)
    p = randomised_p_values(Calibration(np.zeros(199), 0.05), fresh, 3)
    assert stats.kstest(p, "uniform").pvalue > 0.001
    again = randomised_p_values(Calibration(np.zeros(199), 0.05), fresh, 3)
    assert np.array_equal(p, again)


def test_random_ties_within_groups():
    clean, groups = np.zeros(40), np.repeat([0, 1], 20)
    calibration = Calibration(clean, 0.05, groups, conditional=True)
    scores = Scores(np.zeros(20_000), np.arange(20_000) % 2)
    flagged = flags(calibration, scores, ties_seed=0)
    for group in (0, 1):
        assert flagged[group::2].mean() == pytest.approx(0.05, abs=0.01)


def test_benjamini_hochberg_equals_scipy():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = np.round(rng.random(int(rng.integers(1, 40))) ** 2, 2)
        q = float(rng.choice([0.05, 0.1, 0.3]))
        adjusted = stats.false_discovery_control(p, method="bh")
        assert benjamini_hochberg(p, q).tolist() == (adjusted <= q + 1e-12).tolist()
    assert benjamini_hochberg(np.zeros(0), 0.1).tolist() == []


def test_merged_p_values():
    parts = [np.array([0.01, 0.5, 1.0]), np.array([0.03, 0.9, 1.0])]
    np.testing.assert_allclose(merge_p_values(parts), [0.04, 1.0, 1.0])
    rng = np.random.default_rng(0)
    u = rng.random(40_000)
    opposed = merge_p_values([u, 1 - u])
    same = merge_p_values([u, u])
    for p in (opposed, same, merge_p_values([u, rng.random(40_000)])):
        assert (p <= 0.05).mean() <= 0.055


def test_shift_test_equals_scipy():
    rng = np.random.default_rng(0)
    for shift, n in ((0.0, 80), (0.3, 120), (2.0, 50)):
        a, b = np.round(rng.normal(size=90), 1), np.round(rng.normal(shift, size=n), 1)
        got = shift_test(a, b)
        assert got.distance == pytest.approx(stats.ks_2samp(a, b).statistic, abs=1e-12)
        scaled = got.distance * np.sqrt(90 * n / (90 + n))
        assert got.p_value == pytest.approx(stats.kstwobign.sf(scaled), abs=1e-9)
    assert shift_test(a, a) == (0.0, 1.0)
    with pytest.raises(RunFailed):
        shift_test(a, np.zeros(0))


@pytest.mark.parametrize(("a", "b"), [(1, 1), (1, 60), (3, 7), (10, 190), (50, 951)])
def test_beta_equals_scipy(a, b):
    for x in (0.0, 1e-6, 0.01, 0.05, 0.3, 0.9, 1.0):
        assert beta_cdf(x, a, b) == pytest.approx(stats.beta.cdf(x, a, b), abs=1e-10)
    x = np.arange(201)
    np.testing.assert_allclose(
        beta_binomial_pmf(200, a, b), stats.betabinom.pmf(x, 200, a, b), atol=1e-10
    )


def test_other_distributions_equal_scipy():
    for n, p in ((1, 0.5), (20, 0.05), (500, 0.3)):
        expected = stats.binom.sf(np.arange(n + 1) - 1, n, p)
        np.testing.assert_allclose(binomial_tails(n, p), expected, atol=1e-10)
    for x in (0.0, 0.1, 0.2, 0.21, 0.5, 1.0, 2.0, 5.0):
        assert kolmogorov_tail(x) == pytest.approx(stats.kstwobign.sf(x), abs=1e-9)
    for degrees in (*range(1, 40), 100, 1000):
        assert t_quantile_975(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=3e-4)


def test_delta_takes_the_smallest_k_that_is_sound():
    for m in (45, 199, 500, 2000):
        for alpha, delta in ((0.05, 0.1), (0.1, 0.05), (0.2, 0.5)):
            sound = [k for k in range(1, m + 1) if stats.beta.cdf(alpha, m + 1 - k, k) >= 1 - delta]
            expected = m + 1 - min(sound) if sound else 0
            assert spacings(m, alpha, delta) == expected
