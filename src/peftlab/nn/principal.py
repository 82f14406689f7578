"""Principal components: the few directions in which points differ most.

With X (n, d) centred and X = U S V', the components of the points are U S, those of the largest
singular values first. *Whitened* components, sqrt(n - 1) U, have variance 1 each. Independent
component analysis (ICA) only turns whitened components, which changes no distance between points,
so a method that looks at distances alone (k-means, silhouettes) gets from them what it would get
from ICA.
"""

from __future__ import annotations

import numpy as np

from peftlab.core.types import Floats

NEGLIGIBLE = 1e-10  # of the largest singular value; a component below it is rounding


def principal_components(points: Floats, dims: int, *, whiten: bool = False) -> Floats:
    """Return the first principal components of the points, (n, k).

    The sign of a component is such that its largest weight is positive, so that equal points give
    equal components. Components that carry nothing but rounding are left out: k is ``dims``, or
    the rank of the centred points where that is smaller (0 when all points are equal).

    Args:
        points: (n, d), n >= 1.
        dims: largest number of components.
        whiten: scale every component to variance 1.

    Examples:
        >>> principal_components(np.array([[1.0, 5.0], [3.0, 5.0]]), 2).round(9).tolist()
        [[-1.0], [1.0]]
    """
    centred = points - points.mean(axis=0)
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    least = max(NEGLIGIBLE * float(sizes[0]), _rounding(points))
    kept = min(dims, int((sizes > least).sum()))
    largest = np.abs(right[:kept]).argmax(axis=1)
    signs = np.sign(right[np.arange(kept), largest])
    scale = np.sqrt(max(len(points) - 1, 1)) if whiten else sizes[:kept]
    return np.asarray(left[:, :kept] * signs * scale)


def top_direction(centred: Floats) -> Floats:
    """Return the unit vector (d,) along which centred points (n, d) differ most; sign arbitrary."""
    return np.asarray(np.linalg.svd(centred, full_matrices=False)[2][0])


def all_equal(points: Floats) -> bool:
    """Return whether the points (n, d) differ by no more than the rounding of their mean."""
    centred = points - points.mean(axis=0)
    return float(np.linalg.norm(centred)) <= _rounding(points)


def _rounding(points: Floats) -> float:
    """Return how long centred points can be when they are all the same."""
    return 10 * float(np.finfo(np.float64).eps) * float(np.linalg.norm(points))
