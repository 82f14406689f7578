"""What every pre-training objective can be told, and the learning rate over a run."""

from __future__ import annotations

from typing import Literal

from peftlab.core.options import Options, option

_OURS = "ours: about 10.7 MB of weights"


class PretrainOptions(Options):
    """How a model is made; the defaults are those of the first stage of ``builtin:encoder``."""

    vocabulary: int = option(8_192, "most tokens", source=_OURS, ge=30, le=32_768)
    layers: int = option(4, "transformer layers", source=_OURS, ge=1, le=48)
    width: int = option(256, "width of embeddings and layers", source=_OURS, ge=8, le=4_096)
    heads: int = option(4, "attention heads; must divide width", source=_OURS, ge=1, le=64)
    feed_forward: int = option(1_024, "width inside the feed-forward part", source=_OURS, ge=8)
    positions: int = option(128, "longest input", source=_OURS, ge=8, le=4_096)
    dropout: float = option(0.0, "dropout; 0.1 for many passes", source=_OURS, ge=0, lt=1)
    length: int = option(64, "tokens a window, at most positions", source=_OURS, ge=4)
    batch: int = option(64, "windows a step, over all processes", source=_OURS, ge=1)
    accumulate: int = option(
        1, "parts that a step is computed in, to save memory", source="ours", ge=1
    )
    steps: int = option(3_471, "optimiser steps", source=_OURS, ge=1)
    optimiser: Literal["adamw", "muon"] = option(
        "adamw", "muon: for the weight matrices of the layers, AdamW for the rest", source="ours"
    )
    rate: float = option(1e-3, "peak learning rate", source=_OURS, gt=0)
    warm_up: int = option(300, "steps of linear warm-up", source=_OURS, ge=0)
    final_rate: float = option(0.02, "share of the peak rate at the end", source=_OURS, ge=0, le=1)
    decay: float = option(0.01, "weight decay", source="Devlin et al. 2019, A.2", ge=0)
    beta2: float = option(0.98, "second beta of AdamW", source="Liu et al. 2019, 3.1", gt=0, lt=1)
    clip: float = option(
        1.0, "largest gradient norm", source="google-research/bert:optimization.py", gt=0
    )
    masked: float = option(
        0.15, "share to guess (masked, replaced)", source="Devlin et al. 2019, 3.1", gt=0, lt=1
    )
    start: Literal["ppmi", "random"] = option("ppmi", "start of the embeddings", source="ours")
    precision: Literal["auto", "bf16", "fp32"] = option(
        "auto", "auto: bf16 where the machine computes in it", source="ours"
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where to train", source="ours")
    seed: int = option(0, "seed of everything", source="ours", ge=0)
    checkpoint_minutes: float = option(5.0, "minutes between checkpoints", source="ours", ge=0)
    log_every: int = option(50, "steps between progress lines", source="ours", ge=1)


FREE = {"checkpoint_minutes", "log_every", "device", "accumulate"}  # may differ on a resume


def learning_rate(step: int, options: PretrainOptions) -> float:
    """Return the rate of one step, counted from 0: linear up, then linear down to the final share.

    Examples:
        >>> learning_rate(299, PretrainOptions())
        0.001
    """
    if step < options.warm_up:
        return options.rate * (step + 1) / options.warm_up
    left = (options.steps - 1 - step) / max(1, options.steps - 1 - options.warm_up)
    return options.rate * (options.final_rate + (1 - options.final_rate) * max(0.0, left))
