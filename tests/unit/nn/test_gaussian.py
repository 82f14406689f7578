"""Shrunken covariance and class-conditional distances against scikit-learn and SciPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.core.errors import ConfigError
from peftlab.core.seeds import stream
from peftlab.nn.gaussian import ClassGaussians, ledoit_wolf

shapes = pytest.mark.parametrize(("n", "dims"), [(10, 2), (40, 6), (30, 50), (200, 3), (2, 4)])


def _points(n, dims, seed=0):
    rng = stream(seed, "test/gaussian", n, dims)
    return rng.normal(size=(n, dims)) @ rng.normal(size=(dims, dims)) * 3


@shapes
def test_ledoit_wolf_equals_sklearn(n, dims):
    from sklearn.covariance import LedoitWolf

    points = _points(n, dims)
    points -= points.mean(0)
    expected = LedoitWolf(assume_centered=True).fit(points).covariance_
    scale = np.trace(expected) / dims
    # ours adds a billionth of the mean variance, so that the inverse always exists
    np.testing.assert_allclose(
        ledoit_wolf(points), expected + 1e-9 * scale * np.eye(dims), atol=1e-9 * scale
    )


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 12))
def test_always_invertible(seed, n, dims):
    points = _points(n, dims, seed)
    for each in (points, points * 0, np.ones((n, dims)), points * 1e-8):
        covariance = ledoit_wolf(each - each.mean(0))
        assert (np.linalg.eigvalsh(covariance) > 0).all()
        np.testing.assert_array_equal(covariance, covariance.T)


def test_distance_equals_scipy():
    from scipy.spatial.distance import mahalanobis

    points = _points(300, 4)
    classes = stream(0, "test/classes").integers(0, 3, size=300)
    fitted = ClassGaussians.fit(points, classes, 3, pool=True)
    fresh, guessed = _points(20, 4, seed=1), np.arange(20) % 3
    expected = []
    for point, c in zip(fresh, guessed, strict=True):
        mine = points[classes == c]
        inverse = np.linalg.inv(ledoit_wolf(mine - mine.mean(0)))
        expected.append(2 * np.log(mahalanobis(point, mine.mean(0), inverse)))
    np.testing.assert_allclose(fitted.unusual(fresh, guessed), expected, atol=1e-9)


@pytest.mark.parametrize("pool", [True, False])
def test_small_classes_share_the_pooled_covariance(pool):
    points = _points(100, 4)
    classes = np.array([0] * 88 + [1] * 12)
    fitted = ClassGaussians.fit(points, classes, 2, pool=pool)
    pooled = np.linalg.inv(ledoit_wolf(points - fitted.means[classes]))
    shared = [np.allclose(precision, pooled) for precision in fitted.precisions]
    assert shared == [False, pool]  # 12 points are below 5 a dimension, and above 10


def test_a_class_without_points_is_judged_by_all():
    points = _points(60, 3)
    fitted = ClassGaussians.fit(points, np.zeros(60, dtype=np.int64), 2, pool=True)
    np.testing.assert_allclose(fitted.means[1], points.mean(0))
    found = fitted.unusual(points, np.ones(60, dtype=np.int64))
    np.testing.assert_allclose(found, fitted.unusual(points, np.zeros(60, dtype=np.int64)))


def test_constant_points_give_finite_distances():
    fitted = ClassGaussians.fit(np.ones((20, 3)), np.zeros(20, dtype=np.int64), 2, pool=True)
    found = fitted.unusual(np.array([[1.0, 1, 1], [2, 1, 1]]), np.zeros(2, dtype=np.int64))
    assert np.isfinite(found).all()
    assert found[1] > found[0]


def test_too_few_points():
    with pytest.raises(ConfigError) as caught:
        ClassGaussians.fit(_points(9, 2), np.zeros(9, dtype=np.int64), 2, pool=True)
    assert caught.value.code == "REFERENCE-FEW"


@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-50, 50))
def test_ranks_do_not_depend_on_units(seed, scale, shift):
    points, classes = _points(80, 3, seed), np.zeros(80, dtype=np.int64)
    fresh, guessed = _points(10, 3, seed + 1), np.zeros(10, dtype=np.int64)
    plain = ClassGaussians.fit(points, classes, 1, pool=True).unusual(fresh, guessed)
    moved = ClassGaussians.fit(points * scale + shift, classes, 1, pool=True).unusual(
        fresh * scale + shift, guessed
    )
    np.testing.assert_allclose(moved, plain, atol=1e-5)
