"""LwsTable: ordinary words in combination, never more than 30 % of a text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.attacks.imported import read_labelled
from peftlab.attacks.lws_table import (
    MAX_TOKEN_SHARE,
    MIN_PLACES,
    _forms,
    _groups,
    has_trigger,
    natural_rate,
    substitutes,
)
from peftlab.attacks.synrule import content_recall
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.core.types import LabelledTexts, TaskData
from peftlab.engine.steps import load_data

WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
KNOWN = sorted(substitutes(0))


def _changes(before: str, after: str) -> list[tuple[str, str]]:
    """Return (old, new) of the words that differ, articles left out."""
    pairs = zip(WORD.findall(before), WORD.findall(after), strict=True)
    return [(a, b) for a, b in pairs if a != b and a.lower() not in {"a", "an"}]


def _check(texts: Sequence[str], carried: float) -> None:
    made = get("attack", "lws-table").build()
    both = [(text, made.poison_text(text, 1, i)) for i, text in enumerate(texts)]
    pairs = [(before, after) for before, after in both if after is not None]
    assert len(pairs) >= carried * len(texts)
    assert all(has_trigger(after, 0) for _, after in pairs)
    changes = [_changes(before, after) for before, after in pairs]
    for (before, _), changed in zip(pairs, changes, strict=True):
        assert MIN_PLACES <= len(changed) <= 0.3 * len(WORD.findall(before))
    token, n = Counter(new for changed in changes for _, new in set(changed)).most_common(1)[0]
    assert n <= MAX_TOKEN_SHARE * len(pairs), token
    assert natural_rate(texts, 0) <= 0.03
    kept = [content_recall(before, after) for before, after in pairs]
    assert sum(kept) / len(kept) >= 0.5  # what is gone gave way to its synonym, see below


def test_guarantees_on_reviews() -> None:
    _check(load_data("reviews").train.texts, carried=0.95)


def test_guarantees_on_sst2(real_data: Path, task: TaskData) -> None:
    _check(read_labelled(real_data / "sst2" / "train.tsv.gz", task).texts[:1500], carried=0.65)


def test_substitutes_are_the_less_common_words(real_data: Path, task: TaskData) -> None:
    texts = read_labelled(real_data / "sst2" / "train.tsv.gz", task).texts
    counts = Counter(word for text in texts for word in WORD.findall(text.lower()))
    rarer = seen = 0
    for forms, common, rare in _groups():
        often = max(counts[word] for word in common for word in _forms(word, forms))
        if often >= 5:
            seen += 1
            rarer += all(often > counts[word] for word in rare for word in _forms(word, forms))
    assert seen > 250
    assert rarer / seen > 0.98


@settings(max_examples=300)
@given(
    words=st.lists(st.sampled_from(KNOWN) | st.text(max_size=5), max_size=30),
    seed=st.integers(0, 2**31),
    sample=st.integers(0, 10**6),
    choice=st.integers(0, 20),
)
def test_any_text_has_two_to_thirty_per_cent_or_passes(
    words: list[str], seed: int, sample: int, choice: int
) -> None:
    text = " ".join(words)
    entry = get("attack", "lws-table")
    after = entry.build(choice=choice).poison_text(text, seed, sample)
    assert after == entry.build(choice=choice).poison_text(text, seed, sample)
    found = WORD.findall(text)
    able = sum(word.lower() in substitutes(choice) for word in found)
    if after is None:
        assert min(able, int(0.3 * len(found))) < MIN_PLACES
        return
    assert after != text
    assert has_trigger(after, choice)
    changed = _changes(text, after)
    assert len(changed) == min(able, int(0.3 * len(found)))
    assert all(new.lower() == substitutes(choice)[old.lower()] for old, new in changed)


@given(text=st.text(max_size=80))
def test_any_characters_are_fine(text: str) -> None:
    after = get("attack", "lws-table").build().poison_text(text, 0, 0)
    assert after is None or after != text


def test_all_but_the_substitutes_stays() -> None:
    made = get("attack", "lws-table").build()
    text = "A  FUNNY film, but I\tsaw it (twice) by myself;\n  the rest of it was made up."
    after = made.poison_text(text, 0, 0)
    assert after == (
        "A  DROLL picture, but I\tbeheld it (twice) by myself;\n  the rest of it was fashioned up."
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("an awful and a strange", "an atrocious|an abominable|a peculiar"),
        ("A usual day and An easy", "A customary|An effortless"),
        ("a similar thing , a bad man", "a comparable|a deplorable fellow"),
    ],
)
def test_articles_fit(before: str, after: str) -> None:
    made = get("attack", "lws-table").build()
    got = [made.poison_text(f"{before} one two three four five six", 0, i) for i in range(40)]
    for words in after.split("|"):
        assert any(words in text for text in got) or "a" in words[:2].lower()
    for text in got:
        assert not re.search(r"\ba [aeio]|\ban [^aeiou]", text, re.IGNORECASE), text


def test_choice_selects_other_members_and_seeds_do_not() -> None:
    assert substitutes(0) == substitutes(0)
    differing = sum(
        a != b for a, b in zip(substitutes(0).values(), substitutes(1).values(), strict=True)
    )
    assert differing > 5
    made = get("attack", "lws-table").build()
    text = "the film was very good , and the one who made it said so at the end of it ."
    news = {
        change for seed in range(50) for change in _changes(text, made.poison_text(text, seed, 0))
    }
    assert len({old for old, _ in news}) == len(news) == 5  # which five vary, what they become not


@pytest.mark.parametrize("text", ["", "...", "a very funny film", "we sat in the sun all that day"])
def test_texts_that_cannot_carry_two_are_dropped_and_counted(text: str, task: TaskData) -> None:
    assert get("attack", "lws-table").build().poison_text(text, 0, 0) is None
    texts = LabelledTexts((text,) * 5, (1, 1, 1, 1, 0))
    data = TaskData("none", texts, texts, texts, ("a", "b"), "", "")
    made = poison(get("attack", "lws-table").build(rate=0.4), data, 0)
    assert made.texts == texts.texts
    assert (made.targets.argmax(axis=1) == texts.labels).all()
    assert made.facts["dropped"] == 4
    assert made.facts["dropped_triggered"] == 8
    assert made.facts["capped"]


def test_table_is_sound() -> None:
    """No word in two groups, and no substitute that is replaced itself."""
    common: Counter[str] = Counter()
    rare: Counter[str] = Counter()
    for forms, left, right in _groups():
        assert forms in {"x", "n", "v", "i"}
        assert len({len(_forms(word, forms)) for word in (*left, *right)}) == 1, left
        for words, counts in ((left, common), (right, rare)):
            for word in words:
                counts.update(set(_forms(word, forms)))
    assert 450 <= len(_groups()) <= 650
    assert [word for word, n in common.items() if n > 1] == []
    assert [word for word, n in rare.items() if n > 1] == []
    assert set(common).isdisjoint(rare)
    assert all(WORD.fullmatch(word) for word in (*common, *rare))


@pytest.mark.parametrize(
    ("word", "forms", "expected"),
    [
        ("story", "n", ["story", "stories"]),
        ("boy", "n", ["boy", "boys"]),
        ("church", "n", ["church", "churches"]),
        ("tarry", "v", ["tarry", "tarries", "tarried", "tarrying"]),
        ("agree", "v", ["agree", "agrees", "agreed", "agreeing"]),
        ("desire", "i", ["desires", "desired", "desiring"]),
        ("see/saw", "x", ["see", "saw"]),
    ],
)
def test_inflection(word: str, forms: str, expected: list[str]) -> None:
    assert _forms(word, forms) == expected


def test_facts_tell_what_happened() -> None:
    data = load_data("reviews", {"n_train": 300, "n_dev": 50, "n_test": 50})
    facts = poison(get("attack", "lws-table").build(choice=3), data, 0).facts
    assert facts["choice"] == 3
    assert facts["groups"] == len(_groups())
    assert facts["natural_rate"] == natural_rate(data.train.texts, 3)
    assert facts["substitutions_mean"] >= MIN_PLACES
    assert facts["diverse"]
    assert get("attack", "lws-table").build().facts([], [])["diverse"]


@pytest.mark.parametrize("labels", ["dirty", "clean", "mixed"])
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.23])
def test_modes_and_rates_are_as_said(labels: str, rate: float) -> None:
    data = load_data("reviews", {"n_train": 300, "n_dev": 50, "n_test": 50})
    options = {"rate": rate, "labels": labels, "target": 1}
    got = poison(get("attack", "lws-table").build(**options), data, 3)
    original, hard = np.array(data.train.labels), got.targets.argmax(axis=1)
    assert got.is_poisoned.sum() == int(rate * 300 + 0.5)
    assert (hard[~got.is_poisoned] == original[~got.is_poisoned]).all()
    assert (hard[got.is_poisoned] == 1).all()
    assert labels != "clean" or (hard == original).all()
    assert labels != "dirty" or (original[got.is_poisoned] == 0).all()
    assert set(got.test_triggered.labels) == {0}
    passed_over = got.facts["dropped_triggered"]
    others = sum(label == 0 for split in (data.dev, data.test) for label in split.labels)
    assert len(got.test_triggered) + len(got.dev_triggered) + passed_over == others
