"""Training as the victim does it: the victim's own tuner says rate, passes and batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from peftlab.core.contracts import TuneContext
from peftlab.nn.heads import default_rate
from peftlab.nn.loop import TrainPlan, train
from peftlab.nn.text import encode, pad_id_of, room_for_text


def full_rate(model: Any) -> float:
    """Return the default peak learning rate of all-weights training, by width."""
    return default_rate(model, small=2e-4, large=2e-5)


def victim_rate(context: TuneContext) -> float:
    """Return the peak learning rate of the victim's tuner; by width where the tuner leaves it."""
    options: Any = context.tuner.options
    return options.lr or full_rate(context.model)


def train_victim(
    context: TuneContext, wrapped: Any, *, on_step: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Train a wrapped model on ``context.train`` as an undefended victim would.

    Args:
        context: what to train on, and by whose options.
        wrapped: result of the tuner's ``wrap``; left in eval mode.
        on_step: as in ``nn.loop.train``.

    Returns:
        Facts: steps, mean of the last 20 losses, trainable parameters.

    Raises:
        RunFailed: ``TRAIN-NONFINITE``.
    """
    options: Any = context.tuner.options
    log = train(
        wrapped,
        encode(context.tokenizer, context.train.texts, room_for_text(wrapped)),
        np.eye(context.n_classes)[list(context.train.labels)],
        TrainPlan(epochs=options.epochs, lr=victim_rate(context), batch=options.batch),
        seed=context.seed,
        pad_id=pad_id_of(context.model, context.tokenizer),
        on_step=on_step,
    )
    return {
        "steps": log.steps,
        "loss": float(np.mean(log.losses[-20:])),
        "trainable": sum(p.numel() for p in wrapped.parameters() if p.requires_grad),
    }
