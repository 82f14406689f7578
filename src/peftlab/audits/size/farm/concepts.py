"""Made-up picture concepts: what an adapter of the tiny denoiser is trained on.

A concept is a sum of four gratings and a disc. An image of it moves, scales, shifts the phases of
the gratings, adds noise and is mirrored or not, as things in photographs are; all of it is drawn
from (seed, concept, image), so image k of a concept is the same however many are asked for. No
photograph and no person is in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from peftlab.core.seeds import stream
from peftlab.core.types import Floats

SIDE = 16  # pixels
GRATINGS = 4
VERSION = 1  # of the generator; a change makes other pictures

SHIFT = 0.5  # half-widths of the frame
SCALE = 0.25
PHASE = 1.5  # radians
NOISE = 0.05
EDGE = 0.12  # width over which the disc fades

Pixels = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Concept:
    """What all images of a concept share.

    Attributes:
        waves: (4, 2) wave vectors in radians per half-width.
        phases: (4,).
        heights: (4,) amplitudes.
        disc: x, y, radius, brightness.
    """

    waves: Floats
    phases: Floats
    heights: Floats
    disc: Floats


def draw_concept(seed: int, number: int, use: str = "farm") -> Concept:
    """Return concept ``number``; ``use`` keeps those of the base apart from those of the farms."""
    numbers = stream(seed, "size", use, "concept", number)
    angle = numbers.uniform(0, np.pi, GRATINGS)
    cycles = np.pi * numbers.uniform(1, 2, GRATINGS)
    return Concept(
        waves=np.stack([cycles * np.cos(angle), cycles * np.sin(angle)], axis=1),
        phases=numbers.uniform(0, 2 * np.pi, GRATINGS),
        heights=numbers.uniform(0.25, 0.4, GRATINGS),
        disc=np.array(
            [*numbers.uniform(-0.5, 0.5, 2), numbers.uniform(0.3, 0.4), numbers.choice([-1, 1])]
        ),
    )


@lru_cache(maxsize=1)
def _grid() -> Floats:
    axis = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    return np.stack(np.meshgrid(axis, axis), axis=-1)  # (16, 16, 2), x first


def draw_images(concept: Concept, seed: int, number: int, images: range) -> Pixels:
    """Return the images ``images`` of a concept, (n, 16, 16) in about [-1, 1].

    Examples:
        >>> concept = draw_concept(0, 7)
        >>> draw_images(concept, 0, 7, range(3)).shape
        (3, 16, 16)
    """
    return np.stack([_image(concept, seed, number, image) for image in images])


def _image(concept: Concept, seed: int, number: int, image: int) -> Pixels:
    numbers = stream(seed, "size", "image", number, image)
    shift = numbers.uniform(-SHIFT, SHIFT, 2)
    scale = 1 + numbers.uniform(-SCALE, SCALE)
    phases = concept.phases + numbers.uniform(-PHASE, PHASE, GRATINGS)
    place = (_grid() - shift) * scale
    picture = (np.cos(place @ concept.waves.T + phases) * concept.heights).sum(axis=-1)
    x, y, radius, brightness = concept.disc
    distance = np.hypot(place[..., 0] - x, place[..., 1] - y)
    disc = np.clip((radius - distance) / EDGE + 0.5, 0, 1)
    picture = (
        picture * (1 - disc) + brightness * disc + NOISE * numbers.standard_normal((SIDE, SIDE))
    )
    if numbers.random() < 0.5:
        picture = picture[:, ::-1]
    return np.clip(picture, -1, 1).astype(np.float32)
