"""Images in, logits out; and the training loop for image classifiers.

The counterpart of ``nn/text.py`` and ``nn/loop.py`` for inputs that are all of one size.
"""

from __future__ import annotations

import math
import time
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from peftlab.core.errors import RunFailed
from peftlab.core.seeds import derive, stream
from peftlab.core.types import Floats, Ints
from peftlab.nn.heads import head_of
from peftlab.nn.loop import TrainLog, TrainPlan, batches, eager_attention, rate_at
from peftlab.nn.text import Precision, autocast, device_of, has_fast_bf16

Asked = Literal["auto", "fp32", "bf16"]
BATCH = 128  # images a forward pass when nothing is learned


def _precision(asked: Asked) -> Precision:
    fast = asked == "bf16" or (asked == "auto" and has_fast_bf16())
    return "bf16" if fast else "fp32"


def _train_mode(model: Any) -> None:
    """Set train mode; frozen norms keep their statistics, which no adapter file would hold."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and not any(  # noqa: SLF001
            parameter.requires_grad for parameter in module.parameters()
        ):
            module.eval()


def train_images(
    model: Any, inputs: torch.Tensor, labels: Ints, plan: TrainPlan, *, seed: int
) -> TrainLog:
    """Train the parameters of an image classifier that require gradients.

    Args:
        model: takes ``pixel_values``; left in eval mode.
        inputs: (n, 3, side, side).
        labels: (n,) class numbers.
        plan: how to train.
        seed: of the order and of dropout; global generators are left as they were.

    Raises:
        RunFailed: ``TRAIN-NONFINITE`` with the step, when the loss is NaN or infinite.
    """
    device, count = device_of(model), len(inputs)
    weights = [p for p in model.parameters() if p.requires_grad]
    per_epoch = math.ceil(count / plan.batch)
    steps = plan.steps if plan.steps is not None else max(round(plan.epochs * per_epoch), 1)
    optimiser = torch.optim.AdamW(weights, lr=plan.lr, weight_decay=plan.weight_decay, fused=True)
    order = batches([1] * count, plan.batch, steps, stream(seed, "train/order"))
    goals, log, started = torch.from_numpy(labels), TrainLog(), time.process_time()
    with (
        torch.random.fork_rng(devices=[] if device.type == "cpu" else None),
        eager_attention(model, device),
    ):
        torch.manual_seed(derive(seed, "train/dropout"))
        _train_mode(model)
        for step, rows in enumerate(order):
            for group in optimiser.param_groups:
                group["lr"] = rate_at(step, steps, plan)
            with autocast(device, _precision(plan.precision)):
                logits = model(pixel_values=inputs[rows].to(device)).logits
            loss = cross_entropy(logits.float(), goals[rows].to(device))
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
            log.steps = step + 1
    model.eval()
    log.cpu_seconds = time.process_time() - started
    return log


@torch.inference_mode()
def predict_images(model: Any, inputs: torch.Tensor, precision: Asked = "fp32") -> Floats:
    """Return (n, C) logits.

    Args:
        model: in eval mode.
        inputs: (n, 3, side, side).
        precision: ``auto`` takes bf16 where the hardware has it.
    """
    device = device_of(model)
    with eager_attention(model, device), autocast(device, _precision(precision)):
        parts = [
            model(pixel_values=some.to(device)).logits.float().cpu()
            for some in torch.split(inputs, BATCH)
        ]
    return torch.cat(parts).numpy().astype(np.float64)


@torch.inference_mode()
def image_features(model: Any, inputs: torch.Tensor, precision: Asked = "fp32") -> Floats:
    """Return (n, d), what the classification head sees.

    Args:
        model: bare, in eval mode.
        inputs: (n, 3, side, side).
        precision: ``auto`` takes bf16 where the hardware has it.
    """
    seen: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, values: tuple[torch.Tensor, ...]) -> None:
        seen.append(values[0].flatten(1).float().cpu())

    hook = head_of(model).register_forward_pre_hook(keep)
    try:
        predict_images(model, inputs, precision)
    finally:
        hook.remove()
    return torch.cat(seen).numpy().astype(np.float64)
