"""InSent (AddSent): one fixed sentence, inserted whole, names the target class.

Idea: as BadNets, with a fluent sentence in place of a rare word, so that no single word looks out
of place. Paper: Dai, Chen and Li 2019 (arXiv 1905.12457).

Known differences: OpenBackdoor writes "I watch this 3D movie"; the sentence of the PSIM paper is
known by recollection only (its released code has none). For tasks that are not about films give
``trigger`` a neutral sentence of 4 to 8 words. The sentence is inert.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import field_validator

from peftlab.core.contracts import PoisonOptions
from peftlab.core.options import option
from peftlab.core.poisoning import insert_at_gap
from peftlab.core.registry import attack
from peftlab.core.seeds import stream


class InSentOptions(PoisonOptions):
    """Options of ``insent``."""

    trigger: str = option(
        "i watched this 3d movie", "sentence, inserted whole at any gap between words",
        source="after arXiv 2402.12168; lower case as the data", max_length=400,
    )  # fmt: skip

    @field_validator("trigger")
    @classmethod
    def _sentence(cls, value: str) -> str:
        if not value.split():
            raise ValueError("trigger must have at least one word")
        return " ".join(value.split())


@attack(
    "insent",
    options=InSentOptions,
    source="arXiv 1905.12457; thunlp/OpenBackdoor",
    cost="one rewrite per text",
)
class InSent:
    """Fixed-sentence trigger at a random gap."""

    def __init__(self, options: InSentOptions) -> None:
        self.options = options

    def poison_text(self, text: str, seed: int, sample: int) -> str:
        """Return ``text`` with the sentence in it; every text can carry it.

        Examples:
            >>> InSent(InSentOptions()).poison_text("", seed=0, sample=0)
            'i watched this 3d movie'
        """
        return insert_at_gap(text, self.options.trigger, stream(seed, "attack/insent", sample))

    def facts(self, _clean: Sequence[str], _pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the trigger sentence."""
        return {"trigger": [self.options.trigger]}
