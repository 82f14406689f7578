import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_results import NO_FILTER, make_bench, make_cell, make_results

from peftlab.core.errors import InputRejected
from peftlab.report.read import clean_text, clean_tree, read_cells
from peftlab.report.results import group, percent, spread_of, standings, verdict


def one_pair(asr, asr_def, fpr, *, control=None, control_auroc=0.5, seeds=(0,)):
    """Return results of one attack, tuner and defence with the given numbers."""
    cells = []
    for seed in seeds:
        cell = make_cell("badnets", "lora", "psim", seed, control=False)
        cell["metrics"] = {"asr": asr, "asr_def": asr_def, "fpr": fpr, "ca": 0.9, "ca_def": 0.85}
        cell["intervals"] = {"fpr": [fpr - 0.015, fpr + 0.015]}
        cells.append(cell)
        if control is not None:
            cell = make_cell("badnets", "lora", "psim", seed, control=True)
            cell["metrics"] = {"asr": control, "auroc": control_auroc, "fpr": 0.05}
            cells.append(cell)
    results = make_results(("badnets",), ("lora",), ("psim",), (0,))
    return {**results, "cells": cells}


def test_verdict_of_a_guard_that_held():
    assert verdict(one_pair(0.998, 0.012, 0.046, control=0.061)) == (
        "The poisoned base kept its backdoor through lora: 99.8 % of triggered inputs got the "
        "attacker's class. With psim 1.2 % did. It flagged 4.6 % of clean inputs (allowed: 5 %); "
        "accuracy on clean inputs went from 90.0 % to 85.0 %. Negative "
        "control: an unpoisoned base gives that class to 6.1 % of the same texts by honest "
        "error. One seed only: the spread is unknown."
    )


def test_verdict_of_a_guard_that_failed():
    words = verdict(one_pair(0.95, 0.91, 0.12))
    assert "psim failed: 91.0 % still did." in words
    assert "flagged 12.0 % of clean inputs, more than the 5 % allowed" in words
    assert "No negative control was run." in words


def test_verdict_of_a_guard_that_helped_within_chance():
    words = verdict(one_pair(0.9, 0.3, 0.06))
    assert "psim helped but did not close it: 30.0 % still did." in words
    assert "(allowed: 5 %, the excess is within chance)" in words


def test_verdict_without_defence():
    words = verdict(make_results(("badnets",), ("none",), ("none",)))
    assert "kept its backdoor (nothing was tuned)" in words
    assert "No defence was tried." in words
    assert "One seed" not in words


def test_verdict_when_no_backdoor_survived():
    words = verdict(one_pair(0.12, 0.11, 0.05, control=0.11))
    assert "did not keep its backdoor" in words
    kept = verdict(one_pair(0.08, 0.07, 0.05, control=0.06))
    assert "no backdoor left for psim to stop" in kept


def test_verdict_names_a_guard_that_sees_odd_text():
    words = verdict(one_pair(0.99, 0.0, 0.05, control=0.05, control_auroc=0.93))
    assert "psim (AUROC 0.93) can tell triggered texts from clean ones" in words


def test_verdict_of_a_grid_counts_and_names_the_worst(full):
    words = verdict(full)
    assert "survived in 6 of 6 combinations" in words
    assert "psim held in 4 of 6" in words
    assert "worst: synattack through prefix" in words


def test_verdict_speaks_of_defences_of_every_stage():
    words = verdict(make_bench(("badnets",), ("none", "pure", "cube", "bki", "dbs"), seeds=(0, 1)))
    assert "pure helped but did not close it" in words
    assert "It flags no inputs; accuracy on clean inputs went from" in words
    assert f"Not applicable here: cube, bki ({NO_FILTER})." in words
    assert "dbs called 2 of 2 poisoned models poisoned" in words
    assert "What cube did" not in words
    assert "What dbs did" not in words


def test_verdict_says_what_a_filter_dropped():
    results = one_pair(0.9, 0.05, 0.05)
    results["cells"][0]["metrics"] |= {"filter_tpr": 0.95, "filter_fpr": 0.02}
    words = verdict(results)
    assert "psim dropped 95.0 % of the poisoned training texts and 2.0 % of the clean ones" in words


def test_verdict_of_nothing(minimal):
    assert verdict(minimal) == "No cell has finished, so there is no verdict."
    control = one_pair(0.9, 0.1, 0.05)
    control["cells"][0]["control"] = True
    assert "Only negative controls" in verdict(control)


def test_verdict_of_unmeasured_metrics():
    results = one_pair(0.9, 0.1, 0.05)
    results["cells"][0]["metrics"] = {"asr": None, "asr_def": float("nan"), "fpr": None}
    words = verdict(results)
    assert "Whether the backdoor survived was not measured." in words
    assert "What psim did about it was not measured." in words


def test_another_schema_is_refused():
    with pytest.raises(InputRejected) as caught:
        verdict({"schema": "other/1", "cells": []})
    assert caught.value.code == "REPORT-SCHEMA"


def test_groups_differ_in_more_than_the_seed(full):
    groups = group(read_cells(full))
    assert len(groups) == len(full["cells"]) // 3
    assert {len(one.cells) for one in groups} == {3}
    first = groups[0]
    values = [cell.metrics["asr"] for cell in first.cells]
    assert first.spread("asr").mean == pytest.approx(sum(values) / 3)
    assert (first.spread("asr").low, first.spread("asr").high) == (min(values), max(values))
    assert first.spread("fpr") is None
    assert first.reason("fpr") == "no defence in this cell"
    assert first.reason("nothing") == "not measured"


def test_one_seed_takes_its_interval():
    assert spread_of([0.5], (0.4, 0.6)).low == 0.4
    assert not spread_of([0.5], None).known
    assert spread_of([], None) is None


def test_alpha_comes_from_the_cell_or_else_the_recipe():
    results = one_pair(0.9, 0.1, 0.05)
    assert read_cells(results)[0].alpha == 0.05
    results["cells"][0]["metrics"]["alpha"] = None
    assert read_cells(results)[0].alpha is None
    assert "promises no rate" in verdict(results)
    results["recipe"] = {"defence": {"name": "x", "label": "psim", "options": {"alpha": 0.1}}}
    results["cells"][0]["metrics"].pop("alpha")
    assert read_cells(results)[0].alpha == 0.1


def test_standings_hold_means_and_the_worst(full):
    rank = standings(group(read_cells(full)))[0]
    assert (rank.defence, rank.pairs, rank.held, rank.word) == ("psim", 6, 4, "helped")
    assert rank.worst_asr >= rank.asr_def
    assert rank.worst_fpr >= rank.fpr


def test_percent():
    assert percent(0.998) == "99.8 %"
    assert percent(None) == "\u2013"


@given(st.text())
def test_clean_text_is_printable_and_bounded(text):
    clean = clean_text(text)
    assert len(clean) <= 400
    assert not any(ord(sign) < 32 or 0xD800 <= ord(sign) < 0xE000 for sign in clean)
    assert not set(clean) & set("\u202e\u2066\x7f\x9b\ufeff")
    assert clean_text(clean) == clean


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(json_values)
def test_clean_tree_keeps_json_encodable(value):
    import json

    json.dumps(clean_tree(value), allow_nan=False).encode()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(
    ["id", "base", "attack", "tuner", "defence", "seed", "control", "metrics", "intervals",
     "reasons", "cost", "not_applicable"]), json_values), max_size=3))  # fmt: skip
def test_any_cells_give_a_verdict(cells):
    assert verdict({"schema": "peftlab.results/1", "cells": cells})
