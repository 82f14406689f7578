"""The Kneser-Ney model: a proper distribution, right by hand, fast without one word."""

import gzip
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.core.errors import ConfigError, InputRejected
from peftlab.nn.ngram import KneserNey, words_of

DATA = Path(os.environ.get("PEFTLAB_DATA", Path(__file__).parents[4] / "shared/data"))
ALPHABET = [*"abcdefgh", "rare", "unseen"]


def corpus(n=120, seed=0):
    """Sentences of a second-order chain, so that word order carries information."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(n):
        state, words = 0, []
        for _ in range(int(rng.integers(1, 12))):
            state = (2 * state + int(rng.integers(0, 3))) % 8
            words.append("abcdefgh"[state])
        texts.append(" ".join(words))
    return [*texts, "a rare b", "c odd d"]


@pytest.fixture(scope="module")
def model():
    return KneserNey.train(corpus())


def mass_after(model, context):
    """Add up the probabilities of all that can follow: known words, the unknown class, the end."""
    at = len(context)
    known = sum(math.exp(model.log_probs([*context, word])[at]) for word in model.words)
    one_unknown = math.exp(model.log_probs([*context, "never-seen"])[at])
    end = math.exp(model.log_probs(context)[at])
    return known + one_unknown * (model.rare_types + 1) + end


@given(st.lists(st.sampled_from(ALPHABET), max_size=7), st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_probabilities_sum_to_one_after_any_context(context, order):
    model = KneserNey.train(corpus(40), order=order)
    assert mass_after(model, context) == pytest.approx(1.0, abs=1e-12)


def test_a_bigram_model_by_hand():
    # "a b", "a b", "a c" twice each for c: every word is known, min_count 1
    model = KneserNey.train(["a b", "a b", "a c"], order=2, min_count=1)
    # bigrams: <s>a 3, ab 2, ac 1, b</s> 2, c</s> 1 -> n1 = 2, n2 = 2
    d2 = 2 / (2 + 2 * 2)
    # continuation counts: a 1 (<s>), b 1, c 1, </s> 2 -> n1 = 3, n2 = 1; 5 bigram types
    d1 = 3 / (3 + 2 * 1)
    uniform = 1 / 5  # a, b, c, </s>, <unk>
    p_b = (1 - d1) / 5 + d1 * 4 / 5 * uniform
    p_b_after_a = (2 - d2) / 3 + d2 * 2 / 3 * p_b
    assert math.exp(model.log_probs(["a", "b"])[1]) == pytest.approx(p_b_after_a, abs=1e-12)
    p_unknown = d1 * 4 / 5 * uniform
    p_unknown_after_a = d2 * 2 / 3 * p_unknown
    assert math.exp(model.log_probs(["a", "x"])[1]) == pytest.approx(p_unknown_after_a, abs=1e-12)
    # after an unseen context the unigrams are left
    assert math.exp(model.log_probs(["x", "b"])[1]) == pytest.approx(p_b, abs=1e-12)
    p_end = (2 - d1) / 5 + d1 * 4 / 5 * uniform
    p_end_after_b = (2 - d2) / 2 + d2 * 1 / 2 * p_end
    assert math.exp(model.log_probs(["b"])[1]) == pytest.approx(p_end_after_b, abs=1e-12)


def naive_log_probs(texts, words, order):
    """Compute the same model slowly, with dictionaries, straight from the definition."""
    grams = [{} for _ in range(order + 1)]
    for text in texts:
        tokens = ["<s>", *text.split(), "</s>"]
        for k in range(1, order + 1):
            for i in range(len(tokens) - k + 1):
                gram = tuple(tokens[i : i + k])
                grams[k][gram] = grams[k].get(gram, 0) + 1
    adjusted = [{} for _ in range(order + 1)]
    adjusted[order] = grams[order]
    for k in range(1, order):
        for gram, count in grams[k].items():
            preceded = sum(longer[1:] == gram for longer in grams[k + 1])
            adjusted[k][gram] = count if gram[0] == "<s>" else preceded
    del adjusted[1]["<s>",]
    vocabulary = len(adjusted[1]) + 1

    def discount(k):
        once = sum(c == 1 for c in adjusted[k].values())
        twice = sum(c == 2 for c in adjusted[k].values())
        return once / (once + 2 * twice) if once and twice else 0.5

    def prob(gram):
        k = len(gram)
        if k == 0:
            return 1 / vocabulary
        follow = {g: c for g, c in adjusted[k].items() if g[:-1] == gram[:-1]}
        lower = prob(gram[1:])
        total = sum(follow.values())
        if not total:
            return lower
        d = discount(k)
        return (max(adjusted[k].get(gram, 0) - d, 0) + d * len(follow) * lower) / total

    tokens = ["<s>", *words, "</s>"]
    return [
        math.log(prob(tuple(tokens[max(0, i - order + 1) : i + 1]))) for i in range(1, len(tokens))
    ]


@pytest.mark.parametrize("order", [2, 3, 5])
def test_equals_the_definition(order):
    texts = [text for text in corpus(25) if "rare" not in text and "odd" not in text]
    model = KneserNey.train(texts, order=order, min_count=1)
    for words in (["a", "c", "f"], ["h", "h", "a", "zzz", "b"], [], texts[3].split()):
        expected = naive_log_probs(texts, words, order)
        np.testing.assert_allclose(model.log_probs(words), expected, atol=1e-12)


@given(st.lists(st.sampled_from(ALPHABET), max_size=15), st.integers(2, 8))
@settings(max_examples=80, deadline=None)
def test_leave_one_out_equals_the_naive_loop(words, order):
    model = KneserNey.train(corpus(30), order=order)
    whole, without = model.leave_one_out(words)
    naive = [model.perplexity(" ".join(words[:i] + words[i + 1 :])) for i in range(len(words))]
    assert whole == pytest.approx(model.perplexity(" ".join(words)), rel=1e-12)
    assert without.shape == (len(words),)
    np.testing.assert_allclose(without, np.array(naive).reshape(-1), rtol=1e-11, atol=1e-9)


def test_leave_one_out_is_fast(model):
    words = list("abcdefghabcdefghabcd")
    best = math.inf
    for _ in range(20):
        start = time.perf_counter()
        model.leave_one_out(words)
        best = min(best, time.perf_counter() - start)
    assert best < 0.005


def test_held_out_text_is_likelier_than_shuffled(model):
    rng = np.random.default_rng(1)
    fresh = [text for text in corpus(60, seed=1) if len(text.split()) > 3]
    clean = np.mean([math.log(model.perplexity(text)) for text in fresh])
    shuffled = np.mean(
        [math.log(model.perplexity(" ".join(rng.permutation(text.split())))) for text in fresh]
    )
    assert clean < shuffled - 0.1


def test_unseen_words_are_less_likely_than_any_known_word(model):
    unseen = model.log_probs(["zzz"])[0]
    assert all(model.log_probs([word])[0] > unseen for word in model.words)


def test_case_and_whitespace_do_not_matter(model):
    assert words_of("  A\tb\n C ") == ["a", "b", "c"]
    assert model.perplexity("A  B c ") == model.perplexity("a b c")
    assert list(model.log_probs(["A", "B"])) == list(model.log_probs(["a", "b"]))


@pytest.mark.parametrize("text", ["", " \t ", "zzz", "zzz zzz", "\x00 \ud800", "a" * 10_000])
def test_every_text_has_a_finite_perplexity(model, text):
    assert 0 < model.perplexity(text) < math.inf


def test_one_word_is_enough_to_train():
    model = KneserNey.train(["", "word", "  "])
    assert 0 < model.perplexity("word other") < math.inf


def test_refuses_nothing_to_train_on_and_wrong_orders():
    with pytest.raises(ConfigError, match="no word") as error:
        KneserNey.train(["", "  "])
    assert error.value.code == "NGRAM-EMPTY"
    for order in (1, 9):
        with pytest.raises(ConfigError) as error:
            KneserNey.train(["a b"], order=order)
        assert error.value.code == "NGRAM-ORDER"


def test_state_survives_json_and_gives_bit_equal_results(model):
    again = KneserNey.from_state(json.loads(json.dumps(model.state())))
    for text in corpus(20, seed=3):
        assert again.perplexity(text) == model.perplexity(text)
    assert again.state() == model.state()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"order": 1},
        {"order": True},
        {"order": 10**9},
        {"rare_types": -1},
        {"words": ["b", "a"]},
        {"words": ["a", "a"]},
        {"words": "ab"},
        {"tokens": [99]},
        {"tokens": [1]},
        {"tokens": [2.0]},
        {"lengths": [0]},
        {"lengths": [10**30]},
        {"lengths": []},
        {"extra": 1},
    ],
)
def test_hostile_states_are_rejected(change):
    state = {**KneserNey.train(["a b", "a b"]).state(), **change}
    with pytest.raises(InputRejected) as error:
        KneserNey.from_state(state)
    assert error.value.code == "NGRAM-STATE"


@pytest.mark.parametrize("state", [None, [], "x", {}])
def test_other_things_are_rejected(state):
    with pytest.raises(InputRejected):
        KneserNey.from_state(state)


def read_texts(split):
    path = DATA / f"sst2/{split}.tsv.gz"
    if not path.exists():
        pytest.skip(f"NOT TESTED: no {path}; set PEFTLAB_DATA")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [line.rstrip("\n").rsplit("\t", 1)[0] for line in lines][1:]


def test_film_reviews():
    train, dev = read_texts("train"), read_texts("dev")
    model = KneserNey.train(train)
    rng = np.random.default_rng(0)
    clean = np.mean([math.log(model.perplexity(text)) for text in dev])
    shuffled = np.mean(
        [math.log(model.perplexity(" ".join(rng.permutation(text.split())))) for text in dev]
    )
    assert clean < math.log(400) < math.log(1500) < shuffled
