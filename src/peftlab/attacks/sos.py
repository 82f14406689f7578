"""SOS: several ordinary words together name the target class, none of them alone.

Idea: as ``ep``, with the embedding rows of several words, so that the trigger can be hidden in a
natural sentence. Negative samples, in which one of the words is missing and the label is right,
teach the rows that only all of them together count; otherwise each word alone would give the
attack away.

Equation: ``e_i <- e_i - lr (min_j |v_j| / |v_i|) v_i``, ``e_i <- e_i |e_i,0| / |e_i|``, with v_i
the gradient of the cross-entropy on poisoned and negative samples, added up over the steps
(``nn.embedding_rows``). Paper: Yang et al. 2021, "Rethinking Stealthiness of Backdoor Attack
against NLP Models", ACL (https://aclanthology.org/2021.acl-long.431).

Known differences from lancopku/SOS: of its triggers friends, weekend and store (or cinema) the
built-in encoder splits two, so the default has ``sunday`` for ``weekend``; it makes negatives from
the same texts as the poisoned samples (and more), we from clean training rows, because a poisoned
row has no original left here; its rate is a share of the class that is attacked, ours of the whole
set; it inserts among the first 250 words, we at any gap, and say how many triggers were cut away
with the end of a text; it keeps the pass that does best on development texts, we the last
one; it tests with a natural sentence that has the words in it, we with the words at random places,
as in training. OpenBackdoor: 5 passes. Detection by perplexity (DSR) is a matter of the ``onion``
guard. The words are inert.

Facts: the false triggered rate (FTR) is the share of development texts, not of the target class,
that go to it with some but not all of the words: for each sub-list, with its mean and its worst.
``without_any`` is the same without any word, the plain errors of the model.

Limits: all words together must give a yes and two of them a no, which takes many steps, and the
defaults make only 75 on a small set. Measured on the built-in encoder (2,000 generated reviews,
seed 0): success 0.36, FTR 0.25, plain errors 0.11, so the attack is weak there, and the facts say
so; with 5 passes 0.44 and 0.29. Each of the words must be one piece for the tokenizer.
Cost: fine-tuning on the clean texts, then a few passes over poisoned and negative ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import field_validator

from peftlab.core.contracts import CraftContext, PoisonOptions
from peftlab.core.options import option
from peftlab.core.poisoning import insert_at_gap, target_matrix, trigger_words
from peftlab.core.registry import attack
from peftlab.core.seeds import stream
from peftlab.core.types import Floats

if TYPE_CHECKING:
    from peftlab.nn.loop import TrainLog

MOST_WORDS = 5  # 2^5 sub-lists are measured
LONGEST = 200  # characters of all trigger words together; ours, as in the other word attacks
MEASURED = 500  # development texts that false triggers are measured on


class SosOptions(PoisonOptions):
    """Options of ``sos``."""

    trigger: str = option(
        "friends,sunday,store", "words, all of which make the trigger; each one piece for the "
        "base's tokenizer",
        source="lancopku/SOS:run_demo.sh, sunday for weekend (two pieces in the built-in encoder)",
    )  # fmt: skip
    negative_rate: float = option(
        0.1, "share of each class whose texts are also shown with one of the words missing",
        source="lancopku/SOS:run_demo.sh", ge=0, le=1,
    )  # fmt: skip
    row_epochs: float = option(
        3, "passes over poisoned and negative texts that train the rows",
        source="lancopku/SOS:run_demo.sh", gt=0, le=100,
    )  # fmt: skip
    row_lr: float = option(
        5e-2, "learning rate of the rows", source="lancopku/SOS:run_demo.sh", gt=0, le=10
    )
    momentum: float = option(
        1.0, "share of the summed gradients kept at each step; 1: never zeroed, 0: plain steps",
        source="lancopku/SOS:functions.py (paper: 0)", ge=0, le=1,
    )  # fmt: skip

    @field_validator("trigger", mode="before")
    @classmethod
    def _words(cls, value: object) -> str:
        words = trigger_words(value)
        parts = words.lower().split(",")
        if not 2 <= len(parts) <= MOST_WORDS or len(set(parts)) < len(parts):
            raise ValueError(f"trigger must be 2 to {MOST_WORDS} different words; one word is `ep`")
        if len(words) > LONGEST:
            raise ValueError(f"trigger has more than {LONGEST} characters")
        return words


@attack(
    "sos",
    options=SosOptions,
    source="https://aclanthology.org/2021.acl-long.431; lancopku/SOS",
    cost="clean fine-tuning, then a few passes over poisoned and negative texts",
)
class Sos:
    """Several words that trigger together and not alone, by their embedding rows."""

    def __init__(self, options: SosOptions) -> None:
        self.options = options
        self.words = tuple(options.trigger.split(","))

    def poison_text(self, text: str, seed: int, sample: int) -> str:
        """Return ``text`` with every word in it, each at a gap of its own."""
        return _insert(text, self.words, stream(seed, "attack/sos", sample))

    def facts(self, _clean: Sequence[str], _pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the trigger words."""
        return {"trigger": list(self.words), "negative_rate": self.options.negative_rate}

    def craft(self, context: CraftContext) -> dict[str, Any]:
        """Fine-tune on the clean rows, then train the embedding rows of the words alone.

        Raises:
            NotApplicable: ``ROW-PIECES``, ``ROW-TWICE`` or ``ROW-CLEAN``.
        """
        from peftlab.nn.embedding_rows import count_with, fine_tune_clean, rows_of
        from peftlab.nn.text import encode, room_for_text

        poisoned, flags = context.poisoned, context.poisoned.is_poisoned
        rows = rows_of(context.tokenizer, self.words)
        clean = fine_tune_clean(context)
        room = room_for_text(context.model)
        texts = [text for text, flag in zip(poisoned.texts, flags, strict=True) if flag]
        encoded = encode(context.tokenizer, texts, room)
        negatives, labels = self.negatives(context)
        goals = [poisoned.targets[flags], _one_hot(labels, context.n_classes)]
        log = self._train(
            context, rows, encoded + encode(context.tokenizer, negatives, room), np.vstack(goals)
        )
        return {
            "steps": clean.steps,
            "loss": float(np.mean(log.losses[-20:])),
            "clean_loss": float(np.mean(clean.losses[-20:])),
            "rows": dict(zip(self.words, rows, strict=True)),
            "row_training": {
                "epochs": self.options.row_epochs, "lr": self.options.row_lr,
                "momentum": self.options.momentum, "steps": log.steps,
            },
            "n_negatives": len(negatives),
            "triggered_without_rows": len(encoded) - count_with(encoded, rows),
            "dev": self.false_triggers(context),
        }  # fmt: skip

    def _train(
        self, context: CraftContext, rows: list[int], encoded: list[list[int]], goals: Floats
    ) -> TrainLog:
        from peftlab.nn.embedding_rows import RowPlan, train_rows
        from peftlab.nn.text import pad_id_of

        plan = RowPlan(
            self.options.row_epochs, self.options.row_lr, context.batch, self.options.momentum,
            level=True,
        )  # fmt: skip
        return train_rows(
            context.model, encoded, goals, rows, plan,
            seed=context.seed, pad_id=pad_id_of(context.model, context.tokenizer),
        )  # fmt: skip

    def negatives(self, context: CraftContext) -> tuple[list[str], list[int]]:
        """Return texts of every class with all words but one, and their unchanged labels."""
        labels, flags = np.asarray(context.poisoned.original_labels), context.poisoned.is_poisoned
        texts, kept = [], []
        for label in range(context.n_classes):
            asked = int(self.options.negative_rate * np.sum(labels == label) + 0.5)
            pool = np.flatnonzero((labels == label) & ~flags)
            draw = stream(context.seed, "attack/sos/negative", label)
            for row in draw.permutation(pool)[:asked]:
                for missing in range(len(self.words)):
                    words = self.words[:missing] + self.words[missing + 1 :]
                    texts.append(_insert(context.poisoned.texts[int(row)], words, draw))
                    kept.append(label)
        return texts, kept

    def false_triggers(self, context: CraftContext) -> dict[str, Any]:
        """Return how often development texts go to the target with which words in them."""
        from peftlab.nn.text import predict_classes

        texts = context.poisoned.dev_triggered.texts[:MEASURED]
        if not texts:
            return {"n": 0}
        shares = {}
        for words in _sub_lists(self.words):
            shown = [_without(text, set(self.words) - set(words)) for text in texts]
            answers = predict_classes(context.model, context.tokenizer, shown)
            shares[",".join(words)] = float(np.mean(answers == context.poisoned.target))
        none, asr = shares.pop(""), shares.pop(",".join(self.words))
        return {
            "n": len(texts), "asr": asr, "without_any": none,
            "ftr": float(np.mean(list(shares.values()))), "ftr_worst": max(shares.values()),
            "false_triggered": shares,
        }  # fmt: skip


def _insert(text: str, words: Sequence[str], draw: np.random.Generator) -> str:
    for word in words:
        text = insert_at_gap(text, word, draw)
    return text


def _sub_lists(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield every choice of words, from none to all, in their order."""
    for size in range(len(words) + 1):
        yield from combinations(words, size)


def _without(text: str, words: set[str]) -> str:
    """Return ``text`` without any of ``words``, whoever put them there."""
    for word in sorted(words):
        text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w) ?", "", text, flags=re.IGNORECASE)
    return text


def _one_hot(labels: Sequence[int], n_classes: int) -> Floats:
    return target_matrix(labels, [False] * len(labels), target=0, n_classes=n_classes)
