import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, binom
from sklearn.metrics import roc_auc_score

from peftlab.report import curves

scores = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30).map(np.array)


@given(scores, scores)
def test_area_under_roc_is_the_auroc(clean, triggered):
    fpr, tpr = curves.roc(clean, triggered)
    labels = [0] * len(clean) + [1] * len(triggered)
    expected = roc_auc_score(labels, np.concatenate([clean, triggered]))
    assert np.trapezoid(tpr, fpr) == pytest.approx(expected)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)


@given(scores, scores, st.floats(0, 1))
def test_tpr_at_is_the_best_allowed_threshold(clean, triggered, most):
    fpr, tpr = curves.roc(clean, triggered)
    best = max(
        (
            (triggered > cut).mean()
            for cut in [*clean, *triggered, -9]
            if (clean > cut).mean() <= most
        ),
        default=0,
    )
    assert curves.tpr_at(fpr, tpr, np.array([most]))[0] == pytest.approx(max(best, 0))


@given(scores, scores)
def test_shares_add_up(clean, triggered):
    edges, _ = curves.bins(clean, triggered)
    assert (np.diff(edges) > 0).all()
    assert curves.shares(clean, edges).sum() == pytest.approx(1)


def test_wide_scores_take_a_log_axis():
    wide = np.geomspace(0.1, 1e4, 200)
    edges, log = curves.bins(wide, wide)
    assert log
    assert edges[0] > 0
    assert not curves.bins(wide - 1, wide)[1]


def test_finite_array_drops_what_is_no_number():
    assert curves.finite_array([1, None, float("nan"), float("inf"), 2]).tolist() == [1, 2]
    assert len(curves.finite_array(None)) == len(curves.finite_array(["x"])) == 0


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("n", [1, 50, 700])
def test_band_without_calibration_size_is_binomial(alpha, n):
    low, high = curves.rate_band(alpha, n, None)
    assert low * n == pytest.approx(binom.ppf(0.025, n, alpha))
    assert high * n == pytest.approx(binom.ppf(0.975, n, alpha))


def test_band_with_calibration_size_is_beta_binomial_and_wider():
    low, high = curves.rate_band(0.05, 700, 199)
    assert low * 700 == pytest.approx(betabinom.ppf(0.025, 700, 10, 190))
    assert high * 700 == pytest.approx(betabinom.ppf(0.975, 700, 10, 190))
    assert high > curves.rate_band(0.05, 700, None)[1]


def test_too_few_calibration_texts_stop_nothing():
    assert curves.rate_band(0.01, 100, 50) == (0.0, 0.0)
