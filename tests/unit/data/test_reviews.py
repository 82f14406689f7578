"""The generated reviews: variety, no leak, balance, repeatable, learnable but not trivial."""

from __future__ import annotations

import string
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.core import hygiene, registry
from peftlab.core.errors import ConfigError
from peftlab.core.seeds import stream
from peftlab.data import review_patterns, review_words
from peftlab.data.reviews import Reviews, write_review


def make(name="reviews", **options):
    return registry.get("dataset", name).build(**options).load(name)


@pytest.fixture(scope="module")
def corpus():
    return make()


@pytest.fixture(scope="module")
def four():
    return make("reviews-4")


def length(text: str) -> int:
    return sum(word[0].isalnum() for word in text.split())


def bag_of_words_accuracy(data, split) -> float:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    bag = CountVectorizer(token_pattern=r"\S+")
    model = LogisticRegression(C=0.3, max_iter=1000)
    model.fit(bag.fit_transform(data.train.texts), data.train.labels)
    return float(model.score(bag.transform(split.texts), split.labels))


def test_sizes_and_names(corpus, four):
    assert [len(part) for part in (corpus.train, corpus.dev, corpus.test, corpus.proxy)] == [
        2000, 500, 800, 1000,
    ]  # fmt: skip
    assert corpus.label_names == ("negative", "positive")
    assert four.n_classes == 4
    assert make("reviews", n_proxy=0, n_train=20).proxy is None


def test_no_duplicates_and_no_leaks(corpus, four):
    for data in (corpus, four):
        assert hygiene.check(data) == []


def test_lengths(corpus):
    lengths = np.array([length(text) for text in corpus.train.texts])
    assert lengths.min() >= 8
    assert lengths.max() <= 45
    assert 20 <= lengths.mean() <= 30
    assert lengths.std() > 5


def test_balance_and_noise():
    data = make(n_train=4000, label_noise=0.1)
    clean = make(n_train=4000, label_noise=0)
    assert Counter(clean.train.labels) == {0: 2000, 1: 2000}
    assert Counter(clean.train.pick(range(100)).labels) == {0: 50, 1: 50}
    assert 0.4 < np.mean(data.train.labels) < 0.6


def test_repeatable_and_seeded(corpus):
    assert make().digest() == corpus.digest()
    other = make(seed=1)
    assert not set(other.test.texts) & set(corpus.test.texts)


def test_test_split_does_not_depend_on_the_other_sizes(corpus):
    assert make(n_train=50, n_dev=20, n_proxy=0).test == corpus.test


@pytest.mark.parametrize("seed", [0, 1])
def test_learnable_by_counting_words_but_not_trivial(seed):
    data = make(seed=seed)
    assert 0.75 < bag_of_words_accuracy(data, data.test) < 0.97
    assert 0.55 < bag_of_words_accuracy(data, data.proxy) < 0.9


def test_four_classes_are_learnable(four):
    assert 0.6 < bag_of_words_accuracy(four, four.test) < 0.95


def test_variety_of_the_words():
    for polarity in (1, -1):
        assert len(set(review_words.STRONG[polarity])) >= 24
        assert len(set(review_words.MILD[polarity])) >= 36
    assert not set(review_words.STRONG[1] + review_words.MILD[1]) & set(
        review_words.STRONG[-1] + review_words.MILD[-1]
    )
    assert len(review_words.TARGET_TOPICS) >= 8
    target = {topic.item for topic in review_words.TARGET_TOPICS}
    assert not target & {topic.item for topic in review_words.PROXY_TOPICS}
    assert not set(review_patterns.TARGET.shapes) & set(review_patterns.PROXY.shapes)


def test_all_phenomena_occur(corpus):
    joined = " | ".join(corpus.train.texts)
    for phrase in ("although ", " but ", "far from ", "hardly ", "rather ", "extremely ", "yet "):
        assert joined.count(phrase) >= 10, phrase
    assert any(word.isdigit() for word in joined.split())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, -1]), st.booleans(), st.booleans())
def test_texts_are_clean(seed, polarity, strong, proxy):
    text = write_review(stream(seed, "test"), polarity=polarity, strong=strong, proxy=proxy)
    assert 8 <= length(text) <= 45
    assert set(text) <= set(string.ascii_lowercase + string.digits + " .,:;'-")
    assert "  " not in text
    assert text == text.strip()
    assert text.endswith(" .")
    assert not any(
        pair in f" {text} " for pair in (" a a", " a e", " a i", " a o", " . .", " , .", " , ,")
    )


def test_options_are_bounded():
    for bad in ({"classes": 3}, {"n_train": 5}, {"label_noise": 0.9}, {"size": 1}):
        with pytest.raises(ConfigError):
            make(**bad)


def test_registered_under_two_names():
    assert issubclass(registry.get("dataset", "reviews-4").cls, Reviews)
