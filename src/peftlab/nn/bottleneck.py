"""A LoRA whose factors come out of small networks with a bottleneck, until they are settled.

    all A = U_A tanh(V_A e_A),   all B = U_B tanh(V_B e_B)

with e and tanh(.) of m numbers each (thunlp/Moderate-fitting:opendelta/delta_models/lora.py).
"""

from __future__ import annotations

from typing import Any

import torch

from peftlab.core.seeds import derive


class Reparameterised(torch.nn.Module):
    """A LoRA model for training: its factors are computed anew at each forward pass.

    Args:
        wrapped: ``peft`` model with LoRA factors; they stop training, its head goes on.
        width: m.
        seed: of the networks' initial values; global generators are left alone.
    """

    def __init__(self, wrapped: Any, width: int, seed: int) -> None:
        super().__init__()
        self.wrapped = wrapped
        self._names: dict[str, list[str]] = {"a": [], "b": []}
        for name, factor in wrapped.named_parameters():
            for kind, part in (("a", ".lora_A."), ("b", ".lora_B.")):
                if part in name:
                    self._names[kind].append(name)
                    factor.requires_grad_(False)
        weights = dict(wrapped.named_parameters())
        self._shapes = {n: weights[n].shape for names in self._names.values() for n in names}
        home = next(wrapped.parameters()).device
        self.starts, self.networks = torch.nn.ParameterDict(), torch.nn.ModuleDict()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "bottleneck"))
            for kind, names in self._names.items():
                start = torch.rand(width) if kind == "a" else torch.zeros(width)
                self.starts[kind] = torch.nn.Parameter(start.to(home))
                self.networks[kind] = torch.nn.Sequential(
                    torch.nn.Linear(width, width, bias=False),
                    torch.nn.Tanh(),
                    torch.nn.Linear(width, sum(weights[n].numel() for n in names), bias=False),
                ).to(home)

    def factors(self) -> dict[str, torch.Tensor]:
        """Return the LoRA factors by name, as the networks give them now."""
        made: dict[str, torch.Tensor] = {}
        for kind, names in self._names.items():
            flat = self.networks[kind](self.starts[kind])
            sizes = [self._shapes[name].numel() for name in names]
            for name, part in zip(names, flat.split(sizes), strict=True):
                made[name] = part.view(self._shapes[name])
        return made

    def forward(self, **inputs: torch.Tensor) -> Any:
        """Return what the model gives with these factors."""
        return torch.func.functional_call(self.wrapped, self.factors(), kwargs=inputs)

    def settle(self) -> None:
        """Write the factors into the model, which then needs the networks no more."""
        weights = dict(self.wrapped.named_parameters())
        with torch.no_grad():
            for name, factor in self.factors().items():
                weights[name].copy_(factor)
