"""The leaderboard's numbers and claims: against loops over the raw cells, and by their rules."""

import math
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_results import ATTACKS, DEFENCES, NO_FILTER, make_bench, make_results

from peftlab.report.leaderboard.board import as_json, make_board
from peftlab.report.leaderboard.words import sentences
from peftlab.report.read import read_cells
from peftlab.report.stages import filterings, verdicts

GUARDS = [name for name, (kind, _) in DEFENCES.items() if kind in {"input", "fixed"}]


@pytest.fixture(scope="module")
def bench():
    return make_bench()


@pytest.fixture(scope="module")
def board(bench):
    return make_board(bench)


def plain(defence_values, seeds=3, *, control=0.05, chosen_on=(), tuner="lora"):
    """Return results with the given TPR by defence and attack: a number, or one per seed."""
    cells = []
    for defence, by_attack in defence_values.items():
        for attack, value in by_attack.items():
            for seed in range(seeds):
                tpr = value if isinstance(value, float) else value[seed]
                known = {"tpr": tpr, "fpr": 0.05, "alpha": 0.05, "asr": 0.9, "ca": 0.9,
                         "asr_def": 0.9 * (1 - tpr), "ca_def": 0.86, "auroc": tpr}  # fmt: skip
                common = {"attack": attack, "tuner": tuner, "defence": defence, "seed": seed}
                cells.append({"id": f"{defence}-{attack}-{seed}", **common, "metrics": known})
                if control is not None:
                    clean = {"asr": control, "fpr": 0.05, "alpha": 0.05}
                    cells.append({"id": f"{defence}-{attack}-{seed}-c", **common, "metrics": clean,
                                  "control": True})  # fmt: skip
    recipe = {"chosen_on": list(chosen_on)}
    return {"schema": "peftlab.results/1", "recipe": recipe, "cells": cells}


# ---------------------------------------------------------------------- means


def by_hand(bench, defence, value, skip=("badnets", "latent")):
    """Return mean and values by attack, by a loop over the raw cells."""
    found = {}
    for attack in ATTACKS:
        if attack in skip:
            continue
        own = [c for c in bench["cells"] if not c["control"]
               and (c["attack"], c["defence"]) == (attack, defence)]  # fmt: skip
        values = [value(cell) for cell in own if not cell["not_applicable"]]
        if values:
            found[attack] = math.fsum(values) / len(values)
    return math.fsum(found.values()) / len(found), found


def flips(bench, cell):
    return next(
        c["metrics"]["asr"] for c in bench["cells"]
        if c["control"] and c["metrics"]
        and (c["attack"], c["seed"]) == (cell["attack"], cell["seed"])
    )  # fmt: skip


@pytest.mark.parametrize("defence", GUARDS)
def test_means_and_worst_cases_are_those_of_a_loop(bench, board, defence):
    row = board.row(defence, "lora")
    for key, value, worst in (
        ("tpr", lambda c: c["metrics"]["tpr"], min),
        ("auroc", lambda c: c["metrics"]["auroc"], min),
        ("asr_left", lambda c: c["metrics"]["asr_def"], max),
        ("excess", lambda c: c["metrics"]["asr_def"] - flips(bench, c), max),
        ("ca_cost", lambda c: c["metrics"]["ca"] - c["metrics"]["ca_def"], max),
    ):
        mean, found = by_hand(bench, defence, value)
        got = row.unseen[key]
        assert got.mean == pytest.approx(mean)
        assert got.worst == pytest.approx(worst(found.values()))
        assert got.worst_on == worst(found, key=found.get)
        assert (got.attacks, got.cases) == (len(found), 3 * len(found))
        assert got.low < got.mean < got.high


def test_the_trigger_that_settings_were_chosen_on_stands_apart(bench, board):
    row = board.row("psim", "lora")
    own = [c["metrics"]["tpr"] for c in bench["cells"]
           if (c["attack"], c["defence"], c["control"]) == ("badnets", "psim", False)]  # fmt: skip
    assert row.chosen["tpr"].mean == pytest.approx(sum(own) / 3)
    assert (row.chosen["tpr"].attacks, row.chosen["tpr"].cases) == (1, 3)
    assert "badnets" not in board.grid.unseen
    assert "18 unseen triggers" in " ".join(sentences(board))


def test_where_nothing_is_known_to_be_unseen_that_is_said():
    values = {"a": {"x": 0.9, "y": 0.8}, "b": {"x": 0.5, "y": 0.4}}
    untold = make_board(plain(values))
    assert untold.row("a", "lora").unseen["tpr"].attacks == 2
    words = " ".join(sentences(untold))
    assert "does not say on which attacks settings were chosen" in words
    assert "unseen trigger" not in words
    every = make_board(plain(values, chosen_on=("x", "y")))
    assert every.row("a", "lora").unseen["tpr"].attacks == 2
    assert "no trigger is unseen" in " ".join(sentences(every))
    odd = plain(values)
    odd["recipe"] = {"chosen_on": "x"}
    assert not make_board(odd).grid.told


def test_a_backdoor_that_did_not_take_is_in_no_mean(board):
    assert [one.attack for one in board.grid.not_taken] == ["latent"]
    assert "because the backdoor did not take: latent" in " ".join(sentences(board))
    weak = plain({"a": {"x": 0.9, "y": 0.1}}, control=0.85)
    assert {one.attack for one in make_board(weak).grid.not_taken} == {"x", "y"}
    assert "No cell of a poisoned base" in sentences(make_board(weak))[0]


def test_all_guards_are_judged_at_the_same_rate():
    results = plain({"a": {"x": 0.9}, "b": {"x": 0.8}, "official": {"x": 0.99}})
    for cell in results["cells"]:
        if cell["defence"] == "official":
            cell["metrics"] |= {"alpha": None, "fpr": 0.4, "tpr_at_05": 0.6, "fpr_at_05": 0.04}
    board = make_board(results)
    row = board.row("official", "lora")
    assert board.grid.level == 0.05
    assert row.own_threshold
    assert not board.row("a", "lora").own_threshold
    assert row.unseen["tpr"].mean == pytest.approx(0.6)
    assert row.unseen["fpr"].mean == pytest.approx(0.04)
    assert row.unseen["asr_left"].mean == pytest.approx(0.9 * 0.01)
    for cell in results["cells"]:
        cell["metrics"].pop("tpr_at_05", None)
    assert "tpr" not in make_board(results).row("official", "lora").unseen


def test_without_a_level_the_rates_stand_as_they_are():
    results = plain({"a": {"x": 0.9}})
    for cell in results["cells"]:
        cell["metrics"]["alpha"] = None
    board = make_board(results)
    assert board.grid.level is None
    assert board.row("a", "lora").unseen["tpr"].mean == pytest.approx(0.9)
    assert "calibrated" not in " ".join(sentences(board))


def test_flip_rates_come_from_the_cell_or_its_control():
    results = plain({"a": {"x": 0.5}}, control=0.07)
    assert make_board(results).row("a", "lora").unseen["excess"].mean == pytest.approx(0.38)
    for cell in results["cells"]:
        cell["metrics"]["flip_rate"] = 0.1
    assert make_board(results).row("a", "lora").unseen["excess"].mean == pytest.approx(0.35)
    bare = make_board(plain({"a": {"x": 0.5}}, control=None))
    assert "excess" not in bare.row("a", "lora").unseen
    assert bare.row("a", "lora").unseen["asr_left"].mean == pytest.approx(0.45)


def test_no_defence_is_the_baseline_not_a_rival(board):
    bare = board.row("none", "lora")
    assert set(bare.unseen) == {"asr_left", "excess"}
    assert all(claim.rival != "none" for one in board.comparisons for claim in one.claims)
    words = " ".join(sentences(board))
    assert f"without a defence {100 * bare.unseen['asr_left'].mean:.1f} %" in words


def test_rows_stand_best_first_and_those_that_flag_nothing_last(board):
    rates = [row.unseen["tpr"].mean for row in board.rows if "tpr" in row.unseen]
    assert rates == sorted(rates, reverse=True)
    assert [row.defence for row in board.rows][-3:] == ["pure", "fine-pruning", "none"]


# ---------------------------------------------------------------------- what makes no sense


def test_a_pair_that_makes_no_sense_has_no_number(board, bench):
    bench = {**bench, "cells": [dict(cell) for cell in bench["cells"]]}
    for cell in bench["cells"]:
        if cell["not_applicable"]:
            cell["metrics"], cell["intervals"] = {"tpr": 1.0, "asr_def": 0.0}, {"tpr": [1, 1]}
    again = make_board(bench)
    assert as_json(again) == as_json(board)
    assert not {"cube", "bki"} & {row.defence for row in again.rows}
    listed = as_json(again)["not_applicable"]
    assert len(listed) == 43
    assert {"attack": "insent", "tuner": "lora", "defence": "cube", "reason": NO_FILTER} in listed
    assert "43 of 300 combinations make no sense" in " ".join(sentences(again))


def test_an_empty_run_has_no_leaderboard(minimal):
    assert sentences(make_board(minimal)) == [
        "No cell of a poisoned base has finished, so there is no leaderboard."
    ]
    undefended = make_board(make_results(("badnets",), ("lora",), ("none",)))
    assert sentences(undefended) == ["No defence was tried, so there is no leaderboard."]


# ---------------------------------------------------------------------- claims

SMALL = {
    "a": {"x": [0.9, 0.95, 0.92], "y": [0.8, 0.85, 0.8], "z": [0.7, 0.75, 0.72]},
    "b": {"x": [0.6, 0.7, 0.65], "y": [0.5, 0.65, 0.6], "z": [0.5, 0.45, 0.52]},
    "c": {"x": [0.91, 0.94, 0.9], "y": [0.8, 0.82, 0.86], "z": [0.71, 0.7, 0.75]},
}


def flip_by_hand(parts):
    """Return the share of all sign vectors whose sum is at least as far from 0."""
    seen = abs(math.fsum(parts))
    sums = [
        abs(math.fsum(s * p for s, p in zip(signs, parts, strict=True)))
        for signs in product((1, -1), repeat=len(parts))
    ]
    return sum(one >= seen - 1e-12 for one in sums) / len(sums)


def holm_by_hand(p):
    ordered = sorted(p, key=p.get)
    found, worst = {}, 0.0
    for rank, key in enumerate(ordered):
        worst = max(worst, min(1.0, (len(p) - rank) * p[key]))
        found[key] = worst
    return found


def test_claims_are_those_of_a_slow_loop():
    compared = make_board(plain(SMALL)).compared("tpr", "lora")
    by_case, by_attack = {}, {}
    for pair in combinations(SMALL, 2):
        apart = [
            [one - other for one, other in zip(SMALL[pair[0]][k], SMALL[pair[1]][k], strict=True)]
            for k in "xyz"
        ]
        by_case[pair] = flip_by_hand([d / 9 for block in apart for d in block])
        by_attack[pair] = flip_by_hand([sum(block) / 9 for block in apart])
    assert compared.best == "a"
    assert compared.family == 3
    assert [claim.rival for claim in compared.claims] == ["c", "b"]
    for claim in compared.claims:
        pair = tuple(sorted(("a", claim.rival)))
        assert claim.p == pytest.approx(holm_by_hand(by_case)[pair])
        assert claim.p_attacks == pytest.approx(holm_by_hand(by_attack)[pair])
        apart = [a - b for k in "xyz" for a, b in zip(SMALL["a"][k], SMALL[claim.rival][k],
                                                      strict=True)]  # fmt: skip
        assert claim.difference == pytest.approx(sum(apart) / 9)
        assert claim.low <= claim.difference <= claim.high
        assert (claim.attacks, claim.cases) == (3, 9)


def test_better_is_said_with_its_numbers_and_its_reach():
    board = make_board(plain(SMALL))
    claims = {claim.rival: claim for claim in board.compared("tpr", "lora").claims}
    assert claims["b"].better
    assert not claims["b"].everywhere  # three attacks can never show that
    assert not claims["c"].better
    words = " ".join(sentences(board))
    assert "By TPR a is better than b: least against b, by +24.7" in words
    assert "(3 attacks, 9 pairs; Holm-corrected p at most 0.012)" in words
    assert "a claim about these attacks only" in words
    assert "That it is better than c is not shown" in words


def test_less_is_better_for_what_is_left_of_an_attack():
    compared = make_board(plain(SMALL)).compared("asr_left", "lora")
    assert compared.best == "a"
    claim = next(claim for claim in compared.claims if claim.rival == "b")
    assert claim.difference < claim.high < 0
    assert claim.better


@pytest.mark.parametrize(
    ("control", "words"),
    [(0.05, "4.0 points above what honest error explains"), (0.3, "no more than honest error")],
)
def test_what_is_left_is_held_against_honest_error(control, words):
    left = sentences(make_board(plain({"a": {"x": 0.9}}, control=control)))
    assert any(words in sentence for sentence in left)


def test_one_seed_makes_no_claim():
    board = make_board(make_bench(seeds=(0,)))
    assert all(one.claims == () for one in board.comparisons)
    words = " ".join(sentences(board))
    assert "One seed only: no claim is possible" in words
    assert "least against" not in words


def test_alike_defences_are_not_told_apart():
    same = {"a": SMALL["a"], "b": SMALL["a"]}
    claim = make_board(plain(same)).compared("tpr", "lora").claims[0]
    assert (claim.difference, claim.p, claim.better) == (0.0, 1.0, False)


def test_a_defence_that_was_hardly_tried_is_not_the_best():
    values = {
        "lucky": {"x": 1.0},
        "a": {"x": 0.9, "y": 0.8, "z": 0.7},
        "b": {"x": 0.5, "y": 0.5, "z": 0.5},
    }
    board = make_board(plain(values))
    assert board.compared("tpr", "lora").best == "a"
    assert [claim.rival for claim in board.compared("tpr", "lora").claims] == ["b"]


def test_pairs_are_made_of_what_both_have():
    """A rival that lacks an attack is compared on the others, and the count says so."""
    values = {"a": {"x": 0.9, "y": 0.2, "z": 0.9}, "b": {"x": 0.7, "z": 0.7}}
    board = make_board(plain(values))
    claim = board.compared("tpr", "lora").claims[0]
    assert (claim.rival, claim.attacks, claim.cases) == ("a", 2, 6)  # b has the better mean
    assert claim.difference == pytest.approx(-0.2)
    assert not claim.better
    assert "mean over 2 of 3 triggers" in sentences(board)[0]


def test_equal_comparisons_of_several_tuners_are_shown_once():
    one = make_bench(("badnets", "insent", "ep"), ("none", "psim", "onion", "pure"),
                     ("lora", "prefix"))  # fmt: skip
    board = make_board(one)
    shown = {(c.measure, tuners) for c, tuners in board.distinct()}
    assert ("tpr", ("lora", "prefix")) in shown
    assert {tuners for measure, tuners in shown if measure == "asr_left"} == {
        ("lora",), ("prefix",)
    }  # fmt: skip
    assert "These sentences are about lora" in " ".join(sentences(board))


shares = st.floats(0, 1, allow_nan=False)


@given(
    st.dictionaries(
        st.sampled_from("abc"),
        st.dictionaries(st.sampled_from("wxyz"), st.lists(shares, min_size=3, max_size=3),
                        min_size=1),
        min_size=2,
    ),
    st.integers(1, 3),
)  # fmt: skip
@settings(max_examples=40)
def test_the_word_better_needs_its_interval_and_its_p(values, seeds):
    board = make_board(plain(values, seeds=seeds))
    claims = [claim for one in board.comparisons for claim in one.claims]
    for claim in claims:
        assert claim.better == (
            claim.low is not None and (claim.low > 0 or claim.high < 0) and claim.p <= 0.05
            and any(claim in one.claims and (claim.difference > 0) == (one.measure != "asr_left")
                    for one in board.comparisons)
        )  # fmt: skip
        assert claim.everywhere <= claim.better
    words = " ".join(sentences(board))
    said = any(f" {one.best} is better than " in words and "least against" in words
               for one in board.comparisons)  # fmt: skip
    assert said <= any(claim.better for claim in claims)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.sampled_from(
    ["id", "base", "attack", "tuner", "defence", "seed", "control", "metrics", "intervals",
     "reasons", "cost", "not_applicable"]), json_values), max_size=3), json_values)  # fmt: skip
@settings(max_examples=40)
def test_any_cells_give_a_leaderboard(cells, recipe):
    results = {"schema": "peftlab.results/1", "cells": cells, "recipe": recipe}
    assert sentences(make_board(results))


# ---------------------------------------------------------------------- other stages


def test_filters_are_judged_by_the_rows_they_drop():
    cells = [
        {"attack": attack, "tuner": tuner, "defence": "cube", "seed": 0,
         "metrics": {"filter_tpr": tpr, "filter_fpr": 0.02, "filter_auroc": 0.9}}
        for attack, tpr in (("x", 0.9), ("y", 0.5)) for tuner in ("lora", "full")
    ]  # fmt: skip
    cells.append({"attack": "x", "defence": "cube", "control": True,
                  "metrics": {"filter_fpr": 0.5}})  # fmt: skip
    found = filterings(read_cells({"schema": "peftlab.results/1", "cells": cells}))
    assert len(found) == 1
    assert (found[0].sets, found[0].caught, found[0].lost) == (2, pytest.approx(0.7), 0.02)


def test_verdicts_count_each_model_once():
    def cell(attack, tuner, score, *, control=False):
        return {"attack": attack, "tuner": tuner, "defence": "dbs", "seed": 0, "control": control,
                "metrics": {"model_score": score, "model_flagged": int(score > 1)}}  # fmt: skip

    cells = [
        cell("x", "lora", 2.0), cell("x", "full", 2.0), cell("y", "lora", 0.5),
        cell("x", "lora", 0.7, control=True), cell("y", "lora", 0.7, control=True),
    ]  # fmt: skip
    found = verdicts(read_cells({"schema": "peftlab.results/1", "cells": cells}))[0]
    assert (found.poisoned, found.caught, found.sound, found.accused) == (2, 1, 1, 0)
    assert found.auroc == 0.5
    assert found.words == ("dbs called 1 of 2 poisoned models poisoned, and 0 of 1 that are not.")
