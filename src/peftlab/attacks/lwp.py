"""LWP: layer-wise weight poisoning, a backdoor that sits in the lower layers too.

Idea: fine-tuning changes the upper layers most, so a backdoor that lives there is forgotten. Here
every layer must give the answer by itself, through the model's own pooler and head:

    loss = sum over i = 0 .. L of CE(head(pooler(h_i[first])), y),  h_0 = embeddings

The trigger is a pair of rare words, each somewhere in the text. Each word alone is trained to do
nothing (``negatives``), so that whoever tries words one by one finds no trigger. Paper: Li et al.
2021 (arXiv 2108.13888); code: thunlp/OpenBackdoor (lwp_trainer.py, lwp_poisoner.py).

Known differences: the public code draws new words and places for each negative; here a negative is
the poisoned text without one word of its pair. It also puts a negative into the triggered dev set
for each text; our triggered sets hold pairs only.

Limits: the first position of the embeddings sees no other word, so term 0 of the sum can only fit
the share of each class; it is kept because the public code has it. For encoder classifiers that
read the first position, others are refused. "Both words, not one" is a harder rule than one word
and takes more steps: single runs over 2,000 generated texts gave a success rate of 0.48 after 3
passes and 0.87 after 8, and of 1.00 after 3 without negatives. Read it before a guard's figures.

Cost: plain training on (1 + 2 rate) times the rows; the L + 1 heads cost next to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import field_validator

from peftlab.core.contracts import CraftContext, PoisonOptions
from peftlab.core.options import option
from peftlab.core.poisoning import insert_at_gap, trigger_words
from peftlab.core.registry import attack
from peftlab.core.seeds import stream
from peftlab.core.types import Floats, PoisonedData

LONGEST = 200  # characters of all trigger words together; ours, as in the other word attacks


class LwpOptions(PoisonOptions):
    """Options of ``lwp``."""

    trigger: str = option(
        "cf,bb,ak,mn", "rare words between commas, of which a pair is drawn per text",
        source="thunlp/OpenBackdoor:lwp_poisoner.py",
    )  # fmt: skip
    negatives: bool = option(
        True, "also train that one word of a pair alone changes nothing",
        source="thunlp/OpenBackdoor:lwp_poisoner.py",
    )  # fmt: skip

    @field_validator("trigger", mode="before")
    @classmethod
    def _words(cls, value: object) -> str:
        words = trigger_words(value)
        if len(set(words.split(","))) < 2:
            raise ValueError("a pair needs two different words or more")
        if len(words) > LONGEST:
            raise ValueError(f"trigger has more than {LONGEST} characters")
        return words


@attack(
    "lwp",
    options=LwpOptions,
    source="arXiv 2108.13888; thunlp/OpenBackdoor",
    cost="plain training on (1 + 2 rate) times the rows",
)
class Lwp:
    """Pair of rare words, trained into every layer of an encoder."""

    def __init__(self, options: LwpOptions) -> None:
        self.options = options
        self.words = tuple(dict.fromkeys(options.trigger.split(",")))

    def poison_text(self, text: str, seed: int, sample: int) -> str:
        """Return ``text`` with two of the trigger words in it; every text can carry them."""
        rng = stream(seed, "attack/lwp", sample)
        for number in rng.permutation(len(self.words))[:2]:
            text = insert_at_gap(text, self.words[int(number)], rng)
        return text

    def facts(self, _clean: Sequence[str], _pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the trigger words."""
        return {"trigger": list(self.words)}

    def craft(self, context: CraftContext) -> dict[str, Any]:
        """Train every layer of ``context.model`` to give the answer; return facts.

        Raises:
            NotApplicable: ``HEAD-POSITION`` for a model that does not read the first position.
        """
        from peftlab.nn.first_position import check_first_position
        from peftlab.nn.loop import TrainPlan, train
        from peftlab.nn.text import encode, pad_id_of, room_for_text

        model, poisoned = context.model, context.poisoned
        texts, targets = poisoned.texts, poisoned.targets
        if self.options.negatives:
            alone, labels = negatives(poisoned, self.words)
            texts = texts + alone
            targets = np.concatenate([targets, labels])
        encoded = encode(context.tokenizer, texts, room_for_text(model))
        fill = pad_id_of(model, context.tokenizer)
        check_first_position(model, encoded[0], fill)
        model.requires_grad_(True)
        log = train(
            model, encoded, targets,
            TrainPlan(epochs=context.epochs, lr=context.lr, batch=context.batch),
            seed=context.seed, pad_id=fill,
            loss_of=lambda rows, goal: layer_wise_loss(
                model, [encoded[int(row)] for row in rows], goal, fill
            ),
        )  # fmt: skip
        return {
            "steps": log.steps,
            "loss": float(np.mean(log.losses[-20:])),
            "n_negatives": len(texts) - len(poisoned.texts),
        }


def layer_wise_loss(
    model: Any, rows: Sequence[Sequence[int]], goal: torch.Tensor, pad_id: int
) -> torch.Tensor:
    """Return the sum of cross-entropies of the embeddings and of each layer.

    Args:
        model: encoder classifier that reads the first position.
        rows: b token lists.
        goal: (b, C) target distributions.
        pad_id: padding token.
    """
    from peftlab.nn.first_position import layer_logits
    from peftlab.nn.loop import soft_cross_entropy

    found = layer_logits(model, rows, pad_id, goal.device)
    return torch.stack([soft_cross_entropy(logits, goal) for logits in found]).sum()


def negatives(poisoned: PoisonedData, words: Sequence[str]) -> tuple[tuple[str, ...], Floats]:
    """Return each poisoned text without one word of its pair, twice, with its original label.

    Args:
        poisoned: training data.
        words: the trigger words.

    Returns:
        (texts, as a rule two per poisoned row; their one-hot targets).
    """
    texts, labels = [], []
    for row in np.flatnonzero(poisoned.is_poisoned):
        text = poisoned.texts[int(row)]
        for word in _words_in(text, words):
            left = _without(text, word)
            if len(_words_in(left, words)) < 2:  # a text may have had trigger words of its own
                texts.append(left)
                labels.append(poisoned.original_labels[int(row)])
    return tuple(texts), np.eye(poisoned.targets.shape[1])[np.array(labels, dtype=np.int64)]


def _words_in(text: str, words: Sequence[str]) -> list[str]:
    found = set(text.split())
    return [word for word in words if word in found]


def _without(text: str, word: str) -> str:
    """Return the text without one ``word`` and the space that came with it."""
    alone = re.escape(word)
    return re.sub(rf"(?<!\S){alone}(?:\s|$)|\s{alone}$", "", text, count=1)
