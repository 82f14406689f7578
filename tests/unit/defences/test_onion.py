"""ONION: the published rule, and the mistakes of public code that it must not repeat."""

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from peftlab.core.contracts import FitContext
from peftlab.core.errors import ConfigError, InputRejected
from peftlab.core.registry import get
from peftlab.core.types import LabelledTexts
from peftlab.defences.onion import Onion, OnionOptions
from peftlab.engine.steps import (
    AttackerOptions,
    load_data,
    make_poison,
    predict_folder,
    train_base,
    tune,
)

DATA = Path(os.environ.get("PEFTLAB_DATA", Path(__file__).parents[4] / "shared" / "data"))
SUBJECTS = ("the film", "this movie", "the plot", "a cast", "the music", "this scene")
VERBS = ("is", "was", "seems", "remains")
GRADES = ("very", "truly", "rather", "hardly")
WORDS = ("fine", "dull", "moving", "flat", "funny", "bleak")


def reviews(n, seed):
    rng = np.random.default_rng(seed)
    parts = (SUBJECTS, VERBS, GRADES, WORDS)

    def clause():
        return " ".join(part[int(rng.integers(len(part)))] for part in parts)

    return [" and ".join(clause() for _ in range(int(rng.integers(1, 4)))) for _ in range(n)]


def context(texts):
    labelled = LabelledTexts(tuple(texts), (0,) * len(texts))

    def no_base():
        raise AssertionError("onion needs no base")

    return FitContext(labelled, LabelledTexts((), ()), 2, 0, no_base, lambda _: None)


@pytest.fixture(scope="module")
def onion():
    fitted = Onion(OnionOptions())
    fitted.fit(context(reviews(400, 0)))
    return fitted


def insert(text, word, rng):
    words = text.split()
    place = int(rng.integers(1, len(words)))
    return " ".join([*words[:place], word, *words[place:]])


class KnownModel:
    """A language model whose perplexities are written by hand: more of 'bad' is worse."""

    def leave_one_out(self, words):
        def perplexity(rest):
            return 10.0 + 5.0 * rest.count("bad") - 2.0 * rest.count("good")

        return perplexity(words), np.array(
            [perplexity(words[:i] + words[i + 1 :]) for i in range(len(words))]
        )


def test_deletes_exactly_the_expected_words_against_the_full_text():
    onion = Onion(OnionOptions())
    onion._lm = KnownModel()
    text = "bad a good bad b"
    assert onion.word_scores(text).tolist() == [5.0, 0.0, -2.0, 5.0, 0.0]
    assert onion.rewrite([text], 4.9) == ["a good b"]
    assert onion.rewrite([text], 5.0) == [text]  # above the threshold, not at it
    assert onion.rewrite([text], -1.0) == ["good"]
    assert onion.score([text]).values.tolist() == [5.0]


def test_reference_is_the_full_text_and_n_words_give_n_scores(onion):
    text = "the film zzz is very fine"
    words = text.split()
    full = onion._lm.perplexity(text)
    expected = [full - onion._lm.perplexity(" ".join(words[:i] + words[i + 1 :])) for i in range(6)]
    np.testing.assert_allclose(onion.word_scores(text), expected, rtol=1e-9, atol=1e-9)
    assert int(np.argmax(expected)) == 2


def test_log_scale():
    onion = Onion(OnionOptions(scale="log"))
    onion._lm = KnownModel()
    np.testing.assert_allclose(
        onion.word_scores("bad a"), [math.log(15 / 10), 0.0], rtol=0, atol=1e-15
    )


@pytest.mark.parametrize("size", [1, 8, 32])
def test_scores_do_not_depend_on_batch_mates(onion, size):
    texts = [*reviews(60, 5), "one", "", "zzz zzz zzz"]
    alone = np.array([onion.score([text]).values[0] for text in texts])
    parts = [onion.score(texts[i : i + size]).values for i in range(0, len(texts), size)]
    assert np.array_equal(np.concatenate(parts), alone)


def test_infinite_thresholds(onion):
    texts = ["  the  film is\tfine ", "one", "", "two words"]
    assert onion.rewrite(texts, math.inf) == texts  # to the last space
    assert onion.rewrite(texts, -math.inf) == ["", "", "", ""]


@pytest.mark.parametrize("text", ["fine", "zzz", "the film", "zzz zzz"])
def test_one_and_two_words(onion, text):
    scores = onion.word_scores(text)
    assert len(scores) == len(text.split())
    assert np.isfinite(scores).all()
    assert onion.score([text]).values[0] == scores.max()


def test_empty_texts_and_no_texts_are_defined(onion):
    assert onion.score(["", "  "]).values.tolist() == [0.0, 0.0]
    assert onion.score([]).values.shape == (0,)
    assert onion.rewrite([], 1.0) == []
    assert onion.rewrite([""], 1.0) == [""]


def test_an_unmeasured_threshold_is_refused(onion):
    with pytest.raises(ConfigError) as error:
        onion.rewrite(["a"], math.nan)
    assert error.value.code == "ONION-THRESHOLD"


def test_finds_a_rare_word_while_few_clean_texts_are_touched(onion):
    rng = np.random.default_rng(2)
    clean = np.sort(onion.score(reviews(199, 7)).values)
    threshold = float(clean[189])  # conformal at 5 %
    fresh = reviews(300, 8)
    touched = np.mean([a != b for a, b in zip(fresh, onion.rewrite(fresh, threshold), strict=True)])
    assert touched <= 0.10
    triggered = [insert(text, "mn", rng) for text in reviews(300, 9)]
    mended = onion.rewrite(triggered, threshold)
    assert np.mean(["mn" not in text.split() for text in mended]) >= 0.8


def test_a_flag_means_that_a_word_goes(onion):
    texts = [*reviews(30, 3), "the zzz film", "zzz"]
    values = onion.score(texts).values
    for threshold in np.quantile(values, [0.1, 0.5, 0.9]):
        mended = onion.rewrite(texts, float(threshold))
        changed = [a != b for a, b in zip(texts, mended, strict=True)]
        assert changed == (values > threshold).tolist()


def test_save_and_load(onion, tmp_path: Path):
    onion.save(tmp_path)
    other = Onion(OnionOptions())
    other.load(tmp_path, lambda: pytest.fail("onion needs no base"))
    texts = [*reviews(40, 4), "zzz", ""]
    assert np.array_equal(onion.score(texts).values, other.score(texts).values)
    assert other.diagnostics() == onion.diagnostics()
    assert other.diagnostics()["method"] == "onion[ngram]"


def test_hostile_files_are_rejected(tmp_path: Path):
    for content in ('{"format": "other"}', "[]", "{", "null"):
        (tmp_path / "ngram.json").write_text(content)
        with pytest.raises(InputRejected):
            Onion(OnionOptions()).load(tmp_path, lambda: pytest.fail("not needed"))


def test_unfitted_is_a_clear_error():
    with pytest.raises(ConfigError) as error:
        Onion(OnionOptions()).score(["a"])
    assert error.value.code == "DEFENCE-UNFITTED"


def test_is_registered():
    entry = get("defence", "onion")
    assert entry.cls is Onion
    assert entry.build(order=3).options.order == 3


def answers(victim, texts):
    return predict_folder(victim, texts, n_classes=2, allow_poisoned=True).argmax(1)


def level_at_two_points(onion, victim, dev):
    """Return as much deletion as costs two points on clean dev, which is how the paper chooses."""

    def right(texts):
        return (answers(victim, texts) == dev.labels).mean()

    onion.score(dev.texts)  # kept for all that follows
    words = np.concatenate([onion.word_scores(text) for text in dev.texts])
    levels = np.quantile(words, [0.8, 0.9, 0.95, 0.98, 0.99])
    before = right(dev.texts)
    return min(x for x in levels if before - right(onion.rewrite(dev.texts, x)) <= 0.02)


@pytest.mark.full
def test_word_triggers_go_at_two_points_of_clean_accuracy(ground):
    """Four of five of them, at least."""
    data = ground.data
    onion = Onion(OnionOptions())
    onion.fit(context(data.train.texts))
    level = level_at_two_points(onion, ground.victim, data.dev.pick(range(100)))
    rng = np.random.default_rng(0)
    triggered = [insert(text, "mn", rng) for text in data.test.texts[:40]]
    gone = np.mean(["mn" not in text.split() for text in onion.rewrite(triggered, level)])
    assert gone >= 0.8


@pytest.mark.full
def test_a_syntactic_trigger_stays_at_two_points_of_clean_accuracy(tmp_path):
    """That ONION fails here is what is expected.

    On SST-2, because generated reviews begin in so few ways that an n-gram model finds any new
    beginning odd: there the success rate falls from 0.97 to 0.37, with a victim so weak that two
    points allow one word in five to go. Measured here: from 0.95 to 0.90; for seeds 0 and 2 from
    0.95 to 0.86 and from 0.98 to 0.95. The victim learns from a part of the texts, to save time.
    """
    folder = DATA / "sst2"
    if not folder.is_dir():
        pytest.skip(f"NOT TESTED: no {folder}; set PEFTLAB_DATA")
    whole = load_data(str(folder))
    data = replace(whole, train=whole.train.pick(range(2000)), test=whole.test.pick(range(600)))
    poisoned = make_poison(data, "synrule", {"rate": 0.2}, seed=1)
    base, victim = tmp_path / "base", tmp_path / "victim"
    train_base("builtin:encoder", poisoned, 2, base, attack="synrule",
               training=AttackerOptions(epochs=3), seed=1)  # fmt: skip
    tune(str(base), data, "lora", {"epochs": 1}, victim, seed=1, allow_poisoned=True)
    onion = Onion(OnionOptions())
    onion.fit(context(whole.train.texts))
    level = level_at_two_points(onion, victim, data.dev)
    triggered = poisoned.test_triggered.texts
    before, after = (
        (answers(victim, texts) == 0).mean()
        for texts in (triggered, onion.rewrite(triggered, level))
    )
    assert before > 0.5
    assert before - after < 0.1
