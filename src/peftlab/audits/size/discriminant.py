"""Linear discriminant analysis of log-spectra with a shrunken covariance.

Every size has a mean m_k, all share a covariance (1 - g) S + g t I with S the covariance within
sizes and t its mean variance; shares of sizes are posteriors under equal priors, and the guess is
their median. g is chosen over folds of concepts. Ours (dsire.md 11); the published comparison has
a Gaussian discriminant on raw spectra (arXiv 2406.19395, table 5).
Cost: one singular value decomposition of N x P, then everything in at most N dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from peftlab.audits.size.guess import Guess, choose, middle
from peftlab.audits.size.table import Standard, Table
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
            made = _Model(values[train], columns[train], log=not self.norm)
            return [_error(made.shares(values[test], g), columns[test]) for g in SHRINKAGE]

        self.shrinkage = choose(SHRINKAGE, concepts, fold)
        self.model = _Model(values, columns, log=not self.norm)
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


class _Model:
    """Means and covariance within sizes, in the space that the bank spans."""

    def __init__(self, values: Floats, columns: Ints, *, log: bool) -> None:
        self.standard = Standard.fit(values, log=log)
        own = self.standard.apply(values)
        _, lengths, turn = np.linalg.svd(own, full_matrices=False)
        kept = lengths > 1e-9 * max(lengths[0], np.finfo(float).tiny)
        self.turn = turn[kept].T
        points = own @ self.turn
        classes = int(columns.max()) + 1
        self.means = np.stack([points[columns == k].mean(axis=0) for k in range(classes)])
        inside = points - self.means[columns]
        freedom = max(len(points) - classes, 1)
        self.within = inside.T @ inside / freedom
        self.level = float(np.trace(self.within)) / max(self.within.shape[0], 1)
        if self.level <= 1e-12:  # one adapter a size: as unsure as half a step between sizes
            steps = np.diff(self.means, axis=0)
            self.level = float(np.mean(steps**2)) / 4 or 1.0

    def shares(self, values: Floats, shrinkage: float) -> Floats:
        points = self.standard.apply(values) @ self.turn
        mixed = (1 - shrinkage) * self.within + shrinkage * self.level * np.eye(len(self.within))
        weights = np.linalg.solve(mixed, self.means.T)
        scores = points @ weights - 0.5 * np.einsum("kd,dk->k", self.means, weights)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(scores / scores.sum(axis=1, keepdims=True))
