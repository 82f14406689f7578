"""Hostile and odd data, options, names and recipes at the command line."""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from cli_tools import cli, refused, write_task
from tiny_models import make_tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny("bert", tmp_path_factory.mktemp("base") / "bert")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("task") / "data", train=40, dev=60, test=20)


@pytest.fixture
def task(good, tmp_path):
    return shutil.copytree(good, tmp_path / "data")


@pytest.fixture
def place(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def tune(base, data, place, *more):
    return cli("tune", "--base", base, "--data", data, "-o", "epochs=0.1", "--out", place / "v",
               *more)  # fmt: skip


def rewrite(path, change):
    """Apply ``change(row, value)`` to every row of a jsonl file."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, value in enumerate(rows):
        change(number, value)
    path.write_text("".join(json.dumps(value) + "\n" for value in rows))


# ---------------------------------------------------------------------- refused


def test_no_such_folder(base, place):
    result = tune(base, place / "nowhere", place)
    refused(result, 3, "DATA-MISSING", clean=place)
    refused(tune(base, "review", place), 3, "DATA-MISSING", clean=place)
    assert "did you mean reviews" in tune(base, "review", place).err


def test_a_missing_split(base, task, place):
    (task / "test.jsonl").unlink()
    refused(tune(base, task, place), 3, "DATA-MISSING", clean=place)


def test_a_split_twice(base, task, place):
    shutil.copy(task / "train.jsonl", task / "train.json")
    refused(tune(base, task, place), 3, "DATA-AMBIGUOUS", clean=place)


def test_a_missing_column(base, task, place):
    rewrite(task / "train.jsonl", lambda _, value: value.update(review=value.pop("text")))
    result = tune(base, task, place)
    refused(result, 3, "DATA-COLUMN", clean=place)
    assert "review" in result.err


def test_one_class_only(base, task, place):
    rewrite(task / "train.jsonl", lambda _, value: value.update(label=1))
    refused(tune(base, task, place), 3, "DATA-ONECLASS", clean=place)


def test_bytes_that_are_no_utf8(base, task, place):
    (task / "dev.jsonl").write_bytes(b'{"text": "caf\xe9", "label": 0}\n')
    refused(tune(base, task, place), 3, "DATA-ENCODING", clean=place)


@pytest.mark.parametrize("label", [None, -1, 0.5, 7, [], ""])
def test_labels_that_are_no_classes(base, task, place, label):
    rewrite(task / "test.jsonl", lambda row, value: row == 3 and value.update(label=label))
    refused(tune(base, task, place), 3, "DATA-LABEL", clean=place)


@pytest.mark.parametrize("text", [None, 3, ["a"]])
def test_texts_that_are_none(base, task, place, text):
    rewrite(task / "test.jsonl", lambda row, value: row == 3 and value.update(text=text))
    refused(tune(base, task, place), 3, "DATA-TEXT", clean=place)


def test_escapes_in_columns_and_labels_do_not_reach_the_terminal(base, task, place):
    nasty = "\u001b]0;owned\u0007\u009b2J\u202egpj"
    rewrite(task / "train.jsonl", lambda _, value: value.update({nasty: 1}))
    result = tune(base, task, place)
    assert result.code == 0
    assert not set("\x1b\x07\x9b\u202e") & set(result.err + result.out)
    shutil.rmtree(place / "v")
    for split in ("train", "dev", "test"):
        rewrite(task / f"{split}.jsonl", lambda _, v: v.update(label=f"{nasty}{v['label']}"))
    result = tune(base, task, place, "--json")
    assert result.code == 0
    assert not set("\x1b\x07\x9b\u202e") & set(result.err + result.out)
    assert result.json()["label_names"] == [f"{nasty}0", f"{nasty}1"]
    rewrite(task / "test.jsonl", lambda _, value: value.update(label=nasty))
    result = tune(base, task, place, "--overwrite")
    refused(result, 3, "DATA-LABEL")
    assert not set("\x1b\x07\x9b\u202e") & set(result.err)


# ---------------------------------------------------------------------- odd but fine


def test_empty_and_very_long_texts_work(base, task, place):
    long = "film " * 10_000

    def change(row, value):
        value.update(
            text=["", " \t ", long, long + "x" * 50_000][row] if row < 4 else value["text"]
        )

    for split in ("train", "dev", "test"):
        rewrite(task / f"{split}.jsonl", change)
    assert tune(base, task, place).code == 0
    found = cli("eval", "--victim", place / "v", "--data", task, "--attack", "badnets", "--json")
    assert found.code == 0, found.err
    assert found.json()["metrics"]["n_clean"] == 20
    fitted = cli("guard", "fit", "--base", base, "--data", task, "--out", place / "g",
                 "-o", "checkpoints=[2]")  # fmt: skip
    assert fitted.code == 0, fitted.err
    found = cli("guard", "eval", place / "g", "--victim", place / "v", "--data", task, "--json")
    assert found.code == 0, found.err


def test_labels_may_be_words(base, task, place):
    for split in ("train", "dev", "test"):
        rewrite(task / f"{split}.jsonl", lambda _, v: v.update(label=["bad", "good"][v["label"]]))
    result = tune(base, task, place, "--json")
    assert result.code == 0, result.err
    assert result.json()["label_names"] == ["bad", "good"]


def test_the_same_texts_in_two_splits_are_said(base, task, place):
    shutil.copy(task / "train.jsonl", task / "test.jsonl")
    result = tune(base, task, place)
    assert result.code == 0
    assert "HYGIENE-LEAK-TEST-TRAIN" in result.err


def test_no_text_to_score(base, good, place):
    assert cli("guard", "fit", "--base", base, "--data", good, "--defence", "onion",
               "--out", place / "g").code == 0  # fmt: skip
    empty = place / "empty.txt"
    empty.touch()
    result = cli("guard", "score", place / "g", "--file", empty, "--json")
    assert (result.code, result.out) == (0, "")
    for name, content, code in (
        ("a.jsonl", b'{"label": 3}\n', "TEXTS-ROW"),
        ("b.jsonl", b"[" * 10_000 + b"\n", "TEXTS-ROW"),
        ("c.txt", b"\xff\xfe", "TEXTS-ENCODING"),
    ):
        (place / name).write_bytes(content)
        refused(cli("guard", "score", place / "g", "--file", place / name), 3, code)
    refused(cli("guard", "score", place / "g", "--file", place / "none"), 3, "TEXTS-MISSING")
    refused(cli("guard", "score", place / "g", "--file", place), 3, "TEXTS-MISSING")


# ---------------------------------------------------------------------- calibration


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (("-o", "alpha=0.001"), "CAL-FEW"),
        (("-o", "alpha=0.05", "-o", "delta=0.01"), "CAL-FEW"),
        (("-o", "alpha=0.05", "-o", "sides=two"), "CAL-FEW"),
        (("-o", "alpha=0"), "OPTION-VALUE"),
        (("-o", "alpha=nan"), "OPTION-VALUE"),
    ],
)
def test_too_few_calibration_texts(base, good, place, more, code):
    result = cli("guard", "fit", "--base", base, "--data", good, "--out", place / "g", *more)
    assert result.code == 2, result.err
    assert f"[{code}]" in result.err
    assert not list(place.iterdir())


def test_too_few_dev_texts(base, tmp_path, place):
    data = write_task(tmp_path / "few", train=40, dev=19, test=20)
    result = cli("guard", "fit", "--base", base, "--data", data, "--out", place / "g")
    refused(result, 2, "GUARD-FEW", clean=place)


# ---------------------------------------------------------------------- names and options


@pytest.mark.parametrize(
    ("command", "helped"),
    [
        (("attack", "badnet"), "badnets"),
        (("tune", "--method", "lorra"), "lora"),
        (("guard", "fit", "--defence", "oniom"), "onion"),
    ],
)
def test_an_unknown_name_is_helped(base, good, place, command, helped):
    result = cli(*command, "--base", base, "--data", good, "--out", place / "x")
    refused(result, 2, "REGISTRY-NAME", clean=place)
    assert f"did you mean {helped}" in result.err


@pytest.mark.parametrize(
    ("command", "option", "code"),
    [
        (("attack", "badnets"), "ratio=0.1", "OPTION-UNKNOWN"),
        (("attack", "badnets"), "rate=7", "OPTION-VALUE"),
        (("attack", "badnets"), "rate", "CLI-OPTION"),
        (("tune",), "rnk=4", "OPTION-UNKNOWN"),
        (("tune",), "rank=0", "OPTION-VALUE"),
        (("tune",), "rank=many", "OPTION-VALUE"),
        (("guard", "fit"), "alfa=0.1", "OPTION-UNKNOWN"),
        (("guard", "fit"), "checkpoints=[4, 2]", "OPTION-VALUE"),
        (("guard", "fit"), "\u001b[2J=1", "OPTION-UNKNOWN"),
    ],
)
def test_wrong_options(base, good, place, command, option, code):
    result = cli(*command, "--base", base, "--data", good, "--out", place / "x", "-o", option)
    refused(result, 2, code, clean=place)
    assert "\x1b" not in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("tune", "--frobnicate"), ("tune",), ("nothing",), ("guard", "fit", "--seed", "-1"),
        ("bench", "run"), ("tune", "--out", "x", "--seed", "many"), ("eval",),
    ],
)  # fmt: skip
def test_wrong_usage(arguments):
    result = cli(*arguments)
    assert result.code == 2
    assert not result.out
    assert "Traceback" not in result.err


def test_a_target_that_is_no_class(base, good, place):
    result = cli("attack", "--base", base, "--data", good, "--out", place / "x", "-o", "target=5")
    assert result.code == 2, result.err
    assert not list(place.iterdir())


# ---------------------------------------------------------------------- recipes

RECIPE = 'name = "r"\nseeds = [0]\n[[attack]]\nname = "badnets"\n'


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"name = ", "RECIPE-TOML"),
        (b"\xff\xfe", "RECIPE-TOML"),
        (b"a = " + b"[" * 5000, "RECIPE-TOML"),
        (b"", "RECIPE-KEY"),
        (b'nmae = "x"\n' + RECIPE.encode(), "RECIPE-KEY"),
        (RECIPE.encode() + b"nmae = 1\n", "RECIPE-KEY"),
        (RECIPE.encode() + b"options = {ratio = 1}\n", "OPTION-UNKNOWN"),
        (RECIPE.encode() + b"options = {rate = 9}\n", "OPTION-VALUE"),
        (RECIPE.encode() + b"options = 3\n", "RECIPE-VALUE"),
        (RECIPE.replace("badnets", "badnet").encode(), "REGISTRY-NAME"),
        (RECIPE.replace("[0]", "[0, 0]").encode(), "RECIPE-VALUE"),
        (RECIPE.replace("[0]", '"all"').encode(), "RECIPE-VALUE"),
        (RECIPE.replace('"r"', '"../../x"').encode(), "RECIPE-VALUE"),
        (b"#" * 2**21, "RECIPE-FILE"),
    ],
)
def test_a_bad_recipe(tmp_path, place, content, code):
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    result = cli("bench", "run", file, "--out", place / "run")
    refused(result, 2, code, clean=place)


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ("seeds", "RECIPE-SET"),
        ("sedes=0", "RECIPE-SET"),
        ("attack=badnet", "REGISTRY-NAME"),
        ("attack.options.ratio=1", "OPTION-UNKNOWN"),
        ("attack.options.rate=9", "OPTION-VALUE"),
        ("limits.max_train=0", "OPTION-VALUE"),
        ("attack.name.x=1", "RECIPE-SET"),
    ],
)
def test_a_bad_setting(place, setting, code):
    result = cli("bench", "run", "psim-mini", "--out", place / "run", "--set", setting)
    refused(result, 2, code, clean=place)


def test_a_recipe_that_is_not_there(place):
    result = cli("bench", "run", "psim-mimi", "--out", place / "run")
    refused(result, 2, "RECIPE-FILE", clean=place)
    assert "did you mean psim-mini" in result.err


def test_a_run_on_data_or_a_base_that_is_not_there_leaves_nothing(place):
    for setting, code in (("data=nowhere", "DATA-MISSING"), ("base=./nowhere", "BASE-MISSING")):
        result = cli("bench", "run", "psim-mini", "--out", place / "run", "--set", setting)
        refused(result, 3, code, clean=place)


# ---------------------------------------------------------------------- results


CELL = '{"schema": "peftlab.results/1", "cells": [%s]}'


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "RESULTS-MISSING"), ("{", "JSON-BAD"), ("[]", "RESULTS-SCHEMA"),
        ('{"schema": "other/9", "cells": []}', "RESULTS-SCHEMA"),
        ('{"schema": "peftlab.results/1"}', "RESULTS-SCHEMA"),
        (CELL % "3", "RESULTS-SCHEMA"), (CELL % '{"metrics": []}', "RESULTS-SCHEMA"),
    ],
)  # fmt: skip
def test_results_that_are_none(place, content, code):
    if content is not None:
        (place / "results.json").write_text(content)
    for command in (("table", place), ("compare", place, place)):
        for more in ((), ("--json",)):
            refused(cli("bench", *command, *more), 3, code)


@pytest.mark.parametrize(
    "cell", ['{"metrics": {}}', '{"metrics": {"tpr": null}, "seed": "x", "cost": []}',
             '{"metrics": {"tpr": "high"}, "attack": ["a"], "intervals": {"tpr": 3}}']
)  # fmt: skip
def test_odd_cells_are_no_failure_of_ours(place, cell):
    (place / "results.json").write_text(CELL % cell)
    for command in (("table", place), ("table", place, "--json"), ("compare", place, place)):
        result = cli("bench", *command)
        assert result.code in {0, 2, 3}, result.err
