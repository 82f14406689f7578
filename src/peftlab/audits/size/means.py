"""Mean spectra of each size and how adapters of one size scatter about them."""

from __future__ import annotations

import numpy as np

from peftlab.audits.size.table import Standard
from peftlab.core.types import Floats, Ints

TINY = 1e-12


class SizeMeans:
    """Means m_k of K sizes and a shared covariance (1 - g) S + g t I, for any shrinkage g.

    S is the covariance within sizes, t its mean variance. Everything is kept in the space that the
    adapters span: at most as many dimensions as there are adapters.

    Args:
        values: (N, P) features.
        columns: (N,) place of each adapter's size; every size occurs.
        log: take logarithms first.
    """

    def __init__(self, values: Floats, columns: Ints, *, log: bool) -> None:
        self.standard = Standard.fit(values, log=log)
        own = self.standard.apply(values)
        _, lengths, turn = np.linalg.svd(own, full_matrices=False)
        self.turn = turn[lengths > 1e-9 * max(lengths[0], TINY)].T
        points = own @ self.turn
        classes = int(columns.max()) + 1
        self.means = np.stack([points[columns == k].mean(axis=0) for k in range(classes)])
        inside = points - self.means[columns]
        self.within = inside.T @ inside / max(len(points) - classes, 1)
        self.level = float(np.trace(self.within)) / max(len(self.within), 1)
        if self.level <= TINY:  # one adapter a size: as unsure as half a step between sizes
            steps = np.diff(self.means, axis=0)
            self.level = (float(np.mean(steps**2)) / 4 if steps.size else 0.0) or 1.0

    def shares(self, values: Floats, shrinkage: float) -> Floats:
        """Return the posterior of each size under equal priors, (n, K)."""
        points = self.standard.apply(values) @ self.turn
        weights = np.linalg.solve(self._mixed(shrinkage), self.means.T)
        scores = points @ weights - 0.5 * np.einsum("kd,dk->k", self.means, weights)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(scores / scores.sum(axis=1, keepdims=True))

    def distance(self, values: Floats, shrinkage: float) -> Floats:
        """Return the squared Mahalanobis distance to the mean of the nearest size, (n,)."""
        plain = self.standard.apply(values)
        points = plain @ self.turn
        root = np.linalg.cholesky(self._mixed(shrinkage))
        turned = np.linalg.solve(root, points.T).T
        means = np.linalg.solve(root, self.means.T).T
        inside = np.stack([((turned - mean) ** 2).sum(axis=1) for mean in means]).min(axis=0)
        outside = ((plain - points @ self.turn.T) ** 2).sum(axis=1)
        return np.asarray(inside + outside / (shrinkage * self.level))

    def _mixed(self, shrinkage: float) -> Floats:
        eye = np.eye(len(self.within))
        return np.asarray((1 - shrinkage) * self.within + shrinkage * self.level * eye)
