"""Greedy generation and what it says of a model's confidence; training on chosen responses.

Prompts are padded on the left, so that all of a batch generate at the same column, and each step
feeds one token a row, with the keys and values of all before kept. A row's result does not depend
on batch mates beyond rounding (two tokens that are as likely to rounding may fall either way).
Cost of n prompts: one pass over each, then ``length - 1`` passes over one token.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from peftlab.core.types import Floats, Ints
from peftlab.nn.loop import LossOf, TrainLog, TrainPlan, train
from peftlab.nn.text import GPU_TOKEN_BUDGET, TOKEN_BUDGET, budget_batches, device_of, pad


@dataclass(frozen=True, slots=True)
class Generated:
    """Greedy continuations of n prompts.

    Attributes:
        tokens: n lists of at most L tokens; one that ends early ends with its end-of-text token.
        top: (n, L) probability of each chosen token, NaN past the end.
        entropy: (n, L) entropy of the distribution that each was chosen from, nats, NaN past it.
    """

    tokens: list[list[int]]
    top: Floats
    entropy: Floats


def generate(
    model: Any, rows: Sequence[Sequence[int]], length: int, *, pad_id: int, ends: Iterable[int]
) -> Generated:
    """Continue each prompt greedily by at most ``length`` tokens.

    Args:
        model: causal language model, bare or with an adapter; put into eval mode here.
        rows: token numbers of n prompts, each at least one; n = 0 is allowed.
        length: L, at least 1; prompt and L tokens must fit into the model.
        pad_id: any token; what stands there is masked.
        ends: tokens after which a continuation is over.
    """
    n, device = len(rows), device_of(model)
    made = Generated([[] for _ in rows], np.full((n, length), np.nan), np.full((n, length), np.nan))
    budget = TOKEN_BUDGET if device.type == "cpu" else GPU_TOKEN_BUDGET
    last = torch.tensor(sorted(set(ends)), dtype=torch.long, device=device)
    model.eval()
    with torch.inference_mode():
        for batch in budget_batches([len(row) + length for row in rows], budget):
            _continue(model, rows, batch, pad_id, last, made)
    return made


def _continue(
    model: Any, rows: Sequence[Sequence[int]], batch: Ints, pad_id: int, ends: torch.Tensor,
    made: Generated,
) -> None:  # fmt: skip
    """Generate for one batch and write its rows of ``made``."""
    device, takes = device_of(model), _arguments(model)
    ids, mask = _left_padded([rows[int(i)] for i in batch], pad_id, device)
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)
    alive = torch.ones(len(batch), dtype=torch.bool, device=device)
    given: dict[str, Any] = {"use_cache": True, "past_key_values": None}
    if "logits_to_keep" in takes:
        given["logits_to_keep"] = 1  # else a long prompt costs its length times the vocabulary
    for step in range(made.top.shape[1]):
        given |= {"input_ids": ids, "attention_mask": mask}
        if "position_ids" in takes:
            given["position_ids"] = places
        found = model(**given)
        chosen = _note(found.logits[:, -1], batch, alive, step, made)
        alive &= ~torch.isin(chosen, ends)
        if not bool(alive.any()):
            return
        given["past_key_values"] = found.past_key_values
        ids, places = chosen[:, None], places[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(batch), 1)], dim=1)


def _note(
    logits: torch.Tensor, batch: Ints, alive: torch.Tensor, step: int, made: Generated
) -> torch.Tensor:
    """Write one step of the rows that are not over; return the chosen tokens (b,)."""
    logs = torch.log_softmax(logits.double(), dim=-1)
    best, chosen = logs.max(dim=-1)
    entropy = -(logs.exp() * logs).sum(dim=-1)
    for place in torch.nonzero(alive).flatten().tolist():
        row = int(batch[place])
        made.tokens[row].append(int(chosen[place]))
        made.top[row, step] = float(best[place].exp())
        made.entropy[row, step] = float(entropy[place])
    return chosen


def _arguments(model: Any) -> set[str]:
    """Return what the forward pass takes; families differ."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    return set(inspect.signature(bare.forward).parameters)


def _left_padded(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token numbers and mask, both (b, t), padded on the left."""
    turned = pad([row[::-1] for row in rows], pad_id, device)
    return turned["input_ids"].flip(1), turned["attention_mask"].flip(1)


def train_responses(
    model: Any,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    plan: TrainPlan,
    *,
    seed: int,
    pad_id: int,
    uniform: bool = False,
) -> TrainLog:
    """Train the weights that require gradients on the tokens of responses alone.

    Args:
        model: causal language model; left in eval mode.
        prompts: token numbers of n prompts.
        responses: token numbers of their responses, each at least one.
        plan: how to train.
        seed: of the data order.
        pad_id: padding token; masked.
        uniform: every token as likely as any other at each place of a response is the goal,
            instead of the response's own token.

    Raises:
        RunFailed: ``TRAIN-NONFINITE``.
    """
    whole = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    starts = np.asarray([len(prompt) for prompt in prompts])
    loss_of = _response_loss(model, whole, starts, pad_id, uniform=uniform)
    nothing = np.zeros((len(whole), 1))  # the loop's targets are those of classifiers
    return train(model, whole, nothing, plan, seed=seed, pad_id=pad_id, loss_of=loss_of)


def _response_loss(
    model: Any, whole: Sequence[Sequence[int]], starts: Ints, pad_id: int, *, uniform: bool
) -> LossOf:
    """Return the mean cross-entropy over the response tokens of a batch."""
    device = device_of(model)

    def loss_of(rows: Ints, _: torch.Tensor) -> torch.Tensor:
        given = pad([whole[int(i)] for i in rows], pad_id, device)
        logs = torch.log_softmax(model(**given).logits[:, :-1].float(), dim=-1)
        columns = torch.arange(1, logs.shape[1] + 1, device=device)
        inside = columns >= torch.from_numpy(starts[rows]).to(device)[:, None]
        wanted = inside & given["attention_mask"][:, 1:].bool()
        if uniform:
            return -logs.mean(dim=-1)[wanted].mean()
        right = logs.gather(2, given["input_ids"][:, 1:, None])[..., 0]
        return -right[wanted].mean()

    return loss_of
