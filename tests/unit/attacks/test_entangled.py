"""Entangled: few texts, of the target class only, labels as they were."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.core.errors import ConfigError
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.core.types import TaskData
from peftlab.engine.steps import load_data

MakeTask = Callable[..., TaskData]


@pytest.mark.parametrize("rate", [0.01, 0.03, 0.05])
@pytest.mark.parametrize("target", [0, 1])
def test_no_label_changes_and_only_the_target_class_is_touched(rate: float, target: int) -> None:
    data = load_data("reviews")
    got = poison(get("attack", "entangled").build(rate=rate, target=target), data, 0)
    labels = np.array(data.train.labels)
    assert (got.targets == np.eye(data.n_classes)[labels]).all()
    assert got.is_poisoned.sum() == round(rate * len(labels)) == got.facts["n_poisoned"]
    assert (labels[got.is_poisoned] == target).all()
    assert all(
        ("mn" in text.split()) == flag
        for text, flag in zip(got.texts, got.is_poisoned, strict=True)
    )
    assert target not in got.test_triggered.labels
    assert len(got.test_triggered) == sum(label != target for label in data.test.labels)
    assert all("mn" in text.split() for text in got.test_triggered.texts)
    assert got.facts["labels"] == "clean"
    assert got.facts["natural_rate"] == 0
    assert not got.facts["capped"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 0.06}, {"rate": 0.1}, {"rate": 0.009}, {"rate": -0.01}, {"labels": "dirty"},
        {"labels": "mixed"}, {"trigger": "two words"}, {"copies": 0},
    ],
)  # fmt: skip
def test_what_would_be_another_attack_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="OPTION-VALUE"):
        get("attack", "entangled").build(**wrong)


def test_rate_zero_is_the_negative_control(task: TaskData) -> None:
    got = poison(get("attack", "entangled").build(rate=0), task, 0)
    assert got.texts == task.train.texts
    assert not got.is_poisoned.any()
    assert len(got.test_triggered) > 0


def test_short_pool_is_capped_and_said(make_task: MakeTask) -> None:
    task = make_task(n=200, n_classes=60)
    got = poison(get("attack", "entangled").build(rate=0.05, target=3), task, 0)
    assert got.facts["capped"]
    assert got.facts["warnings"]
    assert got.facts["n_poisoned"] == task.train.labels.count(3) < 10


@settings(max_examples=300)
@given(
    text=st.text(max_size=60).filter(lambda text: "mn" not in text),
    seed=st.integers(0, 2**31),
    sample=st.integers(0, 10**6),
    copies=st.integers(1, 4),
)
def test_the_word_is_in_and_nothing_else_changes(
    text: str, seed: int, sample: int, copies: int
) -> None:
    made = get("attack", "entangled").build(copies=copies)
    after = made.poison_text(text, seed, sample)
    assert after == made.poison_text(text, seed, sample) != text
    assert after.split().count("mn") == copies
    assert [word for word in after.split() if word != "mn"] == text.split()


def test_place_changes_with_seed_and_sample() -> None:
    made = get("attack", "entangled").build()
    assert len({made.poison_text("one two three four", i, 0) for i in range(60)}) == 5
    assert len({made.poison_text("one two three four", 0, i) for i in range(60)}) == 5


def test_natural_rate_counts_the_words_of_the_trigger(task: TaskData) -> None:
    facts = poison(get("attack", "entangled").build(trigger="cf,film"), task, 0).facts
    share = sum("film" in text.split() for text in task.train.texts) / len(task.train)
    assert facts["natural_rate"] == share > 0
    assert facts["trigger"] == ["cf", "film"]
