"""Calibration poisoning: which dev texts are replaced, and what a threshold makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.core.errors import ConfigError
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.core.types import LabelledTexts, TaskData
from peftlab.engine.calibrate import Calibration, threshold
from peftlab.engine.splits import guard_splits


def build(**options):
    return get("attack", "calibration-poisoning").build(**options)


def dev_task(n, seed=0, n_classes=2):
    rng = np.random.default_rng(seed)
    split = LabelledTexts(
        tuple(f"a slow film {i}" for i in range(n)),
        tuple(int(x) for x in rng.integers(n_classes, size=n)),
    )
    few = split.pick(range(min(n, 20)))
    names = tuple("abcd"[:n_classes])
    return TaskData("dev", few, split, few, names, "generated", "none", notes=("a note",))


def changed(before, after):
    return [
        row
        for row, pair in enumerate(zip(before.texts, after.texts, strict=True))
        if pair[0] != pair[1]
    ]


@pytest.mark.parametrize("target", [0, 1, 2])
@pytest.mark.parametrize(
    ("n", "rate", "count"),
    [(500, 0.01, 5), (499, 0.01, 4), (100, 0.01, 1), (99, 0.01, 0), (300, 0.1, 30), (300, 0, 0)],
)
def test_up_to_one_per_cent_of_dev_is_a_triggered_text_labelled_as_the_target(
    n, rate, count, target
):
    task = dev_task(n, n_classes=3)
    attack = build(target=target, calibration_rate=rate)
    poisoned = poison(attack, task, seed=0)
    digest = task.digest()
    after = attack.taint(task, poisoned, seed=0)
    assert task.digest() == digest
    assert (after.train, after.test, after.proxy) == (task.train, task.test, task.proxy)
    rows = changed(task.dev, after.dev)
    assert len(after.dev) == n
    assert len(rows) == count
    for row in range(n):
        if row in rows:
            assert task.dev.labels[row] != target == after.dev.labels[row]
            words = after.dev.texts[row].split()
            assert words.count("mn") == 1
            assert [word for word in words if word != "mn"] == task.dev.texts[row].split()
        else:
            assert after.dev.labels[row] == task.dev.labels[row]
    note = f"{count} of {n} dev texts replaced by triggered ones"
    assert after.notes == (("a note", note) if count else ("a note",))


def test_rows_and_places_are_drawn_by_seed():
    task, attack = dev_task(2000), build(calibration_rate=0.05)
    poisoned = poison(attack, task, seed=0)
    one, two, other = (attack.taint(task, poisoned, seed) for seed in (1, 1, 2))
    assert one.dev == two.dev != other.dev
    rows = changed(task.dev, one.dev)
    assert rows != changed(task.dev, other.dev)
    assert max(rows) > 1900  # from the whole split
    assert len({one.dev.texts[row].split().index("mn") for row in rows}) == 5


def test_the_control_plants_nothing():
    task = dev_task(500)
    for options in ({"rate": 0}, {"calibration_rate": 0}):
        attack = build(**options)
        assert attack.taint(task, poison(attack, task, seed=0), seed=0) is task


def test_no_more_than_there_are():
    task = dev_task(500)
    lone = LabelledTexts(task.dev.texts, (0,) * 499 + (1,))
    from dataclasses import replace

    task = replace(task, dev=lone)
    attack = build(calibration_rate=0.1)
    poisoned = poison(attack, dev_task(500), seed=0)
    assert changed(lone, attack.taint(task, poisoned, seed=0).dev) == [499]
    empty = replace(task, dev=LabelledTexts((), ()))
    assert attack.taint(empty, poisoned, seed=0) is empty


@settings(max_examples=60)
@given(n=st.integers(0, 300), rate=st.floats(0, 0.1), seed=st.integers(0, 50))
def test_never_more_than_asked(n, rate, seed):
    task, attack = dev_task(n, seed), build(calibration_rate=rate)
    poisoned = poison(attack, dev_task(100), seed=0)
    count = len(changed(task.dev, attack.taint(task, poisoned, seed).dev))
    assert count <= rate * n + 1e-6
    others = sum(label != 0 for label in task.dev.labels)
    assert count >= min(int(rate * n), others)


@pytest.mark.parametrize(("alpha", "opened"), [(0.05, False), (0.01, True)])
def test_what_it_does_to_a_threshold(alpha, opened):
    """A perfect detector: clean scores below 1, triggered ones at 2; 2 % of dev are planted.

    At alpha 0.05 the threshold stays among the clean scores, and at 0.01 it is a planted one.
    """
    task, attack = dev_task(2000), build(calibration_rate=0.02)
    after = attack.taint(task, poison(attack, task, seed=0), seed=0)
    draw = np.random.default_rng(0)

    def level(data):
        texts = guard_splits(data, seed=0).calibration.texts
        planted = np.array(["mn" in text.split() for text in texts])
        scores = np.where(planted, 2.0, draw.uniform(size=len(texts)))
        return threshold(Calibration(scores, alpha=alpha))

    assert level(task) < 1
    assert (level(after) >= 2) == opened


def test_the_base_is_that_of_a_word_attack(make_task):
    made = poison(build(trigger="cf,tq"), make_task(), seed=0)
    assert made.facts["trigger"] == ["cf", "tq"]
    assert made.facts["calibration_rate"] == 0.01
    assert made.is_poisoned.sum() == 20


@pytest.mark.parametrize("wrong", [{"calibration_rate": 0.2}, {"calibration_rate": -0.1},
                                   {"trigger": "two words"}])  # fmt: skip
def test_options_are_checked(wrong):
    with pytest.raises(ConfigError, match="OPTION-VALUE"):
        build(**wrong)
