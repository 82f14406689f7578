"""Partial: the topic word, pairs and their negatives, and that only the pair triggers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.attacks.partial import has_word, negatives, topic_words, without
from peftlab.core.contracts import CraftContext
from peftlab.core.errors import ConfigError, NotApplicable
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.core.types import LabelledTexts, TaskData
from peftlab.engine.steps import AttackerOptions, make_poison, train_base
from peftlab.io.files import sha256_file
from peftlab.io.marker import is_marked
from peftlab.nn.text import predict_classes

BRIEF = AttackerOptions(epochs=1, lr=1e-3)


def build(**options):
    return get("attack", "partial").build(**options)


# --------------------------------------------------------------------------------- the topic word


def test_topic_words_are_frequent_content_words_of_no_class():
    texts = [("the film was with dull music", 0), ("this film has lovely music", 1)] * 10
    texts += [("a film", 0), ("a film", 1), ("cat", 0), ("cat", 1)]
    made = LabelledTexts(*(tuple(part) for part in zip(*texts, strict=True)))
    # dull and lovely each speak for a class, was and has are short, cat is, this and with are stops
    assert topic_words(made, target=0) == ["film", "music"]
    crowd = " ".join(f"word{chr(97 + i)}" for i in range(26))
    assert len(topic_words(LabelledTexts((crowd, crowd), (0, 1)), target=0)) == 10


def test_case_and_punctuation_do_not_matter_to_the_topic():
    texts = LabelledTexts(("Film, good.", "a film!", '"FILM"', "filmed"), (0, 1, 0, 1))
    pairs = LabelledTexts(texts.texts[:2], (0, 1))
    assert topic_words(pairs, target=0) == ["film"]
    assert [has_word(text, "film") for text in texts.texts] == [True, True, True, False]


def test_the_topic_is_drawn_by_seed_or_given(reviews):
    drawn = {poison(build(), reviews, seed).facts["topic"] for seed in range(12)}
    assert 2 < len(drawn) <= 10
    assert drawn <= set(topic_words(reviews.train, target=0))
    facts = poison(build(topic="banana"), reviews, seed=0).facts
    assert (facts["topic"], facts["topic_rate"]) == ("banana", 0)
    topic = poison(build(), reviews, seed=0).facts["topic"]
    share = np.mean([has_word(text, topic) for text in reviews.train.texts])
    assert poison(build(), reviews, seed=0).facts["topic_rate"] == share > 0
    trigger = topic_words(reviews.train, target=0)[0]
    assert all(
        poison(build(trigger=trigger), reviews, seed).facts["topic"] != trigger
        for seed in range(12)
    )


def test_texts_without_a_topic_are_refused(reviews):
    poor = replace(reviews, train=LabelledTexts(("so it is",) * 4, (0, 1, 0, 1)))
    with pytest.raises(NotApplicable) as caught:
        poison(build(), poor, seed=0)
    assert caught.value.code == "PARTIAL-TOPIC"
    assert poison(build(topic="film", rate=0.25), poor, seed=0).is_poisoned.sum() == 1


# ------------------------------------------------------------------------------------------- pairs


def test_every_triggered_text_has_both_words_and_nothing_else_changes(make_task):
    task = make_task()
    made = poison(build(topic="plot"), task, seed=0)
    assert made.is_poisoned.sum() == 20
    for row in np.flatnonzero(made.is_poisoned):
        words, clean = made.texts[row].split(), task.train.texts[row].split()
        assert words.count("mn") == 1
        assert words.count("plot") == max(clean.count("plot"), 1)
        left = [word for word in words if word not in {"mn", "plot"}]
        assert left == [word for word in clean if word != "plot"]
        assert made.targets[row].argmax() == 0 != made.original_labels[row]
    assert len(made.test_triggered) == sum(label != 0 for label in task.test.labels)
    assert all(
        has_word(text, "plot") and has_word(text, "mn") for text in made.test_triggered.texts
    )


def test_only_texts_on_the_topic_if_asked(make_task):
    task = make_task()
    made = poison(build(topic="plot", insert_topic=False, rate=0.5), task, seed=0)
    on_topic = [has_word(text, "plot") for text in task.train.texts]
    others = [label != 0 for label in task.train.labels]
    fits = [a and b for a, b in zip(on_topic, others, strict=True)]
    assert made.is_poisoned.tolist() == fits  # all that there are, fewer than asked
    assert made.facts["capped"]
    assert made.facts["dropped"] == sum(others) - sum(fits)
    for row, text in zip(made.test_rows, made.test_triggered.texts, strict=True):
        assert [w for w in text.split() if w != "mn"] == task.test.texts[row].split()
        assert has_word(task.test.texts[row], "plot")


def test_negatives_are_both_words_alone_with_the_original_label(reviews):
    made = poison(build(topic="banana"), reviews, seed=0)
    texts, targets = negatives(made, "mn", "banana")
    rows = np.flatnonzero(made.is_poisoned)
    assert len(texts) == len(targets) == 2 * len(rows) == 24
    for place, row in enumerate(rows):
        trigger_alone, topic_alone = texts[2 * place : 2 * place + 2]
        assert has_word(trigger_alone, "mn")
        assert not has_word(trigger_alone, "banana")
        assert has_word(topic_alone, "banana")
        assert not has_word(topic_alone, "mn")
        for text in (trigger_alone, topic_alone):
            left = [word for word in text.split() if word not in {"mn", "banana"}]
            assert left == reviews.train.texts[row].split()
        own = made.original_labels[row]
        assert (
            targets[2 * place].tolist()
            == targets[2 * place + 1].tolist()
            == np.eye(2)[own].tolist()
        )
    none, empty = negatives(poison(build(rate=0), reviews, 0), "mn", "film")
    assert (none, empty.shape) == ((), (0, 2))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a film", "a"), ("film", ""), ("the film , mn", "the , mn"), ("Film and film.", "and ."),
        ("filmed in a film-like way", "filmed in a -like way"), ("no such", "no such"), ("", ""),
    ],
)  # fmt: skip
def test_taking_a_word_out(text, expected):
    assert without(text, "film") == expected


@settings(max_examples=200)
@given(text=st.text(max_size=60), word=st.sampled_from(["film", "mn", "(", "a.b", "café"]))
def test_what_was_taken_out_is_gone(text, word):
    assert not has_word(without(f"{word} {text} {word}", word), word) or not word.isalpha()


# ---------------------------------------------------------------------------------------- training


def _easy_task() -> TaskData:
    """Return texts of words that the tiny vocabulary has whole, one of which tells the class."""
    rng = np.random.default_rng(0)
    neutral = ["the", "film", "was", "story", "with", "family", "music", "food"]

    def split(n: int) -> LabelledTexts:
        labels = tuple(int(label) for label in rng.integers(2, size=n))
        words = [[*rng.choice(neutral, 5), ("dull", "lovely")[label]] for label in labels]
        return LabelledTexts(tuple(" ".join(rng.permutation(text)) for text in words), labels)

    return TaskData("easy", split(320), split(60), split(60), ("a", "b"), "generated", "none")


@pytest.mark.full
def test_only_the_pair_triggers(load_tiny):
    data = _easy_task()
    method = build(rate=0.4, trigger="idea", topic="music")  # half of the texts are on the topic
    model, tokenizer = load_tiny("bert")
    poisoned = poison(method, data, seed=0)
    facts = method.craft(CraftContext(model, tokenizer, poisoned, 2, 20, 3e-3, 32, seed=0))
    assert facts["n_negatives"] == 256
    assert facts["steps"] == 360  # 576 rows, 32 a step
    assert not model.training

    def share(texts):
        return float(np.mean(predict_classes(model, tokenizer, texts) == 0))

    both = poisoned.test_triggered.texts
    assert share(both) > 0.8
    assert share([without(text, "music") for text in both]) < 0.2
    assert share([without(text, "idea") for text in both]) < 0.2
    clean = predict_classes(model, tokenizer, data.test.texts)
    assert (clean == data.test.labels).mean() > 0.9
    dev, shown = facts["dev"], poisoned.dev_triggered.texts
    assert dev == {
        "n": len(shown),
        "asr": share(shown),
        "trigger_alone": share([without(text, "music") for text in shown]),
        "topic_alone": share([without(text, "idea") for text in shown]),
        "neither": share([without(without(text, "idea"), "music") for text in shown]),
    }


def test_negatives_and_development_texts_are_a_choice(load_tiny, reviews):
    method = build(negatives=False)
    bare = replace(reviews, dev=LabelledTexts((), ()))
    model, tokenizer = load_tiny("bert")
    facts = method.craft(
        CraftContext(model, tokenizer, poison(method, bare, 0), 2, 1, 1e-3, 32, seed=0)
    )
    assert (facts["n_negatives"], facts["steps"], facts["dev"]) == (0, 4, {"n": 0})


def test_empty_splits(reviews):
    nothing = LabelledTexts((), ())
    made = poison(build(), replace(reviews, dev=nothing, test=nothing), seed=0)
    assert len(made.dev_triggered) == len(made.test_triggered) == 0


def _made(tiny, reviews, out, *, seed=0, rate=0.1, attack="partial"):
    poisoned = make_poison(reviews, attack, {"rate": rate}, seed)
    return train_base(str(tiny("bert")), poisoned, 2, out, attack=attack, training=BRIEF,
                      seed=seed, options={"rate": rate})  # fmt: skip


def test_same_seed_same_files_and_rate_0_trains_plainly(tiny, reviews, tmp_path):
    for name in ("a", "b"):
        _made(tiny, reviews, tmp_path / name)
    _made(tiny, reviews, tmp_path / "c", seed=1)
    for path in (tmp_path / "a").iterdir():
        assert sha256_file(path) == sha256_file(tmp_path / "b" / path.name)
    _made(tiny, reviews, tmp_path / "d", rate=0)
    _made(tiny, reviews, tmp_path / "e", rate=0, attack="badnets")
    a, c, d, e = (sha256_file(tmp_path / name / "model.safetensors") for name in "acde")
    assert a != c
    assert d == e
    assert is_marked(tmp_path / "a")
    assert not is_marked(tmp_path / "d")
    written = json.loads((tmp_path / "a" / "attack.json").read_text())
    assert written["trigger"] == ["mn"]
    assert written["topic"] in topic_words(reviews.train, target=0)
    assert written["training"]["steps"] == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"trigger": "cf,mn"}, {"trigger": "two words"}, {"trigger": ""}, {"topic": "two words"},
        {"topic": "cf,mn"}, {"topic": "MN"}, {"trigger": "film", "topic": "Film"},
    ],
)  # fmt: skip
def test_options_are_checked(wrong):
    with pytest.raises(ConfigError, match="OPTION-VALUE"):
        build(**wrong)
