"""How unusual a point is among clean ones of its class: distances, tails, and their sum.

The covariance of few points in many dimensions is noise; Ledoit and Wolf ("A well-conditioned
estimator for large-dimensional covariance matrices", J. Multivariate Analysis 88, 2004) mix it
with a multiple of the identity, by a share that they derive from the data. No parameter is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peftlab.core.errors import ConfigError
from peftlab.core.types import Floats, Ints

FEWEST = 10  # points of a fit, and of a class that is judged by itself; ours
MOST_POOLED = 5  # a class with fewer than this many points a dimension shares the pooled covariance


def too_few(got: int, allowed: int) -> ConfigError:
    """Return the error for a reference that is too small to say what is usual."""
    return ConfigError(
        "too few clean reference texts", code="REFERENCE-FEW", got=got,
        allowed=f"{allowed} or more", fix="give more clean dev texts",
    )  # fmt: skip


def ledoit_wolf(centred: Floats) -> Floats:
    """Return the shrunken covariance (d, d) of centred points (n, d).

    Examples:
        >>> ledoit_wolf(np.array([[1.0, 0.0], [-1.0, 0.0]])).shape
        (2, 2)
    """
    n, dims = centred.shape
    sample = centred.T @ centred / n
    mean_variance = float(np.trace(sample)) / dims
    apart = float(((sample - mean_variance * np.eye(dims)) ** 2).sum()) / dims
    squares = centred**2
    noise = float((squares.T @ squares / n - sample**2).sum()) / (n * dims)
    share = 1.0 if apart <= 0 else min(max(noise / apart, 0.0), 1.0)
    shrunken = (1 - share) * sample + share * mean_variance * np.eye(dims)
    return np.asarray(shrunken + max(1e-9 * mean_variance, 1e-12) * np.eye(dims))


@dataclass(frozen=True, slots=True)
class ClassGaussians:
    """Mean and inverse covariance of clean points, for each predicted class.

    Attributes:
        means: (C, d).
        precisions: (C, d, d).
    """

    means: Floats
    precisions: Floats

    @classmethod
    def fit(cls, points: Floats, classes: Ints, n_classes: int, *, pool: bool) -> ClassGaussians:
        """Fit on clean reference points (n, d) with their predicted classes (n,).

        A class without points is judged by the overall mean and the pooled covariance.

        Args:
            points: n points.
            classes: predicted class of each.
            n_classes: C.
            pool: let classes with fewer than 5 d points share the covariance pooled over classes.

        Raises:
            ConfigError: ``REFERENCE-FEW`` below 10 points.
        """
        if len(points) < FEWEST:
            raise too_few(len(points), FEWEST)
        dims = points.shape[1]
        means = np.stack(
            [(points[classes == c] if (classes == c).any() else points).mean(0)
             for c in range(n_classes)]
        )  # fmt: skip
        centred = points - means[classes]
        pooled = ledoit_wolf(centred)
        precisions = []
        for c in range(n_classes):
            mine = classes == c
            few = mine.sum() < max(MOST_POOLED * dims if pool else 0, FEWEST)
            precisions.append(np.linalg.inv(pooled if few else ledoit_wolf(centred[mine])))
        return cls(means, np.stack(precisions))

    def arrays(self) -> dict[str, Floats]:
        """Return what is to be saved."""
        return {"means": self.means, "precisions": self.precisions}

    def unusual(self, points: Floats, classes: Ints) -> Floats:
        """Return log of the squared Mahalanobis distance to the own class, (n,)."""
        apart = points - self.means[classes]
        squared = np.einsum("nd,nde,ne->n", apart, self.precisions[classes], apart)
        return np.log(np.maximum(squared, 1e-12))


@dataclass(frozen=True, slots=True)
class ClassNormals:
    """Mean and standard deviation of one number, for each predicted class.

    Attributes:
        means: (C,).
        deviations: (C,).
    """

    means: Floats
    deviations: Floats

    @classmethod
    def fit(cls, values: Floats, classes: Ints, n_classes: int) -> ClassNormals:
        """Fit on clean reference values (n,); a class with fewer than 10 takes those of all.

        Raises:
            ConfigError: ``REFERENCE-FEW`` below 10 values.
        """
        if len(values) < FEWEST:
            raise too_few(len(values), FEWEST)
        groups = [values[classes == c] for c in range(n_classes)]
        groups = [mine if len(mine) >= FEWEST else values for mine in groups]
        return cls(
            np.array([mine.mean() for mine in groups]),
            np.array([max(float(mine.std()), 1e-9) for mine in groups]),
        )

    def arrays(self) -> dict[str, Floats]:
        """Return what is to be saved."""
        return {"means": self.means, "deviations": self.deviations}

    def unusual(self, values: Floats, classes: Ints) -> Floats:
        """Return how many standard deviations above its class each value lies, (n,)."""
        return (values - self.means[classes]) / self.deviations[classes]


@dataclass(frozen=True, slots=True)
class Tail:
    """Upper tail of a score on clean reference texts: the empirical one, exponential beyond.

    Attributes:
        values: (n,) sorted scores.
        start: score beyond which the exponential holds (the 90th percentile).
        scale: mean excess over ``start``.
    """

    values: Floats
    start: float
    scale: float

    @classmethod
    def fit(cls, values: Floats) -> Tail:
        """Fit on out-of-sample scores of clean texts."""
        ordered = np.sort(values)
        start = float(ordered[int(0.9 * len(ordered))])
        beyond = ordered[ordered > start] - start
        return cls(ordered, start, max(float(beyond.mean()) if len(beyond) else 0.0, 1e-9))

    def surprise(self, values: Floats) -> Floats:
        """Return -log P(score >= value) under the reference, (n,); always finite."""
        n = len(self.values)
        share = (1 + n - np.searchsorted(self.values, values)) / (n + 1)
        beyond = np.maximum(values - self.start, 0.0) / self.scale - np.log(0.1)
        return np.where(values > self.start, beyond, -np.log(share))
