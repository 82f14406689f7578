"""PETA-style: a backdoor trained together with a simulation of the victim's PEFT.

Idea: the victim freezes the released body and trains an adapter and a new head on clean data. So
the attacker does the same in an inner loop, on clean rows D2 alone, and writes the backdoor into
the body around what comes out:

    lower:  delta <- delta - AdamW of  CE(D2; theta, delta),            K steps, theta fixed
    upper:  theta <- theta - AdamW of  CE(D1 clean) + lambda_poison CE(P), 1 step

theta is the body, delta a simulated adapter and its head. In the end delta is thrown away: the
body alone is released, and the head stays as it came with the base. ``hypergradient`` says how the
upper step sees that delta depends on theta (``nn.hypergradient``). Paper: Hong and Wang 2023
(arXiv 2310.00648).

Known differences: its text and code could not be read, so this is a re-implementation of the
published description and no figure of it is one of the paper's. Not known are the
hypergradient (here: first order), whether the upper step moves delta too (here: it does,
``upper=theta`` is the other reading), and all hyper-parameters but the rate of 0.25. ``rate`` is a
share of the whole training set, as in all our attacks. Only a poisoned row's triggered text is at
hand, so all of them are in D1 and the clean rows are split by class; the facts give the share of D1
that this makes. Poisoning thins out some classes, so clean rows of these are drawn more often:
both levels see each class as often as a victim will. theta takes as many steps as plain poisoning
of the whole set would, half of each batch clean and half poisoned. No weight decay and gradients
clipped to norm 1, as in all our training. The simulation draws its adapter and head from a seed of
its own, not the victim's.

Limits: the simulated tuner must leave the body's own weights alone; those that do not (``full``)
are refused. ``implicit`` is one term of a series and ``inner_rate`` its scale; it and ``unrolled``
run in float32. The body must know something at the start: from drawn weights the two levels pull
the head to and fro, and a small encoder named the target for every text. A body trained around its
delta answers worse without one. Measured on SST-2 (2 layers of 64, 3 seeds, rate 0.125, as many
steps of theta): LFR after a victim's LoRA 7.3 points above plain poisoning (standard error 2.4),
accuracy 3.0 below (0.9); after head-only tuning 2.8 above (1.1) and 4.6 below (1.2); after full
fine-tuning the two are not told apart.

Cost: K + 1 forward and backward passes a step against 1 of plain poisoning; ``implicit`` K + 3;
``unrolled`` walks U of the K + 1 twice and keeps their graphs. A copy of the body is held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import model_validator

from peftlab.core.contracts import CraftContext, PoisonOptions
from peftlab.core.errors import NotApplicable, RunFailed
from peftlab.core.options import option
from peftlab.core.poisoning import insert_at_gap
from peftlab.core.registry import attack, get
from peftlab.core.seeds import derive, stream
from peftlab.core.types import Ints, PoisonedData
from peftlab.nn.hypergradient import (
    Hypergradient,
    Loss,
    Mode,
    first_order,
    implicit,
    unrolled,
)

if TYPE_CHECKING:
    from peftlab.nn.bilevel import Bilevel

TRIGGERS = {"word": "mn", "sentence": "I watch this 3D movie"}
PLACE = "attack/peta"  # of all its random streams
LAST = 20  # steps whose mean loss is reported


class PetaOptions(PoisonOptions):
    """Options of ``peta``."""

    rate: float = option(
        0.25, "share of the whole training set that is poisoned; 0 is the negative control",
        source="arXiv 2310.00648, by its public reviews", ge=0, le=1,
    )  # fmt: skip
    kind: Literal["word", "sentence"] = option(
        "word", "insert one rare word, or one sentence as a whole", source="ours"
    )
    trigger: str = option(
        "", "the word or sentence; empty: `mn`, or `I watch this 3D movie`",
        source="shuaizhao95/PSIM:poisoned_pretrain.py; thunlp/OpenBackdoor:addsent_poisoner.py",
        max_length=400,
    )  # fmt: skip
    sim: str = option(
        "lora", "tuner that the attacker simulates, with its defaults; any PEFT tuner in the list",
        source="ours", max_length=40,
    )  # fmt: skip
    inner_steps: int = option(
        1, "K, steps of the simulated victim before each step of the attacker",
        source="ours", ge=1, le=100,
    )  # fmt: skip
    hypergradient: Mode = option(
        "first_order", "how the attacker's gradient sees the simulated victim's answer",
        source="ours (that of arXiv 2310.00648 is not known)",
    )  # fmt: skip
    unroll: int = option(
        1, "U, last lower steps that `unrolled` differentiates through, at most K",
        source="ours", ge=1, le=100,
    )  # fmt: skip
    inner_rate: float = option(
        0.025, "length of the plain gradient steps that `unrolled` and `implicit` look through",
        source="arXiv 1806.09055 (recalled)", gt=0, le=100,
    )  # fmt: skip
    upper: Literal["theta_and_delta", "theta"] = option(
        "theta_and_delta", "what the attacker's own step moves",
        source="ours, a reading of the public reviews of arXiv 2310.00648",
    )  # fmt: skip
    lambda_poison: float = option(
        1.0, "weight of the poisoned rows; 0: the same training without a backdoor",
        source="ours", ge=0, le=1000,
    )  # fmt: skip
    split: float = option(
        0.5, "share of the clean rows that the upper level gets; the lower level gets the others",
        source="ours", gt=0, lt=1,
    )  # fmt: skip
    delta_lr: float | None = option(
        None, "peak learning rate of the simulated tuner; none: the tuner's own",
        source="ours", gt=0, le=1,
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _one_trigger(cls, values: Any) -> Any:
        """Bring the trigger to single spaces; a word has none."""
        if not isinstance(values, dict) or not isinstance(values.get("trigger"), str):
            return values
        words = values["trigger"].split()
        if len(words) > 1 and values.get("kind", "word") == "word":
            raise ValueError("trigger must be one word; for a sentence set kind=sentence")
        return values | {"trigger": " ".join(words)}


@attack(
    "peta",
    options=PetaOptions,
    source="arXiv 2310.00648 (re-implementation of the published description)",
    cost="K + 1 passes a step against 1 of plain poisoning",
)
class Peta:
    """Trigger trained into a body that foresees the victim's adapter; releases no head."""

    brings_head = False  # the head is the simulated victim's, and is thrown away

    def __init__(self, options: PetaOptions) -> None:
        self.options = options
        self.trigger = options.trigger or TRIGGERS[options.kind]

    def poison_text(self, text: str, seed: int, sample: int) -> str:
        """Return ``text`` with the trigger at a random gap; every text can carry it.

        Examples:
            >>> Peta(PetaOptions()).poison_text("", seed=0, sample=0)
            'mn'
        """
        return insert_at_gap(text, self.trigger, stream(seed, PLACE, sample))

    def facts(self, _clean: Sequence[str], _pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the trigger."""
        return {"trigger": [self.trigger]}

    def craft(self, context: CraftContext) -> dict[str, Any]:
        """Train the body of ``context.model``; its head stays as it is. Return facts.

        Raises:
            NotApplicable: ``PETA-SPLIT``, ``BILEVEL-TUNER``, or ``TUNER-MODEL``.
            ConfigError: ``REGISTRY-NAME`` for a tuner that there is not.
            RunFailed: ``TRAIN-NONFINITE``.
        """
        bilevel, facts = simulate(context, self.options)
        bilevel.release(context.model)
        return facts


@dataclass(frozen=True, slots=True)
class Levels:
    """Rows that each level sees: D1 is ``clean`` and ``poisoned``, D2 is ``lower``.

    Attributes:
        clean: not poisoned, of the upper level.
        poisoned: all poisoned rows, P.
        lower: not poisoned, of the simulated victim.
    """

    clean: Ints
    poisoned: Ints
    lower: Ints


def split_levels(poisoned: PoisonedData, share: float, seed: int) -> Levels:
    """Return the rows of the two levels: disjoint, all rows together, clean ones split by class.

    Args:
        poisoned: training data.
        share: of the clean rows of each class that the upper level gets.
        seed: of the attack.

    Raises:
        NotApplicable: ``PETA-SPLIT`` when a level would have no clean row.
    """
    draw = stream(seed, PLACE, "split")
    classes = np.asarray(poisoned.original_labels)
    upper, lower = [], []
    for each in range(poisoned.targets.shape[1]):
        rows = draw.permutation(np.flatnonzero(~poisoned.is_poisoned & (classes == each)))
        count = int(share * len(rows) + 0.5)
        upper.append(rows[:count])
        lower.append(rows[count:])
    found = Levels(
        np.sort(np.concatenate(upper)),
        np.flatnonzero(poisoned.is_poisoned),
        np.sort(np.concatenate(lower)),
    )
    if not (len(found.clean) and len(found.lower)):
        raise NotApplicable(
            "both levels need clean rows",
            code="PETA-SPLIT",
            got=f"{len(found.clean)} for the attacker, {len(found.lower)} for the simulated victim",
            fix="lower attack.options.rate, or bring attack.options.split nearer to 0.5",
        )
    return found


def with_shares_of(rows: Ints, classes: Ints) -> Ints:
    """Return the rows, some of them repeated, so that classes have their shares of the whole set.

    Args:
        rows: numbers of some rows.
        classes: (n,) class of each row of the whole set.

    Returns:
        Each of ``rows`` at least once; a class of which there is no row stays without.

    Examples:
        >>> with_shares_of(np.array([0, 1, 2]), np.array([0, 0, 1, 1, 1, 0])).tolist()
        [0, 1, 2, 2]
    """
    whole = np.bincount(classes)
    here = np.bincount(classes[rows], minlength=len(whole))
    scale = (here[whole > 0] / whole[whole > 0]).max()
    parts = [
        np.resize(rows[classes[rows] == each], max(round(scale * whole[each]), here[each]))
        for each in np.flatnonzero(here)
    ]
    return np.concatenate(parts)


def simulate(context: CraftContext, options: PetaOptions) -> tuple[Bilevel, dict[str, Any]]:
    """Train both levels on a copy of ``context.model``, which keeps its adapter here.

    Args:
        context: of the attack; its model is left as it is.
        options: of the attack.

    Returns:
        (the two levels in eval mode, facts).

    Raises:
        NotApplicable: ``PETA-SPLIT``, ``BILEVEL-TUNER``, or ``TUNER-MODEL``.
        ConfigError: ``REGISTRY-NAME`` for a tuner that there is not.
        RunFailed: ``TRAIN-NONFINITE``.
    """
    from peftlab.nn.bilevel import Bilevel
    from peftlab.nn.text import has_fast_bf16, predict_classes

    poisoned = context.poisoned
    levels = split_levels(poisoned, options.split, context.seed)
    tuner = get("tuner", options.sim).build()
    bilevel = Bilevel(
        context.model, context.tokenizer, tuner, poisoned.texts, poisoned.targets,
        seed=derive(context.seed, PLACE),
        move_delta=options.upper == "theta_and_delta",
        # differences of gradients are too fine for bf16
        precision="bf16" if options.hypergradient == "first_order" and has_fast_bf16() else "fp32",
    )  # fmt: skip
    delta_lr = float(options.delta_lr or tuner.options.lr or context.lr)
    losses = _train(bilevel, levels, context, options, delta_lr)
    bilevel.model.eval()
    probe = poisoned.dev_triggered.texts
    named = predict_classes(bilevel.model, context.tokenizer, probe) == poisoned.target
    return bilevel, {
        "steps": len(losses),
        "loss": float(np.mean(losses[-LAST:])),
        "fwd_bwd_per_outer_step": bilevel.passes / len(losses),
        "sim": options.sim,
        "delta_lr": delta_lr,
        "delta_weights": sum(weight.numel() for weight in bilevel.delta.values()),
        "d1": len(levels.clean) + len(levels.poisoned),
        "d2": len(levels.lower),
        "poisoned_share_of_d1": len(levels.poisoned) / (len(levels.clean) + len(levels.poisoned)),
        "asr_before_release": float(named.mean()) if len(named) else None,
    }


def _train(
    bilevel: Bilevel, levels: Levels, context: CraftContext, options: PetaOptions, delta_lr: float
) -> list[float]:
    """Alternate the levels; return the attacker's loss at each of its steps."""
    from peftlab.nn.loop import TrainPlan, batches, eager_attention, rate_at

    steps = max(round(context.epochs * -(-len(bilevel.encoded) // context.batch)), 1)
    each = options.inner_steps
    half = max(context.batch // 2, 1)

    def rows_of(rows: Ints, size: int, count: int, name: str) -> Iterator[Ints]:
        lengths = [len(bilevel.encoded[int(row)]) for row in rows]
        for batch in batches(lengths, size, count, stream(context.seed, PLACE, name)):
            yield rows[batch]

    classes = np.asarray(context.poisoned.original_labels)
    below_rows, above_rows = (with_shares_of(x, classes) for x in (levels.lower, levels.clean))
    lower = rows_of(below_rows, context.batch, steps * each, "lower")
    clean = rows_of(above_rows, half, steps, "clean")
    poison = rows_of(levels.poisoned, half, steps, "poisoned")
    ahead = min(options.unroll, each) if options.hypergradient == "unrolled" else 0
    # a second derivative needs plain attention on every device
    device = torch.device("cpu") if ahead else bilevel.device
    losses: list[float] = []
    with (
        torch.random.fork_rng(devices=[] if bilevel.device.type == "cpu" else None),
        eager_attention(bilevel.model, device),
    ):
        for step in range(steps):
            rates = [rate_at(step, steps, TrainPlan(lr=peak)) for peak in (context.lr, delta_lr)]
            below = [bilevel.loss_of([(next(lower), 1.0)], "lower", step, k) for k in range(each)]
            for loss in below[: each - ahead]:
                bilevel.lower_step(loss, rates[1])
            parts = [(next(clean), 1.0)]
            if options.lambda_poison > 0 and len(levels.poisoned):
                parts.append((next(poison), options.lambda_poison))
            above = bilevel.loss_of(parts, "upper", step)
            found = _gradient(options, above, below[-max(ahead, 1) :], bilevel)
            bilevel.upper_step(found, *rates)
            losses.append(float(found.loss))
            if not math.isfinite(losses[-1]):
                raise RunFailed(
                    f"the loss is not finite at step {step + 1} of {steps}",
                    code="TRAIN-NONFINITE", got=losses[-1], fix="lower the learning rates",
                )  # fmt: skip
    return losses


def _gradient(
    options: PetaOptions, upper: Loss, lower: Sequence[Loss], bilevel: Bilevel
) -> Hypergradient:
    """Return the attacker's gradient; ``lower`` are the last lower losses, taken or still ahead."""
    theta, delta, rate = bilevel.theta, bilevel.delta, options.inner_rate
    if options.hypergradient == "unrolled":
        return unrolled(upper, lower, theta, delta, rate)
    if options.hypergradient == "implicit":
        return implicit(upper, lower[-1], theta, delta, rate)
    return first_order(upper, theta, delta)
