"""k-means, silhouettes, and distances between many points in blocks that fit the cache.

k-means moves k centres until each is the mean of the points that are nearest to it; it starts from
points that are far from each other (k-means++, Arthur and Vassilvitskii 2007), several times, and
keeps the tightest result. The silhouette of a point compares a, its mean distance to the others of
its cluster, with b, that to the nearest other cluster: (b - a) / max(a, b) (Rousseeuw 1987).

Cost: k-means O(n k d) a step; silhouettes O(n^2 d).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from peftlab.core.errors import ResourceLimit
from peftlab.core.types import Floats, Ints

BLOCK = 1 << 18  # distances at a time: 2 MB
MOST_STEPS = 300  # as scikit-learn; two clusters settle in far fewer
MOST_ROWS = 30_000  # a minute or two on one core for 20 numbers a point


@dataclass(frozen=True, slots=True)
class Clusters:
    """Which points belong together.

    Attributes:
        labels: (n,) cluster of each point, 0 .. k-1.
        centres: (k, d).
        inertia: sum of squared distances of the points to their centres.
    """

    labels: Ints
    centres: Floats
    inertia: float


def k_means(points: Floats, k: int, rng: np.random.Generator, *, restarts: int = 10) -> Clusters:
    """Return k clusters; fewer when the points have fewer than k different places.

    Args:
        points: (n, d), n >= 1.
        k: number of clusters.
        rng: draws the first centres.
        restarts: tries, of which the one of smallest inertia is kept.
    """
    return min((_settle(points, _first(points, k, rng)) for _ in range(restarts)), key=_inertia)


def silhouettes(points: Floats, labels: Ints) -> Floats:
    """Return the silhouette of each point, (n,); 0 for the only point of a cluster.

    Args:
        points: (n, d).
        labels: (n,) 0 .. k-1, every number in use, k >= 2.

    Raises:
        ResourceLimit: ``CLUSTER-ROWS`` above 30,000 points.

    Examples:
        >>> silhouettes(np.array([[0.0], [1.0], [10.0]]), np.array([0, 0, 1])).tolist()
        [0.9, 0.8888888888888888, 0.0]
    """
    check_rows(len(points))
    counts = np.bincount(labels)
    members = np.eye(len(counts))[labels]
    out = np.zeros(len(points))
    for rows, apart in distances(points):
        own, at = labels[rows], np.arange(rows.stop - rows.start)
        sums = apart @ members
        within = sums[at, own] / np.maximum(counts[own] - 1, 1)
        means = sums / counts
        means[at, own] = np.inf
        nearest = means.min(axis=1)
        larger = np.maximum(within, nearest)
        out[rows] = (nearest - within) / np.where(larger > 0, larger, 1)
    out[counts[labels] == 1] = 0
    return out


def distances(points: Floats, others: Floats | None = None) -> Iterator[tuple[slice, Floats]]:
    """Yield slices of the points with their distances to all others, (b, m).

    Distances are summed coordinate by coordinate, so that those of equal points are exactly 0.

    Args:
        points: (n, d).
        others: (m, d); the points themselves if left out.
    """
    others = points if others is None else others
    columns = np.ascontiguousarray(others.T)
    size = max(BLOCK // max(len(others), 1), 1)
    for start in range(0, len(points), size):
        rows = slice(start, min(start + size, len(points)))
        yield rows, between(points[rows], columns)


def between(some: Floats, columns: Floats) -> Floats:
    """Return distances (b, m) between points (b, d) and others that are given as columns (d, m)."""
    total = np.zeros((len(some), columns.shape[1]))
    gap = np.empty_like(total)
    for mine, theirs in zip(some.T, columns, strict=True):
        np.subtract.outer(mine, theirs, out=gap)
        gap *= gap
        total += gap
    return np.asarray(np.sqrt(total, out=total))


def check_rows(n: int) -> None:
    """Refuse more points than distances between all of them are worth.

    Raises:
        ResourceLimit: ``CLUSTER-ROWS``.
    """
    if n > MOST_ROWS:
        raise ResourceLimit(
            "distances between all rows would take too long",
            code="CLUSTER-ROWS", got=f"{n} rows", allowed=f"up to {MOST_ROWS}",
            fix="filter a part of the rows at a time, or choose spectral-signatures, whose cost "
            "grows with the rows and not with their square",
        )  # fmt: skip


def _inertia(found: Clusters) -> float:
    return found.inertia


def _first(points: Floats, k: int, rng: np.random.Generator) -> Floats:
    """Return up to k different points, each drawn by its squared distance to those before it."""
    centres = [points[int(rng.integers(len(points)))]]
    squared = ((points - centres[0]) ** 2).sum(axis=1)
    while len(centres) < k and squared.sum() > 0:
        row = int(rng.choice(len(points), p=squared / squared.sum()))
        centres.append(points[row])
        squared = np.minimum(squared, ((points - points[row]) ** 2).sum(axis=1))
    return np.stack(centres)


def _settle(points: Floats, centres: Floats) -> Clusters:
    labels = np.full(len(points), -1)
    for _ in range(MOST_STEPS):
        squared = np.stack([((points - centre) ** 2).sum(axis=1) for centre in centres], axis=1)
        before, labels = labels, squared.argmin(axis=1)
        if (labels == before).all():
            break
        # a centre that lost all its points stays where it is; it started on one of them
        centres = np.stack(
            [points[labels == c].mean(axis=0) if (labels == c).any() else centre
             for c, centre in enumerate(centres)]
        )  # fmt: skip
    used, labels = np.unique(labels, return_inverse=True)
    inertia = float(((points - centres[used][labels]) ** 2).sum())
    return Clusters(labels.astype(np.int64), centres[used], inertia)
