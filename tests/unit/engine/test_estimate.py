"""What a plan may cost: counted by hand, and beside a run that was measured."""

import json
from pathlib import Path

import pytest

from peftlab.core.types import LabelledTexts, TaskData
from peftlab.engine.estimate import DEFENCE_PASSES, FLOP_PER_SECOND, estimate
from peftlab.engine.plan import plan
from peftlab.engine.recipe import make_recipe

MEASURED = Path(__file__).parents[3] / "docs" / "measured" / "psim-sst2.json"


def task(train, dev, test, words):
    """Return texts of so many words each."""
    sets = [LabelledTexts((" ".join(["w"] * words),) * n, (0,) * n) for n in (train, dev, test)]
    return TaskData("toy", *sets, ("no", "yes"), "generated", "none")


def test_counts_by_hand():
    recipe = make_recipe({
        "name": "toy", "attack": "badnets", "control": False, "seeds": [0],
        "tuner": [{"name": "lora", "options": {"epochs": 2}}], "defence": ["none", "psim"],
        "attacker": {"epochs": 3},
    })  # fmt: skip
    nodes = plan(recipe, "d", "b")
    found = estimate(recipe, nodes, task(100, 50, 30, 10))
    assert found.nodes == {"base": 1, "victim": 1, "outputs": 1, "guard": 1, "scores": 1, "cell": 2}
    assert (found.trainings, found.not_applicable) == (2, 0)
    assert found.parameters == pytest.approx(3.2e6, rel=0.05)
    tokens = 16  # 10 words of 1.4, and two
    passes = DEFENCE_PASSES
    work = 6 * 3 * 100 + 4 * 2 * 100 + 2 * (30 + 30 + 30) + 2 * passes * (50 + 30 + 30)
    expected = found.parameters * work * tokens / FLOP_PER_SECOND / 3600
    assert found.cpu_hours == pytest.approx(expected)


def test_is_within_a_factor_of_three_of_a_measured_run():
    measured = json.loads(MEASURED.read_text())
    recipe = make_recipe({
        key: measured["recipe"][key] for key in ("name", "seeds", "control", "control_tuners")
    } | {
        "data": "reviews",
        "attacker": {"epochs": measured["recipe"]["attacker"]["epochs"]},
        **{kind: [one["name"] for one in measured["recipe"][kind] if one["name"] == one["label"]]
           for kind in ("attack", "tuner", "defence")},
    })  # fmt: skip
    seconds = {}
    for cell in measured["cells"]:
        source = (cell["seed"], "control" if cell["control"] else cell["attack"])
        parts = {"attack": (), "train": (cell["tuner"],), "fit": (cell["defence"],)}
        for part, more in parts.items():
            if f"{part}_seconds" in cell["cost"]:
                seconds[part, *source, *more] = cell["cost"][f"{part}_seconds"]
    found = estimate(recipe, plan(recipe, "d", "b"), task(6920, 872, 1821, 19))
    assert 1 / 3 < found.cpu_hours / (sum(seconds.values()) / 3600) < 3


def test_what_makes_no_sense_costs_nothing():
    recipe = make_recipe(
        {"name": "toy", "attack": "badnets", "seeds": [0], "tuner": "lora", "defence": "bki"}
    )
    nodes = plan(recipe, "d", "b")
    found = estimate(recipe, nodes, task(100, 50, 30, 10))
    assert found.not_applicable == found.nodes["cell"] == 2
    assert found.cpu_hours == found.trainings == 0
