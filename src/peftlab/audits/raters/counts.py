"""Count tables: how often each group gave each item each label. All statistics start from these.

A table has the shape (..., G, K, I): groups, labels, items; leading axes are permutations or
bootstrap draws. Making one takes a single pass over the n ratings, whatever the number of groups,
and no pair of raters is ever formed. Items come last because sums over a short last axis are slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from peftlab.audits.raters.ratings import Ratings
from peftlab.core.types import Floats, Ints

CELLS_AT_ONCE = 100_000  # ours: the tables of one batch then stay in the cache; measured


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts, and what a bootstrap needs besides.

    Attributes:
        n: (..., G, K, I) ratings, each counted with its rater's weight.
        squares: the same of squared weights; ``n`` itself where every weight is 1.
        weights: (..., 1, I) weights of the items; ones without a bootstrap.
    """

    n: Floats
    squares: Floats
    weights: Floats

    @classmethod
    def plain(cls, n: Floats) -> Counts:
        """Return counts in which every rater and item counts once."""
        return cls(n, n, np.ones((*n.shape[:-3], 1, n.shape[-1])))

    def rest(self) -> Floats:
        """Return (..., G, K, I): the ratings of everybody outside each group."""
        return np.asarray(self.n.sum(axis=-3, keepdims=True) - self.n)

    def pick(self, group: int) -> Counts:
        """Return the table of one group alone, G = 1."""
        one = slice(group, group + 1)
        return Counts(self.n[..., one, :, :], self.squares[..., one, :, :], self.weights)


def cells(ratings: Ratings) -> Ints:
    """Return the place of each rating in a flattened (K, I) table."""
    return ratings.label * len(ratings.items) + ratings.item


def count(ratings: Ratings, groups: Ints, n_groups: int) -> Counts:
    """Return the counts (G, K, I) of one assignment of raters to groups.

    Args:
        ratings: the ratings.
        groups: (raters,) group of each, -1 for none.
        n_groups: G.
    """
    tables = count_many(ratings, groups[None], n_groups)
    return Counts.plain(tables[0])


def count_many(ratings: Ratings, groups: Ints, n_groups: int) -> Floats:
    """Return the counts (B, G, K, I) of B assignments ``groups`` (B, raters)."""
    items, _, labels = ratings.shape
    place, size = cells(ratings), items * labels
    found = np.empty((len(groups), n_groups, labels, items))
    for one, row in zip(found, groups, strict=True):
        # group -1 falls into a first table that nobody looks at
        key = ((row + 1) * size).take(ratings.rater, mode="clip")  # unchecked, as all are in range
        key += place
        one[...] = np.bincount(key, minlength=(n_groups + 1) * size)[size:].reshape(one.shape)
    return found


def count_weighted(
    ratings: Ratings, groups: Ints, n_groups: int, raters: Ints, items: Ints
) -> Counts:
    """Return the counts (G, K, I) of a bootstrap draw.

    Args:
        ratings: the ratings.
        groups: (raters,) group of each, -1 for none.
        n_groups: G.
        raters: (raters,) how often each was drawn.
        items: (I,) how often each was drawn.
    """
    n_items, _, labels = ratings.shape
    size = n_items * labels
    key = (groups + 1)[ratings.rater] * size + cells(ratings)
    times = raters[ratings.rater].astype(np.float64)
    least, shape = (n_groups + 1) * size, (n_groups, labels, n_items)
    n = np.bincount(key, weights=times, minlength=least)[size:]
    squares = np.bincount(key, weights=times**2, minlength=least)[size:]
    weights = items[None].astype(np.float64)
    return Counts(
        n.astype(np.float64).reshape(shape), squares.astype(np.float64).reshape(shape), weights
    )


def batches(total: int, ratings: Ratings, n_groups: int) -> Iterator[int]:
    """Yield batch sizes that add up to ``total`` and keep each batch of tables small."""
    items, _, labels = ratings.shape
    size = max(1, CELLS_AT_ONCE // (items * labels * n_groups))
    for start in range(0, total, size):
        yield min(size, total - start)


def components(ratings: Ratings) -> Ints:
    """Return (raters,) batch numbers: raters who share items, directly or by others, are one batch.

    Two batches have no item in common, so a difference between them may be one of items.
    """
    items, raters, _ = ratings.shape
    batch = np.arange(raters)
    while True:
        of_item = np.full(items, raters)
        np.minimum.at(of_item, ratings.item, batch[ratings.rater])
        new = batch.copy()
        np.minimum.at(new, ratings.rater, of_item[ratings.item])
        if np.array_equal(new, batch):
            return np.asarray(np.unique(batch, return_inverse=True)[1], dtype=np.int64)
        batch = new
