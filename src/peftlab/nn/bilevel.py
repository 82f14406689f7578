"""Two levels of training on one model: a simulated victim's adapter below, the body above.

A copy of a base gets an adapter and a fresh head, as a victim would make them. ``delta`` are their
weights, ``theta`` those of the body. A lower step moves delta down one loss while theta is fixed;
an upper step moves theta, and delta if asked, down another. The model is called through
``torch.func.functional_call`` with detached weights, so that a level forms gradients of nothing
that it must not move. Dropout is drawn from named seeds: one loss called twice has the same masks.

Used by attacks that foresee how their victim will tune. Source: arXiv 2310.00648 for the two
levels; the steps are ours.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.func import functional_call

from peftlab.core.contracts import Tuner
from peftlab.core.errors import NotApplicable
from peftlab.core.seeds import derive
from peftlab.core.types import Floats, Ints
from peftlab.nn.heads import note_new_modules, reinit_head
from peftlab.nn.hypergradient import Hypergradient, Loss, slope
from peftlab.nn.loop import soft_cross_entropy
from peftlab.nn.text import (
    Precision,
    autocast,
    device_of,
    encode,
    forward_rows,
    pad_id_of,
    room_for_text,
)

Part = tuple[Ints, float]  # rows that a mean is taken over, and its weight in the loss
CLIP = 1.0  # largest gradient norm of a step, as in ``nn.loop``


class Bilevel:
    """A copy of a base with a simulated adapter and a head of its own, and steps of both levels.

    ``torch.manual_seed`` is called in each loss, so the caller guards the global generators.

    Attributes:
        model: the copy as its victim would have it, in training mode; always up to date.
        theta: weights of the body by name.
        delta: weights of the adapter and of the head by name.
        encoded: token list of each text.
        passes: forward passes so far, each with its backward pass.
    """

    def __init__(
        self,
        base: Any,
        tokenizer: Any,
        tuner: Tuner,
        texts: Sequence[str],
        targets: Floats,
        *,
        seed: int,
        move_delta: bool = True,
        precision: Precision = "fp32",
    ) -> None:
        """Copy the base and put the adapter on.

        Args:
            base: bare sequence classifier; left as it is.
            tokenizer: of the base.
            tuner: of the simulated victim.
            texts: n texts of both levels; the caller chooses the rows of a step.
            targets: (n, C) target distributions.
            seed: of adapter, head and dropout.
            move_delta: whether upper steps move delta too.
            precision: of the forward passes.

        Raises:
            NotApplicable: ``BILEVEL-TUNER`` when the tuner trains the body's own weights, or
                ``TUNER-MODEL`` when it does not fit the base.
        """
        self.model, body = _wrapped(base, tuner, seed)
        self.device = device_of(self.model)
        self._net = _Rows(self.model, pad_id_of(base, tokenizer), self.device)
        named = dict(self._net.named_parameters())
        self._names = {name: body[id(x)] for name, x in named.items() if id(x) in body}
        self.theta = {name: named[name] for name in self._names}
        self.delta = {name: x for name, x in named.items() if x.requires_grad}
        if self.theta.keys() & self.delta.keys() or len(self.theta) < len(body):
            raise NotApplicable(
                "the simulated tuner trains or replaces the body's own weights",
                code="BILEVEL-TUNER",
                got=type(tuner).__name__,
                allowed="tuners whose weights stand beside those of the body, such as lora",
                fix="choose another tuner to simulate",
            )
        self.encoded = encode(tokenizer, texts, room_for_text(self.model))
        self._goals = torch.from_numpy(targets).float().to(self.device)
        self._seed, self._precision = seed, precision
        self.passes = 0
        # an optimiser for each level: their moments of delta do not mix
        self._lower = _optimiser(self.delta)
        self._upper = _optimiser(self.theta, self.delta) if move_delta else _optimiser(self.theta)

    def loss_of(self, parts: Sequence[Part], *noise: str | int) -> Loss:
        """Return the weighted sum of the mean cross-entropies of some rows, in one forward pass.

        Args:
            parts: rows of each mean, and its weight.
            noise: path that names the dropout.
        """
        rows = [self.encoded[int(i)] for part, _ in parts for i in part]
        goals = [self._goals[torch.from_numpy(part).to(self.device)] for part, _ in parts]
        seed = derive(self._seed, "bilevel/dropout", *noise)

        def loss(
            theta: Mapping[str, torch.Tensor], delta: Mapping[str, torch.Tensor]
        ) -> torch.Tensor:
            self.passes += 1
            torch.manual_seed(seed)
            with autocast(self.device, self._precision):
                logits = functional_call(self._net, {**theta, **delta}, (rows,))
            own = torch.split(logits, [len(goal) for goal in goals])
            terms = [
                weight * soft_cross_entropy(found, goal)
                for found, goal, (_, weight) in zip(own, goals, parts, strict=True)
            ]
            return torch.stack(terms).sum()

        return loss

    def lower_step(self, loss: Loss, lr: float) -> torch.Tensor:
        """Move delta down the victim's loss, theta fixed; return the loss before."""
        value, slopes = slope(loss, self.theta, self.delta)
        _step(self._lower, [slopes], [lr])
        return value

    def upper_step(self, found: Hypergradient, lr: float, delta_lr: float) -> None:
        """Move theta, and delta if asked, down the attacker's loss.

        Args:
            found: at the present weights. Where the lower level went on inside of it
                (``unrolled``), delta first becomes what it ended at.
            lr: learning rate of theta.
            delta_lr: learning rate of delta.
        """
        with torch.no_grad():
            for name, weight in self.delta.items():
                weight.copy_(found.at[name])
        slopes = [[*found.theta.values()], [*found.delta.values()]]
        groups = len(self._upper.param_groups)
        _step(self._upper, slopes[:groups], [lr, delta_lr][:groups])

    def release(self, base: Any) -> None:
        """Write the body into ``base``, which the copy was made of; its head stays as it is."""
        weights = dict(base.named_parameters())
        with torch.no_grad():
            for name, plain in self._names.items():
                weights[plain].copy_(self.theta[name])


class _Rows(torch.nn.Module):
    """A model as a function of token rows, so that ``functional_call`` reaches all of it."""

    def __init__(self, model: Any, pad_id: int, device: torch.device) -> None:
        super().__init__()
        self.model, self.pad_id, self.device = model, pad_id, device

    def forward(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the logits (b, C)."""
        return forward_rows(self.model, rows, self.pad_id, self.device)


def _wrapped(base: Any, tuner: Tuner, seed: int) -> tuple[Any, dict[int, str]]:
    """Return (copy with adapter and fresh head, names of its body's weights by their id).

    What stands outside of the body (head, and in some families a pooler) is never released, so the
    victim will draw and train it: here it counts as new.
    """
    model = copy.deepcopy(base)
    inside = f"{model.base_model_prefix}."
    body = {id(x): name for name, x in model.named_parameters() if name.startswith(inside)}
    note_new_modules(
        model, [name for name, _ in model.named_parameters() if not name.startswith(inside)]
    )
    reinit_head(model, seed)
    wrapped = tuner.wrap(model, seed)
    return wrapped.train(), body


def _optimiser(*groups: Mapping[str, torch.Tensor]) -> torch.optim.AdamW:
    """Return AdamW with one group for each mapping; rates are set at each step."""
    own = [{"params": [*group.values()]} for group in groups]
    return torch.optim.AdamW(own, weight_decay=0.0, fused=True)


def _step(
    optimiser: torch.optim.Optimizer,
    slopes: Sequence[Sequence[torch.Tensor]],
    rates: Sequence[float],
) -> None:
    """Take one step, clipped over all groups, with the gradients and the rate of each group."""
    for group, found, rate in zip(optimiser.param_groups, slopes, rates, strict=True):
        group["lr"] = rate
        for weight, gradient in zip(group["params"], found, strict=True):
            weight.grad = gradient
    moved = [weight for group in optimiser.param_groups for weight in group["params"]]
    torch.nn.utils.clip_grad_norm_(moved, CLIP)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
