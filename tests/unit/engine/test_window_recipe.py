"""Window recipes are as strict as those of grids, and as easy to change."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.core.errors import ConfigError
from peftlab.engine.window.recipe import STEPS, load_window_recipe, make_window_recipe
from peftlab.nn.unlearning import RATES

TWO = {
    "name": "demo",
    "attacker": {"epochs": 2},
    "attack": [{"name": "badnets"}, {"name": "insent"}],
    "base": [
        {"label": "none", "reference": "builtin:encoder-random", "attacker": {"lr": 5e-4}},
        {"label": "full", "reference": "builtin:encoder"},
    ],
    "variant": [
        {"label": "lora", "options": {"family": "lora", "labels": "random", "head": "inherit"}},
        {"label": "all", "options": {"family": "all"}},
    ],
}
SHIPPED = sorted((Path(__file__).parents[3] / "recipes").glob("*-window*.toml"))


def refused(values, *overrides):
    with pytest.raises(ConfigError) as caught:
        make_window_recipe(values, overrides)
    return caught.value


def labels(listed):
    return [each.label for each in listed]


def test_it_is_filled_in():
    recipe = make_window_recipe(TWO)
    assert recipe.steps == STEPS
    assert (recipe.bar, recipe.precision, recipe.seeds) == (0.8, "fp32", (0, 1, 2))
    # a base has the attacker of the recipe, but for what it says itself
    assert [(b.attacker.epochs, b.attacker.lr) for b in recipe.base] == [(2, 5e-4), (2, None)]
    lora, everything = (variant.options for variant in recipe.variant)
    assert lora == {
        "family": "lora", "labels": "random", "head": "inherit", "lr": RATES["lora"],
        "batch": 32, "rank": 32, "virtual_tokens": 5,
    }  # fmt: skip
    assert (everything["head"], everything["lr"]) == ("inherit", RATES["all"])


def test_a_resolved_recipe_resolves_to_itself():
    recipe = make_window_recipe(TWO)
    assert make_window_recipe(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_recipes_that_ship_are_valid(path):
    recipe = load_window_recipe(path)
    assert recipe.name == path.stem
    assert any(attack.options["rate"] == 0 for attack in recipe.attack)  # a control


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"tuner": "lora"}, "RECIPE-KEY"),
        ({"control": True}, "RECIPE-KEY"),
        ({"base": []}, "RECIPE-KEY"),
        ({"base": "builtin:encoder"}, "RECIPE-VALUE"),
        ({"base": [{"reference": "builtin:encoder"}]}, "RECIPE-VALUE"),
        ({"base": [{"label": "x"}]}, "RECIPE-VALUE"),
        ({"base": [{"label": "x", "reference": 3}]}, "RECIPE-VALUE"),
        ({"base": [{"label": "a b", "reference": "x"}]}, "RECIPE-VALUE"),
        ({"base": [{"label": "x", "reference": "x", "folder": "x"}]}, "RECIPE-KEY"),
        ({"base": [{"label": "x", "reference": "x", "attacker": 3}]}, "RECIPE-VALUE"),
        ({"base": [{"label": "x", "reference": "x", "attacker": {"epoch": 3}}]}, "OPTION-UNKNOWN"),
        ({"base": [{"label": "x", "reference": "x"}] * 2}, "RECIPE-LABEL"),
        ({"variant": []}, "RECIPE-KEY"),
        ({"variant": [{"label": "x", "options": {"family": "pair"}}]}, "RECIPE-VALUE"),
        ({"variant": [{"label": "x", "options": {"family": "lo"}}]}, "OPTION-VALUE"),
        ({"variant": [{"label": "x", "options": {"family": "lora", "alpha": 0.1}}]}, "RECIPE-KEY"),
        ({"variant": [{"label": "x", "options": {"family": "lora", "lr": 2}}]}, "OPTION-VALUE"),
        ({"variant": [{"label": "x", "options": 3}]}, "RECIPE-VALUE"),
        ({"variant": [{"label": "x", "options": {"family": "all"}}] * 2}, "RECIPE-LABEL"),
        ({"steps": [0]}, "RECIPE-VALUE"),
        ({"steps": [5, 10]}, "RECIPE-VALUE"),
        ({"steps": [0, 10, 10]}, "RECIPE-VALUE"),
        ({"steps": [0, 20, 10]}, "RECIPE-VALUE"),
        ({"steps": [0, "5"]}, "RECIPE-VALUE"),
        ({"steps": [0, 5.0]}, "RECIPE-VALUE"),
        ({"steps": [0, 100_001]}, "RECIPE-VALUE"),
        ({"steps": list(range(65))}, "RECIPE-VALUE"),
        ({"steps": 5}, "RECIPE-VALUE"),
        ({"bar": 0}, "RECIPE-VALUE"),
        ({"bar": 1.1}, "RECIPE-VALUE"),
        ({"bar": "0.8"}, "RECIPE-VALUE"),
        ({"precision": "fp16"}, "RECIPE-VALUE"),
        ({"attack": []}, "RECIPE-KEY"),
        ({"attack": "badnet"}, "REGISTRY-NAME"),
        ({"seeds": [1, 1]}, "RECIPE-VALUE"),
        ({"limits": {"max_train": 0}}, "OPTION-VALUE"),
    ],
)
def test_mistakes_are_refused(change, code):
    assert refused({**TWO, **change}).code == code


def test_overrides():
    recipe = make_window_recipe(
        TWO,
        ["base.half=./half", "base.none=./other", "base=half,none", "variant=all",
         "variant.options.batch=16", "steps=0,10,20", "bar=0.9", "seeds=4", "attacker.epochs=1",
         "attack.options.rate=0.2", "data=reviews-4", "limits.max_test=50", "precision=bf16"],
    )  # fmt: skip
    assert [(b.label, b.reference) for b in recipe.base] == [
        ("half", "./half"), ("none", "./other"),
    ]  # fmt: skip
    assert (labels(recipe.variant), recipe.variant[0].options["batch"]) == (["all"], 16)
    assert (recipe.steps, recipe.bar, recipe.seeds) == ((0, 10, 20), 0.9, (4,))
    assert (recipe.base[0].attacker.epochs, recipe.limits.max_test) == (1, 50)
    assert [attack.options["rate"] for attack in recipe.attack] == [0.2, 0.2]
    assert recipe.precision == "bf16"
    assert make_window_recipe(TWO, ["steps=[0, 3]"]).steps == (0, 3)
    assert TWO["base"][0]["reference"] == "builtin:encoder-random"  # what was given is untouched


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("base", "RECIPE-SET"), ("base=nobody", "RECIPE-SET"), ("base.=x", "RECIPE-SET"),
        ("variant=nobody", "RECIPE-SET"), ("variant.lr=1", "RECIPE-SET"),
        ("variant.options.alpha=1", "RECIPE-KEY"), ("steps.x=1", "RECIPE-SET"),
        ("steps=5", "RECIPE-VALUE"), ("steps=a,b", "RECIPE-VALUE"), ("bar=lots", "RECIPE-VALUE"),
        ("tuner=lora", "RECIPE-KEY"), ("stesp=1", "RECIPE-SET"),
    ],
)  # fmt: skip
def test_wrong_overrides_are_refused(text, code):
    assert refused(TWO, text).code == code


@given(st.text(max_size=30))
def test_any_override_text_is_read_or_refused(text):
    for key in ("steps", "base", "base.x", "variant.options.rank", "bar"):
        with suppress(ConfigError):
            make_window_recipe(TWO, [f"{key}={text}"])


def test_overrides_of_a_recipe_without_the_list_are_refused():
    values = {key: value for key, value in TWO.items() if key != "base"}
    assert refused(values, "base.x=y").code == "RECIPE-SET"
