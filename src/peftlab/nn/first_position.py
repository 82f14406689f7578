"""Classify from any layer: the first position of a hidden state through the model's own head.

    logits_i = head(pooler(h_i[first]))   for the embeddings, i = 0, and each layer, i = 1 .. L

An encoder classifier does this with h_L only. Families differ in what stands between hidden state
and head; whether a model is understood is tested, not assumed: its last layer must give its logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from peftlab.core.errors import NotApplicable
from peftlab.nn.text import device_of, pad

TOLERANCE = 1e-3  # logits; rounding is a thousandth of it, another path through the model far more


def layer_logits(
    model: Any, rows: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> list[torch.Tensor]:
    """Return logits (b, C) of token rows from the embeddings and from each layer, L + 1 of them."""
    states = model(**pad(rows, pad_id, device), output_hidden_states=True).hidden_states
    return [state_logits(model, state) for state in states]


def state_logits(model: Any, state: torch.Tensor) -> torch.Tensor:
    """Return the logits (b, C) that pooler and head give for one hidden state (b, t, d)."""
    keep = torch.nn.Identity()
    drop = getattr(model, "dropout", keep)
    pooler = getattr(model.base_model, "pooler", None) or getattr(model, "pooler", None)
    if pooler is not None:  # BERT, DeBERTa: they take the first position themselves
        return model.classifier(drop(pooler(state)))
    if hasattr(model, "pre_classifier"):  # DistilBERT
        return model.classifier(drop(model.pre_classifier(state[:, 0]).relu()))
    return model.classifier(state)  # RoBERTa, ELECTRA: the head takes the first position


def check_first_position(model: Any, row: Sequence[int], pad_id: int) -> None:
    """Refuse a model whose logits are not those of its last layer's first position.

    Args:
        model: classifier, in eval mode.
        row: a token list to try it on.
        pad_id: padding token.

    Raises:
        NotApplicable: ``HEAD-POSITION``.
    """
    device = device_of(model)
    with torch.no_grad():
        real = model(**pad([row], pad_id, device)).logits
        try:
            last = layer_logits(model, [row], pad_id, device)[-1]
        except (AttributeError, RuntimeError, TypeError):
            last = None  # what stands between hidden state and head is of another kind
    understood = last is not None and last.shape == real.shape
    if understood and float((last - real).abs().max()) < TOLERANCE:
        return
    raise NotApplicable(
        f"{type(model).__name__} does not classify from the first position of a hidden state",
        code="HEAD-POSITION",
        allowed="encoder classifiers as of BERT, RoBERTa, ELECTRA, DistilBERT and DeBERTa",
        fix="choose one of these as the base",
    )
