"""Generated images with known causes: 32 x 32 colour pictures of objects on a ground.

Every picture is drawn from eight independent factors (the labels) and from many more that nobody
is asked about: colours, contrast, edges, clutter, blur, noise. Shape and texture together make 48
classes, which every block of 96 images holds exactly twice. An image is a function of
(seed, part, index) alone. Nothing is downloaded, so nothing has a licence to keep.

Cost: about 0.2 ms an image on one core.
Source: ours; that models learn to see from drawn pictures is Kataoka et al. 2020 (formula-driven
supervised learning, arXiv 2101.08515) and Baradad et al. 2021 (arXiv 2106.05963).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from peftlab.core.seeds import stream
from peftlab.core.types import Ints
from peftlab.models.vision.shapes import SHAPES, Plane, signed_distance
from peftlab.models.vision.textures import SIDE, TEXTURES, grid, textures

VERSION = 1  # of the pictures: a change in what is drawn is a new number
BLOCK = 96  # images that are drawn together
FACTORS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "texture": TEXTURES,
    "ground": TEXTURES,
    "count": ("one", "two", "three"),
    "size": ("small", "medium", "large"),
    "tone": ("darker", "brighter"),
    "colour": ("gray", "red", "yellow", "green", "blue", "purple"),
    "light": ("right", "down", "left", "up"),
}
_RADII = np.array([4.0, 6.0, 8.5], dtype=np.float32)  # of a single object, by size, in pixels
_SHRINK = np.array([1.0, 0.8, 0.7], dtype=np.float32)  # by count, so that all find room
_CLUTTER = 4  # most small spots under the objects

Part = Literal["train", "held-out"]
Labels = dict[str, Ints]


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Pictures with the factors that made them.

    Attributes:
        pixels: (n, 32, 32, 3) uint8.
        labels: (n, 8) class numbers, columns in the order of ``FACTORS``.
    """

    pixels: NDArray[np.uint8]
    labels: Ints

    def column(self, factor: str) -> Ints:
        """Return the (n,) class numbers of one factor."""
        return self.labels[:, list(FACTORS).index(factor)]


def _between(rng: np.random.Generator, low: float, high: float, *shape: int) -> Plane:
    return low + (high - low) * rng.random(shape, dtype=np.float32)


def _labels(rng: np.random.Generator) -> Labels:
    """Draw the factors of a block: every pair of shape and texture twice, the others at random."""
    pair = rng.permutation(BLOCK) % (len(SHAPES) * len(TEXTURES))
    drawn = {
        name: rng.integers(len(values), size=BLOCK, dtype=np.int64)
        for name, values in FACTORS.items()
    }
    return drawn | {"shape": pair // len(TEXTURES), "texture": pair % len(TEXTURES)}


def _places(labels: Labels, radius: Plane, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Return the centres (96, 3) of up to three objects, which stand around the middle."""
    several = (labels["count"] > 0)[:, None]
    share = (np.arange(3) / (labels["count"][:, None] + 1)).astype(np.float32)
    angle = 2 * np.pi * (share + _between(rng, 0, 1, BLOCK, 1))
    angle += several * _between(rng, -0.25, 0.25, BLOCK, 3)
    away = np.where(several, 1.25 * radius[:, None] + 1, _between(rng, 0, 5, BLOCK, 1))
    return away * np.cos(angle), away * np.sin(angle)


def _coverage(labels: Labels, rng: np.random.Generator) -> Plane:
    """Return how much of each pixel (96, 32, 32) the objects cover, from 0 to 1."""
    radius = _RADII[labels["size"]] * _SHRINK[labels["count"]] * _between(rng, 0.9, 1.1, BLOCK)
    across, down = _places(labels, radius, rng)
    angle = _between(rng, 0, 2 * np.pi, BLOCK, 3)
    stretch = np.exp(_between(rng, -0.15, 0.15, BLOCK, 3))
    soft = np.exp(_between(rng, np.log(0.4), np.log(1.6), BLOCK))  # half width of the edge
    x, y = grid()
    layers = np.zeros((BLOCK, 3, SIDE, SIDE), dtype=np.float32)
    there = np.arange(3) <= labels["count"][:, None]
    for number, shape in enumerate(SHAPES):
        rows, copies = np.nonzero(there & (labels["shape"] == number)[:, None])

        def per_object(values: Plane, at: tuple[Ints, Ints] = (rows, copies)) -> Plane:
            return values[at][:, None, None]

        left, top = x - per_object(across), y - per_object(down)
        c, s = per_object(np.cos(angle)), per_object(np.sin(angle))
        unit, long = radius[rows][:, None, None], per_object(stretch)
        u, v = (c * left + s * top) / (unit * long), (c * top - s * left) * long / unit
        depth = signed_distance(shape, u, v) * (unit / soft[rows][:, None, None])
        layers[rows, copies] = np.clip(0.5 - 0.5 * depth, 0, 1)
    return layers.max(axis=1)


def _spots(rng: np.random.Generator) -> Plane:
    """Return small soft spots (96, 32, 32), brighter and darker, that are no objects."""
    line, _ = grid()
    across, down = _between(rng, -15, 15, 2, BLOCK, _CLUTTER, 1)
    width = _between(rng, 0.7, 1.8, BLOCK, _CLUTTER, 1)
    height = _between(rng, -0.25, 0.25, BLOCK, _CLUTTER, 1)
    height *= rng.random((BLOCK, _CLUTTER, 1)) < 0.4
    rows, columns = (np.exp(-(((line - place) / width) ** 2)) for place in (down, across))
    return (height * rows).transpose(0, 2, 1) @ columns


def _tints(colour: Ints, rng: np.random.Generator) -> Plane:
    """Return (4, 96, 3) shifts of the channels, zero on average: of objects, ground, both marks.

    The objects' is of the named hue, the others are of any. A gray picture is gray throughout.
    """
    hue = _between(rng, 0, 2 * np.pi, 4, BLOCK)
    sectors = len(FACTORS["colour"]) - 1
    hue[0] = (colour - 1 + _between(rng, -0.4, 0.4, BLOCK)) * (2 * np.pi / sectors)
    strength = _between(rng, 0.08, 0.3, 4, BLOCK) * (colour > 0)
    channels = np.arange(3, dtype=np.float32) * np.float32(2 * np.pi / 3)
    return strength[..., None] * np.cos(hue[..., None] - channels)


def _colours(labels: Labels, rng: np.random.Generator) -> tuple[Plane, ...]:
    """Return colours (96, 1, 1, 3) of the ground, the objects, and the marks on either."""
    tint = _tints(labels["colour"], rng)
    ground = _between(rng, 0.35, 0.65, BLOCK, 1)
    sign = 2.0 * labels["tone"][:, None] - 1.0
    objects = ground + sign * _between(rng, 0.15, 0.35, BLOCK, 1)
    marks = _between(rng, 0.07, 0.18, 2, BLOCK, 1)
    made = (ground + tint[1], objects + tint[0], marks[0] * (1 + tint[2]), marks[1] * (1 + tint[3]))
    return tuple(colour.astype(np.float32)[:, None, None, :] for colour in made)


def _light(labels: Labels, rng: np.random.Generator) -> Plane:
    """Return a slope of brightness (96, 32, 32) that rises towards the named side."""
    x, y = grid()
    angle = np.pi / 2 * labels["light"].astype(np.float32) + _between(rng, -0.5, 0.5, BLOCK)
    strength = _between(rng, 0.06, 0.2, BLOCK) / (SIDE / 2)
    c, s = strength * np.cos(angle), strength * np.sin(angle)
    return c[:, None, None] * x + s[:, None, None] * y


def _blur(pictures: Plane) -> Plane:
    """Return pictures smoothed by the kernel 1 2 1 along both sides, edges repeated."""
    wide = np.pad(pictures, ((0, 0), (1, 1), (0, 0), (0, 0)), mode="edge")
    pictures = 0.25 * (wide[:, :-2] + wide[:, 2:]) + 0.5 * pictures
    wide = np.pad(pictures, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="edge")
    return 0.25 * (wide[:, :, :-2] + wide[:, :, 2:]) + 0.5 * pictures


def _develop(pictures: Plane, gray: NDArray[np.bool_], rng: np.random.Generator) -> Plane:
    """Return pictures as a camera gives them: some blurred, noisy, with a contrast of its own."""
    blurred = np.flatnonzero(rng.random(BLOCK) < 0.3)
    pictures[blurred] = _blur(pictures[blurred])
    noise = rng.standard_normal(pictures.shape, dtype=np.float32)
    noise[gray] = noise[gray][..., :1]
    pictures += _between(rng, 0.0, 0.05, BLOCK, 1, 1, 1) * noise
    gain = _between(rng, 0.6, 1.4, BLOCK, 1, 1, 1)
    return 0.5 + gain * (pictures - 0.5) + _between(rng, -0.15, 0.15, BLOCK, 1, 1, 1)


def _block(seed: int, part: Part, number: int) -> LabelledImages:
    """Return the 96 images of one block."""
    rng = stream(seed, "vision/images", part, number)
    labels = _labels(rng)
    ground, objects, ground_mark, object_mark = _colours(labels, rng)
    cover = _coverage(labels, rng)[..., None]
    below = ground + ground_mark * textures(labels["ground"], rng)[..., None]
    below += _spots(rng)[..., None]
    above = objects + object_mark * textures(labels["texture"], rng)[..., None]
    pictures = below + cover * (above - below) + _light(labels, rng)[..., None]
    pixels = np.clip(_develop(pictures, labels["colour"] == 0, rng) * 255 + 0.5, 0, 255).astype(
        np.uint8
    )
    return LabelledImages(pixels, np.stack([labels[name] for name in FACTORS], axis=1))


def make_images(seed: int, first: int, count: int, part: Part = "train") -> LabelledImages:
    """Return the images ``first`` .. ``first + count - 1`` of an endless supply.

    Args:
        seed: of the supply.
        first: index of the first image.
        count: how many, at least 1.
        part: the supply to train on, or the one that is kept to measure.

    Examples:
        >>> some = make_images(0, 10, 5)
        >>> some.pixels.shape, bool((make_images(0, 14, 1).pixels == some.pixels[4:]).all())
        ((5, 32, 32, 3), True)
    """
    start = first // BLOCK
    blocks = [_block(seed, part, b) for b in range(start, (first + count - 1) // BLOCK + 1)]
    rows = slice(first - start * BLOCK, first - start * BLOCK + count)
    return LabelledImages(
        np.concatenate([block.pixels for block in blocks])[rows],
        np.concatenate([block.labels for block in blocks])[rows],
    )
