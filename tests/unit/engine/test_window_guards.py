"""Guards that sum several looks, against the slow way round: one text at a time, by the defence."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from peftlab.core.errors import ConfigError
from peftlab.core.seeds import stream
from peftlab.engine.window.guards import RATES, UNTOUCHED, guard_table
from peftlab.engine.window.recipe import make_window_recipe
from peftlab.nn.evidence import Evidence, Look

STEPS = [0, 2, 4, 8]
SIZES = {"reference": 120, "calibration": 120, "clean": 80, "triggered": 40}
VALUES = {
    "name": "x", "data": "reviews", "steps": STEPS, "seeds": [0, 1],
    "base": [{"label": "full", "reference": "builtin:encoder-random"}],
    "attack": [{"name": "badnets"}, {"name": "insent"}, {"name": "synrule"}],
    "variant": [
        {"label": "slow", "options": {"family": "lora"}},
        {"label": "fast", "options": {"family": "all"}},
    ],
    "guard": [{"looks": [2, 8]}, {"looks": [2, 8], "together": ["slow", "fast"]}],
}  # fmt: skip


def looks(seed, variant, attack):
    """Return made-up logits: margins fall, those of triggered texts late in ``slow`` alone."""
    rng = stream(seed, "tests/guards", variant, attack)
    found = {}
    for group, n in SIZES.items():
        start = stream(seed, "tests/guards/start", attack, group).normal(3, 1, size=(n, 1))
        keeps = group == "triggered" and variant == "slow" and attack != "synrule"
        fall = np.array([1.0, 0.9, 0.6, 0.2]) if not keeps else np.array([1.0, 1.0, 1.0, 0.9])
        margins = start * fall + rng.normal(0, 0.1, size=(n, 4)) * (np.arange(4) > 0)
        side = np.where(np.arange(n) % 2, 1.0, -1.0)[:, None]
        found[group] = np.stack([-margins * side / 2, margins * side / 2], -1).astype(np.float32)
    return found


@pytest.fixture
def units(tmp_path):
    made = []
    for seed in (0, 1):
        for attack in ("badnets", "insent", "synrule"):
            for variant in ("slow", "fast"):
                file = tmp_path / f"{seed}-{attack}-{variant}.safetensors"
                save_file(looks(seed, variant, attack), file)
                labels = {"base": "full", "attack": attack, "variant": variant, "seed": seed}
                gap = {rate: [0.1 + 0.2 * seed, 0.9] for rate in RATES}  # at steps 0 and 2
                made.append(({**labels, "control": False, "gap": gap}, file))
    return made


def slow_rate(seed, attack, variants, at, alpha):
    """Return the share of triggered texts above the k-th smallest clean score, one by one."""
    parts = [looks(seed, variant, attack) for variant in variants]

    def look(group, rows):
        each = [part[group][rows][:, at].astype(float) for part in parts]
        predicted = np.array([int(row[0][1] > row[0][0]) for row in parts[0][group][rows]])
        return Look(each, np.zeros((len(rows), 0)), predicted)

    def all_rows(group):
        return np.arange(SIZES[group])

    fitted = Evidence.fit(look("reference", all_rows("reference")), ("resistance", "path"), 2)
    one_by_one = {
        group: [float(fitted.score(look(group, np.array([i])))[0]) for i in all_rows(group)]
        for group in ("calibration", "triggered")
    }
    k = int(np.ceil((SIZES["calibration"] + 1) * (1 - alpha)))
    threshold = sorted(one_by_one["calibration"])[k - 1]
    return np.mean([score > threshold for score in one_by_one["triggered"]])


def test_rates_are_those_of_one_text_at_a_time(units):
    rows = guard_table(make_window_recipe(VALUES), units)
    start = {"mean": pytest.approx(0.2), "min": 0.1, "max": pytest.approx(0.3)}
    untouched = [row for row in rows if row["guard"] == UNTOUCHED]
    assert [(row["looks"], row["passes"], row["n"]) for row in untouched] == [([], 1, 2)] * 3
    assert all(row[rate] == start for row in untouched for rate in RATES)
    rows = [row for row in rows if row["guard"] != UNTOUCHED]
    for row in rows:
        names = row["guard"].split(" + ")
        for rate, alpha in (("tpr_05", 0.05), ("tpr_01", 0.01)):
            each = [slow_rate(seed, row["attack"], names, [0, 1, 3], alpha) for seed in (0, 1)]
            expected = {"mean": np.mean(each), "min": min(each), "max": max(each)}
            assert row[rate] == pytest.approx(expected, abs=1e-9)
    assert {(row["guard"], row["passes"]) for row in rows} == {
        ("slow", 3), ("fast", 3), ("slow + fast", 5)
    }  # fmt: skip
    assert all(row["n"] == 2 and row["looks"] == [2, 8] for row in rows)


def test_the_third_attack_has_no_say(units):
    chosen = [row for row in guard_table(make_window_recipe(VALUES), units) if row["chosen"]]
    assert [row["attack"] for row in chosen] == ["badnets", "insent", "synrule"]
    assert {row["guard"] for row in chosen} == {"slow"}  # as good as both, with fewer passes
    assert chosen[2]["tpr_05"]["mean"] < 0.5 < chosen[0]["tpr_05"]["mean"]


def test_what_is_not_there_does_not_count(units):
    recipe = make_window_recipe(VALUES)
    lone = [pair for pair in units if pair[0]["variant"] == "slow" and pair[0]["seed"] == 1]
    rows = guard_table(recipe, lone)
    assert {row["guard"] for row in rows} == {"slow", UNTOUCHED}
    assert {row["n"] for row in rows} == {1}
    assert guard_table(recipe, []) == []


def test_a_mean_without_a_seed_is_no_rival(units):
    def is_hard(unit):
        return (unit["variant"], unit["attack"], unit["seed"]) == ("slow", "insent", 0)

    rows = guard_table(make_window_recipe(VALUES), [pair for pair in units if not is_hard(pair[0])])
    assert {row["guard"] for row in rows if row["chosen"]} == {"fast"}
    assert {row["n"] for row in rows} == {1, 2}


def test_too_few_texts_for_1_per_cent_leave_the_rates_at_5(units):
    for _, file in units:
        kept = load_file(file)
        save_file({**kept, "calibration": kept["calibration"][:60]}, file)
    rows = guard_table(make_window_recipe(VALUES), units)
    looking = [row for row in rows if row["guard"] != UNTOUCHED]
    assert len(looking) == 9
    assert all(row["tpr_01"] is None and row["tpr_05"]["mean"] >= 0 for row in looking)
    assert {row["guard"] for row in rows if row["chosen"]} == {"slow"}


@pytest.mark.parametrize(
    "guard",
    [{"looks": [2, 3]}, {"looks": [0, 2]}, {"looks": [8, 2]}, {"looks": []}, {"looks": 2}, 5,
     {"looks": [2], "together": ["none"]}, {"looks": [2], "family": "lora"},
     {"looks": [2], "together": ["slow", "slow"]}],
)  # fmt: skip
def test_a_guard_looks_where_the_run_looked(guard):
    for given, overrides in (([guard], ()), ([guard], ("bar=0.7",))):
        with pytest.raises(ConfigError) as caught:
            make_window_recipe({**VALUES, "guard": given}, overrides)
        assert caught.value.code in {"RECIPE-VALUE", "RECIPE-KEY"}


@pytest.mark.parametrize("guards", [5, True, None, "x", [{"looks": [2]}, {"looks": [2]}]])
def test_what_is_no_list_of_different_guards_is_refused(guards):
    with pytest.raises(ConfigError) as caught:
        make_window_recipe({**VALUES, "guard": guards})
    assert caught.value.code == "RECIPE-VALUE"


def test_nobody_is_chosen_where_an_attack_that_chooses_is_missing(units):
    recipe = make_window_recipe(VALUES)
    late = [pair for pair in units if pair[0]["attack"] != "badnets"]
    assert not any(row["chosen"] for row in guard_table(recipe, late))


def test_set_leaves_out_guards_that_it_takes_the_looks_from():
    def left(*overrides):
        return [
            (guard.looks, guard.together)
            for guard in make_window_recipe(VALUES, overrides).guard
        ]  # fmt: skip

    assert left("variant=slow") == [((2, 8), ())]
    assert left("steps=0,2,4") == []
    with pytest.raises(ConfigError):  # takes nothing away, so a guard must be sound
        make_window_recipe(
            {**VALUES, "guard": [{"looks": [2], "together": ["slaw"]}]},
            ["variant.options.batch=16"],
        )
    assert len(left("seeds=[0]")) == 2
