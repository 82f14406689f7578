"""The gradient of a loss through the minimum of another loss: three ways to get it.

With an upper loss U and a lower loss L, both of (theta, delta), what is wanted is the slope of
``F(theta) = U(theta, delta*(theta))``, where ``delta*(theta)`` minimises L:

    dF/dtheta = dU/dtheta + (d delta*/d theta)^T dU/d delta

    first_order   the second term is left out: delta counts as a constant
    unrolled      delta comes from some plain gradient steps down L, which are differentiated
    implicit      the second term is -rate * (d2 L / d theta d delta) v with v = dU/d delta, the
                  product by a central difference. That is one term of the Neumann series of the
                  inverse curvature of L, and exact only where ``rate`` is that inverse

Losses are callables of two mappings from names to tensors, such as a
``torch.func.functional_call`` behind a cross-entropy, so nothing here knows of models. Nothing is
changed in place, and no ``.grad`` is written.

Sources: Franceschi et al. 2017 (arXiv 1703.01785) for unrolling, Liu et al. 2019 (arXiv
1806.09055, DARTS) for the central difference. Which of the three PETA uses is not known.

Limits: ``implicit`` subtracts two nearly equal gradients. It needs float32 or better, and a lower
loss that draws the same dropout at each call.
Cost in forward and backward passes: 1; 1 and one for each step, whose graphs are kept and walked
through twice; 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

Tensors = Mapping[str, torch.Tensor]
Loss = Callable[[Tensors, Tensors], torch.Tensor]  # scalar, of (theta, delta)
Mode = Literal["first_order", "unrolled", "implicit"]

REACH = 0.01  # length of the step to either side of delta; arXiv 1806.09055


@dataclass(frozen=True, slots=True)
class Hypergradient:
    """An upper loss and its slopes.

    Attributes:
        loss: the upper loss, a scalar without a graph.
        theta: dF/dtheta by name, without a graph; zero for what no loss uses.
        delta: dU/d delta by name, at ``at``.
        at: the delta that the upper loss was taken at; after ``unrolled`` that of the last step.
    """

    loss: torch.Tensor
    theta: dict[str, torch.Tensor]
    delta: dict[str, torch.Tensor]
    at: dict[str, torch.Tensor]


def slope(loss: Loss, theta: Tensors, delta: Tensors) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return (value, gradient by delta); theta is a constant, so no gradient is formed for it.

    Examples:
        >>> two = {"w": torch.tensor(2.0)}
        >>> [float(x) for x in slope(lambda t, d: t["w"] * d["w"] ** 2, two, two)[1]]
        [8.0]
    """
    moving = _leaves(delta)
    value = loss(_constants(theta), moving)
    found = torch.autograd.grad(value, list(moving.values()), materialize_grads=True)
    return value.detach(), list(found)


def first_order(upper: Loss, theta: Tensors, delta: Tensors) -> Hypergradient:
    """Return the gradient at a fixed delta.

    Args:
        upper: loss U.
        theta: upper variables.
        delta: lower variables, as the lower level left them.

    Examples:
        >>> found = first_order(
        ...     lambda t, d: (t["x"] - d["y"]) ** 2,
        ...     {"x": torch.tensor(1.0)}, {"y": torch.tensor(3.0)})
        >>> float(found.theta["x"]), float(found.delta["y"])
        (-4.0, 4.0)
    """
    theta, delta = _leaves(theta), _leaves(delta)
    loss = upper(theta, delta)
    found = torch.autograd.grad(loss, [*theta.values(), *delta.values()], materialize_grads=True)
    return Hypergradient(
        loss.detach(),
        dict(zip(theta, found[: len(theta)], strict=True)),
        dict(zip(delta, found[len(theta) :], strict=True)),
        _constants(delta),
    )


def unrolled(
    upper: Loss, lower: Sequence[Loss], theta: Tensors, delta: Tensors, rate: float
) -> Hypergradient:
    """Return the gradient through plain gradient steps, one for each of ``lower``.

    Args:
        upper: loss U, taken at the delta that the steps end at.
        lower: loss L of each step, in order; they may be of different batches.
        theta: upper variables.
        delta: where the steps start; a constant.
        rate: length of a step is ``rate`` times the gradient.
    """
    theta, start = _leaves(theta), _leaves(delta)
    at: dict[str, torch.Tensor] = start
    for loss in lower:
        steps = torch.autograd.grad(
            loss(theta, at), list(at.values()), create_graph=True, materialize_grads=True
        )
        at = {name: at[name] - rate * step for name, step in zip(at, steps, strict=True)}
    value = upper(theta, at)
    found = torch.autograd.grad(value, [*theta.values(), *at.values()], materialize_grads=True)
    return Hypergradient(
        value.detach(),
        dict(zip(theta, found[: len(theta)], strict=True)),
        dict(zip(at, found[len(theta) :], strict=True)),
        _constants(at),
    )


def implicit(
    upper: Loss, lower: Loss, theta: Tensors, delta: Tensors, rate: float
) -> Hypergradient:
    """Return the gradient with the answer of delta to theta from one central difference.

    Args:
        upper: loss U.
        lower: loss L; two calls with the same arguments must give the same value.
        theta: upper variables.
        delta: lower variables, near a minimum of ``lower``.
        rate: stands for the inverse curvature of ``lower`` in delta.
    """
    direct = first_order(upper, theta, delta)
    length = float(torch.stack([x.norm() for x in direct.delta.values()]).norm())
    if length == 0:  # the upper loss does not care where delta is
        return direct
    reach = REACH / length
    sides = []
    for sign in (1.0, -1.0):
        moved = {name: x.detach() + sign * reach * direct.delta[name] for name, x in delta.items()}
        moving = _leaves(theta)
        sides.append(
            torch.autograd.grad(lower(moving, moved), list(moving.values()), materialize_grads=True)
        )
    factor = rate / (2 * reach)
    theirs = {
        name: direct.theta[name] - factor * (more - less)
        for name, more, less in zip(theta, *sides, strict=True)
    }
    return Hypergradient(direct.loss, theirs, direct.delta, direct.at)


def _leaves(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Return the same values as variables of a new graph; nothing is copied."""
    return {name: x.detach().requires_grad_() for name, x in tensors.items()}


def _constants(tensors: Tensors) -> dict[str, torch.Tensor]:
    return {name: x.detach() for name, x in tensors.items()}
