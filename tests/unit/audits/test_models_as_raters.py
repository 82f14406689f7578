"""A model as one more rater: whose view it shares, and how that moved."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from peftlab.audits.raters import GraspOptions, Ratings, compare_models, grasp
from peftlab.audits.raters.models import EVERYBODY, ITEMS_LEAST
from peftlab.audits.raters.pools import Pool, draw_pool
from peftlab.audits.raters.ratings import Attribute
from peftlab.core.errors import ConfigError, InputRejected

MISSING = -1
NO_DRAWS = GraspOptions(bootstrap=0)
DRAWS = GraspOptions(bootstrap=60)


@pytest.fixture(scope="module")
def pool():
    return draw_pool(Pool(raters=40, items=60, planted=15, strength=0.9), seed=1)


def votes_of(pool, group=None):
    """Return each item's most frequent label among a group, counted one by one."""
    times = {}
    for item, rater, label in zip(pool.item, pool.rater, pool.label, strict=True):
        axis = pool.attributes["group"]
        if group is None or axis.values[axis.codes[rater]] == group:
            of_item = times.setdefault(pool.items[item], {})
            of_item[pool.labels[label]] = of_item.get(pool.labels[label], 0) + 1
    return {item: max(sorted(of), key=of.get) for item, of in times.items()}


def shuffled(model, seed=0):
    names = list(model)
    order = np.random.default_rng(seed).permutation(len(names))
    return {names[k]: model[names[j]] for k, j in enumerate(order)}


def rows_of(found, model=None, part="rows"):
    return {
        row["group"]: row for row in found[part] if model is None or row["model"] == model
    }  # fmt: skip


def slow_xrr(pool, model, group=None):
    """kappa_x of one rating from the model and one from people, over all pairs."""
    axis = pool.attributes["group"]
    people = {}
    for item, rater, label in zip(pool.item, pool.rater, pool.label, strict=True):
        if group is None or axis.values[axis.codes[rater]] == group:
            people.setdefault(pool.items[item], []).append(pool.labels[label])
    common = [item for item in model if item in people]
    total = sum(1 + len(people[item]) for item in common)
    observed = sum(
        (1 + len(people[item])) * np.mean([model[item] != one for one in people[item]])
        for item in common
    )
    left = [model[item] for item in common]
    right = [one for item in common for one in people[item]]
    expected = np.mean([a != b for a in left for b in right])
    return 1 - observed / total / expected


def fails(code, error, call):
    with pytest.raises(error) as caught:
        call()
    assert caught.value.code == code
    return str(caught.value)


def test_agreement_is_that_of_all_pairs_for_every_model_and_group(pool):
    models = {
        "all": votes_of(pool),
        "planted": votes_of(pool, "planted"),
        "some": dict(list(shuffled(votes_of(pool)).items())[:25]),
    }
    found = compare_models(pool, models, ["group"], NO_DRAWS)
    assert found["names"] == list(models)
    assert len(found["rows"]) == 9
    for name, model in models.items():
        rows = rows_of(found, name)
        assert set(rows) == {EVERYBODY, "others", "planted"}
        for group, row in rows.items():
            one = None if group == EVERYBODY else group
            assert row["axis"] == ("" if one is None else "group")
            assert row["xrr"] == pytest.approx(slow_xrr(pool, model, one), abs=1e-6)
            assert "low" not in row


def test_a_model_that_votes_with_a_group_shares_its_view(pool):
    mind = votes_of(pool, "planted")
    found = compare_models(pool, {"mind": mind, "luck": shuffled(mind)}, ["group"], DRAWS)
    mine, luck = rows_of(found, "mind"), rows_of(found, "luck")
    assert mine["planted"]["xrr"] > luck["planted"]["xrr"] + 0.2
    assert mine["planted"]["xrr"] > mine["others"]["xrr"] + 0.1
    assert mine["planted"]["low"] > luck["planted"]["high"]
    assert luck["planted"]["low"] < 0 < luck["planted"]["high"]


def test_a_move_is_after_minus_before_from_the_first_model_to_the_last(pool):
    models = {
        "before": votes_of(pool, "planted"), "between": shuffled(votes_of(pool)),
        "after": votes_of(pool, "others"),
    }  # fmt: skip
    found = compare_models(pool, models, ["group"], DRAWS)
    for group, move in rows_of(found, part="moves").items():
        assert move["before"] == rows_of(found, "before")[group]["xrr"]
        assert move["after"] == rows_of(found, "after")[group]["xrr"]
        assert move["change"] == pytest.approx(move["after"] - move["before"], abs=2e-6)
        assert move["low"] <= move["change"] <= move["high"]
    moves = rows_of(found, part="moves")
    assert moves["planted"]["high"] < 0 < moves["others"]["low"]


def test_the_interval_of_a_move_is_paired(pool):
    """Two models that differ on one item: what both have in common does not blur the change."""
    one = votes_of(pool)
    other = one | {"item-0": next(label for label in pool.labels if label != one["item-0"])}
    found = compare_models(pool, {"one": one, "other": other}, [], DRAWS)
    move, row = found["moves"][0], found["rows"][0]
    assert move["high"] - move["low"] < (row["high"] - row["low"]) / 2
    same = compare_models(pool, {"one": one, "two": one}, [], DRAWS)["moves"][0]
    assert same["change"] == same["low"] == same["high"] == 0.0


def test_one_model_does_not_move(pool):
    assert compare_models(pool, {"m": votes_of(pool)}, ["group"], NO_DRAWS)["moves"] == []


def test_with_one_person_it_is_cohens_kappa():
    rng = np.random.default_rng(2)
    person, model = rng.integers(0, 3, (2, 50))
    items = tuple(f"i{k}" for k in range(50))
    lone = Ratings(items, ("r",), ("0", "1", "2"), np.arange(50), np.zeros(50, dtype=int), person)
    given_labels = dict(zip(items, map(str, model), strict=True))
    for level, kind in (("nominal", None), ("interval", "quadratic")):
        options = GraspOptions(bootstrap=0, level=level)
        found = compare_models(lone, {"m": given_labels}, [], options)["rows"][0]
        expected = cohen_kappa_score(person, model, weights=kind)
        assert found["xrr"] == pytest.approx(expected, abs=1e-6)


def test_items_that_the_people_did_not_rate_do_not_count(pool):
    model = votes_of(pool)
    found, more = (
        compare_models(pool, {"m": one}, ["group"], NO_DRAWS)
        for one in (model, model | {"elsewhere": "not a label"})
    )
    assert found == more


def test_labels_that_nobody_could_give_are_refused(pool):
    message = fails(
        "RATERS-MODEL", InputRejected,
        lambda: compare_models(pool, {"m": votes_of(pool) | {"item-3": "maybe"}}, [], NO_DRAWS),
    )  # fmt: skip
    assert "maybe" in message


def test_too_few_common_items_are_refused(pool):
    items = list(votes_of(pool).items())
    fails(
        "RATERS-MODEL", InputRejected,
        lambda: compare_models(pool, {"m": dict(items[: ITEMS_LEAST - 1])}, [], NO_DRAWS),
    )  # fmt: skip
    assert compare_models(pool, {"m": dict(items[:ITEMS_LEAST])}, [], NO_DRAWS)["rows"]


def test_axes_are_checked_as_in_the_audit(pool):
    model = {"m": votes_of(pool)}
    fails("RATERS-AXIS", ConfigError, lambda: compare_models(pool, model, ["grup"], NO_DRAWS))


def test_interval_distances_of_words_are_refused_as_in_the_audit():
    numbered = draw_pool(Pool(raters=20, items=30, planted=8, labels=2), seed=3)
    pool = Ratings(
        numbered.items, numbered.raters, ("no", "yes"), numbered.item, numbered.rater,
        numbered.label, numbered.attributes,
    )  # fmt: skip
    model = {"m": votes_of(pool)}
    options = GraspOptions(bootstrap=0, level="interval")
    fails("RATERS-LEVEL", ConfigError, lambda: grasp(pool, ["group"], options))
    fails("RATERS-LEVEL", ConfigError, lambda: compare_models(pool, model, ["group"], options))


def test_no_model_is_no_result_or_is_refused(pool):
    try:
        found = compare_models(pool, {}, ["group"], NO_DRAWS)
    except (ConfigError, InputRejected):
        return
    assert found == {"names": [], "rows": [], "moves": []}


def test_suppressed_groups_have_no_row():
    rng = np.random.default_rng(4)
    matrix = rng.integers(0, 2, (18, 30))
    rater, item = np.nonzero(matrix >= 0)
    groups = ["a"] * 8 + ["b"] * 7 + ["few"] * 3
    pool = Ratings(
        tuple(f"i{k}" for k in range(30)), tuple(f"r{k}" for k in range(18)), ("0", "1"),
        item, rater, matrix[rater, item], {"group": Attribute.of("group", groups)},
    )  # fmt: skip
    models = {name: {f"i{k}": str(k % 2) for k in range(30)} for name in ("m", "n")}
    found = compare_models(pool, models, ["group"], DRAWS)
    # with the whole pool the three could be worked out
    assert set(rows_of(found)) == set(rows_of(found, part="moves")) == {"a", "b"}


def test_a_model_that_says_one_thing_agrees_as_by_chance_without_warnings(pool):
    flat = dict.fromkeys(pool.items, pool.labels[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare_models(pool, {"m": flat, "n": votes_of(pool)}, ["group"], DRAWS)
    for row in rows_of(found, "m").values():
        assert row["xrr"] == pytest.approx(0.0, abs=1e-6)
    json.dumps(found, allow_nan=False)


def test_the_same_seed_gives_the_same_text(pool):
    models = {"m": votes_of(pool), "n": votes_of(pool, "planted")}
    texts = [
        json.dumps(compare_models(pool, models, ["group"], GraspOptions(bootstrap=20, seed=seed)))
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_a_model_has_the_same_interval_whatever_models_stand_beside_it(pool):
    one, other = votes_of(pool), votes_of(pool, "planted")
    alone = compare_models(pool, {"m": one}, ["group"], DRAWS)
    beside = compare_models(pool, {"n": other, "m": one}, ["group"], DRAWS)
    assert rows_of(alone, "m") == rows_of(beside, "m")


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_agreement_is_at_most_one_and_blind_to_names_of_labels(seed):
    rng = np.random.default_rng(seed)
    pool = draw_pool(Pool(raters=12, items=25, planted=5), seed=seed)
    names = [("x", "y", "z")[k] for k in rng.permutation(3)]
    renamed = Ratings(
        pool.items, pool.raters, tuple(names), pool.item, pool.rater, pool.label, pool.attributes
    )
    codes = rng.integers(0, 3, 25)
    found, other = (
        compare_models(
            one,
            {"m": {item: one.labels[k] for item, k in zip(one.items, codes, strict=True)}},
            ["group"],
            NO_DRAWS,
        )
        for one in (pool, renamed)
    )
    assert found == other
    assert all(row["xrr"] <= 1 for row in found["rows"])
