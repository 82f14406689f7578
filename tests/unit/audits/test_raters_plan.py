"""Whom to recruit: shrinkage, power against simulation, and money that is never overspent."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from peftlab.audits.raters import GraspOptions, Ratings, grasp, plan_recruiting
from peftlab.audits.raters.axes import make_axis
from peftlab.audits.raters.cohesion import measure
from peftlab.audits.raters.counts import count
from peftlab.audits.raters.measured import Teller, measure_axis
from peftlab.audits.raters.plan import (
    MOST,
    WANTED,
    _fund,
    power_of,
    raters_needed,
    shrunk,
)
from peftlab.audits.raters.pools import Pool, draw_pool
from peftlab.audits.raters.power import Spread, group_sizes, power_curve, random_groups
from peftlab.audits.raters.ratings import Attribute
from peftlab.audits.raters.results import group_rows
from peftlab.core.errors import ConfigError, InputRejected

QUICK = GraspOptions(permutations=49, bootstrap=0)


def pool_of(matrix, **attributes):
    rater, item = np.nonzero(matrix >= 0)
    return Ratings(
        tuple(f"i{k}" for k in range(matrix.shape[1])),
        tuple(f"r{k}" for k in range(matrix.shape[0])),
        tuple(str(k) for k in range(max(2, int(matrix.max()) + 1))),
        item, rater, matrix[rater, item],
        {name: Attribute.of(name, values) for name, values in attributes.items()},
    )  # fmt: skip


@pytest.fixture(scope="module")
def pilot():
    return draw_pool(Pool(raters=80, items=120, planted=12, strength=0.6, answered=0.5), seed=5)


@pytest.fixture(scope="module")
def planned(pilot):
    return plan_recruiting(pilot, ["group"], 100_000, QUICK)


# --- the arithmetic


@given(st.floats(-2, 2), st.floats(0.01, 1))
@settings(max_examples=100)
def test_power_is_that_of_a_two_sided_normal_test(effect, sd):
    edge = stats.norm.isf(0.025)
    expected = stats.norm.sf(edge, loc=effect / sd) + stats.norm.cdf(-edge, loc=effect / sd)
    assert power_of(effect, sd) == pytest.approx(expected, abs=1e-9)
    assert power_of(effect, sd) == pytest.approx(power_of(-effect, sd))


@given(st.floats(-2, 2), st.floats(0.01, 1))
@settings(max_examples=100)
def test_shrinking_keeps_the_sign_and_never_enlarges(effect, sd):
    found = shrunk(effect, sd)
    assert abs(found) <= abs(effect)
    assert found * effect >= 0
    assert (found == 0) == (abs(effect) <= sd)
    if found:
        assert found == pytest.approx(effect - sd**2 / effect)


@given(st.floats(0.005, 1), st.floats(0.1, 3), st.floats(0.2, 1.5), st.booleans())
@settings(max_examples=100)
def test_raters_needed_is_the_smallest_group_that_is_large_enough(effect, c, a, below):
    effect, spread = -effect if below else effect, Spread(c, a)
    found = raters_needed(effect, spread)
    if found is None:
        assert power_of(effect, spread.at(MOST)) < WANTED
    else:
        assert 1 <= found <= MOST
        assert power_of(effect, spread.at(found)) >= WANTED
        assert found == 1 or power_of(effect, spread.at(found - 1)) < WANTED


def test_raters_needed_is_what_a_search_one_by_one_finds():
    spread = Spread(1.2, 0.6)
    for effect in (0.05, 0.1, 0.3, 0.9, -0.2):
        slow = next(size for size in range(1, MOST) if power_of(effect, spread.at(size)) >= WANTED)
        assert raters_needed(effect, spread) == slow


def test_without_effect_or_without_a_falling_spread_no_group_is_large_enough():
    assert raters_needed(0.0, Spread(1.0, 0.5)) is None
    assert raters_needed(0.5, Spread(1.0, 0.0)) is None
    assert raters_needed(0.5, Spread(1.0, -0.2)) is None
    assert raters_needed(1e-4, Spread(1.0, 0.5)) is None


def test_the_spread_is_fitted_on_a_logarithmic_scale():
    rng = np.random.default_rng(0)
    sizes = [5, 8, 13, 20, 33]
    draws = []
    for size in sizes:
        values = rng.normal(size=400)
        draws.append((values - values.mean()) / values.std() * 2.0 * size**-0.7)
    spread = Spread.fit(sizes, draws)
    assert (spread.c, spread.a) == pytest.approx((2.0, 0.7))
    draws[0][:150] = np.nan  # some are undefined, which is no reason to leave the size out
    assert Spread.fit(sizes, draws).a == pytest.approx(0.7, abs=0.1)
    unknown = [np.full(400, np.nan)] * 4
    assert Spread.fit(sizes, [*unknown, draws[-1]]) is None
    assert Spread.fit([], []) is None


@given(st.integers(0, 400))
@settings(max_examples=60)
def test_sizes_grow_up_to_half_of_the_pool(raters):
    sizes = group_sizes(raters)
    assert sizes == sorted(set(sizes))
    if raters >= 10:
        assert (sizes[0], sizes[-1]) == (5, raters // 2)
    else:
        assert sizes == []


# --- random groups


def test_random_groups_are_groups_of_that_size_against_all_others():
    pool = draw_pool(Pool(raters=6, items=40, planted=2), seed=1)
    possible = set()
    for a in range(6):
        for b in range(a):
            codes = np.ones(6, dtype=int)
            codes[[a, b]] = 0
            possible.add(round(float(measure(count(pool, codes, 2))["gai"][0]), 9))
    found = random_groups(pool, [2], draws=300, seed=0)[0]
    assert {round(float(value), 9) for value in found} == possible


def test_the_power_curve_is_the_range_of_random_groups():
    pool = draw_pool(Pool(raters=30, items=30, planted=8), seed=2)
    curve = power_curve(pool, seed=3)
    for k, size in enumerate(curve["sizes"]):
        draws = random_groups(pool, [size], seed=3)[0]
        for name, share in (("low", 0.025), ("median", 0.5), ("high", 0.975)):
            assert curve[name][k] == pytest.approx(np.quantile(draws, share), abs=1e-6)


def test_a_pool_too_small_for_random_groups_has_an_empty_curve():
    pool = draw_pool(Pool(raters=8, items=30, planted=4), seed=4)
    assert power_curve(pool) == {"sizes": [], "low": [], "median": [], "high": []}


@pytest.mark.parametrize(("items", "pools"), [(350, 25), (80, 50)])
def test_predicted_power_is_that_of_simulated_pools(items, pools):
    """13 of 104 raters with strength 0.5, where power is large, and where it is about a half."""
    options = GraspOptions(metrics=("gai",), permutations=99, bootstrap=0)
    rejected, effects = 0, []
    for seed in range(pools):
        pool = draw_pool(Pool(items=items, strength=0.5), seed)
        axis = make_axis(pool, ("group",), min_group=5)
        one = measure_axis(pool, axis, options, Teller(None, 0))
        row = next(row for row in group_rows(one, options) if row["group"] == "planted")
        rejected += row["p_gai"] < 0.05
        effects.append(row["gai"] - 1)
    predicted = []
    sizes = group_sizes(104)
    for seed in range(4):
        pilot = draw_pool(Pool(items=items, strength=0.5), 1000 + seed)
        spread = Spread.fit(sizes, random_groups(pilot, sizes, draws=200, seed=seed))
        predicted.append(power_of(float(np.mean(effects)), spread.at(13)))
    assert abs(np.mean(predicted) - rejected / pools) <= 0.15


# --- the plan


def test_pools_without_groups_promise_no_group_much_power():
    """The large group neither: its few counterparts make its GAI as uncertain as theirs."""
    power = {"others": [], "planted": []}
    for seed in range(12):
        pool = draw_pool(Pool(raters=80, items=60, planted=8, strength=0), seed)
        for row in plan_recruiting(pool, ["group"], 0, QUICK)["groups"]:
            power[row["group"]].append(row["power"])
    assert np.mean(power["planted"]) <= 0.2
    assert np.mean(power["others"]) <= 0.2


def test_a_plan_rests_on_the_audit(pilot, planned):
    rows = {row["group"]: row for row in grasp(pilot, ["group"], QUICK)["groups"]}
    spread = Spread(**planned["spread"])
    each = planned["ratings_per_rater"]
    assert each == round(len(pilot) / 80)
    assert {row["group"] for row in planned["groups"]} == {"others", "planted"}
    for row in planned["groups"]:
        known = rows[row["group"]]
        assert (row["raters"], row["gai"], row["p"]) == (
            known["raters"], known["gai"], known["p_gai"],
        )  # fmt: skip
        sd = spread.at(row["raters"], 80 - row["raters"])
        assert row["effect"] == pytest.approx(shrunk(row["gai"] - 1, sd), abs=1e-4)
        assert row["power"] == pytest.approx(power_of(row["effect"], sd), abs=1e-3)
        if row["needed"] is not None:
            assert row["extra"] == max(0, row["needed"] - row["raters"])
            assert row["cost"] == row["extra"] * each
    about = grasp(pilot, ["group"], QUICK)["dsi"]["group"]
    assert planned["axes"] == [
        {
            "axis": "group", "dsi": about["value"], "group": about["group"], "p": about["p"],
            "funded": sum(row["funded"] for row in planned["groups"]),
        }
    ]  # fmt: skip
    json.dumps(planned, allow_nan=False)


def test_the_same_seed_gives_the_same_plan(pilot, planned):
    assert json.dumps(plan_recruiting(pilot, ["group"], 100_000, QUICK)) == json.dumps(planned)


@given(st.lists(st.one_of(st.none(), st.integers(0, 50)), max_size=8), st.integers(0, 100))
@settings(max_examples=150)
def test_the_budget_is_never_exceeded_and_no_choice_funds_more_groups(costs, budget):
    rows = [{"cost": cost, "funded": False} for cost in costs]
    rows.sort(key=lambda row: float("inf") if row["cost"] is None else row["cost"])
    spent = _fund(rows, budget)
    funded = [row["cost"] for row in rows if row["funded"]]
    assert spent == sum(funded) <= budget
    assert all(funded)
    paid = sorted(cost for cost in costs if cost)
    most = sum(total <= budget for total in np.cumsum(paid)) if paid else 0
    assert len(funded) == most


@pytest.mark.parametrize("budget", [0, 1, 500, 5000, 10**9])
def test_a_plan_stays_within_its_budget(budget):
    rng = np.random.default_rng(6)
    truth, own = rng.normal(size=(2, 100))
    x = truth + rng.normal(size=(60, 100))
    x[:6] += 0.4 * own
    x[6:13] += 0.7 * own[::-1]
    matrix = np.digitize(x, (-0.5, 0.5))
    pool = pool_of(matrix, group=["a"] * 6 + ["b"] * 7 + ["c"] * 47, half=["x", "y"] * 30)
    found = plan_recruiting(pool, ["group", "half"], budget, QUICK)
    assert found["spent"] == sum(row["cost"] for row in found["groups"] if row["funded"]) <= budget
    costs = [row["cost"] for row in found["groups"] if row["cost"] is not None]
    assert costs == sorted(costs)
    assert sum(axis["funded"] for axis in found["axes"]) == sum(
        row["funded"] for row in found["groups"]
    )


def test_a_group_without_gai_is_listed_without_a_plan():
    rng = np.random.default_rng(7)
    matrix = np.digitize(rng.normal(size=80) + rng.normal(size=(40, 80)), (-0.5, 0.5))
    matrix[:8] = 1
    pool = pool_of(matrix, group=["flat"] * 8 + ["b"] * 32)
    found = plan_recruiting(pool, ["group"], 10_000, QUICK)
    row = next(row for row in found["groups"] if row["group"] == "flat")
    assert row["gai"] is row["effect"] is row["power"] is row["needed"] is row["cost"] is None
    assert not row["funded"]
    assert found["groups"][-1]["cost"] is None


def test_a_group_whose_counterpart_is_hidden_is_listed_without_a_plan():
    rng = np.random.default_rng(8)
    matrix = np.digitize(rng.normal(size=60) + rng.normal(size=(30, 60)), (-0.5, 0.5))
    pool = pool_of(matrix, group=["a"] * 27 + ["few"] * 3)
    found = plan_recruiting(pool, ["group"], 10_000, QUICK)
    assert [(row["group"], row["gai"], row["p"]) for row in found["groups"]] == [("a", None, None)]
    assert found["suppressed"] == {"group": ["few"]}


def test_a_pilot_that_is_too_small_is_refused():
    pool = draw_pool(Pool(raters=10, items=30, planted=5), seed=9)
    with pytest.raises(InputRejected) as caught:
        plan_recruiting(pool, ["group"], 100, QUICK)
    assert caught.value.code == "RATERS-PILOT"


def test_axes_are_checked_as_in_the_audit(pilot):
    with pytest.raises(ConfigError) as caught:
        plan_recruiting(pilot, ["grup"], 100, QUICK)
    assert caught.value.code == "RATERS-AXIS"
