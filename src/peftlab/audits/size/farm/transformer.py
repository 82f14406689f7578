"""A small pre-norm transformer whose linear layers carry the LoRA factors of M models at once.

The base is shared, so its products are taken once for all; only A (M, r, d_in) and B (M, d_out, r)
differ. The sum of the losses of the M models has a block-diagonal gradient: each model gets what it
would get alone.

The equations and names are OPT's with layer norm first, so a base of this shape is a stock
``OPTForCausalLM`` and its adapters load with stock ``peft``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812  as everybody calls it

from peftlab.core.seeds import stream

WIDTH = 32
TOKENS = 16
DEPTH = 2
HEADS = 2
HIDDEN = 128
NORMS = ("self_attn_layer_norm", "final_layer_norm")
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
OUT, UP, DOWN = "self_attn.out_proj", "fc1", "fc2"
WIDTHS = {
    **dict.fromkeys((*QKV, OUT), (WIDTH, WIDTH)), UP: (HIDDEN, WIDTH), DOWN: (WIDTH, HIDDEN),
}  # d_out, d_in  # fmt: skip
GROUPS = {"qkv": QKV, "out": (OUT,), "up": (UP,), "down": (DOWN,)}

Weights = Mapping[str, torch.Tensor]
Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]


def layer_names() -> list[str]:
    """Return the 12 adapted layers, in order."""
    return [f"layers.{number}.{part}" for number in range(DEPTH) for part in WIDTHS]


def _groups() -> Iterator[tuple[str, list[str]]]:
    """Yield what is multiplied together: its key, and the names of its layers."""
    for number in range(DEPTH):
        for group, parts in GROUPS.items():
            yield f"{number}.{group}", [f"layers.{number}.{part}" for part in parts]


@dataclass(frozen=True, slots=True)
class Factors:
    """The factors of M models; query, key and value of a layer stand in one tensor.

    Attributes:
        a: by group: (M, k, r, d_in), k = 3 for ``qkv`` and else 1.
        b: by group: (M, k, d_out, r).
        scale: alpha / r.
    """

    a: dict[str, torch.Tensor]
    b: dict[str, torch.Tensor]
    scale: float

    @classmethod
    def fresh(cls, seeds: Sequence[int], rank: int, scale: float) -> Factors:
        """Return the usual start: A uniform within 1 / sqrt(d_in), B zero; one seed a model."""
        drawn = {seed: _drawn(seed, rank) for seed in dict.fromkeys(seeds)}
        rows = {
            name: (
                torch.from_numpy(np.stack([drawn[seed][name] for seed in seeds])),
                torch.zeros(len(seeds), WIDTHS[_part(name)][0], rank),
            )
            for name in layer_names()
        }
        return cls.of(rows, scale)

    @classmethod
    def of(cls, pairs: Pairs, scale: float) -> Factors:
        """Return factors from A (M, r, d_in) and B (M, d_out, r) by layer."""
        return cls(
            {key: torch.stack([pairs[name][0] for name in names], 1) for key, names in _groups()},
            {key: torch.stack([pairs[name][1] for name in names], 1) for key, names in _groups()},
            scale,
        )

    def pairs(self) -> Pairs:
        """Return copies by layer: A (M, r, d_in) and B (M, d_out, r)."""
        return {
            name: (self.a[key][:, k].detach().clone(), self.b[key][:, k].detach().clone())
            for key, names in _groups()
            for k, name in enumerate(names)
        }

    def leaves(self) -> list[torch.Tensor]:
        """Return all tensors, as an optimiser wants them."""
        return [*self.a.values(), *self.b.values()]

    def repeated(self, times: int) -> Factors:
        """Return leaves that hold every model ``times`` times in a row."""
        a, b = (
            {
                key: value.detach().repeat_interleave(times, dim=0).requires_grad_()
                for key, value in part.items()
            }
            for part in (self.a, self.b)
        )
        return Factors(a, b, self.scale)


def _part(layer: str) -> str:
    return layer.split(".", 2)[2]


def _drawn(seed: int, rank: int) -> dict[str, np.ndarray]:
    found = {}
    for name in layer_names():
        width = WIDTHS[_part(name)][1]
        numbers = stream(seed, "size", "init", name).uniform(-1, 1, (rank, width))
        found[name] = (numbers / np.sqrt(width)).astype(np.float32)
    return found


def fuse(weights: Weights) -> dict[str, torch.Tensor]:
    """Return the weights with query, key and value of each layer as one matrix."""
    fused = dict(weights)
    for number in range(DEPTH):
        for kind in ("weight", "bias"):
            parts = [fused.pop(f"layers.{number}.{part}.{kind}") for part in QKV]
            fused[f"layers.{number}.qkv.{kind}"] = torch.cat(parts)
    return fused


def run_layers(
    x: torch.Tensor, weights: Weights, factors: Factors | None, *, causal: bool
) -> torch.Tensor:
    """Return (M, b, T, d) after all layers and the last norm.

    Args:
        x: (M, b, T, d); M is 1 without factors.
        weights: as ``fuse`` returns them.
        factors: of the M models.
        causal: whether a token sees only those before it.
    """
    for number in range(DEPTH):
        x = x + _attention(_norm(x, weights, number, 0), weights, factors, number, causal=causal)
        x = x + _feed_forward(_norm(x, weights, number, 1), weights, factors, number)
    last = (weights["final_layer_norm.weight"], weights["final_layer_norm.bias"])
    return F.layer_norm(x, (WIDTH,), *last)


def _norm(x: torch.Tensor, weights: Weights, number: int, which: int) -> torch.Tensor:
    name = f"layers.{number}.{NORMS[which]}"
    return F.layer_norm(x, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"])


def _attention(
    x: torch.Tensor, weights: Weights, factors: Factors | None, number: int, *, causal: bool
) -> torch.Tensor:
    models, batch, tokens, width = x.shape
    stacked = _linear(x, weights, f"layers.{number}.qkv").view(models, batch * tokens, 3, width)
    mixed = stacked.transpose(1, 2)
    if factors is not None:
        mixed = mixed + _update(x.flatten(1, 2), factors, f"{number}.qkv")
    heads = mixed.reshape(models, 3, batch, tokens, HEADS, width // HEADS).transpose(3, 4)
    query, key, value = (part.flatten(0, 1) for part in heads.unbind(1))
    seen = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    seen = seen.transpose(1, 2).reshape(x.shape)
    return _adapted(seen, weights, factors, number, OUT, "out")


def _feed_forward(
    x: torch.Tensor, weights: Weights, factors: Factors | None, number: int
) -> torch.Tensor:
    hidden = F.gelu(_adapted(x, weights, factors, number, UP, "up"))
    return _adapted(hidden, weights, factors, number, DOWN, "down")


def _linear(x: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _adapted(
    x: torch.Tensor, weights: Weights, factors: Factors | None, number: int, part: str, group: str
) -> torch.Tensor:
    y = _linear(x, weights, f"layers.{number}.{part}")
    if factors is None:
        return y
    return y + _update(x.flatten(1, 2), factors, f"{number}.{group}")[:, 0].view(y.shape)


def _update(x: torch.Tensor, factors: Factors, key: str) -> torch.Tensor:
    """Return scale * x A^T B^T of the k layers of a group: (M, k, n, d_out) of x (M, n, d_in)."""
    a, b = factors.a[key], factors.b[key]
    models, count, rank, _ = a.shape
    low = torch.bmm(x, a.flatten(1, 2).transpose(1, 2))  # (M, n, k r)
    low = low.view(models, -1, count, rank).transpose(1, 2)
    return factors.scale * torch.matmul(low, b.transpose(2, 3))
