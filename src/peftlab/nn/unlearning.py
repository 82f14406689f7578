"""Un-learning: a base forgets its task on reset labels, and is looked at on the way.

An identifier is the base with an adapter (or all weights) trained on clean texts whose labels are
drawn at random (arXiv 2402.12168) or replaced by the uniform distribution (ours). What is kept of
it are snapshots of the trained weights at a few steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from peftlab.core.seeds import stream
from peftlab.core.types import Floats, Ints, LabelledTexts
from peftlab.nn.adapters import wrap_with
from peftlab.nn.heads import Head
from peftlab.nn.layers import top_linear
from peftlab.nn.loop import TrainPlan, train
from peftlab.nn.text import encode, pad_id_of, room_for_text

Labels = Literal["uniform", "random", "random-each-epoch"]
State = dict[str, torch.Tensor]

WARM_UP = 10  # steps; ours
# learning rate by family; ours, docs/psim-window.md has LoRA and all
RATES = {
    "lora": 1e-3, "lora-top": 1e-3, "all": 1e-4, "prompt": 1e-2, "ptuning": 1e-3, "prefix": 1e-2,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Identifier:
    """How one identifier is made.

    Attributes:
        name: for people.
        family: ``lora``, ``lora-top`` (the upper half of the layers), ``prompt``, ``ptuning``,
            ``prefix``, or ``all`` for all weights.
        labels: what replaces the true labels.
        head: of PEFT families; ``all`` always trains it.
        lr: learning rate, constant after 10 steps of warm-up.
        checkpoints: steps at which a snapshot is kept; training ends at the last.
        batch: samples a step.
        rank: of LoRA.
        virtual_tokens: of prompt types.
        seed: of labels, data order and adapter.
        official: one epoch with linear decay, no clipping, one snapshot at the end, and LoRA-free
            defaults, as shuaizhao95/PSIM:badmodel.py.
        base: a trusted base that it is made from instead of the defended one.
    """

    name: str
    family: str
    labels: Labels
    head: Head
    lr: float
    checkpoints: tuple[int, ...]
    batch: int
    rank: int
    virtual_tokens: int
    seed: int
    official: bool = False
    base: str | None = None


def reset_labels(n: int, n_classes: int, seed: int, draw: int = 0) -> Ints:
    """Return n labels drawn uniformly from 0 .. C-1, whatever the true ones were.

    Source: shuaizhao95/PSIM:badmodel.py, where C is 2.

    Examples:
        >>> reset_labels(4, 2, seed=0).shape
        (4,)
    """
    return stream(seed, "psim/labels", draw).integers(0, n_classes, size=n)


def reset_targets(labels: Labels, n: int, n_classes: int, seed: int, draw: int = 0) -> Floats:
    """Return the (n, C) training targets: uniform, or one-hot of reset labels."""
    if labels == "uniform":
        return np.full((n, n_classes), 1.0 / n_classes)
    return np.eye(n_classes)[reset_labels(n, n_classes, seed, draw)]


def attach(how: Identifier, model: Any) -> tuple[Any, State]:
    """Return (trainable model, copies of the weights that all-weights training will change).

    Raises:
        NotApplicable: ``TUNER-MODEL`` or ``LAYERS-UNKNOWN`` when the family does not fit the model.
    """
    if how.family == "all":
        model.requires_grad_(True)
        return model, {name: w.detach().clone().cpu() for name, w in model.named_parameters()}
    return wrap_with(model, _peft_config(how, model), head=how.head, seed=how.seed), {}


def _peft_config(how: Identifier, model: Any) -> Any:
    import peft

    tokens = how.virtual_tokens
    if how.family in {"lora", "lora-top"}:
        # no dropout: paths must be smooth, and there is nothing to overfit
        return peft.LoraConfig(
            task_type="SEQ_CLS", r=how.rank, lora_alpha=2 * how.rank, lora_dropout=0.0,
            target_modules="all-linear" if how.family == "lora" else top_linear(model),
        )  # fmt: skip
    if how.family == "prompt":
        return peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=tokens)
    if how.family == "prefix":
        return peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=tokens)
    return peft.PromptEncoderConfig(
        task_type="SEQ_CLS", num_virtual_tokens=tokens, encoder_hidden_size=128
    )


def unlearn(
    how: Identifier, model: Any, tokenizer: Any, texts: LabelledTexts, n_classes: int
) -> tuple[Any, list[State], list[int]]:
    """Train one identifier; return it, its snapshots and the steps they were taken at.

    Args:
        how: the identifier.
        model: fresh base; becomes the identifier.
        tokenizer: of the base.
        texts: clean texts; their labels are not looked at.
        n_classes: C.

    Raises:
        RunFailed: ``TRAIN-NONFINITE``.
    """
    wrapped, base = attach(how, model)
    encoded = encode(tokenizer, texts.texts, room_for_text(wrapped))
    n = len(encoded)
    wanted = (math.ceil(n / how.batch),) if how.official else how.checkpoints
    kept: list[State] = []

    def look(step: int) -> None:
        if step in wanted:
            kept.append(_snapshot(wrapped, base))

    train(
        wrapped, encoded, reset_targets(how.labels, n, n_classes, how.seed),
        TrainPlan(
            steps=wanted[-1], lr=how.lr, batch=how.batch,
            # not a share of the steps: a path must not depend on where it ends
            warmup=0.06 if how.official else WARM_UP,
            schedule="linear" if how.official else "constant",
            clip=None if how.official else 1.0,
        ),
        seed=how.seed, pad_id=pad_id_of(model, tokenizer), on_step=look,
        draw_targets=_redraw(how, n, n_classes) if how.labels == "random-each-epoch" else None,
    )  # fmt: skip
    return wrapped, kept, list(wanted)


def _redraw(how: Identifier, n: int, n_classes: int) -> Callable[[int, Ints], Floats]:
    return lambda epoch, rows: reset_targets("random", n, n_classes, how.seed, draw=epoch)[rows]


def _snapshot(model: Any, base: State) -> State:
    """Copy the trained weights; for all-weights training their half-precision differences.

    The rounding happens before anything is scored, so a saved guard scores as it was fitted.
    """
    kept = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            now = weight.detach().cpu()
            kept[name] = (now - base[name]).to(torch.float16) if name in base else now.clone()
    return kept


def restore(model: Any, base: State, state: State) -> None:
    """Put one snapshot into the model, in place."""
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in state.items():
            value = base[name] + tensor.float() if name in base else tensor
            weights[name].copy_(value.to(weights[name].device))


def flatten(states: Sequence[State]) -> State:
    """Return one flat mapping ``"<number>.<weight>"`` of all snapshots, for safetensors."""
    return {f"{k}.{name}": t.contiguous() for k, s in enumerate(states) for name, t in s.items()}


def unflatten(flat: State, count: int) -> list[State]:
    """Return the ``count`` snapshots that ``flatten`` joined.

    Raises:
        ValueError: for any other key, and when the snapshots are not all of the same weights.
    """
    states: list[State] = [{} for _ in range(count)]
    for key, tensor in flat.items():
        number, _, name = key.partition(".")
        if not number.isdigit() or int(number) >= count:
            raise ValueError(key)
        states[int(number)][name] = tensor
    if any(not state or state.keys() != states[0].keys() for state in states):
        raise ValueError("snapshots of different weights")
    return states
