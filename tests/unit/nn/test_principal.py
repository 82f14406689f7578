"""Principal components against scikit-learn, and what whitening has to do with ICA."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from peftlab.core.seeds import stream
from peftlab.nn.principal import all_equal, principal_components, top_direction

shapes = pytest.mark.parametrize(("n", "dims"), [(100, 6), (12, 40), (50, 50), (2, 3)])


def _points(n, dims):
    rng = stream(0, "test/principal", n, dims)
    return rng.normal(size=(n, dims)) @ rng.normal(size=(dims, dims)) + 5


@shapes
@pytest.mark.parametrize("whiten", [False, True])
def test_components_equal_sklearn(n, dims, whiten):
    from sklearn.decomposition import PCA

    k = min(n - 1, dims, 5)
    theirs = PCA(k, whiten=whiten).fit_transform(_points(n, dims))
    ours = principal_components(_points(n, dims), k, whiten=whiten)
    np.testing.assert_allclose(ours, theirs, atol=1e-8)


def test_never_more_components_than_the_points_have():
    points = _points(4, 10)
    assert principal_components(points, 20).shape == (4, 3)
    np.testing.assert_allclose(pdist(principal_components(points, 20)), pdist(points))
    flat = np.repeat(points, 3, axis=0)
    assert principal_components(flat, 20).shape == (12, 3)
    assert principal_components(points[:1], 20).shape == (1, 0)
    for offset in (0.0, 1.0, 0.1, 1e6):
        same = np.full((9, 4), offset) + np.array([0.1, 0.2, 0.3, 0.7])
        assert principal_components(same, 2).shape == (9, 0)
        assert all_equal(same)
    assert not all_equal(points)


def test_whitened_components_are_as_far_apart_as_independent_ones():
    """ICA turns whitened components, so k-means and silhouettes cannot tell the two apart."""
    from sklearn.decomposition import FastICA

    points = stream(0, "test/ica").uniform(size=(200, 8)) @ _points(8, 8)
    independent = FastICA(4, whiten="unit-variance", random_state=0, max_iter=1000)
    turned = independent.fit_transform(points)
    ratio = pdist(turned) / pdist(principal_components(points, 4, whiten=True))
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


def test_top_direction():
    points = np.outer(np.arange(5.0), [3.0, 4.0])
    np.testing.assert_allclose(abs(top_direction(points - points.mean(0))), [0.6, 0.8])
