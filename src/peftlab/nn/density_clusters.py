"""HDBSCAN: clusters are the dense regions that outlast the others as the density bar is raised.

The core distance of a point is that to its m-th nearest (itself the first), and two points are

    max(core(a), core(b), |a - b|)

apart (mutual reachability). The minimum spanning tree over these distances, cut edge by edge from
the longest, is a hierarchy of splits. A split counts when both parts have ``min_cluster_size``
points or more; otherwise points merely fall out. With lambda = 1 / distance, the stability of a
cluster is the sum over its points of (lambda at which the point left - lambda at which the cluster
was born), and of a cluster and the clusters within it those of more stability together are kept
(excess of mass). The root is never kept, so points that make up one single cluster are all noise.

Paper: Campello, Moulavi and Sander, PAKDD 2013. Public code: scikit-learn-contrib/hdbscan and
scikit-learn. As in scikit-learn, ``min_samples`` = 100 is a point and 99 others; in
scikit-learn-contrib/hdbscan it is 100 others.

Known differences: edges of equal length are cut at once (there: one after the other, so that the
order of the points decides); an edge of length 0 counts as half the shortest other one (there:
lambda is infinite and stabilities may not be numbers); a cluster that dies as it is born is no
cluster, so points that are all the same are all noise.

Cost: O(n^2 d) time and O(n) memory; at most 30,000 points.
"""

from __future__ import annotations

import numpy as np

from peftlab.core.types import Floats, Ints
from peftlab.nn.clustering import between, check_rows, distances

NOISE = -1
_LEAST = float(np.finfo(np.float64).tiny)  # a stability above 0


def density_clusters(points: Floats, *, min_samples: int, min_cluster_size: int) -> Ints:
    """Return the cluster of each point, 0 .. k-1 in the order of its first point, or -1: noise.

    Args:
        points: (n, d).
        min_samples: m, at most n counts; larger is smoother.
        min_cluster_size: points of the smallest cluster, at least 2.

    Raises:
        ResourceLimit: ``CLUSTER-ROWS`` above 30,000 points.

    Examples:
        >>> points = np.array([[0.0], [1], [2], [20], [21], [22], [50]])
        >>> density_clusters(points, min_samples=2, min_cluster_size=2).tolist()
        [0, 0, 0, 1, 1, 1, -1]
    """
    check_rows(len(points))
    if len(points) < 2:
        return np.full(len(points), NOISE, dtype=np.int64)
    ends, lengths = _spanning_tree(points, core_distances(points, min_samples))
    left, right, sizes = _merges(ends)
    return _excess_of_mass(left, right, sizes, lengths, max(min_cluster_size, 2))


def core_distances(points: Floats, min_samples: int) -> Floats:
    """Return the distance of each point to its m-th nearest, itself the first, (n,)."""
    nth = min(min_samples, len(points)) - 1
    out = np.zeros(len(points))
    for rows, apart in distances(points):
        out[rows] = np.partition(apart, nth, axis=1)[:, nth]
    return out


def _spanning_tree(points: Floats, core: Floats) -> tuple[Ints, Floats]:
    """Return the n - 1 edges (pairs of points) and their lengths, shortest first (Prim)."""
    n = len(points)
    reach = np.full(n, np.inf)  # from the tree to each point that is not in it
    via = np.zeros(n, dtype=np.int64)
    outside = np.ones(n, dtype=bool)
    ends, lengths = np.zeros((n - 1, 2), dtype=np.int64), np.zeros(n - 1)
    columns = np.ascontiguousarray(points.T)
    newest = 0
    for edge in range(n - 1):
        outside[newest] = False
        apart = between(points[newest : newest + 1], columns)
        apart = np.maximum(np.maximum(apart[0], core), core[newest])
        closer = outside & (apart < reach)
        reach[closer], via[closer] = apart[closer], newest
        reach[newest] = np.inf
        newest = int(reach.argmin())
        ends[edge], lengths[edge] = (via[newest], newest), reach[newest]
    order = np.argsort(lengths, kind="stable")
    return ends[order], lengths[order]


def _merges(ends: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the dendrogram: children (left, right) of nodes n .. 2n-2, sizes of nodes 0 .. 2n-2.

    Points are nodes 0 .. n-1; node n + i joins what edge i joins.
    """
    n = len(ends) + 1
    parent = list(range(2 * n - 1))
    sizes = np.ones(2 * n - 1, dtype=np.int64)
    left, right = np.zeros(n - 1, dtype=np.int64), np.zeros(n - 1, dtype=np.int64)
    for i, (a, b) in enumerate(ends.tolist()):
        left[i], right[i] = _top(parent, a), _top(parent, b)
        parent[left[i]] = parent[right[i]] = n + i
        sizes[n + i] = sizes[left[i]] + sizes[right[i]]
    return left, right, sizes


def _top(parent: list[int], node: int) -> int:
    """Return the root of a node, and shorten the way to it."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


def _excess_of_mass(left: Ints, right: Ints, sizes: Ints, lengths: Floats, smallest: int) -> Ints:
    """Return the cluster of each point, or -1."""
    n = len(left) + 1
    positive = lengths[lengths > 0]
    density = 1 / np.maximum(lengths, positive.min() / 2 if len(positive) else 1.0)
    owner = np.zeros(2 * n - 1, dtype=np.int64)  # condensed cluster of each node; 0 is the root
    born, stability, above = [0.0], [0.0], [0]
    whole = [2 * n - 2]  # nodes of `smallest` points or more that are still to be split
    while whole:
        node = whole.pop()
        parts = _parts(node, left, right, density)
        mine, bar = int(owner[node]), float(density[node - n])
        large = [part for part in parts if sizes[part] >= smallest]
        stays = large if len(large) == 1 else []
        stability[mine] += (bar - born[mine]) * int(sizes[node] - sizes[stays].sum())
        for part in parts:
            owner[part] = mine
        for part in large if len(large) > 1 else ():
            owner[part] = len(born)
            born.append(bar)
            stability.append(0.0)
            above.append(mine)
        whole += large
    for node in range(2 * n - 2, n - 1, -1):  # what fell out whole, or joins at equal length
        for child in (left[node - n], right[node - n]):
            owner[child] = owner[child] or owner[node]
    return _in_order(_kept(stability, above)[owner[:n]])


def _parts(node: int, left: Ints, right: Ints, density: Floats) -> list[int]:
    """Return what a node falls into at its own density; more than two parts where edges tie."""
    n = len(left) + 1
    parts: list[int] = []
    same = [node]
    while same:
        at = same.pop() - n
        for child in (int(left[at]), int(right[at])):
            tied = child >= n and density[child - n] == density[node - n]
            (same if tied else parts).append(child)
    return parts


def _kept(stability: list[float], above: list[int]) -> Ints:
    """Return for each condensed cluster the kept one that it is or lies in, or -1."""
    inside = [0.0] * len(above)  # the best sum of the clusters within each
    for cluster in range(len(above) - 1, 0, -1):
        inside[above[cluster]] += max(stability[cluster], inside[cluster])
    kept = np.full(len(above), NOISE, dtype=np.int64)
    for cluster in range(1, len(above)):
        kept[cluster] = kept[above[cluster]]
        if kept[cluster] == NOISE and stability[cluster] >= max(inside[cluster], _LEAST):
            kept[cluster] = cluster
    return kept


def _in_order(labels: Ints) -> Ints:
    """Number clusters by their first point."""
    used, first, numbered = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(used), dtype=np.int64)
    rank[np.argsort(np.where(used == NOISE, -1, first), kind="stable")] = np.arange(len(used))
    return rank[numbered] - int(NOISE in used)
