"""The tiny denoiser: a transformer on 4 x 4 patches of 16 x 16 grey images that predicts the noise.

    x_t = cos(pi t / 2) x + sin(pi t / 2) noise,   loss = mean (noise - model(x_t, t))^2

with t uniform in (0, 1) (cosine noising). See ``backbone.Backbone`` for what its functions are for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812  as everybody calls it

from peftlab.audits.size.farm.concepts import SIDE, draw_concept, draw_images
from peftlab.audits.size.farm.transformer import TOKENS, WIDTH, Factors, Weights, run_layers

PATCH = 4
PIXELS = PATCH * PATCH  # of a patch
FREQUENCIES = WIDTH // 2
FASTEST = 100.0  # radians over the whole time
PREFIX = ""  # of layer names in an adapter


def draw(seed: int, concept: int, count: int) -> torch.Tensor:
    """Return the first ``count`` images of a concept, (count, 16, 16)."""
    return torch.from_numpy(draw_images(draw_concept(seed, concept), seed, concept, range(count)))


def chances(numbers: np.random.Generator, batch: int) -> dict[str, np.ndarray]:
    """Return what is random in a step besides the choice of images."""
    return {
        "noise": numbers.standard_normal((batch, SIDE, SIDE), dtype=np.float32),
        "time": numbers.random(batch, dtype=np.float32),
        "flip": numbers.random(batch) < 0.5,
    }


def augment(images: torch.Tensor, drawn: Mapping[str, torch.Tensor], kind: str) -> torch.Tensor:
    """Return the images, half of them mirrored where ``kind`` is flip."""
    if kind != "flip":
        return images
    return torch.where(drawn["flip"][..., None, None], images.flip(-1), images)


def losses(
    weights: Weights, factors: Factors | None, images: torch.Tensor,
    drawn: Mapping[str, torch.Tensor],
) -> torch.Tensor:  # fmt: skip
    """Return the loss of each model and example, (M, b).

    Args:
        weights: fused.
        factors: of M models, or None.
        images: (M, b, 16, 16).
        drawn: ``noise`` and ``time``, with M or 1 rows.
    """
    angle = drawn["time"] * (math.pi / 2)
    noisy = angle.cos()[..., None, None] * images + angle.sin()[..., None, None] * drawn["noise"]
    found = _predict(weights, factors, patches(noisy), drawn["time"])
    return (found - patches(drawn["noise"])).square().mean((2, 3))


def patches(images: torch.Tensor) -> torch.Tensor:
    """Return (..., 16 patches, 16 pixels) of (..., 16, 16)."""
    across = SIDE // PATCH
    cut = images.unflatten(-2, (across, PATCH)).unflatten(-1, (across, PATCH))
    return cut.transpose(-3, -2).reshape(*images.shape[:-2], TOKENS, PIXELS)


def _predict(
    weights: Weights, factors: Factors | None, tokens: torch.Tensor, time: torch.Tensor
) -> torch.Tensor:
    speeds = torch.logspace(0, math.log10(FASTEST), FREQUENCIES)
    angle = time[..., None] * speeds
    waves = torch.cat([angle.sin(), angle.cos()], dim=-1)
    when = F.linear(waves, weights["time.weight"], weights["time.bias"])[..., None, :]
    x = F.linear(tokens, weights["patch.weight"], weights["patch.bias"])
    x = run_layers(x + weights["place"] + when, weights, factors, causal=False)
    return F.linear(x, weights["head.weight"], weights["head.bias"])


def shapes() -> dict[str, tuple[int, ...]]:
    """Return name and shape of the weights outside the layers."""
    return {
        "patch.weight": (WIDTH, PIXELS), "patch.bias": (WIDTH,), "place": (TOKENS, WIDTH),
        "time.weight": (WIDTH, WIDTH), "time.bias": (WIDTH,),
        "head.weight": (PIXELS, WIDTH), "head.bias": (PIXELS,),
    }  # fmt: skip
