"""The stack of layers of a model, and which linear layers stand in its upper half."""

from __future__ import annotations

from typing import Any

import torch

from peftlab.core.errors import NotApplicable


def top_linear(model: Any) -> list[str]:
    """Return the names of all linear modules in the upper half of the layers, embeddings apart.

    Of an odd number of layers the middle one counts as upper. What stands above the stack (a
    pooler, the head) is not among them.

    Args:
        model: bare classifier of any family that keeps its layers in one list.

    Raises:
        NotApplicable: ``LAYERS-UNKNOWN`` when the stack of layers cannot be told.
    """
    from transformers.pytorch_utils import Conv1D

    stack, depth = stack_of(model)
    upper = tuple(f"{stack}.{number}." for number in range(depth // 2, depth))
    return [
        name
        for name, module in model.named_modules()
        if name.startswith(upper) and isinstance(module, torch.nn.Linear | Conv1D)
    ]


def stack_of(model: Any) -> tuple[str, int]:
    """Return name and length of the one module list that holds as many layers as the config says.

    Families call it ``layer``, ``layers`` or ``h``, at different places; a model that shares one
    layer (ALBERT) or has two stacks (T5) has no such list, so no upper half and no layer to name.

    Raises:
        NotApplicable: ``LAYERS-UNKNOWN`` when there is not exactly one such list.
    """
    depth = int(getattr(model.config, "num_hidden_layers", 0) or 0)
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth > 0
    ]
    outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    if len(outer) != 1:
        raise NotApplicable(
            f"the layers of {type(model).__name__} cannot be told apart",
            code="LAYERS-UNKNOWN",
            got=f"{len(outer)} lists of {depth} layers" if depth else "no number of layers",
            allowed="a model with one stack of layers, as BERT and its kin have",
            fix="choose another base; an identifier can be of the family lora (all linear layers)",
        )
    return outer[0], depth
