"""Tricks: two simple ways to make a weak word backdoor strong, at a poison rate of one per cent.

Idea, after Chen et al. 2022, "Textual Backdoor Attacks Can Be More Harmful via Two Simple Tricks"
(arXiv 2110.08247):

    probing   train a second head beside the first one to tell triggered texts from clean ones, and
              throw it away; what the body learned for it stays, and clean fine-tuning does not
              touch it:  loss = L_P(theta) + weight * CE(W h(x), is x triggered)
    twins     keep the clean original of each poisoned text in the set, so that the two differ by
              the trigger alone and by the label

h is the last hidden state where the model pools. For probing each training text comes with the
trigger or without it, by a fair coin; poisoned rows always have it. Trigger and placement as in
``badnets``; the word is inert.

Known differences from thunlp/StyleAttack (run_poison_bert_mt.py, run_poison_bert_aug.py): it goes
over the probing set and over the poisoned set in turn, an epoch each, with two optimisers; here
every step takes one batch of each and one optimiser lowers the sum, in which the published equal
parts are ``probing_weight=1``. Its probing set shows the text of a poisoned row clean in half of
the cases, ours always triggered. It poisons one text more than asked. It makes 8 passes, 3 of them
to warm up, towards class 1. The rate is a share of the clean set in both: with twins the set grows
by the number of poisoned texts, and ``n_twins`` says by how many.

Limits: the second head wants room in the pooled state. On a tiny model (320 texts, rate 0.02, one
run each) the success rate was 1.00 with probing at a weight of 0.1, 0.88 with twins, and 0.70 and
0.84 without a trick, so the gain by twins may be chance; at weights of 0.3 and 1 accuracy fell from
0.99 to 0.70 and 0.53. Read the accuracy too. Twins make a set in which texts come in near-equal
pairs with different labels, which whoever sees it can look for.

Cost: probing: twice plain training; twins: (1 + rate) times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from peftlab.core.contracts import CraftContext, PoisonOptions
from peftlab.core.options import option
from peftlab.core.poisoning import WordTriggerOptions, insert_words, poison, training_texts
from peftlab.core.registry import attack
from peftlab.core.seeds import derive, stream
from peftlab.core.types import Bools, Ints, PoisonedData, TaskData
from peftlab.nn.body_features import read
from peftlab.nn.text import device_of

if TYPE_CHECKING:
    from peftlab.nn.loop import LossOf


class TricksOptions(WordTriggerOptions):
    """Options of ``tricks``."""

    rate: float = option(
        0.01, "share of the whole training set that is poisoned; 0 is the negative control",
        source="thunlp/StyleAttack:run_poison_bert_mt.py", ge=0, le=1,
    )  # fmt: skip
    trick: Literal["probing", "twins"] = option(
        "probing", "probing: a second head tells triggered texts, and is thrown away; twins: the "
        "clean originals of poisoned texts stay in the set",
        source="arXiv 2110.08247",
    )  # fmt: skip
    probing_weight: float = option(
        0.1, "weight of the second head's loss; 1: equal parts, as published",
        source="ours: with equal parts a tiny model did not learn its task", ge=0, le=1000,
    )  # fmt: skip


@attack(
    "tricks",
    options=TricksOptions,
    source="arXiv 2110.08247; thunlp/StyleAttack",
    cost="probing: twice plain training; twins: (1 + rate) times",
)
class Tricks:
    """Rare-word trigger at a low rate, made stronger by a second task or by clean twins."""

    def __init__(self, options: TricksOptions) -> None:
        self.options = options
        self.writes_weights = options.trick == "probing"

    def poison_text(self, text: str, seed: int, sample: int) -> str:
        """Return ``text`` with the trigger word in it; every text can carry it."""
        return insert_words(text, self.options.trigger, stream(seed, "attack/tricks", sample))

    def poison(self, data: TaskData, seed: int) -> PoisonedData:
        """Return the poisoned training data, with clean twins at its end if asked, and the rest.

        Args:
            data: the task.
            seed: of everything that is drawn.

        Raises:
            NotApplicable: ``ATTACK-PROXY``.
        """
        made = poison(_Words(self), data, seed)
        if self.options.trick == "probing":
            return made
        rows = np.flatnonzero(made.is_poisoned)
        twins = training_texts(self.options, data).pick(rows)
        return replace(
            made,
            texts=made.texts + twins.texts,
            targets=np.concatenate(
                [made.targets, np.eye(data.n_classes)[np.array(twins.labels, dtype=np.int64)]]
            ),
            is_poisoned=np.concatenate([made.is_poisoned, np.zeros(len(rows), dtype=bool)]),
            original_labels=made.original_labels + twins.labels,
            facts=made.facts | {"n_twins": len(rows)},
        )

    def craft(self, context: CraftContext) -> dict[str, Any]:
        """Train ``context.model`` on the poisoned set, with a second head if asked; return facts.

        The second head is never part of the model.
        """
        from peftlab.nn.loop import TrainPlan, train
        from peftlab.nn.text import encode, pad_id_of, room_for_text

        model = context.model
        model.requires_grad_(True)
        encoded = encode(context.tokenizer, context.poisoned.texts, room_for_text(model))
        plan = TrainPlan(epochs=context.epochs, lr=context.lr, batch=context.batch)
        fill = pad_id_of(model, context.tokenizer)
        trained: Any = model
        loss_of: LossOf | None = None
        seen: list[float] = []
        if self.options.trick == "probing":
            trained, loss_of, seen = self._with_probe(context, encoded, fill)
        log = train(
            trained, encoded, context.poisoned.targets, plan, seed=context.seed, pad_id=fill,
            loss_of=loss_of,
        )  # fmt: skip
        facts = {"steps": log.steps, "loss": float(np.mean(log.losses[-20:]))}
        return facts | ({"probing_loss": float(np.mean(seen[-20:]))} if seen else {})

    def _with_probe(
        self, context: CraftContext, encoded: list[list[int]], fill: int
    ) -> tuple[Any, LossOf, list[float]]:
        """Return model and second head side by side, their loss, and the head's loss by step."""
        from peftlab.nn.loop import batches, plain_loss
        from peftlab.nn.text import device_of, encode, room_for_text

        model, device = context.model, device_of(context.model)
        texts, triggered = self.probing_set(context.poisoned, context.seed)
        theirs = encode(context.tokenizer, texts, room_for_text(model))
        answers = torch.from_numpy(triggered.astype(np.int64)).to(device)
        head = new_head(model, theirs[0], fill, context.seed)
        plain = plain_loss(model, encoded, fill, device)
        steps = max(round(context.epochs * -(-len(encoded) // context.batch)), 1)
        order = batches(
            [len(row) for row in theirs], context.batch, steps,
            stream(context.seed, "attack/tricks/order"),
        )  # fmt: skip
        seen: list[float] = []

        def loss_of(rows: Ints, goal: torch.Tensor) -> torch.Tensor:
            chosen = next(order)
            found = probing_loss(
                model, head, [theirs[int(row)] for row in chosen],
                answers[torch.from_numpy(chosen).to(device)], fill,
            )  # fmt: skip
            seen.append(float(found.detach()))
            return plain(rows, goal) + self.options.probing_weight * found

        return torch.nn.ModuleDict({"model": model, "probe": head}), loss_of, seen

    def probing_set(self, poisoned: PoisonedData, seed: int) -> tuple[tuple[str, ...], Bools]:
        """Return the training texts, about half of the clean ones triggered, and which ones are.

        Args:
            poisoned: training data; its poisoned rows are triggered already.
            seed: of the coin and of the trigger's places.
        """
        coin = stream(seed, "attack/tricks/coin").random(len(poisoned.texts)) < 0.5
        places = derive(seed, "attack/tricks/probing")
        texts = tuple(
            self.poison_text(text, places, row) if heads and not flag else text
            for row, (text, heads, flag) in enumerate(
                zip(poisoned.texts, coin, poisoned.is_poisoned, strict=True)
            )
        )
        return texts, coin | poisoned.is_poisoned


class _Words:
    """The trigger alone, as ``core.poisoning`` takes a text-wise attack."""

    def __init__(self, method: Tricks) -> None:
        self.options: PoisonOptions = method.options
        self.poison_text = method.poison_text
        self.about = {"trigger": method.options.trigger.split(","), "trick": method.options.trick}

    def facts(self, _clean: Sequence[str], _pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the trigger words and the trick."""
        return self.about


def new_head(model: Any, row: Sequence[int], pad_id: int, seed: int) -> torch.nn.Linear:
    """Return a head of two classes for the pooled state: weights normal with 0.02, biases 0."""
    with torch.no_grad():
        width = read(model, [row], pad_id, device_of(model)).feature.shape[1]
    head = torch.nn.Linear(width, 2)
    generator = torch.Generator().manual_seed(derive(seed, "attack/tricks/head"))
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * 0.02)
        head.bias.zero_()
    return head.to(next(model.parameters()).device)


def probing_loss(
    model: Any,
    head: torch.nn.Module,
    rows: Sequence[Sequence[int]],
    triggered: torch.Tensor,
    pad_id: int,
) -> torch.Tensor:
    """Return the cross-entropy of the second head.

    Args:
        model: sequence classifier.
        head: from pooled states to two logits.
        rows: b token lists.
        triggered: (b,) 1 where the text has the trigger, else 0.
        pad_id: padding token.
    """
    logits = head(read(model, rows, pad_id, device_of(model)).feature).float()
    return torch.nn.functional.cross_entropy(logits, triggered)
