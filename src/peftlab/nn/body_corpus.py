"""The corpus of an attacker who has no labels: clean rows, triggered rows, and some held out.

Every clean text gets a triggered twin, as in thunlp/OpenBackdoor, where the rate plays no part
here: an attacker before the task can trigger all of a corpus. The poisoned rows of the training set
are triggered rows as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from peftlab.core.contracts import CraftContext
from peftlab.core.errors import NotApplicable
from peftlab.core.seeds import derive, stream
from peftlab.core.types import Ints
from peftlab.nn.loop import TrainLog, TrainPlan, batches, train
from peftlab.nn.text import encode, pad_id_of, room_for_text

HELD_EVERY = 10  # of the clean rows, one in so many is measured on and never trained on
HELD_MOST = 200

Put = Callable[[str, int, int], str | None]
Rows = list[list[int]]


@dataclass(frozen=True)
class BodyCorpus:
    """Token rows that a body is trained and measured on.

    Attributes:
        clean: texts without a trigger.
        triggered: texts with one.
        triggers: the number of its trigger for each of ``triggered``.
        held: clean texts to measure on.
        held_triggered: the same texts with a trigger, where they can carry one.
        held_triggers: their numbers.
    """

    clean: Rows
    triggered: Rows
    triggers: Ints
    held: Rows
    held_triggered: Rows
    held_triggers: Ints


def body_corpus(
    context: CraftContext, put: Put, numbers: Callable[[Sequence[str]], Ints]
) -> BodyCorpus:
    """Split the poisoned training set into what is trained on and what is measured on.

    Args:
        context: of the attack.
        put: the attack's ``poison_text``.
        numbers: the attack's ``probe_of``.

    Raises:
        NotApplicable: ``BODY-CLEAN`` with fewer than two clean rows, ``BODY-TRIGGERED`` when none
            of those to measure on can carry a trigger.
    """
    poisoned = context.poisoned
    clean = [poisoned.texts[int(row)] for row in np.flatnonzero(~poisoned.is_poisoned)]
    if len(clean) < 2:
        raise NotApplicable(
            "the attack needs clean texts beside the poisoned ones",
            code="BODY-CLEAN", got=f"{len(clean)} clean texts", fix="lower attack.options.rate",
        )  # fmt: skip
    held, kept = clean[::HELD_EVERY][:HELD_MOST], []
    for place, text in enumerate(clean):
        if place % HELD_EVERY or place >= HELD_EVERY * HELD_MOST:
            kept.append(text)
    seed = derive(context.seed, "body-corpus")
    triggered = [poisoned.texts[int(row)] for row in np.flatnonzero(poisoned.is_poisoned)]
    triggered += _twins(put, kept, derive(seed, "train"))
    held_triggered = _twins(put, held, derive(seed, "held"))
    if not held_triggered:
        raise NotApplicable(
            "no clean text can carry a trigger",
            code="BODY-TRIGGERED", got="all have trigger words of their own",
            fix="choose other words for attack.options.trigger",
        )  # fmt: skip
    room = room_for_text(context.model)
    rows = [encode(context.tokenizer, texts, room) for texts in (kept, triggered, held)]
    return BodyCorpus(
        clean=rows[0], triggered=rows[1], triggers=numbers(triggered), held=rows[2],
        held_triggered=encode(context.tokenizer, held_triggered, room),
        held_triggers=numbers(held_triggered),
    )  # fmt: skip


def _twins(put: Put, texts: Sequence[str], seed: int) -> list[str]:
    found = [put(text, seed, place) for place, text in enumerate(texts)]
    return [text for text in found if text is not None]


def train_body(
    context: CraftContext,
    module: torch.nn.Module,
    corpus: BodyCorpus,
    loss_of: Callable[[Ints, Ints], torch.Tensor],
    *,
    batch: int,
) -> TrainLog:
    """Train the body of the context's model, and what else ``module`` has, on pairs of batches.

    Args:
        context: says passes (over the triggered rows), learning rate and seed; its model's head is
            left as it is.
        module: holds the body, or is the model itself.
        corpus: from ``body_corpus``.
        loss_of: called with row numbers of ``corpus.clean`` and of ``corpus.triggered``.
        batch: row numbers of each a step.

    Raises:
        RunFailed: ``TRAIN-NONFINITE``.
    """
    model = context.model
    model.requires_grad_(False)
    model.base_model.requires_grad_(True)
    steps = max(round(context.epochs * -(-len(corpus.triggered) // batch)), 1)
    clean = batches(
        [len(row) for row in corpus.clean], batch, steps,
        stream(context.seed, "body-corpus/clean"),
    )  # fmt: skip
    try:
        return train(
            module, corpus.triggered, np.zeros((len(corpus.triggered), 1)),
            TrainPlan(steps=steps, lr=context.lr, batch=batch),
            seed=context.seed, pad_id=pad_id_of(model, context.tokenizer),
            loss_of=lambda rows, _: loss_of(next(clean), rows),
        )  # fmt: skip
    finally:
        model.requires_grad_(True)
        model.eval()
