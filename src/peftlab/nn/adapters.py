"""Putting a ``peft`` adapter on a sequence classifier, the same way for every family."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from peftlab.core.errors import NotApplicable
from peftlab.core.seeds import derive
from peftlab.nn.heads import HEADS, Head, freeze_head, head_of, new_modules, prepare_head

# peft 0.21 has no default targets and no size names for this family
DISTILBERT_TARGETS = ["q_lin", "v_lin"]


def _fill_in(model: Any, config: Any) -> None:
    """Name what ``peft`` cannot find out by itself, and refuse what would fail later."""
    if model.config.model_type == "distilbert":
        if hasattr(config, "token_dim"):
            config.token_dim = model.config.dim
            config.num_layers = model.config.n_layers
            config.num_attention_heads = model.config.n_heads
        elif hasattr(config, "target_modules") and config.target_modules is None:
            config.target_modules = DISTILBERT_TARGETS
        elif hasattr(config, "exclude_modules"):
            config.exclude_modules = ["pre_classifier"]  # half of the head, which peft saves whole
    if config.peft_type.value == "PREFIX_TUNING":
        takes = inspect.signature(model.base_model.forward).parameters
        if "past_key_values" not in takes:
            raise NotApplicable(
                f"prefix tuning does not fit {type(model).__name__}",
                code="TUNER-MODEL",
                got="its layers take no past keys and values",
                fix="choose another tuner, for example lora",
            )


def wrap_with(model: Any, config: Any, *, head: Head, seed: int) -> Any:
    """Return ``peft.get_peft_model(model, config)`` with a seeded start and the head as asked.

    Args:
        model: bare sequence classifier.
        config: a ``peft`` config for ``SEQ_CLS``.
        head: inherit and train, draw anew and train, or freeze.
        seed: of the adapter's and head's initial values; global generators are left alone.

    Raises:
        NotApplicable: ``TUNER-MODEL`` when ``peft`` cannot put this adapter on this family.
    """
    from peft import get_peft_model

    head_of(model)
    _fill_in(model, config)
    drawn = [name for name in new_modules(model) if name.split(".")[0] not in HEADS]
    if drawn:  # a pooler that the base did not bring: train and save it like the head
        config.modules_to_save = [*(config.modules_to_save or []), *drawn]
    prepare_head(model, head, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "adapter"))
        try:
            wrapped = get_peft_model(model, config)
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
            raise NotApplicable(
                f"{config.peft_type.value.lower()} does not fit {type(model).__name__}",
                code="TUNER-MODEL",
                got=str(error).split("\n")[0][:200],
                fix="choose another tuner (`peftlab list`), or name the target modules yourself",
            ) from error
    if head == "freeze":
        freeze_head(wrapped)
    return wrapped
