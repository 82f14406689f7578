"""Runs finish, go on after interruptions, report failures and refuse what does not fit."""

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from peftlab.core.errors import ConfigError, PeftlabError, ResourceLimit, RunFailed
from peftlab.core.types import LabelledTexts, TaskData
from peftlab.engine.plan import plan
from peftlab.engine.run import collect, run, title
from peftlab.io.process import identity
from peftlab.io.store import Store
from toy_run import completions, toy_recipe


def go(out, recipe=None, data=None, **options):
    recipe = recipe or toy_recipe()
    run(recipe, plan(recipe, "d", "b"), data or {}, out, execute="toy_run:execute", **options)


def results(out):
    found = json.loads((out / "results.json").read_text())
    found.pop("created")
    for cell in found["cells"]:
        cell.pop("cost")
    return found


def trouble(out, what, kind="guard"):
    return {"kind": kind, "what": what, "flag": str(out.parent / "flag")}


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    out = tmp_path_factory.mktemp("calm") / "run"
    go(out)
    return out


def test_a_run_fills_its_folder(calm):
    found = results(calm)
    assert found["schema"] == "peftlab.results/1"
    assert found["failures"] == []
    cells = found["cells"]
    assert len(cells) == 16
    assert [cells[0][key] for key in ("attack", "tuner", "defence", "seed", "control", "data")] == [
        "badnets", "lora", "none", 0, False, "reviews",
    ]  # fmt: skip
    assert len({cell["metrics"]["value"] for cell in cells}) == 16
    full = json.loads((calm / "results.json").read_text())
    assert {"attack_seconds", "train_seconds", "fit_seconds", "cell_seconds", "at"} == set(
        full["cells"][-1]["cost"]
    )
    nodes = plan(toy_recipe(), "d", "b")
    assert {path.name for path in (calm / "nodes").iterdir()} == {node.id for node in nodes}


def test_two_workers_give_the_same(calm, tmp_path):
    seen = []
    go(tmp_path / "run", workers=2, progress=lambda *now: seen.append(now))
    assert results(tmp_path / "run") == results(calm)
    assert set(completions(tmp_path / "run").values()) == {1}
    assert seen[-1] == (50, 50, "")
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_a_second_run_does_nothing_twice(tmp_path):
    recipe = toy_recipe(seeds=[0], attack="badnets")
    go(tmp_path / "run", recipe)
    first = results(tmp_path / "run")
    seen = []
    go(tmp_path / "run", recipe, progress=lambda *now: seen.append(now))
    assert set(completions(tmp_path / "run").values()) == {1}
    assert results(tmp_path / "run") == first
    node = next((tmp_path / "run" / "nodes").iterdir())
    (node / "value.txt").unlink()
    node.rmdir()
    go(tmp_path / "run", recipe)
    assert sorted(completions(tmp_path / "run").values())[-2:] == [1, 2]
    assert collect(tmp_path / "run", recipe)["cells"] != []


@pytest.mark.parametrize(
    ("what", "code"), [("raise", "TOY-FAIL"), ("nan", "RUN-ERROR"), ("full", "DISK-FULL")]
)
def test_a_failure_does_not_stop_the_others(tmp_path, what, code):
    out = tmp_path / "run"
    kind = "cell" if what == "nan" else "guard"
    with pytest.raises(ResourceLimit if what == "full" else RunFailed) as caught:
        go(out, data=trouble(out, what, kind))
    assert caught.value.code == ("DISK-FULL" if what == "full" else "RUN-NODES")
    found = results(out)
    assert {row["code"] for row in found["failures"] if row["state"] == "failed"} == {code}
    assert {cell["defence"] for cell in found["cells"]} == (set() if what == "nan" else {"none"})
    assert not list(out.rglob(".*"))
    go(out)  # the cause is removed
    assert len(results(out)["cells"]) == 16
    assert set(completions(out).values()) == {1}


def test_a_worker_that_dies_once_is_replaced(calm, tmp_path):
    go(tmp_path / "run", data=trouble(tmp_path / "run", "die once"), workers=2)
    assert results(tmp_path / "run")["cells"] == results(calm)["cells"]
    assert set(completions(tmp_path / "run").values()) == {1}


def test_a_node_that_kills_workers_is_given_up(tmp_path):
    recipe = toy_recipe(seeds=[0], attack="badnets", control=False)
    with pytest.raises(RunFailed, match="RUN-NODES"):
        go(tmp_path / "run", recipe, trouble(tmp_path / "run", "die"), workers=2)
    found = results(tmp_path / "run")
    assert [row["state"] for row in found["failures"]] == ["quarantined", "blocked", "blocked"]
    assert [cell["defence"] for cell in found["cells"]] == ["none"]


def test_an_interrupted_run_goes_on(calm, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        go(out, data=trouble(out, "interrupt"))
    assert not (out / "results.json").exists()
    with Store(out / "runs.db") as store:
        assert "leased" not in store.counts()
    go(out)
    assert results(out)["cells"] == results(calm)["cells"]
    assert set(completions(out).values()) == {1}


def test_what_does_not_fit_is_refused(calm, tmp_path):
    for refused, code in (
        (lambda: go(calm, toy_recipe(seeds=[5])), "RUN-OTHER"),
        (lambda: go(Path(__file__).parent), "FOLDER-EXISTS"),
        (lambda: go(tmp_path / "x", workers=0), "RUN-WORKERS"),
        (lambda: run(toy_recipe(), [], {}, tmp_path / "x", execute="toy_run:no"), "RUN-EXECUTE"),
        (lambda: run(toy_recipe(), [], {}, tmp_path / "x", execute="no.such:no"), "RUN-EXECUTE"),
        (lambda: run(toy_recipe(), [], {}, tmp_path / "x", execute=""), "RUN-EXECUTE"),
    ):
        with pytest.raises(PeftlabError) as caught:
            refused()
        assert caught.value.code == code
    with pytest.raises(ConfigError, match="different: seeds"):
        go(calm, toy_recipe(seeds=[5]))
    assert not (tmp_path / "x").exists()


def test_a_run_of_an_older_release_goes_on_when_a_key_is_new(calm):
    with Store(calm / "runs.db") as store:
        known = store.fact("recipe")
        assert known["prompt"] is None
        store.set_fact("recipe", {key: known[key] for key in known if key != "prompt"})
    go(calm)
    prompt = {"template": "{text} It was", "words": ["bad", "good"]}
    with pytest.raises(ConfigError, match="different: prompt"):
        go(calm, toy_recipe(prompt=prompt))


def test_two_planners_are_not_let_in(tmp_path):
    go(tmp_path / "run", toy_recipe(seeds=[0], attack="badnets"))
    with Store(tmp_path / "run" / "runs.db") as store:
        store.lock(identity())
    with pytest.raises(ConfigError, match="RUN-BUSY"):
        go(tmp_path / "run", toy_recipe(seeds=[0], attack="badnets"))


def test_workers_that_cannot_start_end_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr("peftlab.engine.run.main", os._exit)  # exits with a TypeError at once
    with pytest.raises(RunFailed, match="RUN-WORKERS"):
        go(tmp_path / "run", toy_recipe(seeds=[0], attack="badnets"), workers=2)
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_facts_of_the_data_reach_the_results(tmp_path):
    texts = LabelledTexts(("a", "b"), (0, 1))
    data = TaskData("toy", texts, texts, texts, ("no", "yes"), "generated", "none", notes=("n",))
    recipe = toy_recipe(seeds=[0], attack="badnets")
    run(recipe, [], data, tmp_path / "run", execute="toy_run:execute")
    assert results(tmp_path / "run")["data"]["toy"]["label_names"] == ["no", "yes"]
    assert results(tmp_path / "run")["cells"] == []


def test_titles():
    nodes = plan(toy_recipe(), "d", "b")
    titles = [title(node.kind, node.key) for node in nodes]
    assert titles[0] == "base badnets, seed 0"
    assert "victim lora, seed 1, control" in titles
    assert "base clean, seed 0, control" in titles
    assert "cell insent x lora x psim, seed 1" in titles
