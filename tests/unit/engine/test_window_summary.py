"""Widths over seeds, comparisons of bases and the choice of a way to un-learn, by hand."""

import pytest

from peftlab.engine.window.curves import SCORES
from peftlab.engine.window.summary import choices, compare_bases, trained_table, width_table

STEPS = [0, 10, 20, 30, 40]


def unit(base, attack, variant, seed, gap, **changes):
    """Return a unit whose gap has these rates; other scores never find anything."""
    flat = {"tpr_05": [0.0] * 5, "fpr_05": [0.05] * 5}
    return {
        "base": base, "attack": attack, "variant": variant, "seed": seed, "control": False,
        "steps": STEPS, "ca": 0.8, "asr": 1.0, "gap": {**flat, "tpr_05": gap},
        "max_prob": flat, "trajectory": flat, **changes,
    }  # fmt: skip


NARROW = [0.0, 1.0, 0.0, 0.0, 0.0]  # 4 steps at a bar of 0.8: 8 to 12
WIDE = [0.0, 1.0, 1.0, 0.0, 0.0]  # 14 steps: 8 to 22
LATE = [0.0, 0.0, 0.0, 1.0, 1.0]  # 12 steps, still open
NEVER = [0.1] * 5


def row(rows, **wanted):
    (found,) = [each for each in rows if all(each[key] == wanted[key] for key in wanted)]
    return found


def test_widths():
    units = [unit("b", "a", "v", 0, NARROW), unit("b", "a", "v", 1, WIDE),
             unit("b", "a", "v", 2, NEVER)]  # fmt: skip
    rows = width_table(units, 0.8)
    assert len(rows) == len(SCORES)
    found = row(rows, score="gap")
    assert found["n"] == 3
    assert found["width"] == {"mean": pytest.approx(6), "min": 0, "max": pytest.approx(14)}
    assert found["open"] == 0
    assert found["shared"] == found["windows"] == []  # the mean never reaches the bar
    assert found["fpr"] == {"mean": pytest.approx(0.05), "max": 0.05}
    both = row(width_table(units[:2], 0.8), score="gap")
    assert both["shared"] == [[pytest.approx(8), pytest.approx(12)]]
    assert both["windows"] == [[pytest.approx(8), pytest.approx(14)]]  # 0.5 at step 20
    assert both["blind"] == pytest.approx((10 + 20) / 40 / 2)
    late = row(width_table([unit("b", "a", "v", 0, LATE)], 0.8), score="gap")
    assert (late["open"], late["width"]["mean"]) == (1, pytest.approx(12))
    assert row(rows, score="trajectory")["width"]["max"] == 0


def test_units_without_a_threshold_are_left_out():
    none = unit("b", "a", "v", 0, [None] * 5)
    assert width_table([none], 0.8) == compare_bases([none], 0.8) == choices([none], 0.8) == []
    assert len(trained_table([none])) == 1


def test_trained_counts_a_base_once():
    units = [unit("b", "a", v, s, NARROW, asr=0.9 + s / 20) for v in "xyz" for s in (0, 1)]
    (found,) = trained_table(units)
    assert found["n"] == 2
    assert found["asr"] == {"mean": pytest.approx(0.925), "min": 0.9, "max": pytest.approx(0.95)}


def test_bases_are_compared_with_the_first_in_pairs():
    units = [
        unit(base, "a", v, s, rates)
        for s in (0, 1)
        for base, v, rates in (
            ("none", "x", NARROW), ("full", "x", WIDE),
            ("none", "y", WIDE), ("full", "y", WIDE if s else NARROW), ("none", "z", WIDE),
        )
    ]  # fmt: skip
    units.append(unit("full", "c", "x", 0, WIDE, control=True))
    found = row(compare_bases(units, 0.8), score="gap")
    assert (found["base"], found["against"], found["n"], found["pairs"]) == ("full", "none", 2, 2)
    # seed 0: +10 and -10; seed 1: +10 and 0
    assert found["difference"] == pytest.approx(2.5)
    assert (found["wider"], found["narrower"]) == (1, 1)
    assert found["low"] < 0 < found["high"]
    single = compare_bases([each for each in units if each["base"] == "none"], 0.8)
    assert single == []
    alone = row(compare_bases([each for each in units if each["seed"] == 0], 0.8), score="gap")
    assert alone["low"] is alone["high"] is None  # one seed has no interval


def test_the_choice_looks_at_the_first_attack_only():
    units = [
        unit("b", "word", "x", 0, WIDE), unit("b", "sentence", "x", 0, NEVER),
        unit("b", "word", "y", 0, NARROW), unit("b", "sentence", "y", 0, NARROW),
        unit("b", "word", "z", 0, WIDE),  # lacks an attack
        unit("b", "sentence", "y", 0, WIDE, control=True),
    ]  # fmt: skip
    rows = choices(units, 0.8)
    assert {each["variant"] for each in rows} == {"x", "y"}
    chosen = row(rows, chosen=True)
    assert (chosen["variant"], chosen["score"], chosen["first_attack"]) == ("x", "gap", "word")
    assert (chosen["first"], chosen["worst"], chosen["worst_attack"]) == (
        pytest.approx(14), 0, "sentence",
    )  # fmt: skip
    assert chosen["common"] == []
    best = rows[0]  # the widest at its worst attack
    assert (best["variant"], best["worst"]) == ("y", pytest.approx(4))
    assert best["common"] == [[pytest.approx(8), pytest.approx(12)]]


def test_a_mean_without_a_seed_is_no_rival():
    units = [
        unit("b", "a", "x", 0, WIDE), unit("b", "a", "y", 0, NARROW), unit("b", "a", "y", 1, NARROW)
    ]  # fmt: skip
    assert {each["variant"] for each in choices(units, 0.8)} == {"y"}


def test_ties_go_to_the_rate_over_all_steps():
    # as wide, and more is found elsewhere
    units = [unit("b", "a", "x", 0, NARROW), unit("b", "a", "y", 0, [0.0, 1.0, 0.0, 0.0, 0.7])]
    assert row(choices(units, 0.8), chosen=True)["variant"] == "y"
