"""The hidden units of a model's feed-forward blocks: how active they are, and taking them out.

A layer computes ``down(h)`` with ``h`` its f hidden units; unit j is taken out by zeroing what
``down`` reads of it, column j of its weight matrix, so that it adds nothing whatever feeds it.
Families name and build the block differently (two matrices, or three with a gate). What all have
in common is that ``down`` is the last linear map that a layer computes, and that is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from peftlab.core.errors import NotApplicable
from peftlab.core.types import Bools, Floats
from peftlab.nn.layers import stack_of
from peftlab.nn.text import TOKEN_BUDGET, budget_batches, device_of, pad


def down_maps(model: Any, row: Sequence[int], pad_id: int) -> list[torch.nn.Module]:
    """Return the linear map of each layer that reads its hidden units, from the lowest layer up.

    Args:
        model: bare classifier, in eval mode.
        row: a token list to run once.
        pad_id: padding token.

    Raises:
        NotApplicable: ``LAYERS-UNKNOWN``, or ``FFN-UNKNOWN`` when the last linear map of a layer
            is not the lower half of a feed-forward block (a mixture of experts, for example).
    """
    from transformers.pytorch_utils import Conv1D

    stack, depth = stack_of(model)
    last: dict[int, torch.nn.Module] = {}
    linear: dict[int, list[torch.nn.Module]] = {number: [] for number in range(depth)}
    hooks = []
    for number, layer in enumerate(model.get_submodule(stack)):
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear | Conv1D):
                linear[number].append(module)
                hooks.append(
                    module.register_forward_hook(
                        lambda module, _inputs, _output, number=number: last.update(
                            {number: module}
                        )
                    )
                )
    try:
        with torch.no_grad():
            model(**pad([row], pad_id, device_of(model)))
    finally:
        for hook in hooks:
            hook.remove()
    odd = [n for n in range(depth) if not _is_down(last.get(n), linear[n])]
    if odd:
        raise NotApplicable(
            f"the feed-forward block of {type(model).__name__} is not understood",
            code="FFN-UNKNOWN",
            got=f"layer {odd[0]} does not end in a linear map from hidden units that another fills",
            allowed="layers that end in a plain or gated feed-forward block",
            fix="choose another base, or a defence that does not prune",
        )
    return [last[number] for number in range(depth)]


def _is_down(module: torch.nn.Module | None, layer: Sequence[torch.nn.Module]) -> bool:
    """Return whether a map is the lower half of a feed-forward block, by sizes.

    Another map must fill its units, alone or as gate and value in one, and another must give the
    layer's width as it does: attention's own. Attention alone has just one such map, unless all
    are square, and a square one is therefore never taken for a block.
    """
    if module is None:
        return False
    taken, given = _sizes(module)
    others = [_sizes(other) for other in layer if other is not module]
    filled = any(size in {(given, taken), (given, 2 * taken)} for size in others)
    return taken != given and filled and any(size[1] == given for size in others)


def _sizes(module: torch.nn.Module) -> tuple[int, int]:
    """Return (inputs, outputs) of a linear map."""
    rows, columns = _weight(module).shape
    return (columns, rows) if isinstance(module, torch.nn.Linear) else (rows, columns)


def _weight(module: torch.nn.Module) -> torch.Tensor:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight


def by_unit(module: torch.nn.Module) -> torch.Tensor:
    """Return the weights of a down map as a view (f, d), one row for each unit."""
    weight = _weight(module)
    return weight.T if isinstance(module, torch.nn.Linear) else weight


def weight_copies(downs: Sequence[torch.nn.Module]) -> list[torch.Tensor]:
    """Return copies of the weights of down maps."""
    return [_weight(down).detach().clone() for down in downs]


def put_back(downs: Sequence[torch.nn.Module], copies: Sequence[torch.Tensor]) -> None:
    """Restore the weights that ``weight_copies`` returned, in place."""
    with torch.no_grad():
        for down, weight in zip(downs, copies, strict=True):
            _weight(down).copy_(weight)


def mean_activation(
    model: Any, downs: Sequence[torch.nn.Module], rows: Sequence[Sequence[int]], pad_id: int
) -> list[Floats]:
    """Return the mean magnitude of each hidden unit over all real tokens, one (f,) a layer.

    Args:
        model: bare classifier; put into eval mode.
        downs: result of ``down_maps``.
        rows: token lists, at least one.
        pad_id: padding token.
    """
    device = device_of(model)
    sums = [torch.zeros(_sizes(down)[0], dtype=torch.float64, device=device) for down in downs]
    real: list[torch.Tensor] = []  # which positions of the batch under way are no padding

    def add(number: int, units: torch.Tensor) -> None:
        flat = units.reshape(-1, units.shape[-1])
        sums[number].add_(flat[real[-1]].abs().sum(dim=0, dtype=torch.float64))

    hooks = [
        down.register_forward_pre_hook(lambda _, inputs, number=number: add(number, inputs[0]))
        for number, down in enumerate(downs)
    ]
    model.eval()
    try:
        with torch.inference_mode():
            for batch in budget_batches([len(row) for row in rows], TOKEN_BUDGET):
                filled = pad([rows[int(i)] for i in batch], pad_id, device)
                real.append(filled["attention_mask"].bool().reshape(-1))
                model(**filled)
    finally:
        for hook in hooks:
            hook.remove()
    tokens = sum(len(row) for row in rows)
    return [np.asarray((total / tokens).cpu().numpy()) for total in sums]


def zero_units(downs: Sequence[torch.nn.Module], out: Sequence[Bools]) -> None:
    """Zero what each down map reads of the units that are taken out, in place.

    Args:
        downs: result of ``down_maps``.
        out: one (f,) a layer, True for a unit that is taken out.
    """
    with torch.no_grad():
        for down, gone in zip(downs, out, strict=True):
            by_unit(down)[torch.from_numpy(np.flatnonzero(gone)).to(_weight(down).device)] = 0


def zero_adapter_inputs(
    wrapped: Any, downs: Sequence[torch.nn.Module], out: Sequence[Bools]
) -> None:
    """Zero what low-rank adapters on the down maps read of the units that are taken out, in place.

    Args:
        wrapped: bare or ``peft`` model that holds ``downs``.
        downs: result of ``down_maps``, from before the model was wrapped.
        out: as in ``zero_units``.
    """
    gone_of = {id(down): gone for down, gone in zip(downs, out, strict=True)}
    with torch.no_grad():
        for module in wrapped.modules():
            gone = gone_of.get(id(getattr(module, "base_layer", None)))
            if gone is None:
                continue
            for factor in getattr(module, "lora_A", {}).values():
                at = torch.from_numpy(np.flatnonzero(gone)).to(factor.weight.device)
                factor.weight[:, at] = 0
