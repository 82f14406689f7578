"""Every step of the main job on a tiny model of every family, by the command line.

Where a method cannot work on a family it must say so: TUNER-MODEL, exit 2, nothing written.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from cli_tools import cli, refused, write_task
from peftlab.core import registry
from peftlab.core.contracts import FitContext
from peftlab.engine.steps import load_data
from peftlab.models.load import load_base
from tiny_models import FAMILIES, make_tiny

TUNERS = ("prompt", "ptuning", "prefix", "full")
NO_PREFIX = ("distilbert", "deberta-v2")  # their layers take no past keys and values
GUARDS = {
    "psim": ["-o", "checkpoints=[2, 4]"],
    "official": ["-o", "compat=official"],
    "onion": [],
}
QUICK = {  # by the contract, with as little work as each can do
    "counterweight": {"candidates": 2, "trials": 4},
    "lmsanitator": {"rounds": 1, "steps": 2, "batch": 4, "spread": 1, "distance": 0},
    "margin": {},
    "mdp": {"variants": 2},
    "paraphrase": {},
    "rap": {"epochs": 1, "steps": 2},
    "strip": {"copies": 2},
}
ODD = ["", "a lovely film", "cf the plot", "film " * 5000, "\u00e9\u4e2d \U0001f600"]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("task") / "data", train=60, dev=60, test=24)


KIN = ("distilbert", "qwen2")  # of bert and of llama; contract tests have them, too


@pytest.fixture(
    scope="module",
    params=[pytest.param(each, marks=[pytest.mark.full] * (each in KIN)) for each in FAMILIES],
)
def family(request, tmp_path_factory, task):
    """One family: its name, its base poisoned by ``peftlab attack``, and a LoRA victim of that."""
    place = tmp_path_factory.mktemp(request.param)
    make_tiny(request.param, place / "base")
    result = cli("attack", "badnets", "--base", place / "base", "--data", task, "--epochs", 0.5,
                 "--out", place / "poisoned", "--json")  # fmt: skip
    assert result.code == 0, result.err
    assert result.json()["n_poisoned"] > 0
    result = cli("tune", "--base", place / "poisoned", "--data", task, "-o", "epochs=0.5",
                 "--out", place / "victim", "--allow-poisoned")  # fmt: skip
    assert result.code == 0, result.err
    return request.param, place


@pytest.mark.parametrize("tuner", TUNERS)
def test_every_tuner(family, task, tuner, tmp_path):
    name, place = family
    out = tmp_path / "out" / "victim"
    (tmp_path / "out").mkdir()
    given = ("--base", place / "poisoned", "--data", task, "--method", tuner, "-o", "epochs=0.5",
             "--out", out, "--allow-poisoned", "--json")  # fmt: skip
    result = cli("tune", *given)
    if tuner == "prefix" and name in NO_PREFIX:
        refused(result, 2, "TUNER-MODEL", clean=tmp_path / "out")
        return
    assert result.code == 0, result.err
    assert result.json()["trainable"] > 0
    assert (out / "POISONED.json").is_file()
    refused(cli("eval", "--victim", out, "--data", task), 3, "MARK-POISONED")
    found = cli("eval", "--victim", out, "--data", task, "--attack", "badnets",
                "--allow-poisoned", "--json")  # fmt: skip
    assert found.code == 0, found.err
    assert {"ca", "asr"} <= found.json()["metrics"].keys()
    assert 0 <= found.json()["metrics"]["ca"] <= 1


def test_a_lora_victim(family, task):
    _, place = family
    victim = place / "victim"
    assert json.loads((victim / "adapter_config.json").read_text())["peft_type"] == "LORA"
    refused(cli("eval", "--victim", victim, "--data", task), 3, "MARK-POISONED")
    found = cli("eval", "--victim", victim, "--data", task, "--allow-poisoned", "--json")
    assert found.json()["metrics"]["n_clean"] == 24


@pytest.mark.parametrize("guard", GUARDS)
def test_guard_fit_score_eval(family, task, guard, tmp_path):
    _, place = family
    defence = "psim" if guard == "official" else guard
    given = ("--base", place / "poisoned", "--data", task, "--defence", defence, *GUARDS[guard],
             "--allow-poisoned")  # fmt: skip
    fitted = cli("guard", "fit", *given, "--out", tmp_path / "guard", "--json")
    assert fitted.code == 0, fitted.err
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in ODD))
    scored = cli("guard", "score", tmp_path / "guard", "--file", file, "--allow-poisoned", "--json")
    assert scored.code == 0, scored.err
    rows = [json.loads(line) for line in scored.out.splitlines()]
    assert len(rows) == len(ODD)
    assert all(row.keys() == {"score", "p_value", "flagged"} for row in rows)
    again = cli("guard", "score", tmp_path / "guard", "--file", file, "--allow-poisoned", "--json")
    assert again.out == scored.out
    found = cli("guard", "eval", tmp_path / "guard", "--victim", place / "victim", "--data",
                task, "--allow-poisoned", "--json")  # fmt: skip
    assert found.code == 0, found.err
    assert {"fpr", "tpr", "auroc", "ca_def", "asr_def"} <= found.json()["metrics"].keys()


@pytest.fixture(scope="module")
def context(family, task):
    """What a defence sees of the poisoned base, which is loaded once."""
    data, pair = (
        load_data(str(task)),
        load_base(str(family[1] / "poisoned"), 2, allow_poisoned=True),
    )
    return FitContext(data.train, data.dev, 2, 0, lambda _=None: pair, lambda _: None)


@pytest.mark.parametrize("defence", QUICK)
def test_a_quick_guard_fits_and_scores(context, defence):
    method = registry.get("defence", defence).build(**QUICK[defence])
    method.fit(context)
    scores = method.score(ODD).values
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(method.score(ODD[::-1]).values[::-1], scores, atol=1e-4)
