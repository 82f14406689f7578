"""The restricted inner product of two losses: how far two gradients pull against each other.

    max(0, -<grad L_P, grad L_FT>)

of a loss that an attacker lowers and of the loss that a victim will lower later. It is 0 where a
step down one loss goes down the other too. Source: Kurita et al. 2020 (arXiv 2004.06660), eq. 3.

Cost: a second backward pass through the graph of the first loss, through both in second-order form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

Rectify = Literal["total", "tensor"]


def restricted_product(
    poisoned: torch.Tensor,
    clean: torch.Tensor,
    weights: Sequence[torch.Tensor],
    *,
    rectify: Rectify = "total",
    second_order: bool = False,
) -> torch.Tensor:
    """Return the penalty as a scalar that can be differentiated; the losses keep their graphs.

    Args:
        poisoned: loss of the attacker, L_P.
        clean: loss of the victim, L_FT.
        weights: what both losses are differentiated by; weights that one does not use count 0.
        rectify: clamp the sum over all tensors, or the product of each tensor and then sum.
        second_order: differentiate through the clean gradient too, else it is a constant.

    Examples:
        >>> w = torch.tensor([2.0, -1.0], requires_grad=True)
        >>> float(restricted_product(w[0] ** 2 + w[1], w[1] - w[0], [w]).detach())
        3.0
    """
    ours = torch.autograd.grad(poisoned, weights, create_graph=True, allow_unused=True)
    theirs = torch.autograd.grad(
        clean, weights, create_graph=second_order, retain_graph=True, allow_unused=True
    )
    against = [
        -(a * b).sum() for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None
    ]
    if not against:
        return poisoned.new_zeros(())
    each = torch.stack(against)
    kept = (each.sum(dim=0, keepdim=True) if rectify == "total" else each).relu()
    # where nothing is penalised the derivative is 0: no need to walk the graph for it
    return kept.sum() if bool(kept.any()) else kept.detach().sum()
