"""Hundreds of adapters trained at once, each exactly as it would be alone.

The M models share the base and nothing else: the sum of their losses has a block-diagonal gradient,
and AdamW works element by element. Starts, order of examples and noise come from the seed of each
adapter, never from its place in the stack.

With ``dp_clip`` the gradient of every example is cut to that norm and noise is added to their sum
(DP-SGD, arXiv 1607.00133); the examples of a batch are then stacked as models of their own, which
gives their gradients without a loop.

Cost: about 2.1 MFLOP a step and adapter at rank 4 and batch 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from peftlab.audits.size.farm.backbone import Base
from peftlab.audits.size.farm.recipe import FarmOptions
from peftlab.audits.size.farm.transformer import Factors, Pairs
from peftlab.core.errors import RunFailed
from peftlab.core.seeds import derive, stream
from peftlab.core.types import Ints

BLOCK = 25  # steps whose random numbers are drawn at once
LOSS_STEPS = 50  # last steps over which the final loss is averaged


@dataclass(frozen=True, slots=True)
class Job:
    """One adapter to train: on the first ``size`` examples of a concept, from a seed."""

    concept: int
    size: int
    seed: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """M adapters at one step.

    Attributes:
        pairs: by layer: A (M, r, d_in) and B (M, d_out, r).
        losses: (M,) mean training loss of the last 50 steps.
    """

    pairs: Pairs
    losses: torch.Tensor


def jobs_of(options: FarmOptions) -> list[Job]:
    """Return all adapters of a farm, concept by concept."""
    return [
        Job(
            concept, size,
            derive(options.seed, "size", "own", concept, size)
            if options.seeds == "own" else options.seed,
        )
        for concept in range(options.concepts)
        for size in options.sizes
    ]  # fmt: skip


def train(
    base: Base, jobs: Sequence[Job], options: FarmOptions,
    progress: Callable[[int], None] | None = None,
) -> dict[int, Snapshot]:  # fmt: skip
    """Train some adapters side by side.

    Args:
        base: what is adapted.
        jobs: the adapters.
        options: the recipe.
        progress: called with the number of steps done.

    Returns:
        By step: the adapters as they were then, in the order of ``jobs``.

    Raises:
        RunFailed: ``FARM-LOSS`` where a loss is not finite.
    """
    factors = Factors.fresh([job.seed for job in jobs], options.rank, options.scale)
    for leaf in factors.leaves():
        leaf.requires_grad_()
    optimiser = torch.optim.AdamW(
        factors.leaves(), lr=options.lr, weight_decay=options.weight_decay, fused=True
    )
    supply = Supply(base, jobs, options)
    history: list[torch.Tensor] = []
    kept: dict[int, Snapshot] = {}
    for step in range(options.steps):
        examples, drawn = supply.step(step)
        history = [*history[1 - LOSS_STEPS :], _backward(base, factors, examples, drawn, options)]
        if options.dp_clip:
            supply.add_noise(factors, options)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step + 1 in options.kept:
            kept[step + 1] = _snapshot(factors, history, step + 1)
        if progress is not None and (step + 1) % BLOCK == 0:
            progress(step + 1)
    return kept


def _snapshot(factors: Factors, history: Sequence[torch.Tensor], step: int) -> Snapshot:
    losses = torch.stack(list(history)).mean(dim=0)
    if not losses.isfinite().all():
        raise RunFailed(
            "the loss of an adapter is not finite", code="FARM-LOSS", got=f"at step {step}",
            fix="use a smaller learning rate",
        )  # fmt: skip
    return Snapshot(factors.pairs(), losses)


def _backward(
    base: Base, factors: Factors, examples: torch.Tensor, drawn: Mapping[str, torch.Tensor],
    options: FarmOptions,
) -> torch.Tensor:  # fmt: skip
    """Fill the gradients of all factors; return the loss of each model, (M,)."""
    if not options.dp_clip:
        losses = base.backbone.losses(base.weights, factors, examples, drawn).mean(dim=1)
        losses.sum().backward()
        return losses.detach()
    models, batch = examples.shape[:2]
    alone = factors.repeated(batch)
    single = {
        key: value.expand(models, *value.shape[1:]).flatten(0, 1)[:, None]
        for key, value in drawn.items()
    }
    losses = base.backbone.losses(base.weights, alone, examples.flatten(0, 1)[:, None], single)
    losses.sum().backward()
    _clip_into(factors, alone, options.dp_clip, batch)
    return losses.detach().view(models, batch).mean(dim=1)


def _clip_into(factors: Factors, alone: Factors, clip: float, batch: int) -> None:
    """Set gradients to the mean over a batch of each example's gradient, cut to norm ``clip``."""
    grads = [leaf.grad for leaf in alone.leaves() if leaf.grad is not None]
    norms = torch.stack([grad.flatten(1).square().sum(1) for grad in grads]).sum(0).sqrt()
    share = (clip / norms.clamp_min(1e-12)).clamp_max(1)
    for leaf, grad in zip(factors.leaves(), grads, strict=True):
        cut = grad * share.view(-1, *[1] * (grad.dim() - 1))
        leaf.grad = cut.unflatten(0, (-1, batch)).mean(dim=1)


class Supply:
    """Hands out, step by step, the examples and random numbers of each adapter."""

    def __init__(self, base: Base, jobs: Sequence[Job], options: FarmOptions) -> None:
        self.base, self.options = base, options
        self.seeds = list(dict.fromkeys(job.seed for job in jobs))
        self.row = torch.tensor([self.seeds.index(job.seed) for job in jobs])
        self.numbers = {seed: stream(seed, "size", "noise") for seed in self.seeds}
        most = max(job.size for job in jobs)
        concepts = list(dict.fromkeys(job.concept for job in jobs))
        self.pool = torch.stack(
            [base.backbone.draw(options.seed, concept, most) for concept in concepts]
        )
        self.concept = torch.tensor([concepts.index(job.concept) for job in jobs])[:, None]
        count = options.steps * options.batch
        orders = {(job.seed, job.size): _order(job.seed, job.size, count) for job in jobs}
        picked = np.stack([orders[job.seed, job.size] for job in jobs])
        self.order = torch.from_numpy(picked).view(len(jobs), options.steps, options.batch)
        # noise for privacy is secret, so no two adapters share it, whatever the recipe says
        self.secret = [
            stream(options.seed, "size", "dp", job.concept, job.size, job.seed) for job in jobs
        ]
        self.block: dict[str, torch.Tensor] = {}

    def step(self, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the examples (M, b, ...) and what else is random; call with 0, 1, 2, ..."""
        if step % BLOCK == 0:
            self._draw(min(BLOCK, self.options.steps - step))
        drawn = {key: values[:, step % BLOCK] for key, values in self.block.items()}
        if len(self.seeds) > 1:
            drawn = {key: values[self.row] for key, values in drawn.items()}
        examples = self.pool[self.concept, self.order[:, step]]
        return self.base.backbone.augment(examples, drawn, self.options.augment), drawn

    def _draw(self, count: int) -> None:
        made = [
            [self.base.backbone.chances(self.numbers[seed], self.options.batch)
             for _ in range(count)]
            for seed in self.seeds
        ]  # fmt: skip
        self.block = {
            key: torch.from_numpy(np.stack([np.stack([one[key] for one in row]) for row in made]))
            for key in made[0][0]
        }

    def add_noise(self, factors: Factors, options: FarmOptions) -> None:
        """Add the noise of DP-SGD to the mean gradients."""
        if not options.dp_noise:
            return
        leaves = factors.leaves()
        widths = [leaf[0].numel() for leaf in leaves]
        drawn = np.stack(
            [numbers.standard_normal(sum(widths), dtype=np.float32) for numbers in self.secret]
        )
        deviation = options.dp_noise * options.dp_clip / options.batch
        for leaf, part in zip(leaves, torch.from_numpy(drawn).split(widths, dim=1), strict=True):
            if leaf.grad is not None:
                leaf.grad += deviation * part.view(leaf.shape)


def _order(seed: int, size: int, count: int) -> Ints:
    """Return which example comes when: one shuffled pass after the other."""
    numbers = stream(seed, "size", "order", size)
    passes = [numbers.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate(passes)[:count].astype(np.int64)
