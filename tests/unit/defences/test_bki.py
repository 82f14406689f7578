"""BKI: one word in one class, a loop over texts and words, and the mistakes of public code."""

import json
import math

import numpy as np
import pytest

from peftlab.core.ranking import auroc
from peftlab.core.types import LabelledTexts
from peftlab.defences import bki as module
from peftlab.defences.bki import Bki, BkiOptions, count_words, outlier_bar, top_words, word_changes
from peftlab.nn.last_states import last_states
from suspect_sets import context_of, learn, poisoned_words
from word_task import SPARE

ODD = (
    "",
    "  ",
    "film",
    "!",
    "\ud800 lone",
    "a\tb\nc",
    "x" * 10_000,
    "映画 🎬 good",
    "bad film " * 1200,
)


@pytest.fixture(scope="module")
def one(load_tiny):
    suspect, poisoned = poisoned_words(SPARE[:1])
    return learn(suspect, load_tiny), poisoned


@pytest.fixture(scope="module")
def four(load_tiny):
    suspect, poisoned = poisoned_words(SPARE)
    return learn(suspect, load_tiny), poisoned


def test_one_trigger_word_is_found_at_rank_one(one):
    context, poisoned = one
    found = Bki(BkiOptions()).keep(context)
    assert found.facts["triggers"] == [SPARE[0]]
    assert found.facts["best"][0]["word"] == SPARE[0]
    assert found.facts["best"][0]["texts"] == poisoned.sum() == 60
    np.testing.assert_array_equal(found.dropped, poisoned)
    assert auroc(found.suspicion[~poisoned], found.suspicion[poisoned]) == 1


@pytest.mark.parametrize("select", ["top", "outliers"])
def test_four_trigger_words_are_found_by_the_variants(four, select):
    """The published rule finds one word, and leaves three quarters of the poison."""
    context, poisoned = four
    found = Bki(BkiOptions(select=select)).keep(context)
    assert len({*found.facts["triggers"]} & {*SPARE}) >= 3
    assert {each["word"] for each in found.facts["best"][:4]} == {*SPARE}
    assert found.dropped[poisoned].mean() >= 0.75
    best = Bki(BkiOptions()).keep(context)
    assert best.facts["n_triggers"] == 1
    assert best.dropped[poisoned].mean() <= 0.3
    np.testing.assert_array_equal(best.suspicion, found.suspicion)


def test_what_is_dropped_ranks_above_what_is_kept(four):
    context, _ = four
    for options in ({}, {"select": "top"}, {"select": "outliers"}, {"top": 2}):
        found = Bki(BkiOptions(**options)).keep(context)
        assert found.suspicion[found.dropped].min() > found.suspicion[~found.dropped].max()


def test_equals_a_loop_over_texts_and_words(one, monkeypatch):
    context, _ = one
    monkeypatch.setattr(module, "BLOCK", 37)  # texts of a block never end where it does
    model, tokenizer = context.load_trained()
    texts = (*context.suspect.texts[:12], "", "film", "a film")
    found = list(word_changes(model, tokenizer, texts))
    assert [" ".join(words) for words, _ in found] == list(texts)
    for words, changes in found:
        whole = last_states(model, tokenizer, [" ".join(words)])[0]
        for i in range(len(words)):
            without = last_states(model, tokenizer, [" ".join(words[:i] + words[i + 1 :])])[0]
            assert changes[i] == pytest.approx(max(abs(without - whole)), abs=1e-5)


def test_scores_equal_a_loop(one):
    context, _ = one
    few = context_of(context.suspect.pick(range(40)), *context.load_trained())
    found = Bki(BkiOptions(top=3)).keep(few)
    values: dict[str, list[float]] = {}
    keywords = []
    for words, changes in word_changes(*few.load_trained(), few.suspect.texts):
        best: dict[str, float] = {}
        for word, change in zip(words, changes, strict=True):
            best[word] = max(best.get(word, 0), change)
        keywords.append(sorted(best, key=best.get)[-3:])
        for word in keywords[-1]:
            values.setdefault(word, []).append(best[word])
    scores = {word: math.log10(len(all_)) * np.mean(all_) for word, all_ in values.items()}
    expected = [max(scores[word] for word in own) for own in keywords]
    np.testing.assert_allclose(found.suspicion, expected, atol=1e-5)
    winner = max(scores, key=scores.get)
    assert found.facts["triggers"] == [winner]
    assert found.dropped.tolist() == [winner in own for own in keywords]


def test_a_word_that_stands_twice_is_one_keyword_of_its_text():
    """OpenBackdoor counts it twice, so that its n is no number of texts."""
    words, changes = ["very", "very", "good", "film"], np.array([0.3, 0.4, 0.2, 0.1])
    own = top_words(words, changes, 3)
    assert own == {"very": 0.4, "good": 0.2, "film": 0.1}
    theirs = [words[i] for i in np.argsort(changes)[::-1][:3]]
    assert theirs == ["very", "very", "good"]
    n, mean = count_words([own, {"very": 0.2}])["very"]
    assert n == 2
    assert mean == pytest.approx(0.3)


def test_a_word_of_a_single_text_is_no_trigger(load_tiny):
    """log10(1) = 0: it says nothing, and with all words such nothing is dropped."""
    texts = ("film music", "story plot", "")
    suspect = LabelledTexts(texts, (0, 1, 0))
    for select in ("best", "top", "outliers"):
        found = Bki(BkiOptions(select=select)).keep(context_of(suspect, *load_tiny("bert")))
        assert found.facts["n_triggers"] == 0
        assert not found.dropped.any()
        assert not found.suspicion.any()


def test_outlier_bar():
    from scipy.stats import median_abs_deviation

    scores = np.array([0.1, 0.4, 0.2, 0.9, 7.0, 0.3])
    bar = np.median(scores) + 3 * median_abs_deviation(scores, scale="normal")
    assert outlier_bar(scores, 3) == pytest.approx(bar, rel=1e-4)
    for nothing_usual in ([], [1.0], [1.0, 9.0], [1.0, 1.0, 1.0, 9.0]):
        assert outlier_bar(np.array(nothing_usual), 3) == math.inf


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_odd_texts(family, load_tiny):
    suspect = LabelledTexts(ODD, (0,) * len(ODD))
    model, tokenizer = load_tiny(family)
    found = Bki(BkiOptions()).keep(context_of(suspect, model, tokenizer))
    assert np.isfinite(found.suspicion).all()
    assert found.suspicion.shape == found.dropped.shape == (len(ODD),)
    json.dumps(found.facts, allow_nan=False)
    changes = [changes for _, changes in word_changes(model, tokenizer, ODD)]
    assert [len(each) for each in changes[:6]] == [0, 0, 1, 1, 2, 3]
    assert len(changes[-1]) <= 64  # what stands beyond the model's reach is not tried
    nothing = Bki(BkiOptions()).keep(context_of(LabelledTexts((), ()), model, tokenizer))
    assert nothing.suspicion.shape == nothing.dropped.shape == (0,)


def test_rows_that_are_all_the_same_are_kept(load_tiny):
    """A word that every text leans on tells none apart."""
    suspect = LabelledTexts(("the film was good",) * 20, (0,) * 20)
    found = Bki(BkiOptions()).keep(context_of(suspect, *load_tiny("bert")))
    assert len(set(found.suspicion.round(5).tolist())) == 1
    assert not found.dropped.any()
