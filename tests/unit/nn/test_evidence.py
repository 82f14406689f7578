"""Evidence: margins by hand, cross-fitting, tails, and that odd movement is found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.nn.evidence import Evidence, Look, own_margin, path_features, resistance
from peftlab.nn.gaussian import Tail

KINDS = ("resistance", "path", "hidden")


def _look(n: int, seed: int, keep: float = 0.4) -> Look:
    """Texts of two classes whose gap shrinks to a noisy share of what it was."""
    rng = np.random.default_rng(seed)
    start = rng.normal(0, 3, n)
    shrunk = start * (keep + 0.05 * rng.normal(size=n))
    gaps = np.stack([start, shrunk, shrunk / 3], axis=1)
    logits = np.stack([-gaps / 2, gaps / 2], axis=2)
    hidden = rng.normal(size=(n, 12)) + start[:, None] / 3
    return Look([logits, logits + 0.01 * rng.normal(size=logits.shape)], hidden, (start > 0) * 1)


def test_margin_of_the_predicted_class_by_hand() -> None:
    logits = np.array([[[1.0, 4.0, 3.0], [2.0, 0.0, 5.0]]])
    np.testing.assert_allclose(own_margin(logits, np.array([1])), [[1.0, -5.0]])
    np.testing.assert_allclose(path_features(logits), [[3.0, 2.0, -2.0, 3.0]])


def test_resistance_is_what_outlives_half_of_the_start() -> None:
    logits = np.zeros((1, 3, 2))
    logits[0, :, 1] = [4.0, 3.0, 1.0]
    found = resistance(Look([logits, logits], np.zeros((1, 1)), np.array([1])))
    np.testing.assert_allclose(found, [2 * (3.0 - 4.0 / 2)])


@pytest.mark.parametrize("kinds", [KINDS, ("path",), ("resistance",)])
def test_what_keeps_its_confidence_is_found(kinds: tuple[str, ...]) -> None:
    fitted = Evidence.fit(_look(300, 0), kinds, 2)  # type: ignore[arg-type]
    clean, odd = fitted.score(_look(300, 1)), fitted.score(_look(100, 2, keep=0.9))
    assert np.median(odd) > np.quantile(clean, 0.95)


def test_reference_tails_are_out_of_sample() -> None:
    """In-sample distances in many dimensions are too small; fresh clean texts all look odd."""
    fitted = Evidence.fit(_look(200, 0), ("hidden",), 2)
    fresh = fitted.score(_look(400, 1))
    assert 0.5 < fresh.mean() < 1.6  # -log of a uniform p-value has mean 1


def test_state_round_trip() -> None:
    fitted = Evidence.fit(_look(100, 0), KINDS, 2)
    back = Evidence.from_state(fitted.state(), KINDS)
    np.testing.assert_array_equal(back.score(_look(50, 3)), fitted.score(_look(50, 3)))


@given(st.lists(st.floats(-50, 50), min_size=10, max_size=200), st.floats(-80, 80))
def test_surprise_rises_with_the_score_and_is_finite(clean: list[float], value: float) -> None:
    tail = Tail.fit(np.array(clean))
    low, high = tail.surprise(np.array([value, value + 1.0]))
    assert np.isfinite([low, high]).all()
    assert low >= 0
    # the exponential takes over at the 90th percentile, where the empirical one may stand higher
    assert high >= low or value <= tail.start < value + 1.0
