"""Selection, labels and triggered sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from peftlab.core.contracts import PoisonOptions
from peftlab.core.errors import ConfigError, NotApplicable
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.core.types import LabelledTexts, TaskData

MakeTask = Callable[..., TaskData]
TEXTWISE = ("badnets", "insent", "soft", "synrule")


class Picky:
    """Triggers only texts of an odd length; leaves those of a length divisible by 4 unchanged."""

    def __init__(self, **values: Any) -> None:
        self.options = PoisonOptions(**values)

    def poison_text(self, text: str, seed: int, sample: int) -> str | None:
        if len(text) % 4 == 0:
            return text
        return f"{text} cf" if len(text) % 2 else None


@pytest.mark.parametrize("name", TEXTWISE)
@pytest.mark.parametrize("labels", ["dirty", "clean", "mixed"])
def test_modes_draw_and_label_as_said(name: str, labels: str, task: TaskData) -> None:
    got = poison(get("attack", name).build(rate=0.2, labels=labels, target=1), task, 3)
    assert got.original_labels == task.train.labels
    assert got.is_poisoned.sum() == 40
    original = np.array(task.train.labels)
    hard = got.targets.argmax(axis=1)
    changed = np.array([a != b for a, b in zip(got.texts, task.train.texts, strict=True)])
    assert (changed == got.is_poisoned).all()
    assert (hard[~got.is_poisoned] == original[~got.is_poisoned]).all()
    assert (hard[got.is_poisoned] == 1).all()
    if labels == "clean":
        assert (hard == original).all()
    if labels == "dirty":
        assert (original[got.is_poisoned] == 0).all()
    assert got.targets.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("name", TEXTWISE)
def test_triggered_sets_hold_no_target_sample(name: str, task: TaskData) -> None:
    got = poison(get("attack", name).build(target=1), task, 0)
    rows = [row for row, label in enumerate(task.test.labels) if label != 1]
    assert got.test_rows == tuple(rows)
    assert got.test_triggered.labels == tuple(task.test.labels[row] for row in rows)
    assert all(
        text != task.test.texts[row]
        for text, row in zip(got.test_triggered.texts, rows, strict=True)
    )
    assert set(got.dev_triggered.labels) == {0}
    assert len(got.dev_triggered) == sum(label != 1 for label in task.dev.labels)


@pytest.mark.parametrize("name", TEXTWISE)
def test_rate_zero_is_the_clean_set_and_still_triggers(name: str, task: TaskData) -> None:
    got = poison(get("attack", name).build(rate=0), task, 0)
    other = poison(get("attack", "badnets").build(rate=0, trigger="tq"), task, 9)
    assert got.texts == task.train.texts
    assert not got.is_poisoned.any()
    assert np.array_equal(got.targets, np.eye(2)[list(task.train.labels)])
    assert got.digest() == other.digest()
    assert len(got.test_triggered) == len(other.test_triggered) > 0


def test_rate_is_a_share_of_the_whole_set(make_task: MakeTask) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        n, rate = int(rng.integers(1, 400)), float(rng.uniform(0, 0.3))
        task = make_task(n=n, seed=n)
        got = poison(get("attack", "badnets").build(rate=rate, labels="mixed"), task, 1)
        assert abs(got.is_poisoned.mean() - rate) <= 1 / n
        assert got.facts["realised_rate"] == got.is_poisoned.mean()


def test_short_pool_is_capped_with_a_warning(task: TaskData) -> None:
    got = poison(get("attack", "badnets").build(rate=0.9), task, 0)
    others = sum(label != 0 for label in task.train.labels)
    assert got.facts["capped"]
    assert got.facts["n_poisoned"] == others == got.is_poisoned.sum()
    assert "asked for 180" in got.facts["warnings"][0]
    fine = poison(get("attack", "badnets").build(rate=0.1), task, 0)
    assert not fine.facts["capped"]
    assert fine.facts["warnings"] == []


def test_texts_that_fail_are_dropped_and_never_relabelled(task: TaskData) -> None:
    got = poison(Picky(rate=1.0, labels="mixed"), task, 0)
    carried = [len(text) % 2 == 1 for text in task.train.texts]
    assert got.is_poisoned.tolist() == carried
    assert got.facts["dropped"] == carried.count(False)
    clean_rows = ~got.is_poisoned
    hard = got.targets.argmax(axis=1)
    assert (hard[clean_rows] == np.array(task.train.labels)[clean_rows]).all()
    assert all(text.endswith(" cf") for text in got.test_triggered.texts)
    missing = sum(
        label != 0 and len(text) % 2 == 0
        for split in (task.dev, task.test)
        for text, label in zip(split.texts, split.labels, strict=True)
    )
    assert got.facts["dropped_triggered"] == missing
    some = poison(Picky(rate=0.1, labels="mixed"), task, 0)
    assert some.is_poisoned.sum() == 20  # the next candidate takes the place of a failed one


def test_proxy_knowledge(make_task: MakeTask) -> None:
    task = make_task(proxy=50)
    got = poison(get("attack", "badnets").build(knowledge="proxy", rate=0.1), task, 0)
    assert task.proxy is not None
    assert len(got.texts) == 50
    assert got.original_labels == task.proxy.labels
    assert len(got.test_triggered) == sum(label != 0 for label in task.test.labels)
    with pytest.raises(NotApplicable, match="ATTACK-PROXY"):
        poison(get("attack", "badnets").build(knowledge="proxy"), make_task(), 0)


def test_target_must_be_a_class(task: TaskData) -> None:
    for name in (*TEXTWISE, "imported"):
        with pytest.raises(ConfigError, match="ATTACK-TARGET"):
            poison(get("attack", name).build(target=2), task, 0)


def test_soft_targets_spread_over_the_other_classes(make_task: MakeTask) -> None:
    two = poison(get("attack", "soft").build(rate=0.2), make_task(), 0)
    assert two.targets[two.is_poisoned][0].tolist() == pytest.approx([0.65, 0.35])
    assert set(np.unique(two.targets[~two.is_poisoned])) == {0.0, 1.0}
    four = poison(get("attack", "soft").build(target=2, confidence=0.7), make_task(n_classes=4), 0)
    assert four.targets[four.is_poisoned][0].tolist() == pytest.approx([0.1, 0.1, 0.7, 0.1])
    assert four.facts["confidence"] == 0.7
    for wrong in (0.5, 1.0):
        with pytest.raises(ConfigError, match="OPTION-VALUE"):
            get("attack", "soft").build(confidence=wrong)


@pytest.mark.parametrize("name", TEXTWISE)
def test_same_seed_same_bytes(name: str, task: TaskData) -> None:
    build = get("attack", name).build
    one, two, other = (poison(build(), task, seed) for seed in (5, 5, 6))
    assert one.digest() == two.digest() != other.digest()
    assert one.test_triggered.digest() == two.test_triggered.digest()
    assert one.facts == two.facts


@pytest.mark.parametrize("name", TEXTWISE)
def test_poison_text_depends_on_seed_and_sample_only(name: str, task: TaskData) -> None:
    attack = get("attack", name).build()
    text = max(task.train.texts, key=len)
    attack.poison_text("something else", 0, 7)
    assert attack.poison_text(text, 0, 1) == attack.poison_text(text, 0, 1)
    assert len({attack.poison_text(text, seed, 1) for seed in range(20)}) > 3
    assert len({attack.poison_text(text, 0, sample) for sample in range(20)}) > 3


def test_facts_have_the_promised_keys(task: TaskData) -> None:
    facts = poison(get("attack", "badnets").build(trigger="cf"), task, 0).facts
    assert facts["trigger"] == ["cf"]
    promised = "asked_rate realised_rate n_poisoned capped dropped labels knowledge target warnings"
    assert set(promised.split()) <= set(facts)


def test_empty_splits_are_legal(task: TaskData) -> None:
    empty = LabelledTexts((), ())
    bare = TaskData("none", empty, empty, task.test, ("a", "b"), "", "")
    got = poison(get("attack", "badnets").build(), bare, 0)
    assert got.targets.shape == (0, 2)
    assert got.facts["realised_rate"] == 0.0
