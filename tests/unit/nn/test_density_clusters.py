"""HDBSCAN against scikit-learn, and where distances tie against the plain definition."""

import numpy as np
import pytest

from peftlab.core.errors import ResourceLimit
from peftlab.core.seeds import stream
from peftlab.nn.clustering import MOST_ROWS
from peftlab.nn.density_clusters import core_distances, density_clusters


def _groups(seed, *, whole=False):
    """Return up to five groups of points of different density; on a grid, so that many tie."""
    rng = stream(seed, "test/density")
    dims = int(rng.integers(1, 5))
    parts = [
        rng.normal(size=(int(rng.integers(4, 30)), dims)) * rng.uniform(0.3, 1.5)
        + rng.normal(size=dims) * 4
        for _ in range(int(rng.integers(1, 6)))
    ]
    points = np.concatenate(parts)
    return np.round(points * 1.5) if whole else points


def _same(a, b):
    """Return whether two labellings are the same but for the numbers of clusters."""
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len({x for x, _ in pairs}) == len({y for _, y in pairs}) and all(
        (x == -1) == (y == -1) for x, y in pairs
    )


@pytest.mark.parametrize("seed", range(20))
def test_equals_sklearn(seed):
    """With min_samples = 1 no two mutual reachabilities are equal."""
    from sklearn.cluster import HDBSCAN

    points, size = _groups(seed), 2 + seed % 7
    ours = density_clusters(points, min_samples=1, min_cluster_size=size)
    theirs = HDBSCAN(min_samples=1, min_cluster_size=size, copy=True).fit_predict(points)
    assert _same(ours, theirs)


def test_equals_sklearn_on_groups_that_are_well_apart():
    from sklearn.cluster import HDBSCAN
    from sklearn.metrics import adjusted_rand_score

    rng = stream(0, "test/apart")
    points = np.concatenate([rng.normal(size=(n, 6)) + 9 * c for c, n in enumerate((300, 90, 40))])
    ours = density_clusters(points, min_samples=20, min_cluster_size=20)
    theirs = HDBSCAN(min_samples=20, min_cluster_size=20, copy=True).fit_predict(points)
    assert adjusted_rand_score(ours, theirs) > 0.99
    assert ours.max() == theirs.max() == 2


class _Naive:
    """The definition, with a matrix of all mutual reachabilities and explicit sets of points."""

    def __init__(self, points, min_samples, smallest):
        apart = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
        core = np.sort(apart, axis=1)[:, min_samples - 1]
        self.reach = np.maximum(np.maximum(apart, core[:, None]), core[None])
        np.fill_diagonal(self.reach, 0)
        self.smallest, self.n = smallest, len(points)
        levels = [level for level in self._levels(list(range(self.n))) if level > 0]
        self.floor = min(levels, default=2.0) / 2

    def _split(self, points):
        """Return the level at which a set falls apart, and into what."""
        within = self.reach[np.ix_(points, points)]
        level = next(v for v in np.unique(within) if self._parts(within <= v).max() == 0)
        parts = self._parts(within < level)
        return level, [[points[i] for i in np.flatnonzero(parts == c)] for c in np.unique(parts)]

    @staticmethod
    def _parts(joined):
        from scipy.sparse.csgraph import connected_components

        return connected_components(joined)[1]

    def _levels(self, points):
        if len(points) < 2:
            return []
        level, parts = self._split(points)
        return [level] + [each for part in parts for each in self._levels(part)]

    def best(self, points, born):
        """Return (stability of the best choice of clusters in a set, those clusters)."""
        members, stability = points, 0.0
        while True:
            level, parts = self._split(points)
            bar = 1 / max(level, self.floor)
            large = [part for part in parts if len(part) >= self.smallest]
            stays = large[0] if len(large) == 1 else []
            stability += (bar - born) * (len(points) - len(stays))
            if len(large) != 1:
                break
            points = stays
        inner = [self.best(part, bar) for part in large]
        within = sum(each for each, _ in inner)
        if born and stability > 0 and stability >= within - 1e-12 * within:
            return stability, [members]
        return within, [cluster for _, found in inner for cluster in found]

    def labels(self):
        out = np.full(self.n, -1)
        for number, cluster in enumerate(self.best(list(range(self.n)), 0.0)[1]):
            out[cluster] = number
        return out


@pytest.mark.parametrize("seed", range(16))
def test_equals_the_definition_where_distances_tie(seed):
    points, samples, size = _groups(seed, whole=True), 1 + seed % 5, 2 + seed % 6
    found = density_clusters(points, min_samples=samples, min_cluster_size=size)
    assert _same(found, _Naive(points, samples, size).labels())


@pytest.mark.parametrize("seed", range(8))
def test_the_order_of_the_points_does_not_matter(seed):
    """A binary tree over tied edges depends on it; sets of tied edges are split at once here."""
    points = _groups(seed, whole=True)
    order = stream(seed, "order").permutation(len(points))
    whole = density_clusters(points, min_samples=4, min_cluster_size=4)
    assert _same(whole[order], density_clusters(points[order], min_samples=4, min_cluster_size=4))


def test_core_distances_by_hand():
    points = np.array([[0.0], [1], [3], [7]])
    assert core_distances(points, 1).tolist() == [0, 0, 0, 0]
    assert core_distances(points, 2).tolist() == [1, 1, 2, 4]
    assert core_distances(points, 99).tolist() == [7, 6, 4, 7]


def test_points_that_are_all_the_same_are_noise():
    for n in (0, 1, 2, 40):
        found = density_clusters(np.ones((n, 3)), min_samples=5, min_cluster_size=2)
        assert found.tolist() == [-1] * n
    assert (
        density_clusters(np.zeros((9, 0)), min_samples=2, min_cluster_size=2).tolist() == [-1] * 9
    )


def test_two_heaps_of_equal_points_are_two_clusters():
    points = np.repeat([[0.0, 0.0], [5.0, 5.0]], [30, 6], axis=0)
    found = density_clusters(points, min_samples=3, min_cluster_size=3)
    assert found.tolist() == [0] * 30 + [1] * 6


def test_clusters_are_numbered_by_their_first_point():
    points = np.array([[90.0], [0], [1], [2], [20], [21], [22]])
    for order in (slice(None), slice(None, None, -1)):
        found = density_clusters(points[order], min_samples=2, min_cluster_size=2)
        assert [c for c in dict.fromkeys(found.tolist()) if c >= 0] == [0, 1]


def test_too_many_rows_are_refused():
    with pytest.raises(ResourceLimit) as caught:
        density_clusters(np.zeros((MOST_ROWS + 1, 1)), min_samples=5, min_cluster_size=5)
    assert caught.value.code == "CLUSTER-ROWS"
