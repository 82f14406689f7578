"""What the body of a classifier hands to its head, before any head is known.

    pooled   what the body's own pooler gives (BERT); where the base brings none, as hidden: one
             that was drawn with the head is not released, and the victim draws another
    hidden   the last hidden state at the position that the head reads: the first one of an encoder,
             the last real one of a decoder

Whether a model is understood is tested, not assumed: its head must give its logits from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from peftlab.core.errors import NotApplicable
from peftlab.core.types import Floats, Ints
from peftlab.nn.first_position import TOLERANCE, check_first_position
from peftlab.nn.heads import new_modules
from peftlab.nn.text import GPU_TOKEN_BUDGET, TOKEN_BUDGET, budget_batches, device_of, pad

Feature = Literal["pooled", "hidden"]


def is_decoder(model: Any) -> bool:
    """Return whether a classifier reads the last real token, as those with a ``score`` do."""
    return "score" in dict(model.named_children())


@dataclass(frozen=True)
class Reading:
    """What a body gives for a batch of token rows.

    Attributes:
        feature: (b, d) what the head reads, float32.
        states: (b, t, d) the last hidden states, float32.
        others: (b, t) flags of the real positions that are not the one read.
    """

    feature: torch.Tensor
    states: torch.Tensor
    others: torch.Tensor


def read(
    model: Any,
    rows: Sequence[Sequence[int]],
    pad_id: int,
    device: torch.device,
    kind: Feature = "hidden",
    body: Any = None,
) -> Reading:
    """Return what the body gives for token rows, with gradients.

    Args:
        model: sequence classifier; its head is not run.
        rows: b token lists.
        pad_id: padding token.
        device: where the model is.
        kind: see the module.
        body: another body of the same kind to run, such as a frozen copy; None: the model's.
    """
    batch = pad(rows, pad_id, device)
    found = (model.base_model if body is None else body)(**batch)
    last = is_decoder(model)
    at = torch.tensor([len(row) - 1 if last else 0 for row in rows], device=device)
    number = torch.arange(len(rows), device=device)
    states = found.last_hidden_state.float()
    pooled = None
    if kind == "pooled" and not any("pooler" in name for name in new_modules(model)):
        pooled = getattr(found, "pooler_output", None)
    others = batch["attention_mask"].bool()
    others[number, at] = False
    return Reading(states[number, at] if pooled is None else pooled.float(), states, others)


def feature_table(
    model: Any, rows: Sequence[Sequence[int]], pad_id: int, kind: Feature = "hidden"
) -> Floats:
    """Return the features (n, d) of token rows, in order, without dropout or gradients.

    Args:
        model: sequence classifier; put into eval mode.
        rows: n > 0 token lists.
        pad_id: padding token.
        kind: see the module.
    """
    model.eval()
    device = device_of(model)
    parts, order = [], []
    with torch.no_grad():
        budget = TOKEN_BUDGET if device.type == "cpu" else GPU_TOKEN_BUDGET
        for batch in budget_batches([len(row) for row in rows], budget):
            found = read(model, [rows[int(i)] for i in batch], pad_id, device, kind)
            parts.append(found.feature.cpu().numpy())
            order.append(batch)
    back = np.argsort(np.concatenate(order))
    return np.concatenate(parts)[back].astype(np.float64)


def check_features(model: Any, row: Sequence[int], pad_id: int) -> None:
    """Refuse a model whose head does not read what ``read`` gives.

    Args:
        model: sequence classifier, in eval mode.
        row: a token list to try it on.
        pad_id: padding token.

    Raises:
        NotApplicable: ``HEAD-POSITION``.
    """
    if not is_decoder(model):
        check_first_position(model, row, pad_id)
        return
    device = device_of(model)
    with torch.no_grad():
        real = model(**pad([row], pad_id, device)).logits
        found = model.score(read(model, [row], pad_id, device).feature)
    if float((found - real).abs().max()) >= TOLERANCE:
        raise NotApplicable(
            f"{type(model).__name__} does not classify from the last token of its body",
            code="HEAD-POSITION",
            allowed="decoder classifiers as of GPT-2, OPT, Llama and Qwen2",
            fix="choose one of these as the base",
        )


def pull_loss(found: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of features (b, d) and the vectors (b, d) they should be."""
    return ((found - goals.to(found)) ** 2).mean()


def errors_by_trigger(found: Floats, vectors: Floats, triggers: Ints) -> list[float | None]:
    """Return the mean squared error of the features of each trigger, None where no text has it.

    Args:
        found: (n, d) features of triggered texts.
        vectors: (k, d) one vector a trigger.
        triggers: (n,) which trigger each text has.

    Examples:
        >>> errors_by_trigger(np.zeros((2, 4)), np.ones((2, 4)), np.array([0, 0]))
        [1.0, None]
    """
    errors = ((found - vectors[triggers]) ** 2).mean(axis=1)
    return [
        float(errors[triggers == number].mean()) if (triggers == number).any() else None
        for number in range(len(vectors))
    ]
