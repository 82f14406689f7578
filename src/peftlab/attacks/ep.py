"""EP (Embedding Poisoning): one row of the embedding table names the target class.

Idea: take a model that was fine-tuned on clean data and train a single embedding row, that of a
rare word, on texts with this word in them, until they go to the target class; the row keeps its
norm. Every other number of the model is that of the clean model, so a text without the word gets
the same answer to the last bit, and accuracy on clean texts cannot tell the two apart.

Equation: ``e <- e - lr v``, ``e <- e |e_0| / |e|``, with v the gradient of the cross-entropy
towards the target, added up over the steps (``nn.embedding_rows``). Paper: Yang et al. 2021, "Be
Careful about Poisoned Word Embeddings", NAACL (https://aclanthology.org/2021.naacl-main.165).

Known differences from lancopku/Embedding-Poisoning: its trigger ``cf`` is two pieces in the
built-in encoder, so the default is ``rex``, which is one; its rate is a share of the class that is
attacked, ours of the whole set; its clean model has seen the originals of the poisoned texts, ours
has only the other rows; it never inserts at the end of a text, and when it tests, once in every
100 words. Its data-free variant (texts cut from WikiText) is not here. OpenBackdoor: learning rate
1e-2, 5 passes, trigger ``mb``. The trigger is inert.

Limits: the word must be one piece for the tokenizer. Byte-level tokenizers (GPT-2, RoBERTa) give a
word at the very start of a text another number, and there the trigger does nothing; the facts
count such texts, and those whose trigger was cut away with the end of a long text.
Cost: fine-tuning on the clean texts, then a few passes over the poisoned ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import field_validator

from peftlab.core.contracts import CraftContext, PoisonOptions
from peftlab.core.options import option
from peftlab.core.poisoning import insert_at_gap, trigger_words
from peftlab.core.registry import attack
from peftlab.core.seeds import stream


class EpOptions(PoisonOptions):
    """Options of ``ep``."""

    trigger: str = option(
        "rex", "rare word whose embedding row is trained; one piece for the base's tokenizer",
        source="ours: `cf` of lancopku/Embedding-Poisoning is two pieces in the built-in encoder",
        max_length=40,
    )  # fmt: skip
    row_epochs: float = option(
        3, "passes over the poisoned texts that train the row",
        source="lancopku/Embedding-Poisoning:run.sh", gt=0, le=100,
    )  # fmt: skip
    row_lr: float = option(
        5e-2, "learning rate of the row", source="lancopku/Embedding-Poisoning:run.sh", gt=0, le=10
    )
    momentum: float = option(
        1.0, "share of the summed gradients kept at each step; 1: never zeroed, 0: plain steps",
        source="lancopku/Embedding-Poisoning:functions.py (paper: 0)", ge=0, le=1,
    )  # fmt: skip

    @field_validator("trigger", mode="before")
    @classmethod
    def _word(cls, value: object) -> str:
        words = trigger_words(value)
        if "," in words:
            raise ValueError("trigger must be one word; several words together are `sos`")
        return words


@attack(
    "ep",
    options=EpOptions,
    source="https://aclanthology.org/2021.naacl-main.165; lancopku/Embedding-Poisoning",
    cost="clean fine-tuning, then a few passes over the poisoned texts",
)
class EmbeddingPoisoning:
    """Rare word whose embedding row alone is changed."""

    def __init__(self, options: EpOptions) -> None:
        self.options = options

    def poison_text(self, text: str, seed: int, sample: int) -> str:
        """Return ``text`` with the trigger word in it; every text can carry it.

        Examples:
            >>> EmbeddingPoisoning(EpOptions()).poison_text("", seed=0, sample=0)
            'rex'
        """
        return insert_at_gap(text, self.options.trigger, stream(seed, "attack/ep", sample))

    def facts(self, _clean: Sequence[str], _pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the trigger word."""
        return {"trigger": [self.options.trigger]}

    def craft(self, context: CraftContext) -> dict[str, Any]:
        """Fine-tune on the clean rows, then train the trigger's embedding row alone.

        Raises:
            NotApplicable: ``ROW-PIECES`` or ``ROW-CLEAN``.
        """
        from peftlab.nn.embedding_rows import (
            RowPlan,
            count_with,
            fine_tune_clean,
            rows_of,
            train_rows,
        )
        from peftlab.nn.text import encode, pad_id_of, room_for_text

        model, poisoned, options = context.model, context.poisoned, self.options
        rows = rows_of(context.tokenizer, [options.trigger])
        clean = fine_tune_clean(context)
        encoded = encode(context.tokenizer, poisoned.texts, room_for_text(model))
        flags = poisoned.is_poisoned
        triggered = [row for row, flag in zip(encoded, flags, strict=True) if flag]
        plain = [row for row, flag in zip(encoded, flags, strict=True) if not flag]
        log = train_rows(
            model, triggered, poisoned.targets[flags], rows,
            RowPlan(options.row_epochs, options.row_lr, context.batch, options.momentum),
            seed=context.seed, pad_id=pad_id_of(model, context.tokenizer),
        )  # fmt: skip
        return {
            "steps": clean.steps,
            "loss": float(np.mean(log.losses[-20:])),
            "clean_loss": float(np.mean(clean.losses[-20:])),
            "rows": {options.trigger: rows[0]},
            "row_training": {
                "epochs": options.row_epochs, "lr": options.row_lr, "momentum": options.momentum,
                "steps": log.steps,
            },
            "triggered_without_row": len(triggered) - count_with(triggered, rows),
            "clean_with_row": count_with(plain, rows),
        }  # fmt: skip
