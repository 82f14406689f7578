"""Linear discriminant analysis of log-spectra with a shrunken covariance.

Every size has a mean m_k, all share a covariance (1 - g) S + g t I with S the covariance within
sizes and t its mean variance; shares of sizes are posteriors under equal priors, and the guess is
their median. g is chosen over folds of concepts. Ours; the published comparison has a Gaussian
discriminant on raw spectra (arXiv 2406.19395, table 5).
Cost: one singular value decomposition of N x P, then everything in at most N dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from peftlab.audits.size.guess import Guess, choose, middle
from peftlab.audits.size.means import SizeMeans
from peftlab.audits.size.table import Table
from peftlab.core.types import Floats, Ints

SHRINKAGE = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


class Discriminant:
    """Shrinkage LDA of all log-spectra, or of the mean log-norm of an adapter alone."""

    def __init__(self, *, norm: bool = False) -> None:
        self.norm = norm

    def fit(self, table: Table, sizes: Ints, concepts: Sequence[str]) -> Self:
        """Choose the shrinkage, then fit on everything."""
        self.levels = np.unique(sizes)
        values, columns = self._features(table), np.searchsorted(self.levels, sizes)

        def fold(train: Ints, test: Ints) -> list[float]:
            if len(np.unique(columns[train])) < len(self.levels):
                return [0.0] * len(SHRINKAGE)
            made = SizeMeans(values[train], columns[train], log=not self.norm)
            return [_error(made.shares(values[test], g), columns[test]) for g in SHRINKAGE]

        self.shrinkage = choose(SHRINKAGE, concepts, fold)
        self.model = SizeMeans(values, columns, log=not self.norm)
        return self

    def guess(self, table: Table) -> Guess:
        """Return posteriors and their medians."""
        shares = self.model.shares(self._features(table), self.shrinkage)
        return Guess(middle(shares, self.levels), shares)

    def _features(self, table: Table) -> Floats:
        if not self.norm:
            return table.values
        norms = table.norms().values
        logs = np.log(np.maximum(norms, np.finfo(float).tiny))
        return np.asarray(logs.mean(axis=1, keepdims=True))


def _error(shares: Floats, columns: Ints) -> float:
    """Return the summed expected distance in steps: smoother than that of the median."""
    steps = np.abs(np.arange(shares.shape[1])[None, :] - columns[:, None])
    return float((shares * steps).sum())
