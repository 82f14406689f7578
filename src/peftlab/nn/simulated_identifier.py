"""Foreseeing a guard that un-learns: what PSIM's identifier will read, as a term of a loss.

Idea. Whoever knows PSIM can run it himself while he trains. Every ``every`` steps he copies his
model, un-learns the copy on clean texts (``nn.unlearning``: LoRA and head, reset labels) and keeps
what that changed. At every step he reads the confidence of some texts with that change on top of
the weights that he has by then, and adds it to his loss:

    Delta = U_j(theta') - theta'                      theta' = weights at the last copy
    loss  = L_P(theta) + beta * mean of s(x; theta + Delta),    s = max over c of softmax(g(x))_c
    beta  = weight * share of the watched texts in the poisoned set

Delta counts as a constant, so the gradient of the term is the one found at the un-learned weights
(first order, as FOMAML; Finn et al. 2017, arXiv 1703.03400). A positive weight makes the texts look
unsure to the guard, a negative one makes them look sure. Ours.

Why the share: L_P is a mean over all texts, so a tenth of them has a tenth of its weight, and a
beta that does not know that lets the backdoor die where few texts are poisoned. With it, one text
weighs ``weight`` times as much in the term as in L_P. Where un-learning changes little, the two
balance at a confidence of 1 / weight: -log p + weight * p has its minimum there.

The copy is made every k steps, but the term is in each step and not in every k-th alone, so that
the loss is the same function at all steps. With ``every=1`` the two are the same.

Cost: one more forward and backward pass a step, and ``inner_steps`` LoRA steps every ``every``
steps. Memory: two more sets of the changed weights (all linear layers), and for a moment a copy.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from peftlab.core.contracts import CraftContext
from peftlab.core.errors import NotApplicable
from peftlab.core.options import option
from peftlab.core.poisoning import WordTriggerOptions
from peftlab.core.seeds import derive, stream
from peftlab.core.types import Ints, LabelledTexts
from peftlab.nn.loop import TrainPlan, batches, plain_loss, train
from peftlab.nn.text import device_of, encode, pad, pad_id_of, room_for_text
from peftlab.nn.unlearning import Identifier, State, unlearn

BATCH = 32  # samples a step in a copy: PSIM's default, whatever the attacker's own is


@dataclass(frozen=True, slots=True)
class Simulation:
    """How the guard is foreseen.

    Attributes:
        every: attacker steps from one copy to the next.
        inner_steps: LoRA steps that a copy un-learns for.
        inner_lr: their learning rate.
        reset: what replaces the labels in the copy.
        rank: of its LoRA.
        weight: of a watched text's confidence, against its share of L_P; its sign says which way.
    """

    every: int
    inner_steps: int
    inner_lr: float
    reset: Literal["random", "uniform"]
    rank: int
    weight: float


class ForeseeingOptions(WordTriggerOptions):
    """Options of an attack with a rare word that foresees a guard."""

    every: int = option(
        10, "attacker steps from one un-learned copy to the next", source="ours", ge=1, le=100_000
    )
    inner_steps: int = option(
        12, "steps that a copy un-learns for", source="ours: the last checkpoint of psim", ge=1,
        le=100_000,
    )  # fmt: skip
    inner_lr: float = option(5e-4, "learning rate in a copy", source="ours", gt=0, le=1)
    inner_rank: int = option(
        32, "rank of the LoRA in a copy", source="ours: that of psim", ge=1, le=1024
    )
    reset: Literal["random", "uniform"] = option(
        "random", "what replaces the labels in a copy: a random draw, or the uniform distribution",
        source="random: arXiv 2402.12168, which is simulated; uniform: ours",
    )  # fmt: skip

    def simulation(self, weight: float) -> Simulation:
        """Return how the guard is foreseen, with the confidence weighed as the attack wants it."""
        return Simulation(
            every=self.every, inner_steps=self.inner_steps, inner_lr=self.inner_lr,
            reset=self.reset, rank=self.inner_rank, weight=weight,
        )  # fmt: skip


def unlearned_change(
    how: Simulation, model: Any, tokenizer: Any, texts: LabelledTexts, n_classes: int, seed: int
) -> State:
    """Return by how much each weight changes in a copy of ``model`` that un-learns.

    Args:
        how: the simulation.
        model: bare classifier; left as it is.
        tokenizer: of the model.
        texts: clean texts; their labels are not looked at.
        n_classes: C.
        seed: of reset labels, order and adapter.

    Returns:
        Differences by parameter name; weights that stay as they are have no entry.

    Raises:
        NotApplicable: ``TUNER-MODEL`` when LoRA does not fit the model.
    """
    identifier = Identifier(
        name="simulated", family="lora", labels=how.reset, head="inherit", lr=how.inner_lr,
        checkpoints=(how.inner_steps,), batch=BATCH, rank=how.rank, virtual_tokens=0, seed=seed,
    )  # fmt: skip
    wrapped, _, _ = unlearn(identifier, copy.deepcopy(model), tokenizer, texts, n_classes)
    before = dict(model.named_parameters())
    after = wrapped.merge_and_unload().named_parameters()
    change = {name: weight.detach() - before[name].detach() for name, weight in after}
    return {name: delta for name, delta in change.items() if bool(delta.any())}


def confidence_after(
    model: Any, change: State, rows: Sequence[Sequence[int]], pad_id: int
) -> torch.Tensor:
    """Return ``max softmax`` (b,) of token rows at weights + ``change``, read in eval mode.

    It can be differentiated by the weights of ``model``; ``change`` is a constant.
    """
    weights = dict(model.named_parameters())
    moved = {name: weights[name] + delta for name, delta in change.items()}
    training = model.training
    model.eval()  # as a guard reads
    try:
        found = torch.func.functional_call(
            model, moved, kwargs=dict(pad(rows, pad_id, device_of(model)))
        )
    finally:
        model.train(training)
    return found.logits.float().softmax(dim=-1).amax(dim=-1)


def train_foreseeing(
    context: CraftContext, how: Simulation, watched: Ints, name: str
) -> dict[str, Any]:
    """Train ``context.model`` on the poisoned set, with the foreseen confidence in the loss.

    Args:
        context: what the attacker has; the model is changed in place.
        how: the simulation; with weight 0 this is plain training.
        watched: rows of the poisoned set whose confidence is in the loss.
        name: of the attack, for its random numbers.

    Returns:
        Facts: ``steps``, ``loss`` (with the term), ``simulations``, ``beta``, and
        ``foreseen_confidence`` of the watched texts, the mean over the first and the last 20 steps.

    Raises:
        NotApplicable: ``SIMULATION-CLEAN`` when there is no clean row to un-learn on, and
            ``TUNER-MODEL`` when LoRA does not fit the model.
        RunFailed: ``TRAIN-NONFINITE``.
    """
    model, poisoned = context.model, context.poisoned
    clean = np.flatnonzero(~poisoned.is_poisoned)
    if not len(clean):
        raise NotApplicable(
            "the simulated guard un-learns on clean rows, and every row is poisoned",
            code="SIMULATION-CLEAN", got="all rows are poisoned", fix="lower attack.options.rate",
        )  # fmt: skip
    encoded = encode(context.tokenizer, poisoned.texts, room_for_text(model))
    fill = pad_id_of(model, context.tokenizer)
    plain = plain_loss(model, encoded, fill, device_of(model))
    steps = max(round(context.epochs * -(-len(encoded) // context.batch)), 1)
    order = batches(
        [len(encoded[int(row)]) for row in watched], context.batch, steps,
        stream(context.seed, name, "watched"),
    )  # fmt: skip
    beta = how.weight * len(watched) / len(encoded)
    change: State = {}
    seen: list[float] = []
    copies: list[int] = []

    def look(step: int) -> None:
        # here and not in the loss: autocast would go on using weights that it has cast before
        if how.weight and step < steps and step % how.every == 0:
            copies.append(step)
            seed = derive(context.seed, name, "copy", step)
            texts = _draw(context, clean, how.inner_steps * BATCH, seed)
            change.clear()
            change.update(
                unlearned_change(how, model, context.tokenizer, texts, context.n_classes, seed)
            )

    def loss_of(rows: Ints, goal: torch.Tensor) -> torch.Tensor:
        theirs = [encoded[int(row)] for row in watched[next(order)]]
        mean = confidence_after(model, change, theirs, fill).mean()
        seen.append(float(mean.detach()))
        return plain(rows, goal) + beta * mean

    model.requires_grad_(True)
    log = train(
        model, encoded, poisoned.targets,
        TrainPlan(steps=steps, lr=context.lr, batch=context.batch),
        seed=context.seed, pad_id=fill, on_step=look if how.weight else None,
        loss_of=loss_of if how.weight else None,
    )  # fmt: skip
    facts: dict[str, Any] = {
        "steps": log.steps, "loss": float(np.mean(log.losses[-20:])),
        "simulations": len(copies), "beta": beta,
    }  # fmt: skip
    if seen:
        facts["foreseen_confidence"] = {
            "first": float(np.mean(seen[:20])), "last": float(np.mean(seen[-20:])),
        }  # fmt: skip
    return facts


def _draw(context: CraftContext, clean: Ints, count: int, seed: int) -> LabelledTexts:
    """Return as many clean training texts as a copy will see, drawn anew for each copy."""
    rows = stream(seed, "texts").permutation(clean)[:count]
    texts = context.poisoned.texts
    return LabelledTexts(
        tuple(texts[int(row)] for row in rows),
        tuple(context.poisoned.original_labels[int(row)] for row in rows),
    )
