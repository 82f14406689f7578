"""Surfaces of the generated images: six textures with values from about -1 to 1."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from peftlab.core.types import Ints
from peftlab.models.vision.shapes import Plane

TEXTURES = ("plain", "stripes", "checks", "dots", "clouds", "speckle")
SIDE = 32
_KNOTS = 6  # clouds: independent values along a side


@cache
def grid() -> tuple[Plane, Plane]:
    """Return x (1, 1, 32) and y (1, 32, 1), in pixels from the centre of the image."""
    line = np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2
    return line[None, None, :], line[None, :, None]


@cache
def _spread() -> Plane:
    """Return the (32, knots) matrix that interpolates knots along a side, smoothly."""
    place = np.linspace(0.0, _KNOTS - 1, SIDE)[:, None] - np.arange(_KNOTS)[None, :]
    weights = np.exp(-0.5 * (place / 0.6) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Waves:
    """Two waves at right angles for every image.

    Attributes:
        first: (n, 32, 32) phase of the wave along a random direction, in radians.
        second: (n, 32, 32) phase of the wave across it.
    """

    first: Plane
    second: Plane


def _waves(rng: np.random.Generator, n: int) -> Waves:
    """Draw directions, phases and wave lengths of 5 to 12 pixels."""
    x, y = grid()
    turn, length, *phases = rng.random((4, n, 1, 1), dtype=np.float32)
    angle = np.pi * turn
    number = 2 * np.pi / (5 + 7 * length)
    c, s = number * np.cos(angle), number * np.sin(angle)
    return Waves(
        first=c * x + s * y + 2 * np.pi * phases[0], second=c * y - s * x + 2 * np.pi * phases[1]
    )


def _clouds(rng: np.random.Generator, n: int) -> Plane:
    knots = rng.standard_normal((n, _KNOTS, _KNOTS), dtype=np.float32)
    return np.tanh(1.5 * (_spread() @ knots @ _spread().T))


def _one(name: str, rng: np.random.Generator, n: int) -> Plane:
    if name == "plain":
        return np.zeros((n, SIDE, SIDE), dtype=np.float32)
    if name == "clouds":
        return _clouds(rng, n)
    if name == "speckle":
        return np.clip(rng.standard_normal((n, SIDE, SIDE), dtype=np.float32), -2, 2) * 0.6
    waves = _waves(rng, n)
    if name == "stripes":
        return np.tanh(2 * np.sin(waves.first))
    if name == "checks":
        return np.tanh(4 * np.sin(waves.first) * np.sin(waves.second))
    return np.tanh(2.5 * (np.cos(waves.first) + np.cos(waves.second) - 0.9))


def textures(kinds: Ints, rng: np.random.Generator) -> Plane:
    """Return one texture per image, each with a direction, length and phase of its own.

    Args:
        kinds: (n,) index into ``TEXTURES``.
        rng: source of the directions, lengths, phases and grains.

    Returns:
        (n, 32, 32) values from about -1 to 1.
    """
    made = np.empty((len(kinds), SIDE, SIDE), dtype=np.float32)
    for number, name in enumerate(TEXTURES):
        rows = np.flatnonzero(kinds == number)
        made[rows] = _one(name, rng, len(rows))
    return made
