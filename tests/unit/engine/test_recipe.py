"""Recipes are strict, fully resolved and easy to change from the command line."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.core.errors import ConfigError
from peftlab.engine.overrides import parse_value
from peftlab.engine.recipe import dataset_name, load_recipe, make_recipe

TWO = {
    "name": "demo",
    "attack": [{"name": "badnets", "options": {"trigger": "cf"}}, {"name": "synrule"}],
    "tuner": [{"name": "lora"}, {"name": "prefix"}],
    "defence": [{"name": "psim"}, {"name": "psim", "label": "psim-1", "options": {"alpha": 0.01}}],
}


def options(recipe, kind, place=0):
    return getattr(recipe, kind)[place].options


def refused(values, *overrides):
    with pytest.raises(ConfigError) as caught:
        make_recipe(values, overrides)
    return caught.value


def test_the_smallest_recipe_is_filled_in():
    recipe = make_recipe({"name": "x", "attack": {"name": "badnets"}})
    assert (recipe.base, recipe.data, recipe.seeds) == ("builtin:encoder", "reviews", (0, 1, 2))
    assert recipe.control
    assert recipe.attack[0].label == "badnets"
    assert options(recipe, "attack")["rate"] == 0.1
    assert [choice.name for choice in recipe.tuner + recipe.defence] == ["none", "none"]
    assert recipe.data_options["classes"] == 2
    assert make_recipe({"name": "x", "attack": "badnets"}).digest() == recipe.digest()
    assert make_recipe({"name": "x", "attack": ["insent"]}).digest() != recipe.digest()


RECIPES = sorted(
    path
    for path in (Path(__file__).parents[3] / "recipes").glob("*.toml")
    if "-window" not in path.stem  # another kind of experiment: test_window_recipe.py
)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_that_ship_are_valid(path):
    assert load_recipe(path).name == path.stem


def test_one_attack_of_a_recipe_takes_along_what_was_said_of_the_others():
    values = {**TWO, "chosen_on": ["badnets"], "control_tuners": ["lora"]}
    assert make_recipe(values, ["attack=synrule"]).chosen_on == ()
    assert make_recipe(values, ["attack=synrule,badnets"]).chosen_on == ("badnets",)
    assert make_recipe(values, ["chosen_on=synrule, badnets"]).chosen_on == ("synrule", "badnets")
    assert make_recipe(values, ["control_tuners=prefix"]).control_tuners == ("prefix",)
    assert refused(values, "chosen_on=sos").code == "RECIPE-VALUE"


def test_a_resolved_recipe_resolves_to_itself():
    recipe = make_recipe(TWO)
    assert make_recipe(recipe.model_dump(mode="json")) == recipe


def test_files(tmp_path):
    path = tmp_path / "demo.toml"
    path.write_text(
        'name = "demo"\nseeds = [3]\n[[attack]]\nname = "insent"\n[limits]\nmax_test = 9\n'
    )
    recipe = load_recipe(path, ["attacker.epochs=1"])
    assert (recipe.seeds, recipe.limits.max_test, recipe.attacker.epochs) == ((3,), 9, 1)
    for content, code in (
        (b"name = ", "RECIPE-TOML"), (b'name = "\xff"', "RECIPE-TOML"),
        (b"a=1\na=2", "RECIPE-TOML"),
        (b"#" * (1024 * 1024 + 1), "RECIPE-FILE"), (b"x = " + b"[" * 5000, "RECIPE-TOML"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            load_recipe(path)
        assert caught.value.code == code
    with pytest.raises(ConfigError, match="RECIPE-FILE"):
        load_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"sede": [1]}, "RECIPE-KEY"),
        ({"seeds": []}, "RECIPE-VALUE"),
        ({"seeds": [1, 1]}, "RECIPE-VALUE"),
        ({"seeds": [-1]}, "RECIPE-VALUE"),
        ({"seeds": ["1"]}, "RECIPE-VALUE"),
        ({"seeds": [True]}, "RECIPE-VALUE"),
        ({"seeds": 1}, "RECIPE-VALUE"),
        ({"control": 1}, "RECIPE-VALUE"),
        ({"control": "yes"}, "RECIPE-VALUE"),
        ({"name": "../x"}, "RECIPE-VALUE"),
        ({"base": 3}, "RECIPE-VALUE"),
        ({"data": 3}, "RECIPE-VALUE"),
        ({"data_options": [1]}, "RECIPE-VALUE"),
        ({"data_options": {"clases": 2}}, "OPTION-UNKNOWN"),
        ({"attack": []}, "RECIPE-KEY"),
        ({"attack": "none"}, "REGISTRY-NAME"),
        ({"attack": [{"nam": "badnets"}]}, "RECIPE-VALUE"),
        ({"attack": [{"name": "badnet"}]}, "REGISTRY-NAME"),
        ({"attack": [{"name": "badnets", "trigger": "x"}]}, "RECIPE-KEY"),
        ({"attack": [{"name": "badnets", "options": 3}]}, "RECIPE-VALUE"),
        ({"attack": [{"name": "badnets", "options": {"triger": "x"}}]}, "OPTION-UNKNOWN"),
        ({"attack": [{"name": "badnets", "options": {"rate": 2}}]}, "OPTION-VALUE"),
        ({"attack": [{"name": "badnets", "label": "a b"}]}, "RECIPE-VALUE"),
        ({"attack": ["badnets", "badnets"]}, "RECIPE-LABEL"),
        ({"defence": [{"name": "none", "options": {"alpha": 0.1}}]}, "OPTION-UNKNOWN"),
        ({"attacker": {"epoch": 1}}, "OPTION-UNKNOWN"),
        ({"attacker": 1}, "RECIPE-VALUE"),
        ({"limits": {"max_train": 0}}, "OPTION-VALUE"),
        ({"prompt": "{text} It was"}, "RECIPE-VALUE"),
        ({"prompt": {"template": "{text} It was"}}, "OPTION-VALUE"),
        ({"prompt": {"template": "It was", "words": ["bad", "good"]}}, "OPTION-VALUE"),
        ({"prompt": {"template": "{text} It was", "wrods": []}}, "OPTION-UNKNOWN"),
    ],
)
def test_mistakes_are_refused(change, code):
    assert refused({**TWO, **change}).code == code


def test_typos_are_helped():
    assert "seeds" in refused({**TWO, "sede": [1]}).fix
    assert "badnets" in refused(TWO, "attack=badnet").fix
    assert "trigger" in refused(TWO, "attack.options.triger=x").fix
    assert "attacker" in refused(TWO, "attaker.epochs=1").fix


def test_overrides():
    recipe = make_recipe(
        TWO,
        ["seeds=4,5", "tuner=lora", "defence.options.alpha=0.1", "attacker.epochs=1",
         "control=false", "base=builtin:other", "limits.max_train=100", "data_options.classes=4",
         "question=5 > 3?"],
    )  # fmt: skip
    assert recipe.seeds == (4, 5)
    assert [choice.name for choice in recipe.tuner] == ["lora"]
    assert [choice.options["alpha"] for choice in recipe.defence] == [0.1, 0.1]
    assert (recipe.attacker.epochs, recipe.limits.max_train) == (1, 100)
    assert (recipe.control, recipe.base, recipe.question) == (False, "builtin:other", "5 > 3?")
    assert recipe.data_options["classes"] == 4
    assert make_recipe(TWO, ["data=reviews-4"]).data_options["classes"] == 4
    assert make_recipe(TWO, ["seeds=7"]).seeds == (7,)
    assert make_recipe(TWO, ["seeds=1", "seeds=2"]).seeds == (2,)


def test_an_option_goes_to_every_method_that_has_it():
    recipe = make_recipe(TWO, ["attack.options.trigger=mb", "attack.options.rate=0.2"])
    assert options(recipe, "attack")["trigger"] == "mb"
    assert [choice.options["rate"] for choice in recipe.attack] == [0.2, 0.2]
    assert "trigger" not in options(recipe, "attack", 1)
    error = refused({**TWO, "attack": ["synrule"]}, "attack.options.trigger=mb")
    assert error.code == "OPTION-UNKNOWN"


@pytest.mark.parametrize("word", ["2024", "true", "nan", "1979-05-27", "0x10", "a=b", "[x]", "[1]"])
def test_a_trigger_stays_a_word(word):
    recipe = make_recipe(TWO, [f"attack.options.trigger={word}"])
    assert options(recipe, "attack")["trigger"] == word


def test_quotes_are_toml():
    recipe = make_recipe(TWO, ['attack.options.trigger="mb"', "attack.options.position='inner'"])
    assert options(recipe, "attack")["trigger"] == "mb"
    assert options(recipe, "attack")["position"] == "inner"


def test_lists_and_replacement_of_methods():
    recipe = make_recipe(
        TWO,
        ["defence.options.checkpoints=5,10", "attack.options.copies=2", "attack=badnets,insent"],
    )
    assert options(recipe, "defence")["checkpoints"] == [5, 10]
    assert [choice.name for choice in recipe.attack] == ["badnets", "insent"]
    assert options(recipe, "attack")["trigger"] == "mn"  # options are reset by the replacement
    assert options(recipe, "attack")["copies"] == 2  # whatever the order
    assert make_recipe({"name": "x"}, ["attack=insent"]).attack[0].name == "insent"
    recipe = make_recipe(TWO, ["defence.options.checkpoints=[7, 9]"])
    assert options(recipe, "defence")["checkpoints"] == [7, 9]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("seeds", "RECIPE-SET"), ("=1", "RECIPE-SET"), ("seed=1", "RECIPE-SET"),
        ("attack.trigger=x", "RECIPE-SET"), ("attack.options=x", "RECIPE-SET"),
        ("base.x=1", "RECIPE-SET"), ("attacker=1", "RECIPE-SET"), ("limits.a.b=1", "RECIPE-SET"),
        ("attacker.epoch=1", "OPTION-UNKNOWN"), ("seeds=a", "RECIPE-VALUE"),
        ("control=perhaps", "RECIPE-VALUE"), ("attack.options.rate=lots", "OPTION-VALUE"),
        ("tuner=", "REGISTRY-NAME"), ("name=", "RECIPE-VALUE"),
    ],
)  # fmt: skip
def test_wrong_overrides_are_refused(text, code):
    assert refused(TWO, text).code == code


@given(st.text(max_size=30))
def test_any_override_text_is_read_or_refused(text):
    parse_value(text)
    for key in ("seeds", "attack.options.rate", "attack.options.trigger", "limits.max_train", ""):
        with suppress(ConfigError):
            make_recipe(TWO, [f"{key}={text}"])


def test_which_data_set_loads_it():
    assert [dataset_name(text) for text in ("reviews", "hf:x", "./data", "hf")] == [
        "reviews", "hf", "folder", "folder",
    ]  # fmt: skip
