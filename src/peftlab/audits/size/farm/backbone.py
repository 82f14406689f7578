"""What a backbone of the farm must do, and the two that there are, with their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from peftlab.audits.size.farm import denoiser, tiny_lm
from peftlab.audits.size.farm.transformer import DEPTH, NORMS, WIDTH, WIDTHS, Factors, Weights, fuse
from peftlab.io.files import sha256_file

FOLDER = Path(__file__).parent / "bases"
FILE = "model.safetensors"


class Backbone(Protocol):
    """A model that adapters are trained on, as the functions of one module.

    Everything is drawn from seeds, so that an adapter does not depend on those beside it.
    """

    PREFIX: str

    def draw(self, seed: int, concept: int, count: int) -> torch.Tensor:
        """Return the first ``count`` examples of a concept."""

    def chances(self, numbers: np.random.Generator, batch: int) -> dict[str, np.ndarray]:
        """Return what is random in one step, besides the choice of examples."""

    def augment(
        self, examples: torch.Tensor, drawn: Mapping[str, torch.Tensor], kind: str
    ) -> torch.Tensor:
        """Return the examples (M, b, ...) as the recipe changes them."""

    def losses(
        self,
        weights: Weights,
        factors: Factors | None,
        examples: torch.Tensor,
        drawn: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Return the loss of each model and example, (M, b)."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name and shape of the weights outside the layers."""


BACKBONES: dict[str, Backbone] = {"tiny-denoiser": denoiser, "tiny-lm": tiny_lm}


@dataclass(frozen=True, slots=True)
class Base:
    """A backbone with its weights.

    Attributes:
        backbone: its functions.
        weights: fused, frozen.
        sha256: of the file they come from.
    """

    backbone: Backbone
    weights: Weights
    sha256: str


@lru_cache(maxsize=2)
def load_base(name: str) -> Base:
    """Return one of ``BACKBONES`` with the weights that the package ships."""
    from safetensors.torch import load_file

    file = FOLDER / name / FILE
    weights = {key.removeprefix("model.decoder."): value for key, value in load_file(file).items()}
    return Base(BACKBONES[name], fuse(weights), sha256_file(file))


def all_shapes(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """Return name and shape of all weights of a backbone, query, key and value apart."""
    found = dict(backbone.shapes())
    for number in range(DEPTH):
        for part, (d_out, d_in) in WIDTHS.items():
            found[f"layers.{number}.{part}.weight"] = (d_out, d_in)
            found[f"layers.{number}.{part}.bias"] = (d_out,)
        for norm in NORMS:
            found |= dict.fromkeys(
                (f"layers.{number}.{norm}.weight", f"layers.{number}.{norm}.bias"), (WIDTH,)
            )
    return found | dict.fromkeys(("final_layer_norm.weight", "final_layer_norm.bias"), (WIDTH,))
