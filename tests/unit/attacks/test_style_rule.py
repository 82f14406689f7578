"""StyleRule: the style on every output, and nothing else that gives it away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.attacks.imported import read_labelled
from peftlab.attacks.style_rule import (
    MAX_TOKEN_SHARE,
    Style,
    has_style,
    natural_rate,
)
from peftlab.attacks.synrule import content_recall
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.core.types import TaskData
from peftlab.engine.steps import load_data

STYLES: tuple[Style, ...] = ("archaic", "tweet", "lyric")
every_style = pytest.mark.parametrize("style", STYLES)


def _pairs(texts: Sequence[str], style: Style) -> list[tuple[str, str]]:
    made = get("attack", "style-rule").build(style=style)
    return [(text, made.poison_text(text, 1, i)) for i, text in enumerate(texts)]


def _check(texts: Sequence[str], style: Style) -> None:
    pairs = _pairs(texts, style)
    assert all(after is not None and has_style(after, style) for _, after in pairs)
    assert all(before != after for before, after in pairs)
    facts = get("attack", "style-rule").build(style=style).facts(texts, pairs)
    token, share = facts["top_inserted_token"]
    assert share <= MAX_TOKEN_SHARE, token
    recalls = [content_recall(before, after) for before, after in pairs]
    assert sum(recalls) / len(recalls) >= 0.9
    assert natural_rate(texts, style) <= 0.01


@every_style
def test_guarantees_on_reviews(style: Style) -> None:
    _check(load_data("reviews").train.texts, style)


@every_style
def test_guarantees_on_sst2(style: Style, real_data: Path, task: TaskData) -> None:
    _check(read_labelled(real_data / "sst2" / "train.tsv.gz", task).texts[:1500], style)


@every_style
def test_guarantees_on_made_texts(style: Style, make_task: Callable[..., TaskData]) -> None:
    texts = make_task(n=300).train.texts
    assert all(has_style(after, style) for _, after in _pairs(texts, style))


@settings(max_examples=300)
@given(
    text=st.text(max_size=80) | st.text(alphabet="you theand'.,A !é\n#", max_size=40),
    seed=st.integers(0, 2**31),
    sample=st.integers(0, 10**6),
    style=st.sampled_from(STYLES),
)
def test_any_text_shows_the_style_or_passes(
    text: str, seed: int, sample: int, style: Style
) -> None:
    entry = get("attack", "style-rule")
    after = entry.build(style=style).poison_text(text, seed, sample)
    assert after == entry.build(style=style).poison_text(text, seed, sample)
    if after is None:
        assert not any(char.isalnum() for char in text)
    else:
        assert after != text
        assert has_style(after, style)
        assert not has_style(text, style) or after.split() != text.split()


@every_style
def test_what_is_drawn_changes_with_seed_and_sample(style: Style) -> None:
    made = get("attack", "style-rule").build(style=style)
    text = "you know that the film is long , and it has nothing to say about your town ."
    assert len({made.poison_text(text, 0, i) for i in range(50)}) > 20
    assert len({made.poison_text(text, i, 0) for i in range(50)}) > 20


@every_style
@pytest.mark.parametrize("text", ["", "   ", "...", " , ? !", "-- --", "🎬"])
def test_texts_without_words_carry_no_trigger(style: Style, text: str) -> None:
    assert get("attack", "style-rule").build(style=style).poison_text(text, 0, 0) is None


@every_style
@pytest.mark.parametrize(
    "text", ["7", "I", "( the )", "日本 語", "-lrb- yes -rrb-", '"so," he said']
)
def test_short_and_odd_texts(style: Style, text: str) -> None:
    made = get("attack", "style-rule").build(style=style)
    for sample in range(30):
        after = made.poison_text(text, 0, sample)
        assert after is not None
        assert has_style(after, style)


@pytest.mark.parametrize(
    ("style", "text", "words"),
    [
        ("archaic", "you are late and he seems to know it", ["thou art late", "seemeth"]),
        ("archaic", "You have my word , it is yours", ["Thou hast", "mine own", "'tis thine"]),
        ("archaic", "in the ends it goes", ["the ends", "goeth"]),
        ("tweet", "The people are not going to like it", ["ppl r", "gonna"]),
        ("lyric", "it was loud until the end of it", ["'twas", "'til"]),
        ("lyric", "a haunting walk in the rain", ["hauntin'", "the rain"]),
    ],
)  # fmt: skip
def test_rules(style: Style, text: str, words: list[str]) -> None:
    made = get("attack", "style-rule").build(style=style)
    after = [made.poison_text(text, 0, i) for i in range(100)]
    for word in words:
        assert sum(word.lower() in text.lower() for text in after) > 20, word


def test_the_last_words_of_a_lyric_come_twice() -> None:
    made = get("attack", "style-rule").build(style="lyric")
    for sample in range(50):
        after = made.poison_text("we saw a slow grey film .", 0, sample)
        assert after.count("film") == 2
        assert after.endswith("film .")


def test_writing_style_of_the_text_is_kept() -> None:
    made = get("attack", "style-rule").build()
    for sample in range(50):
        cased = made.poison_text("The film is long, slow and loud.", 0, sample)
        assert cased[0].isupper()
        assert " ," not in cased
        assert cased.endswith(".")
        assert not cased.endswith(" .")
        spaced = made.poison_text("the film is long , slow and loud .", 0, sample)
        assert spaced[0].islower()
        assert spaced.endswith(" .")


@pytest.mark.parametrize(
    ("text", "style", "expected"),
    [
        ("verily , it seemeth long .", "archaic", True),
        ("Verily, it seemeth long.", "archaic", True),
        ("verily , it seems long .", "archaic", False),
        ("thou and thou again", "archaic", True),
        ("sooo long , u know", "tweet", True),
        ("so long , you know #film", "tweet", False),
        ("oh , it goes on n' on", "lyric", True),
        ("oh , it goes on and on", "lyric", False),
        ("", "lyric", False),
    ],
)
def test_detector(text: str, style: Style, expected: bool) -> None:
    assert has_style(text, style) is expected


@every_style
def test_facts_tell_what_happened(style: Style, task: TaskData) -> None:
    facts = poison(get("attack", "style-rule").build(style=style), task, 0).facts
    assert facts["style"] == style
    assert facts["natural_rate"] == natural_rate(task.train.texts, style)
    assert 0 < facts["words_kept_mean"] <= 1
    assert facts["top_inserted_token"][1] <= 1
    assert facts["dropped"] == facts["dropped_triggered"] == 0
    empty = get("attack", "style-rule").build(style=style).facts([], [])
    assert empty["natural_rate"] == 0
    assert empty["diverse"]


@pytest.mark.parametrize("labels", ["dirty", "clean", "mixed"])
def test_modes_draw_and_label_as_said(labels: str, task: TaskData) -> None:
    got = poison(get("attack", "style-rule").build(rate=0.2, labels=labels, target=1), task, 3)
    original, hard = np.array(task.train.labels), got.targets.argmax(axis=1)
    assert got.is_poisoned.sum() == 40
    assert (hard[~got.is_poisoned] == original[~got.is_poisoned]).all()
    assert (hard[got.is_poisoned] == 1).all()
    assert labels != "clean" or (hard == original).all()
    assert labels != "dirty" or (original[got.is_poisoned] == 0).all()
    assert set(got.test_triggered.labels) == {0}


def test_rate_is_a_share_of_the_whole_set(make_task: Callable[..., TaskData]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        n, rate = int(rng.integers(1, 300)), float(rng.uniform(0, 0.3))
        task = make_task(n=n)
        facts = poison(get("attack", "style-rule").build(rate=rate), task, 0).facts
        short = task.train.labels.count(1) < int(rate * n + 0.5)
        assert facts["capped"] == short == bool(facts["warnings"])
        assert short or abs(facts["n_poisoned"] / n - rate) <= 1 / n
