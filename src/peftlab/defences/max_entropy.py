"""Maximum entropy: make the base unsure of everything, then teach it the task.

Idea: a backdoor is certainty that a base brings along. Before the victim tunes, all weights of the
body are trained to be unsure, through the head that the base has,

    loss = mean over texts of  sum over c of  p_c log p_c       (the negative entropy, in nats)

and the task comes back with the victim's own tuning on clean data, the backdoor less so.

Paper: Liu et al. 2023, "Maximum Entropy Loss, the Silver Bullet Targeting Backdoor Attacks in
Pre-trained Language Models" (Findings of ACL 2023, 237; "MEFT"). Its authors released no code; the
order, this loss and then cross-entropy, is that of xingyizhao/PURE (README.md, util.py), which
compares with it. Abstract and that code were read, not the body of the paper.

Known differences:
    - mean over the batch (PURE sums), and log p from the logits, so that p = 0 is no NaN;
    - the head is frozen meanwhile: a head that goes to zero makes any body unsure at once;
    - a head that the base did not bring is first trained alone, for one pass: a drawn head is
      unsure anyway, and would leave nothing to do;
    - ours, not published: ``texts`` adds a copy of each text with its words in another order, or
      with half of its tokens drawn from the whole vocabulary. The clean texts alone do not hold
      the trigger; drawn tokens may be parts of it. ``loss = "uniform"`` is the cross-entropy to
      the uniform distribution, whose gradient does not vanish where the base is certain.

Limits: nothing acts on the trigger directly unless its tokens happen to be drawn. Too much of it
costs clean accuracy, which a small adapter may not be able to bring back. In one run on the
built-in encoder (seed 0; badnets at rate 0.1 in 800 generated reviews; LoRA victim; 300 test texts,
151 with the trigger) the defaults raised the clean entropy from 0.31 to 0.69 nats and left the
success rate at 0.99, where it was without them; clean accuracy 0.72 against 0.74. The other texts
and the other loss were not tried there.

Cost: ``epochs`` passes of all-weights training over the clean texts (twice as many texts if copies
are added), one pass of head-only training for a base without a head; then the victim's own tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch

from peftlab.core.contracts import TuneContext, Tuned
from peftlab.core.options import Options, option
from peftlab.core.registry import defence
from peftlab.core.seeds import stream
from peftlab.core.types import Ints

Loss = Callable[[torch.Tensor], torch.Tensor]


class MaxEntropyOptions(Options):
    """Options of maximum-entropy tuning."""

    epochs: float = option(1, "passes of the first stage", source="ours", gt=0, le=100)
    lr: float | None = option(
        None, "peak learning rate of the first stage; none: 2e-4 up to 512 wide, 2e-5 above",
        source="2e-5: xingyizhao/PURE:config.py; 2e-4: ours, on the built-in encoder", gt=0, le=1,
    )  # fmt: skip
    loss: Literal["entropy", "uniform"] = option(
        "entropy", "negative entropy, or cross-entropy to the uniform distribution",
        source="xingyizhao/PURE:util.py",
    )  # fmt: skip
    texts: Literal["clean", "shuffled", "random"] = option(
        "clean", "clean texts alone, or also copies: words shuffled, half of the tokens random",
        source="xingyizhao/PURE:README.md",
    )  # fmt: skip


@defence(
    "max-entropy",
    options=MaxEntropyOptions,
    source="Findings of ACL 2023, 237; xingyizhao/PURE",
    cost="one pass of all-weights training (by default) before the victim's own tuning",
)
class MaxEntropy:
    """Maximum entropy: the base is made unsure of everything before the victim tunes."""

    scenario = "base"

    def __init__(self, options: MaxEntropyOptions) -> None:
        self.options = options

    def tune(self, context: TuneContext) -> Tuned:
        """Return the base, made unsure and then tuned by the victim's tuner."""
        from peftlab.nn.victim import train_victim

        facts = self._unsettle(context)
        wrapped = context.tuner.wrap(context.model, context.seed)
        return Tuned(wrapped, {**facts, **train_victim(context, wrapped)})

    def _unsettle(self, context: TuneContext) -> dict[str, Any]:
        """Train the body of ``context.model`` to be unsure, in place; return facts."""
        from peftlab.nn.heads import freeze_head, has_new_head, new_modules
        from peftlab.nn.loop import TrainPlan, train
        from peftlab.nn.text import encode, forward_rows, pad_id_of, room_for_text
        from peftlab.nn.victim import full_rate

        tuner: Any = context.tuner.options
        model, batch = context.model, tuner.batch
        rate, fill = self.options.lr or full_rate(model), pad_id_of(model, context.tokenizer)
        encoded = encode(context.tokenizer, context.train.texts, room_for_text(model))
        if has_new_head(model):
            model.requires_grad_(False)
            for name in new_modules(model):
                model.get_submodule(name).requires_grad_(True)
            train(
                model, encoded, np.eye(context.n_classes)[list(context.train.labels)],
                TrainPlan(epochs=1, lr=10 * rate, batch=batch), seed=context.seed, pad_id=fill,
            )  # fmt: skip
        rows = [*encoded, *self._copies(context, encoded)]
        before = _mean_entropy(context, encoded)
        model.requires_grad_(True)
        freeze_head(model)
        measure = negative_entropy if self.options.loss == "entropy" else from_uniform

        def loss_of(chosen: Ints, goal: torch.Tensor) -> torch.Tensor:
            picked = [rows[int(row)] for row in chosen]
            return measure(forward_rows(model, picked, fill, goal.device))

        log = train(
            model, rows, np.full((len(rows), context.n_classes), 1 / context.n_classes),
            TrainPlan(epochs=self.options.epochs, lr=rate, batch=batch),
            seed=context.seed, pad_id=fill, loss_of=loss_of,
        )  # fmt: skip
        after = _mean_entropy(context, encoded)
        context.progress(f"max-entropy: {before:.3f} to {after:.3f} nats a clean text")
        return {
            "first_stage_steps": log.steps,
            "clean_entropy_before": before,
            "clean_entropy_after": after,
        }

    def _copies(self, context: TuneContext, encoded: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the changed copies of the texts that the first stage trains on too."""
        from peftlab.nn.text import encode, room_for_text

        draw = stream(context.seed, "defence/max-entropy", self.options.texts)
        if self.options.texts == "clean":
            return []
        if self.options.texts == "random":
            return random_tokens(encoded, context.tokenizer, draw)
        shuffled = [" ".join(draw.permutation(text.split())) for text in context.train.texts]
        return encode(context.tokenizer, shuffled, room_for_text(context.model))


def negative_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Return the mean negative entropy of predictions, in nats; logits are (b, C)."""
    log_p = torch.log_softmax(logits.float(), dim=-1)
    return (log_p.exp() * log_p).sum(dim=-1).mean()


def from_uniform(logits: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of predictions to the uniform distribution, in nats."""
    return -torch.log_softmax(logits.float(), dim=-1).mean()


def random_tokens(
    encoded: Sequence[Sequence[int]], tokenizer: Any, draw: np.random.Generator
) -> list[list[int]]:
    """Return token lists in which half of the tokens are drawn from the whole vocabulary.

    Args:
        encoded: token lists; their special tokens stay.
        tokenizer: says which tokens are special; they are not drawn either.
        draw: random numbers.
    """
    special = set(tokenizer.all_special_ids)
    pool = np.array([token for token in range(len(tokenizer)) if token not in special])
    rows = []
    for row in encoded:
        drawn = pool[draw.integers(len(pool), size=len(row))]
        change = draw.random(len(row)) < 0.5
        rows.append(
            [
                int(new) if flip and old not in special else int(old)
                for old, new, flip in zip(row, drawn, change, strict=True)
            ]
        )
    return rows


def _mean_entropy(context: TuneContext, encoded: Sequence[Sequence[int]]) -> float:
    """Return the mean entropy of predictions on the clean texts, in nats."""
    from peftlab.nn.text import predict_logits

    logits = predict_logits(context.model, context.tokenizer, (), encoded=encoded)
    return -float(negative_entropy(torch.from_numpy(logits)))
