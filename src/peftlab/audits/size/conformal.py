"""Sets of sizes that hold the true one in at least 1 - alpha of new concepts, by CV+ over concepts.

A head's shares p of the sizes give each size a score, the expected distance in steps,

    score(x, k) = sum_j p_j(x) |j - k|

which is convex in k, so that a set has no holes. The bank is cut into folds of concepts; each fold
is scored by the head that has not seen it, and so is the target. A size stays in the set while

    sum over concepts c of  1 / (C + 1)  x  share of c's adapters whose own score is smaller

is under 1 - alpha: a concept counts once, however many adapters it has, and one unseen concept is
added. With fewer than 1 / alpha - 1 concepts no size can be ruled out, and the set says so.
Source: CV+ of Barber et al., Ann. Stat. 49, 2021, and Romano et al., NeurIPS 2020; weights for
grouped data as Lee, Barber and Willett 2023. The guarantee of CV+ is 1 - 2 alpha; what is reached
is measured (``evaluate``). Cost: one fit of the head a fold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from peftlab.audits.size.guess import Guess, Head, concept_folds
from peftlab.audits.size.table import Table
from peftlab.core.types import Bools, Floats, Ints

ALPHA = 0.1
ROUNDING = 1e-12


def scores(guess: Guess) -> Floats:
    """Return the expected distance in steps of each adapter from each size, (n, K).

    Examples:
        >>> scores(Guess(np.array([1.0]), np.array([[0.5, 0.5, 0.0]]))).tolist()
        [[0.5, 0.5, 1.5]]
    """
    places = np.arange(guess.shares.shape[1])
    return np.asarray(guess.shares @ np.abs(places[:, None] - places[None, :]))


@dataclass(frozen=True, slots=True)
class _Fold:
    head: Head
    own: Floats  # scores of its adapters at their true sizes
    weight: Floats  # of each of them


class ConformalSets:
    """Heads and scores of all folds; construct with ``fit``."""

    def __init__(self, levels: Ints, alpha: float, concepts: int, folds: Sequence[_Fold]) -> None:
        self.levels, self.alpha, self.concepts, self.folds = levels, alpha, concepts, tuple(folds)

    @classmethod
    def fit(
        cls, make: Callable[[], Head], table: Table, sizes: Ints, concepts: Sequence[str],
        *, alpha: float = ALPHA,
    ) -> Self:  # fmt: skip
        """Fit one head a fold.

        Args:
            make: returns a new head.
            table: of the bank.
            sizes: of its adapters.
            concepts: of its adapters.
            alpha: share of new concepts that a set may miss.
        """
        levels, names = np.unique(sizes), np.array(concepts)
        columns = np.searchsorted(levels, sizes)
        known, place, counts = np.unique(names, return_inverse=True, return_counts=True)
        weight = 1 / (len(known) + 1) / counts[place]
        found = []
        for test in concept_folds(concepts) if len(known) > 1 else []:
            train = np.setdiff1d(np.arange(len(names)), test)
            if len(np.unique(sizes[train])) < len(levels):
                continue  # its scores would be of other sizes; the set grows, coverage stays
            head = make().fit(table.pick(train), sizes[train], tuple(names[train]))
            own = scores(head.guess(table.pick(test)))[np.arange(len(test)), columns[test]]
            found.append(_Fold(head, own, weight[test]))
        return cls(levels, alpha, len(known), found)

    @property
    def can_rule_out(self) -> bool:
        """Tell whether there are concepts enough for any size to be left out."""
        total = sum(float(fold.weight.sum()) for fold in self.folds)
        return total >= 1 - self.alpha - ROUNDING

    def sets(self, table: Table) -> Bools:
        """Return for each adapter which sizes stay, (n, K)."""
        below = np.zeros((len(table), len(self.levels)))
        for fold in self.folds:
            score = scores(fold.head.guess(table)) - ROUNDING
            order = np.argsort(fold.own)
            mass = np.concatenate([[0.0], np.cumsum(fold.weight[order])])
            below += mass[np.searchsorted(fold.own[order], score, side="left")]
        return np.asarray(below < 1 - self.alpha - ROUNDING)
