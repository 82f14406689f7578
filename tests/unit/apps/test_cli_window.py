"""``bench window`` on the command line: plan, run, page, and what it says."""

import json

import pytest

from cli_tools import cli


@pytest.fixture(scope="module")
def recipe(tiny, tmp_path_factory):
    file = tmp_path_factory.mktemp("window") / "toy.toml"
    file.write_text(
        f"""
name = "toy"
seeds = [0]
steps = [0, 2]
attack = ["badnets"]
attacker = {{ epochs = 1 }}
data_options = {{ n_train = 40, n_dev = 60, n_test = 20, n_proxy = 0 }}
base = [{{ label = "tiny", reference = "{tiny("bert")}" }}]
variant = [{{ label = "top", options = {{ family = "lora-top", rank = 2 }} }}]
"""
    )
    return file


@pytest.fixture(scope="module")
def run(recipe):
    out = recipe.parent / "run"
    return out, cli("bench", "window", recipe, "--out", out, "--workers", 1)


def test_it_writes_numbers_and_a_page(run):
    out, result = run
    assert result.code == 0, result.err
    assert json.loads((out / "window.json").read_text())["schema"] == "peftlab.window/1"
    assert (out / "window.html").read_text().startswith("<!DOCTYPE html>")
    assert "Realised false-positive rate" in result.out
    assert str(out / "window.html") in result.out
    assert "2 of 2 done" in result.err


def test_the_same_again_does_nothing_and_prints_json(run, recipe):
    out, _ = run
    again = cli("bench", "window", recipe, "--out", out, "--workers", 1, "--json")
    assert again.code == 0, again.err
    first = json.loads((out / "window.json").read_text())
    assert again.json()["units"] == first["units"]


def test_a_plan_is_printed_and_nothing_is_written(recipe):
    shown = cli("bench", "window", recipe, "--dry-run", "--set", "seeds=0,1", "--json")
    assert shown.json() == {"bases": 2, "paths": 2, "looks": 2}
    assert "2 paths of 2 steps" in cli(
        "bench", "window", recipe, "--dry-run", "--set", "seeds=0,1"
    ).out  # fmt: skip
    assert {path.name for path in recipe.parent.iterdir()} <= {"toy.toml", "run"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("nobody",), "RECIPE-FILE"),
        (("psim-window-mini", "--set", "steps=1,2"), "RECIPE-VALUE"),
        (("psim-window-mini", "--set", "base.full=./nowhere"), "BASE-MISSING"),
        (("psim-mini",), "RECIPE-KEY"),
    ],
)
def test_mistakes_are_told(arguments, code):
    result = cli("bench", "window", *arguments, "--dry-run")
    assert result.code in {2, 3}
    assert f"[{code}]" in result.err


def test_a_window_recipe_is_no_grid():
    result = cli("bench", "run", "psim-window-mini", "--dry-run")
    assert result.code == 2
    assert "[RECIPE-KEY]" in result.err
