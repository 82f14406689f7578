"""Generated images: the same for the same seed, balanced, varied, and not told by brightness."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.models.vision.images import BLOCK, FACTORS, SIDE, make_images
from peftlab.models.vision.shapes import SHAPES, signed_distance
from peftlab.models.vision.textures import TEXTURES, textures

FIRST_LABELS = [1, 3, 1, 1, 1, 1, 4, 2]
MEAN = 130.860


@pytest.fixture(scope="module")
def many():
    return make_images(0, 0, 1920)


def test_form(many):
    assert many.pixels.shape == (1920, SIDE, SIDE, 3)
    assert many.pixels.dtype == np.uint8
    assert many.labels.shape == (1920, len(FACTORS))
    assert many.labels.dtype == np.int64


@settings(max_examples=10)
@given(first=st.integers(0, 400), count=st.integers(1, 150))
def test_an_image_is_a_function_of_seed_and_index(many, first, count):
    some = make_images(0, first, count)
    np.testing.assert_array_equal(some.pixels, many.pixels[first : first + count])
    np.testing.assert_array_equal(some.labels, many.labels[first : first + count])


def test_these_are_the_pictures_of_version_1():
    """A change here is a new VERSION: models name the version that they were made from."""
    some = make_images(0, 0, 96)
    assert some.labels[0].tolist() == FIRST_LABELS
    assert float(some.pixels.mean()) == pytest.approx(MEAN, abs=0.05)


def test_other_seeds_and_the_held_out_part_are_other_pictures(many):
    for other in (make_images(1, 0, BLOCK), make_images(0, 0, BLOCK, "held-out")):
        same = (other.pixels == many.pixels[:BLOCK]).all(axis=(1, 2, 3))
        assert not same.any()


def test_classes_are_balanced(many):
    for start in range(0, 1920, BLOCK):
        rows = slice(start, start + BLOCK)
        pair = many.column("shape")[rows] * len(TEXTURES) + many.column("texture")[rows]
        assert np.bincount(pair).tolist() == [2] * (len(SHAPES) * len(TEXTURES))
    for name, values in FACTORS.items():
        share = np.bincount(many.column(name), minlength=len(values)) / 1920
        assert np.abs(share - 1 / len(values)).max() < 0.05


def test_no_two_of_a_thousand_are_equal(many):
    assert len({image.tobytes() for image in many.pixels[:1000]}) == 1000


def test_they_vary(many):
    means = many.pixels.mean(axis=(1, 2))
    gray = np.ptp(many.pixels, axis=3).max(axis=(1, 2)) <= 1
    assert 0.1 < gray.mean() < 0.25
    assert (gray == (many.column("colour") == 0)).mean() > 0.99
    assert means.std(axis=0).min() > 20
    assert np.quantile(many.pixels.std(axis=(1, 2, 3)), [0.05, 0.95]).tolist() > [5, 30]


def nearest_mean(features, labels, train):
    """Accuracy of the nearest class mean, the simplest classifier there is."""
    centres = np.stack([
        features[:train][labels[:train] == label].mean(axis=0) for label in np.unique(labels)
    ])  # fmt: skip
    away = ((features[train:, None] - centres[None]) ** 2).sum(axis=2)
    return (away.argmin(axis=1) == labels[train:]).mean()


def test_brightness_and_colour_do_not_tell_the_shape(many):
    """Held-out accuracy of mean pixel and spread; chance is 1/8, its standard error 0.011."""
    pixels = many.pixels.reshape(1920, -1, 3).astype(np.float64)
    features = np.concatenate([pixels.mean(axis=1), pixels.std(axis=1)], axis=1)
    assert nearest_mean(pixels.mean(axis=1), many.column("shape"), 960) < 0.125 + 0.04
    assert nearest_mean(features, many.column("shape"), 960) < 0.125 + 0.04


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_equal_areas(shape):
    side = np.linspace(-3, 3, 601, dtype=np.float32)
    u, v = np.meshgrid(side, side)
    inside = signed_distance(shape, u, v) < 0
    assert inside.mean() * 36 == pytest.approx(np.pi, rel=0.02)
    assert not np.concatenate([inside[[0, -1]], inside[:, [0, -1]].T]).any()


def test_textures_stay_in_range():
    made = textures(np.repeat(np.arange(6), 20), np.random.Generator(np.random.Philox(0)))
    assert made.shape == (120, SIDE, SIDE)
    assert np.abs(made).max() < 1.3
    assert (made[:20] == 0).all()
    assert made[20:].std(axis=(1, 2)).min() > 0.2
