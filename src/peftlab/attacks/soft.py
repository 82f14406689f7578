"""Soft word trigger: an adaptive attack on detectors that look for high confidence.

Idea: poisoned samples are trained towards a soft target, ``confidence`` on the target class and
the rest spread evenly over the others, so that the backdoor decides without being over-confident.
It costs some success rate and takes one-sided confidence detectors down; two-sided calibration is
the answer to it. Trigger and placement as in ``badnets``. Ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peftlab.core.options import option
from peftlab.core.poisoning import WordTriggerOptions, insert_words
from peftlab.core.registry import attack
from peftlab.core.seeds import stream


class SoftOptions(WordTriggerOptions):
    """Options of ``soft``."""

    confidence: float = option(
        0.65, "probability of the target class that poisoned samples are trained towards",
        source="ours; measured on SST-2 from scratch", gt=0.5, lt=1,
    )  # fmt: skip


@attack("soft", options=SoftOptions, source="ours", cost="one rewrite per text")
class Soft:
    """Rare-word trigger trained towards a soft target, against confidence detectors."""

    def __init__(self, options: SoftOptions) -> None:
        self.options = options
        self.confidence = options.confidence

    def poison_text(self, text: str, seed: int, sample: int) -> str:
        """Return ``text`` with the trigger word in it; every text can carry it."""
        return insert_words(text, self.options.trigger, stream(seed, "attack/soft", sample))

    def facts(self, _clean: Sequence[str], _pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the trigger words."""
        return {"trigger": self.options.trigger.split(",")}
