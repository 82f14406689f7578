"""The one training loop: soft-target cross-entropy, AdamW, warm-up and linear decay.

Attacker, victim, identifier and pre-training checks all train here, so that what differs between
them is data and arguments, never hidden loop behaviour.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import log_softmax

from peftlab.core.errors import RunFailed
from peftlab.core.seeds import derive, stream
from peftlab.core.types import Floats, Ints
from peftlab.nn.text import Precision, autocast, device_of, forward_rows, has_fast_bf16

LossOf = Callable[[Ints, torch.Tensor], torch.Tensor]  # of (row numbers, their targets)
BUCKET = 16  # batches that are sorted by length together; order of batches stays random


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """How to train.

    Attributes:
        steps: optimiser steps; when None, ``epochs`` over the data.
        epochs: passes over the data.
        lr: peak learning rate.
        batch: samples a step.
        warmup: share of the steps (below 1) or number of steps (1 and above) of linear warm-up.
        schedule: linear decay to 0, or constant after warm-up.
        clip: largest gradient norm, or None.
        weight_decay: of AdamW.
        precision: ``auto`` takes bf16 autocast where the hardware has it.
    """

    epochs: float = 1.0
    lr: float = 2e-5
    batch: int = 32
    steps: int | None = None
    warmup: float = 0.06
    schedule: Literal["linear", "constant"] = "linear"
    clip: float | None = 1.0
    weight_decay: float = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"


@dataclass(slots=True)
class TrainLog:
    """What happened: steps taken, loss of each step, real tokens seen, CPU seconds."""

    steps: int = 0
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    cpu_seconds: float = 0.0


def batches(
    lengths: Sequence[int], batch: int, steps: int, rng: np.random.Generator
) -> Iterator[Ints]:
    """Yield ``steps`` index arrays; each epoch a new shuffle, lengths alike in a batch."""
    left = steps
    while left > 0:
        order = rng.permutation(len(lengths))
        chunks: list[Ints] = []
        for start in range(0, len(order), batch * BUCKET):
            part = order[start : start + batch * BUCKET]
            part = part[np.argsort([lengths[int(i)] for i in part], kind="stable")]
            chunks += [part[i : i + batch] for i in range(0, len(part), batch)]
        for i in rng.permutation(len(chunks))[:left]:
            yield chunks[int(i)]
        left -= len(chunks)


def rate_at(step: int, steps: int, plan: TrainPlan) -> float:
    """Return the learning rate of one step (0-based)."""
    warm = plan.warmup * steps if plan.warmup < 1 else plan.warmup
    if step < warm:
        return plan.lr * (step + 1) / (warm + 1)
    if plan.schedule == "constant":
        return plan.lr
    return plan.lr * max(steps - step, 0) / max(steps - warm, 1)


@contextmanager
def eager_attention(model: Any, device: torch.device) -> Iterator[None]:
    """Use plain attention while training on CPU: the fused backward pass is slower there.

    Measured: fine-tuning on short texts 10.1 against 7.6 thousand tokens a second, pre-training on
    windows of 64 tokens 10.9 against 8.3 (all weights, bf16, one thread).
    """
    from transformers import PreTrainedModel

    parts: dict[int, Any] = {}  # one for each configuration: what holds it outermost
    for part in model.modules() if device.type == "cpu" else ():
        if (
            isinstance(part, PreTrainedModel)
            and getattr(part.config, "_attn_implementation", None) == "sdpa"
        ):
            parts.setdefault(id(part.config), part)
    for part in parts.values():
        part.set_attn_implementation("eager")
    try:
        yield
    finally:
        for part in parts.values():
            part.set_attn_implementation("sdpa")


def plain_loss(
    model: Any, encoded: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> LossOf:
    """Return the loss of plain training: cross-entropy of the logits and soft targets."""

    def loss_of(rows: Ints, goal: torch.Tensor) -> torch.Tensor:
        logits = forward_rows(model, [encoded[int(i)] for i in rows], pad_id, device)
        return soft_cross_entropy(logits, goal)

    return loss_of


def soft_cross_entropy(logits: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of logits (b, C) and target distributions (b, C)."""
    return -(goal * log_softmax(logits.float(), dim=-1)).sum(dim=-1).mean()


def train(
    model: Any,
    encoded: Sequence[Sequence[int]],
    targets: Floats,
    plan: TrainPlan,
    *,
    seed: int,
    pad_id: int,
    on_step: Callable[[int], None] | None = None,
    draw_targets: Callable[[int, Ints], Floats] | None = None,
    loss_of: LossOf | None = None,
) -> TrainLog:
    """Train the parameters of ``model`` that require gradients.

    Args:
        model: sequence classifier; left in eval mode.
        encoded: n token lists.
        targets: (n, C) target distributions.
        plan: how to train.
        seed: of the data order and of dropout; global generators are left as they were.
        pad_id: padding token.
        on_step: called with the number of steps done, before the first (0) and after each; the
            model is in eval mode then.
        draw_targets: called with (epoch, row numbers) to redraw targets each epoch.
        loss_of: called with (row numbers, their targets) for the loss of a step; None: that of
            ``plain_loss``.

    Raises:
        RunFailed: ``TRAIN-NONFINITE`` with the step, when the loss is NaN or infinite.
    """
    device = device_of(model)
    weights = [p for p in model.parameters() if p.requires_grad]
    per_epoch = math.ceil(len(encoded) / plan.batch)
    steps = plan.steps if plan.steps is not None else max(round(plan.epochs * per_epoch), 1)
    optimiser = torch.optim.AdamW(weights, lr=plan.lr, weight_decay=plan.weight_decay, fused=True)
    fast = plan.precision == "bf16" or (plan.precision == "auto" and has_fast_bf16())
    precision: Precision = "bf16" if fast else "fp32"
    log = TrainLog()
    started = time.process_time()
    lengths = [len(row) for row in encoded]
    soft = torch.from_numpy(np.ascontiguousarray(targets, dtype=np.float32)).to(device)
    loss_of = loss_of or plain_loss(model, encoded, pad_id, device)
    with (
        torch.random.fork_rng(devices=[] if device.type == "cpu" else None),
        eager_attention(model, device),
    ):
        torch.manual_seed(derive(seed, "train/dropout"))
        if on_step is not None:
            on_step(0)
        model.train()
        for step, rows in enumerate(
            batches(lengths, plan.batch, steps, stream(seed, "train/order"))
        ):
            goal = soft[torch.from_numpy(rows)]
            if draw_targets is not None:
                goal = torch.from_numpy(draw_targets(step // per_epoch, rows)).to(goal)
            for group in optimiser.param_groups:
                group["lr"] = rate_at(step, steps, plan)
            with autocast(device, precision):
                loss = loss_of(rows, goal)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if plan.clip is not None:
                torch.nn.utils.clip_grad_norm_(weights, plan.clip)
            optimiser.step()
            log.losses.append(float(loss.detach()))
            if not math.isfinite(log.losses[-1]):
                raise RunFailed(
                    f"the loss is not finite at step {step + 1} of {steps}",
                    code="TRAIN-NONFINITE",
                    got=log.losses[-1],
                    fix="lower the learning rate",
                )
            log.steps, log.tokens = step + 1, log.tokens + sum(lengths[int(i)] for i in rows)
            if on_step is not None:
                model.eval()
                on_step(step + 1)
                model.train()
    model.eval()
    log.cpu_seconds = time.process_time() - started
    return log
