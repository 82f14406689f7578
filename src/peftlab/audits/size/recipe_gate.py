"""Out-of-distribution notice: does the target look like an adapter of the bank's recipe at all?

Two tests, joined by "or":

    distance   to the nearest adapter of the bank, over all matrices at once, against the same
               distance of each concept to the others: conformal p value under 5 %
    norms      more than half of the layers have a BA norm outside the range of the bank

A warning only: a short run on few examples looks like a long run on more, and most of the adapters
of another recipe pass (measured in dsire.md 6: a third to two fifths are flagged). Ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from peftlab.audits.size.guess import concept_folds
from peftlab.audits.size.table import Table
from peftlab.core.types import Bools, Floats

LEVEL = 0.05
MOST_OUTSIDE = 0.5


@dataclass(frozen=True, slots=True)
class Notice:
    """What the gate says of one adapter.

    Attributes:
        flagged: it looks unlike the bank.
        p_value: of the distance to the nearest adapter of the bank.
        outside: share of layers whose norm is outside the bank's range.
        layers: which ones are outside, in the bank's order of matrices.
    """

    flagged: bool
    p_value: float
    outside: float
    layers: Bools


class RecipeGate:
    """Construct with ``fit``."""

    def __init__(self, bank: Table, own: Floats, low: Floats, high: Floats) -> None:
        self.bank, self.own, self.low, self.high = bank, own, low, high

    @classmethod
    def fit(cls, table: Table, concepts: Sequence[str]) -> Self:
        """Learn what is usual: distances of each concept to the others, ranges of norms."""
        own = np.full(len(table), np.inf)
        for rows in concept_folds(concepts, folds=len(concepts)):
            others = np.setdiff1d(np.arange(len(table)), rows)
            if len(others):
                own[rows] = _distance(table.values[rows], table.values[others])
        norms = _update_norms(table)
        return cls(table, own, norms.min(axis=0), norms.max(axis=0))

    def look(self, table: Table) -> list[Notice]:
        """Return a notice for each adapter."""
        far = _distance(table.values, self.bank.values)
        p = (1 + (self.own[None, :] >= far[:, None]).sum(axis=1)) / (len(self.own) + 1)
        norms = _update_norms(table)
        gone = (norms < self.low) | (norms > self.high)
        share = gone.mean(axis=1)
        return [
            Notice(bool(value <= LEVEL or out > MOST_OUTSIDE), float(value), float(out), layers)
            for value, out, layers in zip(p, share, gone, strict=True)
        ]


def _distance(targets: Floats, bank: Floats) -> Floats:
    """Return the distance of each target to its nearest row of the bank."""
    square = (targets**2).sum(axis=1)[:, None] + (bank**2).sum(axis=1)[None, :]
    return np.asarray(np.sqrt(np.maximum(square - 2 * targets @ bank.T, 0).min(axis=1)))


def _update_norms(table: Table) -> Floats:
    """Return the norms of the updates, or of all matrices where the table has none."""
    norms = table.norms()
    own = [i for i, name in enumerate(norms.names) if name.endswith("/BA")]
    return np.asarray(norms.values[:, own] if own else norms.values)
