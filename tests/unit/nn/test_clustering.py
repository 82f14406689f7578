"""k-means, silhouettes and distances against brute force, scikit-learn and SciPy."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.core.errors import ResourceLimit
from peftlab.core.seeds import stream
from peftlab.nn import clustering
from peftlab.nn.clustering import check_rows, distances, k_means, silhouettes


def _points(n, dims, seed=0):
    return stream(seed, "test/clustering", n, dims).normal(size=(n, dims))


def _inertia(points, labels):
    return sum(((points[labels == c] - points[labels == c].mean(0)) ** 2).sum() for c in {*labels})


@pytest.mark.parametrize("seed", range(8))
def test_two_means_are_the_best_split_there_is(seed):
    points = _points(9, 2, seed)
    splits = (np.array(bits) for bits in itertools.product([0, 1], repeat=9))
    best = min(_inertia(points, split) for split in splits)
    found = k_means(points, 2, stream(seed, "start"), restarts=20)
    assert found.inertia == pytest.approx(best)
    assert _inertia(points, found.labels) == pytest.approx(best)
    np.testing.assert_allclose(found.centres[0], points[found.labels == 0].mean(0))


@pytest.mark.parametrize(("n", "dims", "k"), [(200, 5, 2), (150, 3, 4), (40, 60, 3)])
def test_k_means_is_as_tight_as_sklearn(n, dims, k):
    from sklearn.cluster import KMeans

    points = _points(n, dims) * 3
    theirs = KMeans(k, n_init=20, random_state=0).fit(points).inertia_
    assert k_means(points, k, stream(0, "start"), restarts=20).inertia <= theirs * 1.01


def test_equal_seeds_give_equal_clusters():
    points = _points(300, 4)
    one, two = (k_means(points, 3, stream(5, "start")) for _ in range(2))
    np.testing.assert_array_equal(one.labels, two.labels)
    np.testing.assert_array_equal(one.centres, two.centres)


def test_fewer_places_than_clusters():
    same = k_means(np.ones((7, 3)), 2, stream(0, "start"))
    assert same.labels.tolist() == [0] * 7
    assert same.centres.shape == (1, 3)
    two = k_means(np.array([[0.0], [1], [0], [1]]), 3, stream(0, "start"))
    assert len(two.centres) == 2
    assert two.inertia == 0
    assert k_means(np.zeros((1, 0)), 2, stream(0, "start")).labels.tolist() == [0]


@given(st.integers(0, 500), st.integers(3, 60), st.integers(2, 4))
def test_silhouettes_equal_sklearn(seed, n, k):
    from sklearn.metrics import silhouette_samples

    points = np.round(_points(n, 3, seed), 1)  # some points are the same
    labels = np.concatenate([np.arange(k), stream(seed, "labels").integers(k, size=n)])[:n]
    labels = np.unique(labels, return_inverse=True)[1]
    if len(set(labels)) == n:  # scikit-learn wants one cluster of two points or more
        return
    np.testing.assert_allclose(
        silhouettes(points, labels), silhouette_samples(points, labels), atol=1e-9
    )


def test_silhouettes_of_equal_points_are_zero():
    assert silhouettes(np.ones((4, 2)), np.array([0, 0, 1, 1])).tolist() == [0] * 4


def test_distances_in_blocks_equal_scipy(monkeypatch):
    from scipy.spatial.distance import cdist

    monkeypatch.setattr(clustering, "BLOCK", 70)
    points, others = _points(33, 5), _points(20, 5, seed=1)
    for second in (others, None):
        blocks = list(distances(points, second))
        assert len(blocks) > 3
        expected = cdist(points, points if second is None else second)
        np.testing.assert_allclose(np.concatenate([b for _, b in blocks]), expected, atol=1e-12)
        assert [rows.start for rows, _ in blocks][1:] == [rows.stop for rows, _ in blocks][:-1]


def test_equal_points_are_exactly_zero_apart():
    """The expansion |a|^2 - 2ab + |b|^2 leaves rounding there, which a density would blow up."""
    points = np.repeat(_points(1, 20) * 1e3, 5, axis=0)
    assert (next(distances(points))[1] == 0).all()


def test_too_many_rows_are_refused():
    check_rows(clustering.MOST_ROWS)
    with pytest.raises(ResourceLimit) as caught:
        check_rows(clustering.MOST_ROWS + 1)
    assert caught.value.code == "CLUSTER-ROWS"
    assert "spectral-signatures" in caught.value.fix
