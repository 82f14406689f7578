"""Corrections of p values: against the textbook procedures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from peftlab.core.corrections import corrected

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)
ROUNDING = 1e-11  # corrected values are rounded to 12 digits


def textbook_bh(p):
    """Return min over all j with p_j >= p_i of p_j m / rank_j."""
    m = len(p)
    return [
        min(min(1.0, other * m / sum(each <= other for each in p)) for other in p if other >= one)
        for one in p
    ]


def textbook_holm(p):
    """Return max over all j with p_j <= p_i of p_j times the number of p values not below it."""
    m = len(p)
    return [
        max(min(1.0, other * (m - sum(each < other for each in p))) for other in p if other <= one)
        for one in p
    ]


@pytest.mark.parametrize("method", ["bh", "holm"])
def test_corrections_are_the_textbook_procedures(method):
    rng = np.random.default_rng(1)
    slow = {"bh": textbook_bh, "holm": textbook_holm}[method]
    for trial in range(100):
        p = rng.random(int(rng.integers(1, 25))) ** 2
        if trial % 3 == 0:
            p = p.round(1)  # ties, and zeros
        found = np.array(corrected(p, method))
        np.testing.assert_allclose(found, slow(list(p)), atol=ROUNDING)
        order = np.argsort(p, kind="stable")
        assert (np.diff(found[order]) >= 0).all()
        assert (found >= p - ROUNDING).all()
        if method == "bh":
            np.testing.assert_allclose(found, stats.false_discovery_control(p), atol=ROUNDING)


def test_bh_rejects_what_the_step_up_rule_rejects():
    """The procedure as published: reject the k smallest, k the last with p_(k) <= k alpha / m."""
    rng = np.random.default_rng(2)
    for _ in range(100):
        p = rng.random(int(rng.integers(1, 25))) ** 3
        ranked = np.sort(p)
        passed = [k + 1 for k, one in enumerate(ranked) if one <= (k + 1) * 0.05 / len(p)]
        assert sum(q <= 0.05 for q in corrected(p)) == max(passed, default=0)


def test_holm_rejects_what_the_step_down_rule_rejects():
    rng = np.random.default_rng(3)
    for _ in range(100):
        p = rng.random(int(rng.integers(1, 25))) ** 4
        rejected = 0
        for one in np.sort(p):
            if one > 0.05 / (len(p) - rejected):
                break
            rejected += 1
        assert sum(q <= 0.05 for q in corrected(p, "holm")) == rejected


@given(P_VALUES, st.sampled_from(["bh", "holm"]), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_corrections_do_not_depend_on_order_and_holm_is_the_stricter(p, method, random):
    order = list(range(len(p)))
    random.shuffle(order)
    straight = corrected(p, method)
    mixed = corrected([p[k] for k in order], method)
    assert mixed == pytest.approx([straight[k] for k in order], abs=ROUNDING)
    pairs = zip(corrected(p, "bh"), corrected(p, "holm"), strict=True)
    assert all(bh <= holm + ROUNDING for bh, holm in pairs)


@pytest.mark.parametrize("method", ["bh", "holm", "none"])
def test_undefined_p_values_stay_and_do_not_count(method):
    p = [0.01, float("nan"), 0.2, 0.03]
    found = corrected(p, method)
    assert np.isnan(found[1])
    assert [found[0], *found[2:]] == corrected([0.01, 0.2, 0.03], method)
    assert np.isnan(corrected([float("nan")], method)).all()
    assert corrected([], method) == []


def test_without_correction_p_values_stay():
    assert corrected([0.3, 0.01], "none") == [0.3, 0.01]
