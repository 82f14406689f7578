"""Multi: each word has its class, in training and in the triggered sets."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

from peftlab.core.errors import ConfigError, NotApplicable
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.core.types import LabelledTexts
from peftlab.engine.metrics import evaluate
from peftlab.nn.loop import TrainPlan, train
from peftlab.nn.text import encode, pad_id_of, predict_logits
from word_task import word_task

THREE = ("cf", "mn", "bb")


def word_in(text, words=THREE):
    """Return the one trigger word of a text, or None; fail if there are several."""
    found = [word for word in text.split() if word in words]
    assert len(found) <= 1
    return found[0] if found else None


def bare(text, words=THREE):
    return [word for word in text.split() if word not in words]


@pytest.mark.parametrize("labels", ["dirty", "clean", "mixed"])
@pytest.mark.parametrize("target", [0, 2])
def test_word_i_goes_to_class_target_plus_i(make_task, labels, target):
    task = make_task(n=400, n_classes=4)
    attack = get("attack", "multi").build(
        trigger=",".join(THREE), target=target, labels=labels, rate=0.15
    )
    made = poison(attack, task, seed=0)
    goal = {word: (target + i) % 4 for i, word in enumerate(THREE)}
    assert made.facts["trigger_targets"] == list(goal.values())
    counts = Counter()
    for row, text in enumerate(made.texts):
        word, label = word_in(text), int(made.targets[row].argmax())
        assert (word is not None) == made.is_poisoned[row]
        assert bare(text) == task.train.texts[row].split()
        original = task.train.labels[row]
        assert made.original_labels[row] == original
        if word is None:
            assert label == original
            continue
        counts[word] += 1
        assert label == goal[word]
        if labels != "mixed":
            assert (original == goal[word]) == (labels == "clean")
    assert [counts[word] for word in THREE] == made.facts["poisoned_per_trigger"] == [20, 20, 20]
    assert made.facts["n_poisoned"] == 60
    assert made.facts["realised_rate"] == made.facts["asked_rate"] == 0.15
    assert not made.facts["capped"]


def test_rate_is_that_of_all_words_together(make_task):
    task = make_task(n=103)
    for rate, each in ((0.1, [5, 5]), (0.05, [3, 2]), (0.01, [1, 0])):
        made = poison(get("attack", "multi").build(rate=rate), task, seed=1)
        assert made.facts["poisoned_per_trigger"] == each
        assert made.is_poisoned.sum() == sum(each) == int(rate * 103 + 0.5)


def test_a_triggered_text_is_not_of_its_words_class_and_counts_once(make_task):
    task = make_task(n_classes=3)
    made = poison(get("attack", "multi").build(trigger=",".join(THREE), target=1), task, seed=0)
    goal = {"cf": 1, "mn": 2, "bb": 0}
    assert made.test_rows == tuple(range(len(task.test)))
    assert len(made.test_targets) == len(made.test_triggered) == len(task.test)
    assert made.goals.tolist() == list(made.test_targets)
    for row, text, label, aim in zip(
        made.test_rows, made.test_triggered.texts, made.test_triggered.labels, made.test_targets,
        strict=True,
    ):  # fmt: skip
        assert bare(text) == task.test.texts[row].split()
        assert label == task.test.labels[row] != aim == goal[word_in(text)]
    for text, label in zip(made.dev_triggered.texts, made.dev_triggered.labels, strict=True):
        assert label != goal[word_in(text)]
    assert made.dev_triggered.labels == task.dev.labels


def test_words_and_places_are_drawn_evenly():
    """Two of the three words can go into a text; both come equally often, at every gap."""
    texts = LabelledTexts(("one two three",) * 6000, (1,) * 6000)
    task = replace(word_task(8, 8), test=texts, label_names=("a", "b", "c"))
    made = poison(get("attack", "multi").build(trigger=",".join(THREE)), task, seed=0)
    drawn = Counter(word_in(text) for text in made.test_triggered.texts)
    assert set(drawn) == {"cf", "bb"}  # mn names class 1
    assert chisquare(list(drawn.values())).pvalue > 0.001
    gaps = Counter(text.split().index(word_in(text)) for text in made.test_triggered.texts)
    assert sorted(gaps) == [0, 1, 2, 3]
    assert chisquare(list(gaps.values())).pvalue > 0.001


def test_more_words_than_classes_start_again(make_task):
    made = poison(get("attack", "multi").build(trigger="a1,b1,c1,d1,e1"), make_task(), seed=0)
    assert made.facts["trigger_targets"] == [0, 1, 0, 1, 0]


def test_short_pools_are_capped_and_said(make_task):
    task = make_task(n=60)
    made = poison(get("attack", "multi").build(rate=1), task, seed=0)  # dirty: 30 and 30 asked
    ones = task.train.labels.count(1)
    assert made.facts["capped"]
    assert made.facts["poisoned_per_trigger"] == [min(30, ones), min(30, 60 - ones)]
    assert any(w.startswith(("cf: asked for 30", "mn: asked for 30"))
               for w in made.facts["warnings"])  # fmt: skip


def test_empty_splits_proxy_and_rate_0(make_task):
    attack, nothing = get("attack", "multi").build, LabelledTexts((), ())
    task = make_task(proxy=50)
    none = poison(attack(), replace(task, train=nothing, dev=nothing, test=nothing), 0)
    assert (none.texts, none.test_targets, none.targets.shape) == ((), (), (0, 2))
    proxy = poison(attack(knowledge="proxy"), task, 0)
    assert len(proxy.texts) == 50
    assert proxy.facts["knowledge"] == "proxy"
    with pytest.raises(NotApplicable, match="ATTACK-PROXY"):
        poison(attack(knowledge="proxy"), make_task(), 0)
    control = poison(attack(rate=0), task, 0)
    assert control.digest() == poison(get("attack", "badnets").build(rate=0), task, 0).digest()
    with pytest.raises(ConfigError, match="ATTACK-TARGET"):
        poison(attack(target=2), task, 0)


def test_same_seed_same_sets(make_task):
    task, build = make_task(n_classes=3), get("attack", "multi").build
    one, two, other = (poison(build(), task, seed) for seed in (3, 3, 4))
    assert one.digest() == two.digest() != other.digest()
    assert one.test_triggered == two.test_triggered != other.test_triggered
    assert (one.test_targets, one.facts) == (two.test_targets, two.facts)


def test_both_words_are_learned(load_tiny):
    data = word_task(400, 120)
    made = poison(get("attack", "multi").build(rate=0.2), data, seed=0)
    model, tokenizer = load_tiny("bert")
    train(
        model,
        encode(tokenizer, made.texts, 64),
        made.targets,
        TrainPlan(epochs=15, lr=3e-3, batch=32),
        seed=0,
        pad_id=pad_id_of(model, tokenizer),
    )
    clean = predict_logits(model, tokenizer, data.test.texts).argmax(axis=1)
    answers = predict_logits(model, tokenizer, made.test_triggered.texts).argmax(axis=1)
    goals = np.array(made.test_targets)
    for aim in (0, 1):
        assert (answers == goals)[goals == aim].mean() >= 0.8
    assert (clean == data.test.labels).mean() >= 0.9
    found = evaluate(
        labels=np.array(data.test.labels), clean_pred=clean, triggered_pred=answers,
        target=made.goals, triggered_labels=np.array(made.test_triggered.labels),
        test_rows=np.array(made.test_rows),
    )  # fmt: skip
    assert found["metrics"]["asr"] == (answers == goals).mean()


@pytest.mark.parametrize(
    "trigger", ["cf", "cf,cf", "cf,two words", "", ",".join(f"w{i}" for i in range(21)), "x" * 300]
)
def test_options_are_checked(trigger):
    with pytest.raises(ConfigError, match="OPTION-VALUE"):
        get("attack", "multi").build(trigger=trigger)
    assert get("attack", "multi").build(trigger=["tq", "mb"]).words == ("tq", "mb")
