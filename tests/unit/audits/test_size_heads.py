"""Heads: the vote against a slow oracle, ties, invariances, determinism, few concepts."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.audits.size.guess import concept_folds, middle, nearest_level
from peftlab.audits.size.heads import ABOUT, HEADS, make
from peftlab.audits.size.ordinal import _derivatives, _loss
from peftlab.audits.size.table import Table, table_of
from peftlab.audits.size.votes import Votes, plurality
from peftlab.core.errors import ConfigError
from size_banks import make_bank

KINDS = ("A", "B", "BA")


def slow_vote(table, sizes, target):
    """Return size and shares as the equations say, one number at a time."""
    votes = Counter()
    for part in table.parts:
        far = [
            sum((x - y) ** 2 for x, y in zip(row[part], target[part], strict=True))
            for row in table.values
        ]
        votes[int(sizes[far.index(min(far))])] += 1
    most = max(votes.values())
    tied = sorted(size for size, count in votes.items() if count == most)
    total = sum(votes.values())
    return tied[(len(tied) - 1) // 2], {size: n / total for size, n in votes.items()}


def cut(bank, train):
    names = np.array(bank.names)
    inside = np.isin(names, bank.concepts[:train])
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def fitted(name, bank, train):
    table, (rows, rest) = table_of(bank, KINDS), cut(bank, train)
    head = make(name).fit(table.pick(rows), bank.sizes[rows], [bank.names[i] for i in rows])
    return head, table.pick(rest), bank.sizes[rest]


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), layers=st.integers(1, 4), concepts=st.integers(2, 5))
def test_vote_equals_the_slow_one(seed, layers, concepts):
    bank = make_bank(concepts=concepts, layers=layers, seed=seed, noise=0.3, own=0.3)
    table, (rows, rest) = table_of(bank, KINDS), cut(bank, concepts - 1)
    train = table.pick(rows)
    guess = Votes().fit(train, bank.sizes[rows], []).guess(table.pick(rest))
    for number, row in enumerate(table.values[rest]):
        size, shares = slow_vote(train, bank.sizes[rows], row)
        assert guess.size[number] == size
        own = dict(zip(bank.levels.tolist(), guess.shares[number], strict=True))
        assert {k: v for k, v in own.items() if v} == pytest.approx(shares)


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6))
def test_global_scaling_leaves_every_vote_unchanged(seed):
    bank = make_bank(concepts=4, layers=3, seed=seed, noise=0.3, own=0.3)
    table, (rows, rest) = table_of(bank, KINDS), cut(bank, 3)
    low, high = table.values[rows].min(), table.values[rows].max()
    scaled = Table((table.values - low) / (high - low), table.names, table.widths)
    votes = [
        Votes().fit(each.pick(rows), bank.sizes[rows], []).votes(each.pick(rest))
        for each in (table, scaled)
    ]
    assert np.array_equal(*votes)


def test_ties_go_to_the_lower_median():
    assert plurality(np.array([0, 2, 2])) == 1
    assert plurality(np.array([2, 2, 1, 2])) == 1
    table = Table(np.array([[0.0, 1.0], [1.0, 0.0]]), ("l/A", "l/B"), (1, 1))
    head = Votes().fit(table, np.array([3, 9]), ["a", "b"])
    assert head.guess(Table(np.array([[0.0, 0.0]]), ("l/A", "l/B"), (1, 1))).size[0] == 3


@pytest.mark.parametrize("name", list(HEADS))
def test_every_head_beats_chance_and_repeats_itself(name):
    bank = make_bank(concepts=12, layers=6, noise=0.05, own=0.05)
    head, test, truth = fitted(name, bank, 8)
    guess = head.guess(test)
    assert np.abs(guess.size - truth).mean() < 1.2  # the best constant has 1.5
    assert np.allclose(guess.shares.sum(axis=1), 1)
    assert guess.shares.shape == (len(truth), 6)
    assert (guess.size >= 1).all()
    assert (guess.size <= 6.000001).all()
    again, _, _ = fitted(name, bank, 8)
    assert np.array_equal(again.guess(test).size, guess.size)
    alone = np.concatenate([head.guess(test.pick([i])).size for i in range(5)])
    assert np.allclose(alone, guess.size[:5], rtol=1e-9)


@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("concepts", [1, 2, 5])
def test_few_concepts_are_enough_to_start(name, concepts):
    bank = make_bank(concepts=concepts + 3, layers=6, noise=0.03, own=0.03)
    head, test, truth = fitted(name, bank, concepts)
    assert np.abs(head.guess(test).size - truth).mean() < 1.5


@pytest.mark.parametrize("name", list(HEADS))
def test_updates_of_zeros_and_constant_columns_are_no_trouble(name):
    bank = make_bank(concepts=4, layers=2)
    table = table_of(bank, KINDS)
    values = table.values.copy()
    values[:, 2] = 0.0
    values[:, 5] = 1.0
    spoilt = Table(values, table.names, table.widths)
    head = make(name).fit(spoilt, bank.sizes, bank.names)
    zeros = Table(np.zeros((1, values.shape[1])), table.names, table.widths)
    guess = head.guess(zeros)
    assert np.isfinite(guess.size).all()
    assert np.isfinite(guess.shares).all()


def test_all_heads_are_described_and_typos_are_helped():
    assert set(ABOUT) == set(HEADS)
    with pytest.raises(ConfigError, match="did you mean ridge"):
        make("rigde")


def test_folds_never_cut_a_concept():
    names = list("aabbccddeeff")
    folds = concept_folds(names, 4)
    assert sorted(i for rows in folds for i in rows) == list(range(12))
    assert all({names[i] for i in a}.isdisjoint({names[i] for i in b})
               for a in folds for b in folds if a is not b)  # fmt: skip


def test_middle_and_nearest_size():
    levels = np.array([1, 10, 100])
    assert middle(np.array([[0.5, 0.0, 0.5], [0.2, 0.2, 0.6]]), levels).tolist() == [1, 100]
    assert nearest_level(np.array([5.5, 5.6, 70.0]), levels).tolist() == [1, 10, 100]


def test_newton_has_the_derivatives_of_the_loss():
    rng = np.random.default_rng(0)
    points, columns = rng.normal(size=(9, 2)), np.arange(9) % 3
    at = np.array([-0.5, 0.7, 0.3, -0.2])
    slope, curve = _derivatives(points, columns, 3, 0.1, at)
    step = 1e-5
    for i in range(4):
        up, down = at.copy(), at.copy()
        up[i] += step
        down[i] -= step
        losses = [_loss(points, columns, 3, 0.1, each) for each in (up, down)]
        assert slope[i] == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=1e-7)
        slopes = [_derivatives(points, columns, 3, 0.1, each)[0] for each in (up, down)]
        assert curve[i] == pytest.approx((slopes[0] - slopes[1]) / (2 * step), abs=1e-6)
