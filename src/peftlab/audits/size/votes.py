"""Heads that look for the most similar adapter: matrix by matrix with a vote, or all at once.

Per matrix m, with f the target's spectrum and f_i those of the bank (k = 1, Euclidean):

    i*(m) = argmin_i |f - f_i|        vote(m) = size of i*(m)        size = mode of the votes

Of sizes with equally many votes the lower median is taken; of equally near adapters the first one
in the bank. Source: arXiv 2406.19395, section 4; the tie rule is ours. Cost: n N P multiply-adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np

from peftlab.audits.size.guess import Guess, middle, one_hot
from peftlab.audits.size.table import Table
from peftlab.core.types import Floats, Ints

BLOCK = 2**22  # differences that are held at once: 32 MiB
Rule = Literal["mode", "median", "mean"]


def nearest_rows(bank: Floats, targets: Floats) -> Ints:
    """Return for each target the row of the bank that is nearest, the first of equal ones.

    Differences are taken before they are squared: near neighbours keep their digits.
    """
    found = np.empty(len(targets), dtype=np.int64)
    step = max(1, BLOCK // max(bank.size, 1))
    for start in range(0, len(targets), step):
        some = targets[start : start + step]
        far = some[:, None, :] - bank[None, :, :]
        found[start : start + step] = np.einsum("tnw,tnw->tn", far, far).argmin(axis=1)
    return found


class Votes:
    """One vote a matrix."""

    def __init__(self, rule: Rule = "mode", *, norms: bool = False) -> None:
        self.rule, self.norms = rule, norms

    def fit(self, table: Table, sizes: Ints, concepts: Sequence[str]) -> Self:
        """Remember the bank."""
        del concepts
        self.levels = np.unique(sizes)
        self.columns = np.searchsorted(self.levels, sizes)
        self.bank = table.norms() if self.norms else table
        return self

    def votes(self, table: Table) -> Ints:
        """Return the column of the size that each matrix votes for, (n, M)."""
        own = table.norms() if self.norms else table
        found = [
            self.columns[nearest_rows(self.bank.values[:, part], own.values[:, part])]
            for part in self.bank.parts
        ]
        return np.stack(found, axis=1)

    def guess(self, table: Table) -> Guess:
        """Return the winner of each vote."""
        votes = self.votes(table)
        counts = np.stack([(votes == k).sum(axis=1) for k in range(len(self.levels))], axis=1)
        shares = counts / votes.shape[1]
        if self.rule == "mean":
            return Guess(shares @ self.levels, shares)
        if self.rule == "median":
            return Guess(middle(shares, self.levels), shares)
        winners = [plurality(row) for row in counts]
        return Guess(self.levels[np.array(winners, dtype=int)].astype(float), shares)


def plurality(counts: Ints) -> int:
    """Return the place with most votes, of several the lower median one.

    Examples:
        >>> plurality(np.array([2, 0, 2, 2])), plurality(np.array([3, 3]))
        (2, 0)
    """
    tied = np.flatnonzero(counts == counts.max())
    return int(tied[(len(tied) - 1) // 2])


class Nearest:
    """The most similar adapter over all matrices at once."""

    def fit(self, table: Table, sizes: Ints, concepts: Sequence[str]) -> Self:
        """Remember the bank."""
        del concepts
        self.levels = np.unique(sizes)
        self.columns, self.bank = np.searchsorted(self.levels, sizes), table.values
        return self

    def guess(self, table: Table) -> Guess:
        """Return the size of the nearest adapter."""
        columns = self.columns[nearest_rows(self.bank, table.values)]
        return Guess(self.levels[columns].astype(float), one_hot(columns, len(self.levels)))
