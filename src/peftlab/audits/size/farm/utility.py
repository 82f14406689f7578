"""How well adapters do what they were trained for: their loss on fixed examples and fixed noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from peftlab.audits.size.farm.backbone import load_base
from peftlab.audits.size.farm.run import CHUNK, Farm
from peftlab.audits.size.farm.transformer import Factors
from peftlab.core.seeds import stream

EXAMPLES = 16
DRAWS = 4  # of noise, an example


class Utility:
    """Losses of the adapters of a farm, or of changed ones in their place.

    Held-out examples are of the adapter's concept and beyond the largest size of the farm, so no
    adapter was trained on them.
    """

    def __init__(self, farm: Farm) -> None:
        self.farm, self.base = farm, load_base(farm.options.backbone)
        numbers = stream(farm.options.seed, "size", "utility")
        drawn = self.base.backbone.chances(numbers, EXAMPLES * DRAWS)
        self.drawn = {key: torch.from_numpy(value)[None] for key, value in drawn.items()}
        most = max(farm.options.sizes)
        self.examples = {
            concept: self.base.backbone.draw(farm.options.seed, concept, most + EXAMPLES)
            for concept in {job.concept for job in farm.jobs}
        }
        self.most = most

    def held_out(self, factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None) -> float:
        """Return the mean loss on examples that no adapter has seen; None: of the bare base."""
        rows = np.tile(np.arange(self.most, self.most + EXAMPLES), DRAWS)
        picked = [self.examples[job.concept][rows] for job in self.farm.jobs]
        return self._loss(factors, picked)

    def seen(self, factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None) -> float:
        """Return the mean loss on the examples that each adapter was trained on."""
        rows = np.arange(EXAMPLES * DRAWS)
        picked = [self.examples[job.concept][rows % job.size] for job in self.farm.jobs]
        return self._loss(factors, picked)

    @torch.no_grad()
    def _loss(
        self,
        factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None,
        picked: list[torch.Tensor],
    ) -> float:
        total = 0.0
        for start in range(0, len(picked), CHUNK):
            part = slice(start, start + CHUNK)
            some = None if factors is None else self._some(factors, part)
            examples = torch.stack(picked[part])
            if some is None:  # one model that all examples go through
                examples = examples.flatten(0, 1)[None]
            drawn = {
                key: value.repeat(
                    1, examples.shape[1] // (EXAMPLES * DRAWS), *[1] * (value.dim() - 2)
                )
                for key, value in self.drawn.items()
            }
            losses = self.base.backbone.losses(self.base.weights, some, examples, drawn)
            total += float(losses.double().mean()) * len(picked[part])
        return total / len(picked)

    def _some(
        self, factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]], part: slice
    ) -> Factors:
        own = {
            name.removeprefix(self.farm.prefix): (a[part], b[part])
            for name, (a, b) in factors.items()
        }
        return Factors.of(own, self.farm.options.scale)
