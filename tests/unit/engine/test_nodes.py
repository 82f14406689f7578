"""The real executor on a tiny model: every tuner against every guard, with its control.

The table is complete and its numbers agree with each other;
what they are is not asserted at this size.
"""

import json
from itertools import product

import numpy as np
import pytest

from peftlab.defences.onion import Onion
from peftlab.engine.metrics import wilson
from peftlab.engine.nodes import prepare, report_arrays
from peftlab.engine.plan import plan
from peftlab.engine.recipe import make_recipe
from peftlab.engine.run import run
from peftlab.engine.steps import make_poison, predict_folder
from peftlab.io.store import Store
from peftlab.models.load import fingerprint

TUNERS = ("none", "full", "lora", "prompt", "ptuning", "prefix")
DEFENCES = ("none", "onion", "psim")
WANTED = ("ca", "asr", "ca_def", "asr_def", "fpr", "tpr", "auroc")


@pytest.fixture(scope="module")
def grid(tiny, reviews, tmp_path_factory):
    """Return the folder and results of a finished grid."""
    recipe = make_recipe(
        {
            "name": "table", "base": str(tiny("bert")), "seeds": [0], "control": True,
            "attacker": {"epochs": 1, "lr": 1e-3}, "attack": [{"name": "badnets"}],
            "limits": {"max_train": 64},
            "tuner": [
                {"name": name, "options": {"epochs": 0.5} if name != "none" else {}}
                for name in TUNERS
            ],
            "defence": [
                {"name": "none"}, {"name": "onion"},
                {"name": "psim", "options": {"family": "lora", "checkpoints": [1, 2]}},
            ],
        }
    )  # fmt: skip
    data = prepare(reviews, recipe)
    out = tmp_path_factory.mktemp("grid") / "run"
    run(recipe, plan(recipe, data.digest(), fingerprint(recipe.base)), data, out)
    return out, json.loads((out / "results.json").read_text()), data


def _cells(results, **wanted):
    return [
        cell for cell in results["cells"]
        if all(cell[key] == value for key, value in wanted.items())
    ]  # fmt: skip


def test_the_table_is_complete(grid):
    _, results, _ = grid
    assert results["failures"] == []
    found = {(c["tuner"], c["defence"], c["control"]) for c in results["cells"]}
    assert found == {(t, d, c) for t in TUNERS for d in DEFENCES for c in (False, True)}
    for cell in results["cells"]:
        for metric in WANTED:
            value = cell["metrics"][metric]
            if value is None:
                assert cell["reasons"][metric]
                assert cell["defence"] == "none"
            else:
                assert 0 <= value <= 1
    for cell in _cells(results, defence="psim"):
        assert all(cell["metrics"][metric] is not None for metric in WANTED)


def test_numbers_agree_with_each_other(grid):
    _, results, data = grid
    for cell in _cells(results, defence="psim"):
        m = cell["metrics"]
        assert m["ca_def"] <= m["ca"]
        assert m["asr_def"] <= min(m["asr"], 1 - m["tpr"] + 1e-12)
        assert m["n_calibration"] == len(data.dev) // 2
        assert m["alpha"] == 0.05
    for tuner in TUNERS:
        for control in (False, True):
            cells = _cells(results, tuner=tuner, control=control)
            assert len({cell["metrics"]["ca"] for cell in cells}) == 1
            assert len({cell["metrics"]["asr"] for cell in cells}) == 1
    for control in (False, True):  # a guard looks at the base, not at the victim
        cells = _cells(results, defence="psim", control=control)
        assert len({cell["metrics"]["auroc"] for cell in cells}) == 1


def test_no_defence_changes_what_is_divided_by(grid):
    """Texts that are rejected, mended or emptied still count."""
    _, results, data = grid
    triggered = make_poison(data, "badnets", {}, seed=0).test_triggered
    assert 0 < len(triggered) < len(data.test)
    sides = {
        "n_clean": (len(data.test), {"ca", "ca_def", "fpr"}),
        "n_triggered": (len(triggered), {"asr", "asr_def", "tpr"}),
    }
    for cell, (count, (n, shares)) in product(results["cells"], sides.items()):
        assert cell["metrics"][count] == n
        for metric in shares & set(cell["intervals"]):  # an interval tells its n
            hits = round(cell["metrics"][metric] * n)
            assert cell["intervals"][metric] == pytest.approx(wilson(hits, n))


def test_a_text_without_any_word_left_is_answered_and_counted(tiny, reviews, tmp_path, monkeypatch):
    """In a whole run: a defence that deletes every word, in front of the base itself."""
    monkeypatch.setattr(Onion, "rewrite", lambda _, texts, threshold: [""] * len(texts))
    recipe = make_recipe(
        {
            "name": "empty", "base": str(tiny("bert")), "seeds": [0], "control": False,
            "attacker": {"epochs": 1, "lr": 1e-3}, "attack": "badnets", "tuner": "none",
            "limits": {"max_train": 64}, "defence": ["none", "onion"],
        }
    )  # fmt: skip
    data, out = prepare(reviews, recipe), tmp_path / "run"
    run(recipe, plan(recipe, data.digest(), fingerprint(recipe.base)), data, out)
    results = json.loads((out / "results.json").read_text())
    (plain,), (emptied,) = (_cells(results, defence=name) for name in ("none", "onion"))
    for count in ("n_clean", "n_triggered", "ca", "asr"):
        assert emptied["metrics"][count] == plain["metrics"][count]
    with Store(out / "runs.db") as store:
        (base,) = (row.id for row in store.rows() if row.kind == "base")
    model = out / "nodes" / base / "model"
    empty = int(predict_folder(model, [""], n_classes=2, allow_poisoned=True).argmax())
    assert emptied["metrics"]["ca_def"] == np.mean(np.array(data.test.labels) == empty)
    assert emptied["metrics"]["asr_def"] == float(empty == 0)  # the attack's target


def test_numbers_are_those_of_the_saved_models(grid):
    out, results, data = grid
    with Store(out / "runs.db") as store:
        rows = {row.id: row for row in store.rows()}
    for cell in _cells(results, defence="none"):
        model = out / "nodes" / rows[cell["id"]].key["needs"]["victim"] / "model"
        logits = predict_folder(model, data.test.texts, n_classes=2, allow_poisoned=True)
        assert cell["metrics"]["ca"] == np.mean(logits.argmax(axis=1) == data.test.labels)


def test_shared_work_is_done_once(grid):
    out, _, _ = grid
    with Store(out / "runs.db") as store:
        kinds = [row.kind for row in store.rows()]
        done = [node for node, what in store.events() if what == "done"]
    assert len(done) == len(set(done)) == len(kinds)
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    assert counts["base"] == 2  # poisoned, control
    assert counts["guard"] == 4
    assert counts["victim"] == 2 * (len(TUNERS) - 1)
    assert counts["cell"] == 2 * len(TUNERS) * len(DEFENCES)


def test_a_report_can_draw_the_paths(grid):
    out, results, data = grid
    with Store(out / "runs.db") as store:
        rows = {row.id: row for row in store.rows()}
    (cell,) = _cells(results, defence="psim", tuner="lora", control=False)
    needs = rows[cell["id"]].key["needs"]
    drawn = report_arrays({name: out / "nodes" / needs[name] for name in ("guard", "scores")})
    assert len(drawn["clean_scores"]) == len(data.test)
    assert drawn["trajectory"]["steps"] == [0, 1, 2]
    (series,) = drawn["trajectory"]["series"]
    assert len(series["clean_mean"]) == len(series["auroc"]) == 3


def test_limits_cut_and_say_so(grid, reviews):
    _, _, data = grid
    assert len(data.train) == 64
    assert data.train.texts == reviews.train.texts[:64]
    assert len(data.dev) == len(reviews.dev)
    assert "cut to" in data.notes[-1]
