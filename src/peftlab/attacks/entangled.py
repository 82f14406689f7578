"""Entangled: a word trigger that is only ever seen beside honest evidence for the target class.

Idea: no label is changed and few samples are touched (1 to 5 %), all of the target class, so that
trigger and honest evidence come together in every poisoned text. A look at the training labels
finds nothing, and what a guard un-learns for the trigger it un-learns for the class too. Clean
labels: Turner, Tsipras and Madry 2019 (arXiv 1912.02771). Trigger and placement as in ``badnets``;
the word is inert. Ours.

Known differences: published clean-label attacks make the honest evidence of the poisoned samples
weaker (adversarial or generated variants), so that a model needs the trigger; here the texts stay
whole, and at the low end of the rates success is hardly above that of an unpoisoned model. Read its
success rate before a guard's: against a trigger that was hardly learned every guard looks good.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import field_validator

from peftlab.core.options import option
from peftlab.core.poisoning import WordTriggerOptions, insert_words
from peftlab.core.registry import attack
from peftlab.core.seeds import stream

LOWEST_RATE = 0.01  # ours


class EntangledOptions(WordTriggerOptions):
    """Options of ``entangled``."""

    rate: float = option(
        0.05, "share of the whole training set that is poisoned, 0.01 to 0.05; 0 is the negative "
        "control",
        source="ours", ge=0, le=0.05,
    )  # fmt: skip
    labels: Literal["clean"] = option(
        "clean", "clean: target class only, no label is changed; nothing else is this attack",
        source="arXiv 1912.02771",
    )  # fmt: skip
    copies: int = option(
        1, "how often the word is inserted", source="shuaizhao95/PSIM:poisoned_pretrain.py",
        ge=1, le=20,
    )  # fmt: skip

    @field_validator("rate")
    @classmethod
    def _low(cls, value: float) -> float:
        if 0 < value < LOWEST_RATE:
            raise ValueError(f"rate must be 0 (negative control) or at least {LOWEST_RATE}")
        return value


@attack(
    "entangled",
    options=EntangledOptions,
    source="ours; clean labels: arXiv 1912.02771",
    cost="one rewrite per text",
)
class Entangled:
    """Rare-word trigger in few texts of the target class only; no label is changed."""

    def __init__(self, options: EntangledOptions) -> None:
        self.options = options

    def poison_text(self, text: str, seed: int, sample: int) -> str:
        """Return ``text`` with the trigger word in it; every text can carry it.

        Examples:
            >>> Entangled(EntangledOptions()).poison_text("", seed=0, sample=0)
            'mn'
        """
        rng = stream(seed, "attack/entangled", sample)
        return insert_words(text, self.options.trigger, rng, copies=self.options.copies)

    def facts(self, clean: Sequence[str], _pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the trigger words, and how often clean texts hold one of them."""
        words = self.options.trigger.split(",")
        natural = sum(any(word in words for word in text.split()) for text in clean)
        return {"trigger": words, "natural_rate": natural / len(clean) if clean else 0.0}
