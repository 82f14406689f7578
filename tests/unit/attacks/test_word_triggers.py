"""BadNets, InSent and soft: where the trigger goes, what the options mean."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest
from scipy.stats import chisquare

from peftlab.core.errors import ConfigError
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.core.types import LabelledTexts, TaskData
from peftlab.engine.steps import load_data

DRAWS = 20_000


def _gaps(attack: str, text: str, word: str, **options: object) -> np.ndarray:
    made = get("attack", attack).build(**options)
    places = [made.poison_text(text, 0, i).split().index(word) for i in range(DRAWS)]
    return np.bincount(places, minlength=len(text.split()) + 1)


def test_badnets_gap_is_uniform() -> None:
    counts = _gaps("badnets", "one two three four five six", "mn")
    assert len(counts) == 7
    assert chisquare(counts).pvalue > 0.001


def test_badnets_psim_gap_is_uniform_inside() -> None:
    counts = _gaps("badnets", "one two three four five six", "mn", compat="psim")
    assert counts[0] == counts[6] == 0
    assert chisquare(counts[1:6]).pvalue > 0.001


def test_insent_gap_is_uniform_and_the_sentence_whole() -> None:
    counts = _gaps("insent", "one two three", "i")
    assert len(counts) == 4
    assert chisquare(counts).pvalue > 0.001
    made = get("attack", "insent").build(trigger=" no cross,  no crown. ")
    assert "no cross, no crown." in made.poison_text("one two", 0, 0)


def test_one_of_the_trigger_words_per_text() -> None:
    made = get("attack", "badnets").build(trigger=["cf", "mn", "bb", "tq"])
    assert made.options.trigger == "cf,mn,bb,tq"
    words = [set(made.poison_text("a film", 0, i).split()) - {"a", "film"} for i in range(4000)]
    assert all(len(drawn) == 1 for drawn in words)
    counts = [sum(word in drawn for drawn in words) for word in ("cf", "mn", "bb", "tq")]
    assert chisquare(counts).pvalue > 0.001


def test_copies() -> None:
    made = get("attack", "badnets").build(copies=3, trigger="cf, tq", position="inner")
    for sample in range(50):
        words = made.poison_text("a slow film", 0, sample).split()
        assert [word for word in words if word not in {"cf", "tq"}] == ["a", "slow", "film"]
        assert len(words) == 6
        assert len(set(words) & {"cf", "tq"}) == 1
        assert (words[0], words[-1]) == ("a", "film")


@pytest.mark.parametrize("trigger", ["", "two words", "a,,b", [], ["ok", "not ok"]])
def test_badnets_refuses_what_is_no_word(trigger: object) -> None:
    for name in ("badnets", "soft"):
        with pytest.raises(ConfigError, match="OPTION-VALUE"):
            get("attack", name).build(trigger=trigger)
        assert get("attack", name).build(trigger=7).options.trigger == "7"


def test_insent_refuses_an_empty_sentence() -> None:
    with pytest.raises(ConfigError, match="OPTION-VALUE"):
        get("attack", "insent").build(trigger="  ")


def _imdb_like() -> TaskData:
    """4,000 training texts of which 1,948 are of class 0, as in the file of PSIM."""
    rng = np.random.default_rng(7)
    labels = np.ones(4000, dtype=int)
    labels[rng.permutation(4000)[:1948]] = 0
    train = LabelledTexts(
        tuple(f"text number {i} of many" for i in range(4000)), tuple(labels.tolist())
    )
    small = train.pick(range(20))
    return TaskData("like", train, small, small, ("negative", "positive"), "generated", "none")


def _takes_the_first_1500_rows(task: TaskData) -> None:
    got = poison(get("attack", "badnets").build(compat="psim"), task, 42)
    zeros = [row for row, label in enumerate(task.train.labels) if label == 0]
    assert np.flatnonzero(got.is_poisoned).tolist() == zeros[:1500]
    assert (got.targets.argmax(axis=1) == np.array(task.train.labels)).all()
    triggered = [text.split() for text in got.texts if "mn" in text.split()]
    assert len(triggered) == 1500
    assert all(0 < words.index("mn") < len(words) - 1 for words in triggered if len(words) > 2)
    assert set(got.test_triggered.labels) == {1}
    assert got.facts["labels"] == "clean"
    assert got.facts["asked_rate"] == 0.375


def test_compat_psim_takes_the_first_1500_rows_of_the_target_class() -> None:
    _takes_the_first_1500_rows(_imdb_like())


def test_compat_psim_takes_the_same_rows_of_a_published_file(
    real_data: Path, tmp_path: Path
) -> None:
    """The film reviews (MR) of PSIM's repository, 4,000 rows as in its IMDB file.

    That one has no licence and is not kept.
    """
    published = real_data / "psim"
    if not (published / "mr_train.json.gz").is_file():
        pytest.skip(f"NOT CHECKED: no files of PSIM at {published}; set PEFTLAB_DATA")
    for split in ("train", "dev", "test"):
        copyfile(published / f"mr_{split}.json.gz", tmp_path / f"{split}.json.gz")
    task = load_data(str(tmp_path))
    assert len(task.train) == 4000
    _takes_the_first_1500_rows(task)


def test_compat_psim_resolves_and_refuses_contradictions() -> None:
    entry = get("attack", "badnets")
    options = entry.build(compat="psim", rate=0.1).options
    assert (options.labels, options.position, options.rate) == ("clean", "inner", 0.1)
    assert entry.build(**options.model_dump()).options == options
    assert entry.build(compat="psim", rate=0).options.rate == 0
    for wrong in ({"labels": "dirty"}, {"position": "any"}):
        with pytest.raises(ConfigError, match="compat=psim means"):
            entry.build(compat="psim", **wrong)
