"""Outlines of the generated images: signed distances to eight shapes, all of the same area.

A distance is negative inside. It is exact enough for soft edges, not a Euclidean distance
everywhere. Equal areas keep a model from telling shapes by how much of the image they cover.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating[Any]]  # float32 throughout; the stubs of numpy lose track of it


def _disc(u: Plane, v: Plane) -> Plane:
    return np.hypot(u, v) - 1.0


def _ring(u: Plane, v: Plane) -> Plane:
    return np.abs(np.hypot(u, v) - 0.75) - 0.25


def _square(u: Plane, v: Plane) -> Plane:
    return np.maximum(np.abs(u), np.abs(v)) - 1.0


def _triangle(u: Plane, v: Plane) -> Plane:
    slope = math.sqrt(3.0) / 2
    return np.maximum(v, slope * np.abs(u) - 0.5 * v) - 0.5


def _cross(u: Plane, v: Plane) -> Plane:
    a, b = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(a, b) - 1.0, np.minimum(a, b) - 0.3)


def _star(u: Plane, v: Plane) -> Plane:
    return np.hypot(u, v) - (0.65 + 0.35 * np.cos(5.0 * np.arctan2(v, u)))


def _crescent(u: Plane, v: Plane) -> Plane:
    return np.maximum(np.hypot(u, v) - 1.0, 0.85 - np.hypot(u - 0.5, v))


def _rod(u: Plane, v: Plane) -> Plane:
    return np.hypot(np.maximum(np.abs(u) - 0.75, 0.0), v) - 0.25


_OUTLINES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "star": _star,
    "crescent": _crescent,
    "rod": _rod,
}
SHAPES = tuple(_OUTLINES)


@cache
def _scale(shape: str) -> float:
    """Return by how much a shape must grow to have the area of the unit disc."""
    side = np.linspace(-1.2, 1.2, 481, dtype=np.float32)
    u, v = np.meshgrid(side, side)
    share = float((_OUTLINES[shape](u, v) < 0).mean())
    return math.sqrt(math.pi / (share * 2.4**2))


def signed_distance(shape: str, u: Plane, v: Plane) -> Plane:
    """Return the distance to a shape that has the area of the unit disc; negative inside.

    Args:
        shape: one of ``SHAPES``.
        u: coordinates along the shape, in radii of the disc of equal area.
        v: coordinates across it, of the same form.

    Examples:
        >>> signed_distance("disc", np.float32([0, 2]), np.float32([0, 0])).round(3).tolist()
        [-1.0, 1.0]
    """
    scale = np.float32(_scale(shape))
    return scale * _OUTLINES[shape](u / scale, v / scale)
