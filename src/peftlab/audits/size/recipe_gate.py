"""Out-of-distribution notice: does the target look like an adapter of the bank's recipe at all?

Three tests, joined by "or":

    distance   to the nearest adapter of the bank, over all matrices at once, against the same
               distance of each concept to the others: conformal p value of 5 % or less
    form       Mahalanobis distance of the log-spectra to the mean of the nearest size, against the
               same of unseen concepts: p value of 3 % or less
    norms      more than half of the layers have a BA norm outside the range of the bank

A warning only: a short run on few examples looks like a long run on more. All three are ours.
What form rests on: A and B do not grow with the steps in the proportion in which they shrink with
the size. Measured on mini-WiSE, 500 -> 250 steps: 24 % flagged without form, 80 % with it, 5 % of
matched ones; 250 -> 125 steps: 22 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from peftlab.audits.size.guess import concept_folds
from peftlab.audits.size.means import SizeMeans
from peftlab.audits.size.table import Table
from peftlab.core.types import Bools, Floats, Ints

LEVEL, FORM_LEVEL = 0.05, 0.03
MOST_OUTSIDE = 0.5
SHRINKAGE = 0.4
FOLDS = 10  # of the form test: each fits means and a covariance


@dataclass(frozen=True, slots=True)
class Notice:
    """What the gate says of one adapter.

    Attributes:
        flagged: it looks unlike the bank.
        p_value: of the distance to the nearest adapter of the bank.
        form: p value of the form.
        outside: share of layers whose norm is outside the bank's range.
        layers: which ones are outside, in the bank's order of matrices.
    """

    flagged: bool
    p_value: float
    form: float
    outside: float
    layers: Bools


class RecipeGate:
    """Construct with ``fit``."""

    def __init__(self, bank: Table, own: Floats, means: SizeMeans, forms: Floats) -> None:
        self.bank, self.own, self.means, self.forms = bank, own, means, forms
        norms = _update_norms(bank)
        self.low, self.high = norms.min(axis=0), norms.max(axis=0)

    @classmethod
    def fit(cls, table: Table, sizes: Ints, concepts: Sequence[str]) -> Self:
        """Learn what is usual: distances of each concept to the others, forms, ranges of norms."""
        own, forms = np.full(len(table), np.inf), np.full(len(table), np.inf)
        everything, columns = np.arange(len(table)), np.unique(sizes, return_inverse=True)[1]
        for rows in concept_folds(concepts, folds=len(concepts)):
            others = np.setdiff1d(everything, rows)
            if len(others):
                own[rows] = _distance(table.values[rows], table.values[others])
        for rows in concept_folds(concepts, FOLDS):
            others = np.setdiff1d(everything, rows)
            if len(np.unique(columns[others])) == columns.max() + 1:
                means = SizeMeans(table.values[others], columns[others], log=True)
                forms[rows] = means.distance(table.values[rows], SHRINKAGE)
        return cls(table, own, SizeMeans(table.values, columns, log=True), forms)

    def look(self, table: Table) -> list[Notice]:
        """Return a notice for each adapter."""
        far = _p_values(self.own, _distance(table.values, self.bank.values))
        form = _p_values(self.forms, self.means.distance(table.values, SHRINKAGE))
        norms = _update_norms(table)
        gone = (norms < self.low) | (norms > self.high)
        share = gone.mean(axis=1)
        flagged = (far <= LEVEL) | (form <= FORM_LEVEL) | (share > MOST_OUTSIDE)
        return [
            Notice(bool(flagged[i]), float(far[i]), float(form[i]), float(share[i]), gone[i])
            for i in range(len(table))
        ]


def _p_values(usual: Floats, seen: Floats) -> Floats:
    """Return conformal p values: the share that is as far out, the target included."""
    return np.asarray((1 + (usual[None, :] >= seen[:, None]).sum(axis=1)) / (len(usual) + 1))


def _distance(targets: Floats, bank: Floats) -> Floats:
    """Return the distance of each target to its nearest row of the bank."""
    square = (targets**2).sum(axis=1)[:, None] + (bank**2).sum(axis=1)[None, :]
    return np.asarray(np.sqrt(np.maximum(square - 2 * targets @ bank.T, 0).min(axis=1)))


def _update_norms(table: Table) -> Floats:
    """Return the norms of the updates, or of all matrices where the table has none."""
    norms = table.norms()
    own = [i for i, name in enumerate(norms.names) if name.endswith("/BA")]
    return np.asarray(norms.values[:, own] if own else norms.values)
