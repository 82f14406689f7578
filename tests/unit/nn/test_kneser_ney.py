"""The token model equals the slow definition, sums to one, and refuses what it cannot count."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.nn.kneser_ney import fit, nats_per_byte

BEGIN = -1


def definition(tokens, vocabulary, order):
    """Return prob(gram): Kneser-Ney straight from the formula, with dictionaries."""
    stream = [BEGIN, *tokens]
    seen = [{} for _ in range(order + 1)]
    for k in range(1, order + 1):
        for i in range(len(stream) - k + 1):
            gram = tuple(stream[i : i + k])
            seen[k][gram] = seen[k].get(gram, 0) + 1
    top = min(order, len(stream))
    a = [{} for _ in range(top)] + [seen[top]]
    for k in range(1, top):
        for gram, count in seen[k].items():
            before = sum(longer[1:] == gram for longer in seen[k + 1])
            a[k][gram] = count if gram[0] == BEGIN else before
    del a[1][BEGIN,]

    def discount(k):
        once, twice = (sum(c == n for c in a[k].values()) for n in (1, 2))
        return once / (once + 2 * twice) if once and twice else 0.5

    def prob(gram):
        k = len(gram)
        if k == 0:
            return 1 / vocabulary
        lower = prob(gram[1:])
        follow = [count for other, count in a[k].items() if other[:-1] == gram[:-1]]
        if not follow:
            return lower
        kept = max(a[k].get(gram, 0) - discount(k), 0)
        return (kept + discount(k) * len(follow) * lower) / sum(follow)

    return lambda context, token: prob((*[BEGIN, *context][-(top - 1) :], token))


def chain(n, seed):
    """Return tokens of which the last two matter."""
    rng = np.random.default_rng(seed)
    tokens = [0, 1]
    while len(tokens) < n:
        tokens.append((tokens[-1] + 2 * tokens[-2] + int(rng.integers(0, 3))) % 6)
    return np.array(tokens, dtype=np.uint16)


@pytest.mark.parametrize("order", [2, 3, 5])
def test_equals_the_definition(order):
    train, unseen = chain(70, seed=0), chain(15, seed=1)
    prob = definition(train.tolist(), 7, order)
    expected = [math.log(prob(unseen[:i].tolist(), int(unseen[i]))) for i in range(len(unseen))]
    model = fit(train, order, vocabulary=7)
    np.testing.assert_allclose(model.log_probs(unseen), expected, atol=1e-9)
    assert model.loss(unseen) == pytest.approx(-np.mean(expected), abs=1e-9)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(2, 5),
       st.lists(st.integers(0, 6), max_size=6))  # fmt: skip
@settings(max_examples=60)
def test_probabilities_sum_to_one_after_any_context(tokens, order, context):
    model = fit(np.array(tokens), order, vocabulary=7)
    after = [model.log_probs(np.array([*context, token]))[-1] for token in range(7)]
    assert np.exp(after).sum() == pytest.approx(1.0, abs=1e-9)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(2, 5))
@settings(max_examples=40)
def test_short_streams_equal_the_definition(tokens, order):
    prob = definition(tokens, 4, order)
    found = fit(np.array(tokens), order, vocabulary=4).log_probs(np.array(tokens))
    expected = [math.log(prob(tokens[:i], token)) for i, token in enumerate(tokens)]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_order_pays_and_shuffling_costs():
    train, unseen = chain(5000, seed=0), chain(500, seed=1)
    losses = [fit(train, order).loss(unseen) for order in (2, 3)]
    shuffled = np.random.default_rng(0).permutation(unseen)
    assert losses[1] < losses[0] - 0.1
    assert losses[1] == pytest.approx(math.log(3), abs=0.05)  # three tokens are as likely
    assert fit(train, 3).loss(shuffled) > losses[1] + 0.2


def test_the_kind_of_integer_does_not_matter():
    tokens = chain(50, seed=2)
    losses = {fit(tokens.astype(kind)).loss(tokens.astype(kind)) for kind in ("u2", "u4", "i8")}
    assert len(losses) == 1


def test_refuses_what_it_cannot_count():
    for tokens, options in (
        ([], {}),
        ([1], {"order": 1}),
        ([-1, 2], {}),
        ([5], {"vocabulary": 5}),
    ):
        with pytest.raises(ValueError, match=r"order|outside"):
            fit(np.array(tokens, dtype=np.int64), **options)
    model = fit(np.array([0, 1]))
    with pytest.raises(ValueError, match="outside"):
        model.loss(np.array([2]))
    with pytest.raises(ValueError, match="no token"):
        model.loss(np.zeros(0, dtype=np.uint16))


def test_nats_per_byte():
    assert nats_per_byte(math.log(256), tokens=10, size=10) == pytest.approx(math.log(256))
    assert nats_per_byte(4.0, tokens=1, size=8) == 0.5
