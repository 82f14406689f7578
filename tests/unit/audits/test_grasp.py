"""The audit as a whole: what it says, hides and refuses, and that it repeats itself."""

import json
import warnings
from itertools import combinations
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.audits.raters import GraspOptions, compare_models, grasp, plan_recruiting
from peftlab.audits.raters.axes import MERGED, make_axis, parse_axis
from peftlab.audits.raters.cohesion import METRICS, measure, xrr
from peftlab.audits.raters.counts import count
from peftlab.audits.raters.gaps import LEAST, LISTED, item_gaps
from peftlab.audits.raters.measured import Teller, measure_axis
from peftlab.audits.raters.pools import Pool, draw_pool
from peftlab.audits.raters.ratings import Attribute, Ratings
from peftlab.audits.raters.results import group_rows, null_rows
from peftlab.core.errors import ConfigError, InputRejected

MISSING = -1
QUICK = {"permutations": 19, "bootstrap": 0}


def options(**given_options):
    return GraspOptions(**(QUICK | given_options))


def pool_of(matrix, labels=None, **attributes):
    """Return ratings (raters, items) as a pool."""
    matrix = np.asarray(matrix)
    rater, item = np.nonzero(matrix != MISSING)
    names = labels or tuple(str(k) for k in range(max(2, int(matrix.max()) + 1)))
    return Ratings(
        tuple(f"i{k}" for k in range(matrix.shape[1])),
        tuple(f"r{k}" for k in range(matrix.shape[0])),
        names, item, rater, matrix[rater, item],
        {name: Attribute.of(name, values) for name, values in attributes.items()},
    )  # fmt: skip


def answers(raters, items=30, labels=3, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=items) + noise * rng.normal(size=(raters, items))
    return np.digitize(x, np.quantile(x, np.arange(1, labels) / labels))


def grouped(*sizes, names="abcdefgh", **more):
    """Return a pool with groups of these sizes."""
    groups = [name for name, size in zip(names, sizes, strict=False) for _ in range(size)]
    return pool_of(answers(len(groups), **more), group=groups)


def rows_of(found, axis="group"):
    return {row["group"]: row for row in found["groups"] if row["axis"] == axis}


def numbers(thing):
    """Yield all floats in a JSON value."""
    if isinstance(thing, dict):
        thing = list(thing.values())
    if isinstance(thing, list):
        for part in thing:
            yield from numbers(part)
    elif isinstance(thing, float):
        yield thing


def fails(code, error, call):
    with pytest.raises(error) as caught:
        call()
    assert caught.value.code == code
    return str(caught.value)


# --- what it says


@pytest.fixture(scope="module")
def three():
    pool = grouped(9, 7, 6, seed=1)
    chosen = options(permutations=99, bootstrap=40)
    return pool, chosen, grasp(pool, ["group"], chosen)


@pytest.fixture(scope="module")
def even():
    pool = draw_pool(Pool(raters=30, items=200, planted=15, strength=0))
    return grasp(pool, ["group"], options(bootstrap=150))


def test_every_metric_of_every_group_is_that_of_its_counts(three):
    pool, _, found = three
    axis = pool.attributes["group"]
    expected = measure(count(pool, axis.codes, 3))
    for k, (name, row) in enumerate(rows_of(found).items()):
        assert (name, row["suppressed"]) == (axis.values[k], False)
        assert row["raters"] == (axis.codes == k).sum()
        assert row["ratings"] == 30 * row["raters"]
        for metric in METRICS:
            assert row[metric] == pytest.approx(expected[metric][k], abs=1e-6)
            assert 0 < row[f"p_{metric}"] <= row[f"q_{metric}"] + 1e-6
            assert row[f"low_{metric}"] <= row[f"high_{metric}"]
            assert row[f"side_{metric}"] in {"above", "below", None}


def test_pairs_are_all_pairs_of_groups(three):
    pool, _, found = three
    axis = pool.attributes["group"]
    n = count(pool, axis.codes, 3).n
    pairs = list(combinations(range(3), 2))
    assert [(row["a"], row["b"]) for row in found["pairs"]] == [
        (axis.values[a], axis.values[b]) for a, b in pairs
    ]
    for row, (a, b) in zip(found["pairs"], pairs, strict=True):
        for one, other in ((a, b), (b, a)):
            value = xrr(n[[one]], n[[other]], np.ones((1, 30)))[0]
            assert row["xrr"] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_an_interval_holds_the_value_that_it_is_of(even, metric):
    """A rater drawn twice agrees with itself, which must not move any of the statistics."""
    for row in rows_of(even).values():
        assert row[f"low_{metric}"] <= row[metric] <= row[f"high_{metric}"]


def test_dsi_is_the_largest_gai_with_the_p_of_its_group(three):
    found = three[2]
    rows = rows_of(found)
    best = max(rows.values(), key=lambda row: row["gai"])
    about = found["dsi"]["group"]
    assert (about["value"], about["group"]) == (best["gai"], best["group"])
    assert (about["p"], about["q"]) == (best["p_gai"], best["q_gai"])
    assert about["gap"]["value"] == max(row["gap"] for row in rows.values())


def test_dsi_does_not_need_gai_among_the_metrics(three):
    pool, _, found = three
    alone = grasp(pool, ["group"], options(permutations=99, metrics=("plurality",)))
    assert alone["dsi"] == found["dsi"]
    assert not {"gai", "irr"} & set(rows_of(alone)["a"])


def test_histograms_hold_all_draws(three):
    found = three[2]
    assert {(row["group"], row["metric"]) for row in found["nulls"]} == {
        (group, metric) for group in "abc" for metric in ("irr", "xrr", "gai")
    }
    for row in found["nulls"]:
        assert sum(row["counts"]) == 99
        assert len(row["edges"]) == len(row["counts"]) + 1
        assert row["edges"][0] <= row["median"] <= row["edges"][-1]


def test_corrections_are_within_metric_and_axis():
    pool = pool_of(
        answers(24, seed=2), group=["a"] * 9 + ["b"] * 8 + ["c"] * 7, half=["x", "y"] * 12
    )
    alone, both = (
        grasp(pool, axes, options(permutations=99)) for axes in (["group"], ["half", "group"])
    )
    assert rows_of(alone) == rows_of(both)
    raw = grasp(pool, ["group"], options(permutations=99, correction="none"))
    holm = grasp(pool, ["group"], options(permutations=99, correction="holm"))
    for name, row in rows_of(raw).items():
        assert row["q_irr"] == row["p_irr"] == rows_of(alone)[name]["p_irr"]
        assert rows_of(holm)[name]["q_irr"] >= rows_of(alone)[name]["q_irr"] >= row["p_irr"]


def test_power_shows_that_chance_does_more_to_small_groups():
    found = grasp(draw_pool(Pool(raters=60, items=40, planted=12)), ["group"], options())["power"]
    widths = np.subtract(found["high"], found["low"])
    assert found["sizes"] == [5, 8, 13, 20, 30]
    assert (np.diff(widths) < 0).all()
    assert all(low < 1 < high for low, high in zip(found["low"], found["high"], strict=True))


def test_raters_of_unknown_group_are_left_out():
    matrix = answers(20, seed=3)
    known = grouped(9, 8, seed=3)
    groups = ["a"] * 9 + ["b"] * 8 + [None] * 3
    whole = grasp(pool_of(matrix, group=groups), ["group"], options(permutations=99))
    alone = grasp(pool_of(matrix[:17], group=groups[:17]), ["group"], options(permutations=99))
    assert rows_of(whole) == rows_of(alone)
    assert whole["gaps"] == alone["gaps"]
    assert whole["axes"][0]["unknown"] == 3
    assert whole["axes"][0]["raters"] == len(known.raters)


def test_progress_ends_at_its_total():
    told = []
    pool = pool_of(answers(20), group=["a", "b"] * 10, half=["x"] * 10 + ["y"] * 10)
    grasp(
        pool, ["group", "half"], options(bootstrap=7, within=("half",)),
        progress=lambda *said: told.append(said),
    )  # fmt: skip
    done = [one for one, _, _ in told]
    assert {total for _, total, _ in told} == {2 * (2 * 19 + 7)}
    assert done == sorted(done)
    assert done[-1] == told[0][1]


def slow_gaps(matrix, inside, labels):
    found = {}
    for i, column in enumerate(matrix.T):
        own = [label for label, mine in zip(column, inside, strict=True) if mine and label >= 0]
        rest = [
            label for label, mine in zip(column, inside, strict=True) if not mine and label >= 0
        ]
        if min(len(own), len(rest)) >= LEAST:
            found[f"i{i}"] = (
                sum(abs(own.count(k) / len(own) - rest.count(k) / len(rest)) for k in range(labels))
                / 2
            )
    return found


def test_item_gaps_are_the_largest_differences_of_shares():
    rng = np.random.default_rng(4)
    matrix = np.where(rng.random((24, 60)) < 0.35, MISSING, answers(24, 60, seed=4))
    pool = pool_of(matrix, group=["a"] * 11 + ["b"] * 13)
    axis = make_axis(pool, ("group",), min_group=5)
    rows = [row for row in item_gaps(pool, axis, axis.codes) if row["group"] == "a"]
    expected = slow_gaps(matrix, np.arange(24) < 11, 3)
    assert len(rows) == LISTED
    assert [row["gap"] for row in rows] == pytest.approx(
        sorted(expected.values(), reverse=True)[:LISTED], abs=1e-6
    )
    for row in rows:
        assert row["gap"] == pytest.approx(expected[row["item"]], abs=1e-6)
        assert row["ratings"] == (matrix[:11, int(row["item"][1:])] >= 0).sum()


# --- undefined values


def test_agreement_across_below_zero_leaves_the_index_out_and_says_why():
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 2, 40)
    matrix = np.where(np.arange(20)[:, None] < 10, truth, 1 - truth)
    found = grasp(pool_of(matrix, group=["a"] * 10 + ["b"] * 10), ["group"], options())
    for row in rows_of(found).values():
        assert row["irr"] == 1.0
        assert row["xrr"] < 0
        assert row["gai"] is row["p_gai"] is row["q_gai"] is row["side_gai"] is None
        assert "xrr is not clearly above 0" in row["reasons"]["gai"]
        assert row["gap"] == pytest.approx(1.0 - row["xrr"], abs=1e-5)
    assert found["dsi"]["group"]["value"] is None
    assert found["dsi"]["group"]["group"] is None


def test_agreement_across_within_its_null_spread_leaves_the_index_out():
    pool = pool_of(np.random.default_rng(6).integers(0, 3, (20, 12)), group=["a", "b"] * 10)
    chosen = options(permutations=199)
    axis = make_axis(pool, ("group",), min_group=5)
    one = measure_axis(pool, axis, chosen, Teller(None, 0))
    spread = one.plain["xrr"].std(axis=0)
    for values in (one.observed, one.plain):
        low = values["xrr"] < spread
        assert np.isnan(values["gai"][low]).all()
        assert not np.isnan(values["gai"][~low]).any()


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_one_label_only_is_undefined_with_reasons_and_without_warnings(level):
    pool = pool_of(np.zeros((20, 15), dtype=int), group=["a", "b"] * 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = grasp(pool, ["group"], options(level=level, bootstrap=5))
    for row in rows_of(found).values():
        for metric in ("irr", "xrr", "voting", "gai", "gap"):
            assert row[metric] is row[f"p_{metric}"] is row[f"low_{metric}"] is None
            assert row["reasons"][metric]
        assert row["plurality"] == 1.0
        assert row["negentropy"] == pytest.approx(log(2), abs=1e-6)
    json.dumps(found, allow_nan=False)


def test_perfect_agreement_is_one_without_warnings():
    pool = pool_of(np.tile([0, 1, 2] * 5, (20, 1)), group=["a", "b"] * 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = grasp(pool, ["group"], options(bootstrap=5))
    for row in rows_of(found).values():
        assert row["irr"] == row["xrr"] == row["gai"] == row["voting"] == 1.0
        assert row["negentropy"] == pytest.approx(log(3), abs=1e-6)
        assert row["reasons"] == {}


def test_a_group_that_says_one_thing_has_no_alpha_and_the_others_do():
    matrix = answers(20, labels=2, seed=7)
    matrix[:10] = 0
    found = rows_of(grasp(pool_of(matrix, group=["a"] * 10 + ["b"] * 10), ["group"], options()))
    assert found["a"]["irr"] is None
    assert "one label only" in found["a"]["reasons"]["irr"]
    assert found["b"]["irr"] is not None


def test_shuffles_that_change_nothing_but_rounding_do_not_stop_the_audit():
    """Each rater deviates on one item, so every shuffle gives the same value up to rounding."""
    for raters in range(10, 60):
        matrix = np.repeat([[0, 1]], raters, axis=1).reshape(1, -1).repeat(raters, axis=0)
        matrix[np.arange(raters), np.arange(raters)] = 1
        pool = pool_of(matrix, group=["a"] * 5 + ["b"] * (raters - 5))
        axis = make_axis(pool, ("group",), min_group=5)
        chosen = options(permutations=49)
        one = measure_axis(pool, axis, chosen, Teller(None, 0))
        assert null_rows(one) == []
        assert {row["p_gai"] for row in group_rows(one, chosen)} == {None}


# --- repeatable


def test_the_same_seed_gives_the_same_text():
    pool = draw_pool(Pool(raters=30, items=25, planted=8))
    first, second, other = (
        json.dumps(grasp(pool, ["group"], options(permutations=49, bootstrap=20, seed=seed)))
        for seed in (3, 3, 4)
    )
    assert first == second
    assert first != other
    json.loads(first)


def test_the_order_of_rows_in_the_file_changes_nothing():
    rng = np.random.default_rng(8)
    matrix = answers(16, 20, seed=8)
    rows = [
        (f"i{i}", f"r{j}", int(matrix[j, i]), "ab"[j % 2]) for j in range(16) for i in range(20)
    ]
    texts = set()
    for _ in range(2):
        columns = zip(*(rows[k] for k in rng.permutation(len(rows))), strict=True)
        table = dict(zip(("i", "r", "l", "g"), columns, strict=True))
        pool = Ratings.from_long(table, item="i", rater="r", label="l", attrs=["g"])
        texts.add(json.dumps(grasp(pool, ["g"], options(bootstrap=5))))
    assert len(texts) == 1


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_order_of_raters_items_labels_and_names_of_groups_do_not_matter(seed):
    """Ties are dropped: the lowest label wins them otherwise, which is a matter of order.

    Whether GAI is shown depends on a null spread, which is sampled; its value does not.
    """
    rng = np.random.default_rng(seed)
    matrix = np.where(rng.random((15, 12)) < 0.2, MISSING, answers(15, 12, seed=seed))
    groups = np.array(["a"] * 5 + ["b"] * 6 + ["c"] * 4)
    raters, items, labels = rng.permutation(15), rng.permutation(12), rng.permutation(3)
    moved = np.where(matrix < 0, MISSING, labels[matrix])[raters][:, items]
    names = {"a": "z", "b": "y", "c": "x"}
    chosen = options(ties="drop", min_group=2)
    before, after = (
        rows_of(grasp(pool_of(one, group=list(of)), ["group"], chosen))
        for one, of in ((matrix, groups), (moved, [names[name] for name in groups[raters]]))
    )
    for old, new in names.items():
        for metric in (*METRICS, "tie_share", "raters", "ratings"):
            one, other = before[old][metric], after[new][metric]
            if metric != "gai" or None not in (one, other):
                assert other == pytest.approx(one, abs=2e-6), metric


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_a_rater_without_ratings_changes_no_value(seed):
    rng = np.random.default_rng(seed)
    matrix = np.where(rng.random((12, 10)) < 0.2, MISSING, answers(12, 10, seed=seed))
    groups = ["a"] * 6 + ["b"] * 6
    idle = np.vstack([matrix, np.full((1, 10), MISSING)])
    before, after = (
        rows_of(grasp(pool_of(one, group=of), ["group"], options()))
        for one, of in ((matrix, groups), (idle, [*groups, "b"]))
    )
    for name in "ab":
        for metric in METRICS:
            assert after[name][metric] == before[name][metric]


# --- small groups


def suppressed_pool():
    """Return groups of 14, 12, 9 and a cell of three people who answer in their own way."""
    matrix = answers(38, 40, seed=9)
    matrix[35:] = np.random.default_rng(9).integers(0, 3, (3, 40))
    groups = ["a"] * 14 + ["b"] * 12 + ["c"] * 9 + ["few"] * 3
    return pool_of(matrix, group=groups)


def test_no_statistic_of_a_cell_of_three_is_in_any_output():
    pool = suppressed_pool()
    chosen = options(permutations=99, bootstrap=40)
    models = {"m": {f"i{k}": str(k % 3) for k in range(40)}}
    outputs = {
        "grasp": grasp(pool, ["group"], chosen),
        "models": compare_models(pool, models, ["group"], chosen),
        "plan": plan_recruiting(pool, ["group"], 1000, chosen),
    }
    row = rows_of(outputs["grasp"])["few"]
    assert row == {
        "axis": "group", "group": "few", "raters": None, "ratings": None, "suppressed": True,
    }  # fmt: skip
    assert outputs["grasp"]["axes"][0]["suppressed"] == ["few"]
    named = [
        (part, row)
        for part in ("pairs", "nulls", "gaps")
        for row in outputs["grasp"][part]
        if "few" in row.values()
    ]
    assert named == []
    assert outputs["grasp"]["dsi"]["group"]["group"] != "few"
    assert "few" not in json.dumps(outputs["models"])
    assert "few" not in json.dumps(outputs["plan"]["groups"])
    axis = pool.attributes["group"]
    counts = count(pool, axis.codes, 4)
    values = measure(counts)
    values.pop("plurality")  # a multiple of 1/120, which other numbers are too by chance
    secrets = {round(float(value[3]), 6) for value in values.values()}
    for k in range(3):
        secrets.add(round(float(xrr(counts.n[[3]], counts.n[[k]], counts.weights)[0]), 6))
    shown = set(numbers(outputs))
    assert secrets & shown - {0.0, 1.0} == set()


def test_two_groups_of_which_one_is_hidden_show_nothing_across():
    found = grasp(grouped(20, 3, seed=10), ["group"], options(permutations=99, bootstrap=20))
    row = rows_of(found)["a"]
    for metric in ("xrr", "voting", "cross_negentropy", "gai", "gap"):
        assert row[metric] is row[f"low_{metric}"] is row[f"side_{metric}"] is None
        assert row["reasons"][metric] == "everybody else is a suppressed group"
        assert row.get(f"p_{metric}") is None
    for metric in ("irr", "plurality", "negentropy"):
        assert row[metric] is not None
    assert found["pairs"] == found["gaps"] == []
    assert found["dsi"]["group"]["value"] is None
    assert found["axes"][0]["notes"]


def test_what_is_hidden_across_groups_is_not_in_the_list_of_items():
    """With min_group 10, seven others are as hidden as three are by default."""
    found = grasp(grouped(30, 7, seed=11), ["group"], options(min_group=10))
    assert rows_of(found)["a"]["xrr"] is None
    assert found["gaps"] == []


def test_two_hidden_groups_hide_what_is_across_them():
    found = grasp(grouped(20, 2, 2, seed=12), ["group"], options())
    assert rows_of(found)["a"]["gai"] is None
    assert grasp(grouped(20, 4, 4, seed=12), ["group"], options())["groups"][0]["gai"] is not None


def test_an_intersection_that_singles_out_a_rater_is_refused():
    pool = pool_of(
        answers(13), race=["x"] * 6 + ["y"] * 7, sex=["m"] * 6 + ["m"] * 6 + ["f"]
    )  # fmt: skip
    message = fails(
        "RATERS-SINGLE", InputRejected, lambda: grasp(pool, [("race", "sex")], options())
    )
    assert "singles out 1" in message
    models = {"m": {f"i{k}": "0" for k in range(30)}}
    fails(
        "RATERS-SINGLE", InputRejected,
        lambda: compare_models(pool, models, [("race", "sex")], options()),
    )  # fmt: skip
    found = grasp(pool, ["sex"], options())  # of one attribute it is suppressed
    assert rows_of(found, "sex")["f"]["suppressed"]


def test_small_groups_of_an_intersection_can_be_merged():
    race = ["x"] * 8 + ["y"] * 8 + ["z"] * 3
    sex = ["m"] * 8 + ["f"] * 7 + ["m", "m", "f", "f"]
    pool = pool_of(answers(19), race=race, sex=sex)
    fails("RATERS-SINGLE", InputRejected, lambda: grasp(pool, [("race", "sex")], options()))
    axis = make_axis(pool, ("race", "sex"), min_group=4, merge_small=True)
    assert axis.name == "race*sex"
    assert axis.groups == ("x * m", "y * f", MERGED)
    assert axis.sizes.tolist() == [8, 7, 4]
    assert axis.shown == (0, 1, 2)
    found = grasp(pool, [("race", "sex")], options(min_group=4, merge_small=True))
    assert {row["group"] for row in found["groups"]} == set(axis.groups)
    hidden = make_axis(pool, ("race", "sex"), min_group=5, merge_small=True)
    assert hidden.shown == (0, 1)


def test_one_small_group_alone_is_not_merged():
    axis = make_axis(grouped(9, 8, 3), ("group",), min_group=5, merge_small=True)
    assert axis.groups == ("a", "b", "c")
    assert axis.shown == (0, 1)


def test_merged_groups_have_a_name_of_their_own():
    """A file may have a large group of that name already."""
    groups = [MERGED] * 9 + ["a"] * 8 + ["b"] * 3 + ["c"] * 3
    axis = make_axis(
        pool_of(answers(23), group=groups), ("group",), min_group=5, merge_small=True
    )  # fmt: skip
    assert len(set(axis.groups)) == len(axis.groups)


def test_an_intersection_has_the_cells_that_occur():
    pool = pool_of(
        answers(12), race=["x"] * 4 + ["y"] * 4 + ["x"] * 2 + [None, "x"],
        sex=["m"] * 4 + ["f"] * 4 + ["f"] * 2 + ["f", None],
    )  # fmt: skip
    axis = make_axis(pool, ("race", "sex"), min_group=2)
    assert axis.groups == ("x * f", "x * m", "y * f")
    assert axis.codes.tolist() == [1] * 4 + [2] * 4 + [0] * 2 + [-1, -1]


@pytest.mark.parametrize(
    ("text", "parts"),
    [("race", ("race",)), ("race*sex", ("race", "sex")), (" a * b* c ", ("a", "b", "c"))],
)
def test_an_axis_is_written_with_stars(text, parts):
    assert parse_axis(text) == parts


# --- what it refuses


def test_axes_that_are_not_there_are_refused():
    pool = grouped(9, 8)
    message = fails("RATERS-AXIS", ConfigError, lambda: grasp(pool, ["groups"], options()))
    assert "group" in message
    fails("RATERS-AXIS", ConfigError, lambda: grasp(pool, [], options()))
    fails("RATERS-AXIS", ConfigError, lambda: grasp(pool, [("group", "group")], options()))
    fails("RATERS-AXIS", ConfigError, lambda: grasp(pool, ["group"], options(within=("x",))))


def test_axes_without_groups_to_compare_are_refused():
    fails("RATERS-GROUPS", InputRejected, lambda: grasp(grouped(9), ["group"], options()))
    fails("RATERS-GROUPS", InputRejected, lambda: grasp(grouped(4, 4, 4), ["group"], options()))
    nobody = pool_of(answers(9), group=[None] * 9)
    fails("RATERS-GROUPS", InputRejected, lambda: grasp(nobody, ["group"], options()))


def test_interval_distances_of_words_are_refused():
    pool = pool_of(answers(12, labels=2), labels=("no", "yes"), group=["a", "b"] * 6)
    fails("RATERS-LEVEL", ConfigError, lambda: grasp(pool, ["group"], options(level="interval")))
    assert grasp(pool, ["group"], options(level="ordinal"))["groups"][0]["irr"] is not None


def test_interval_distances_are_of_the_numbers_that_labels_are():
    matrix = answers(12, seed=13)
    chosen = options(level="interval")
    near, far, same = (
        rows_of(grasp(pool_of(matrix, labels=labels, group=["a", "b"] * 6), ["group"], chosen))
        for labels in (("0", "1", "2"), ("0", "1", "100"), ("10", "20", "30"))
    )
    assert near["a"]["irr"] == same["a"]["irr"] != far["a"]["irr"]


def test_pairs_of_groups_that_would_give_a_suppressed_one_away_are_left_out():
    """xrr(a, rest) and xrr(a, b) together are xrr(a, c), so pairs go where c is suppressed."""
    few = pool_of(answers(33), group=["a"] * 15 + ["b"] * 15 + ["c"] * 3)
    many = pool_of(answers(38), group=["a"] * 15 + ["b"] * 15 + ["c"] * 4 + ["d"] * 4)
    assert grasp(few, ["group"], options(permutations=19))["pairs"] == []
    assert len(grasp(many, ["group"], options(permutations=19))["pairs"]) == 1


def test_an_intersection_does_not_reopen_what_a_single_axis_closes():
    """x is compared with y alone, who are too few, so x * f and x * m tell of y as well."""
    pool = pool_of(
        answers(44, items=30), country=["x"] * 40 + ["y"] * 4, sex=["f", "m"] * 22
    )  # fmt: skip
    found = grasp(pool, ["country", ("country", "sex")], options(permutations=19))
    assert found["gaps"] == found["pairs"] == []
    assert grasp(pool, ["sex"], options(permutations=19))["gaps"] != []


def test_no_output_says_which_cells_of_an_intersection_are_small():
    pool = pool_of(answers(43), country=["x"] * 40 + ["w"] * 3, sex=["f", "m"] * 20 + ["f"] * 3)
    found = grasp(pool, ["country", ("country", "sex")], options(permutations=19))
    assert "w * f" not in json.dumps(found)
    axis = found["axes"][1]
    assert (axis["groups"], axis["suppressed"]) == (2, ["1 small groups"])
    assert [row["group"] for row in found["groups"]] == ["w", "x", "x * f", "x * m"]


def test_ordinal_distances_need_an_order():
    rows = {"i": ["a", "b"] * 3, "r": list("112233"), "l": ["low", "high"] * 3, "g": list("xxyyzz")}
    names = {"item": "i", "rater": "r", "label": "l", "attrs": ["g"]}
    chosen = options(level="ordinal", permutations=19, min_group=2)
    with pytest.raises(ConfigError) as refused:
        grasp(Ratings.from_long(rows, **names), ["g"], chosen)
    assert refused.value.code == "RATERS-LEVEL"
    assert Ratings.from_long(rows, **names, labels=["low", "high"]).ordered
    numbers = rows | {"l": [2, 10] * 3}
    assert Ratings.from_long(numbers, **names).ordered


def test_a_ratio_to_an_agreement_that_may_be_zero_is_left_out():
    """Across it is about chance; the ratio would be large and its interval false."""
    rng = np.random.default_rng(3)
    own, other = rng.integers(0, 2, (2, 40))
    matrix = np.array([own] * 12 + [other] * 12) ^ (rng.random((24, 40)) < 0.15)
    found = grasp(pool_of(matrix, group=["a"] * 12 + ["b"] * 12), ["group"],
                  GraspOptions(permutations=99, bootstrap=99))  # fmt: skip
    for row in found["groups"]:
        assert row["low_xrr"] <= 0
        assert row["gai"] is None
        assert "not clearly above 0" in row["reasons"]["gai"]


def test_intervals_of_shares_stay_in_their_range():
    pool = draw_pool(Pool(raters=24, items=12, planted=12, labels=2, noise=0.3))
    found = grasp(pool, ["group"], GraspOptions(permutations=19, bootstrap=99))
    for row in found["groups"]:
        assert row["high_voting"] <= 1
        assert row["high_plurality"] <= 1
        assert 0 <= row["low_negentropy"] <= row["high_negentropy"] <= np.log(2) + 1e-6
