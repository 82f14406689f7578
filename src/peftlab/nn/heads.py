"""The classification head of a sequence classifier, whatever its family calls it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch

from peftlab.core.errors import NotApplicable
from peftlab.core.seeds import derive

HEADS = ("classifier", "score")  # the names that peft itself looks for
FROZEN = (*HEADS, "pre_classifier")  # the other half of DistilBERT's
Head = Literal["inherit", "reinit", "freeze"]


def head_of(model: Any) -> torch.nn.Module:
    """Return the head module.

    Raises:
        NotApplicable: ``HEAD-NONE`` if the model has neither ``classifier`` nor ``score``.
    """
    for name in HEADS:
        module = getattr(model, name, None)
        if isinstance(module, torch.nn.Module):
            return module
    raise NotApplicable(
        f"{type(model).__name__} has no classification head",
        code="HEAD-NONE",
        allowed="a sequence classifier with a module called " + " or ".join(HEADS),
        fix="use a family that AutoModelForSequenceClassification has",
    )


def note_new_modules(model: Any, missing: Iterable[str]) -> None:
    """Remember which modules a base did not bring: they were drawn, so they must be trained.

    Args:
        model: just loaded.
        missing: names of the weights that its files did not hold.
    """
    model.new_modules = tuple(sorted({name.rpartition(".")[0] for name in missing}))


def new_modules(model: Any) -> tuple[str, ...]:
    """Return the modules that the base did not bring, the head among them if it is new."""
    return tuple(getattr(model, "new_modules", ()))


def has_new_head(model: Any) -> bool:
    """Return whether the classification head was drawn, not loaded."""
    return any(name.split(".")[0] in HEADS for name in new_modules(model))


def reinit_head(model: Any, seed: int, std: float = 0.02) -> None:
    """Draw the head anew: weights normal with ``std`` (BERT's), biases zero."""
    generator = torch.Generator().manual_seed(derive(seed, "head"))
    for parameter in head_of(model).parameters():
        with torch.no_grad():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
            else:
                parameter.zero_()


def prepare_head(model: Any, head: Head, seed: int) -> None:
    """Apply ``head="reinit"`` to a bare model; the other choices change nothing yet."""
    if head == "reinit":
        reinit_head(model, seed)


def freeze_head(wrapped: Any) -> None:
    """Stop the head of a wrapped (or bare) model from training."""
    for name, parameter in wrapped.named_parameters():
        if any(part in FROZEN for part in name.split(".")):
            parameter.requires_grad_(False)


def default_rate(model: Any, *, small: float, large: float) -> float:
    """Return a learning rate for full-parameter training by width.

    Small models (512 wide and less) take ten times the rate of BERT-size ones; source: ours,
    measured on the built-in encoder, and 2e-5 of shuaizhao95/PSIM for BERT size.
    """
    width = int(getattr(model.config, "hidden_size", 0) or getattr(model.config, "dim", 0) or 768)
    return small if width <= 512 else large
