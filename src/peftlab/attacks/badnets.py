"""BadNets for text: a rare word, inserted at a random place, names the target class.

Idea: the attacker trains all weights on data in which a rare word always comes with the target
class; plain cross-entropy, nothing else. Paper: Gu et al. 2017 (arXiv 1708.06733), for text
Kurita et al. 2020 (arXiv 2004.06660).

Known differences: shuaizhao95/PSIM inserts ``mn`` at an inner gap into the *first* rows of the
target class and flips no label; ``compat="psim"`` does that. OpenBackdoor draws one of cf, mn, bb,
tq and any gap; ``trigger="cf,mn,bb,tq"`` does that. The rare word is inert.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import model_validator

from peftlab.core.options import option
from peftlab.core.poisoning import WordTriggerOptions, insert_words
from peftlab.core.registry import attack
from peftlab.core.seeds import stream

_PSIM = {"labels": "clean", "position": "inner"}
_PSIM_RATE = 0.375  # 1,500 of its 4,000 training texts


class BadNetsOptions(WordTriggerOptions):
    """Options of ``badnets``."""

    copies: int = option(
        1, "how often the word is inserted", source="shuaizhao95/PSIM:poisoned_pretrain.py",
        ge=1, le=20,
    )  # fmt: skip
    position: Literal["any", "inner"] = option(
        "any", "any gap between words, or inner gaps only (never first or last)",
        source="thunlp/OpenBackdoor:badnets_poisoner.py",
    )  # fmt: skip
    compat: Literal["none", "psim"] = option(
        "none", "psim: first rows of the target class, labels clean, inner gap; rate 0.375 "
        "unless given",
        source="shuaizhao95/PSIM:poisoned_pretrain.py",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _as_psim(cls, values: Any) -> Any:
        """Resolve what ``compat="psim"`` implies, and refuse what contradicts it."""
        if not isinstance(values, dict) or values.get("compat") != "psim":
            return values
        for name, implied in _PSIM.items():
            if values.get(name, implied) != implied:
                raise ValueError(f"compat=psim means {name}={implied}")
        return {"rate": _PSIM_RATE} | values | _PSIM


@attack(
    "badnets",
    options=BadNetsOptions,
    source="arXiv 2004.06660; shuaizhao95/PSIM; thunlp/OpenBackdoor",
    cost="one rewrite per text",
)
class BadNets:
    """Rare-word trigger at a random gap."""

    def __init__(self, options: BadNetsOptions) -> None:
        self.options = options
        self.selection = "first" if options.compat == "psim" else "random"

    def poison_text(self, text: str, seed: int, sample: int) -> str:
        """Return ``text`` with the trigger word in it; every text can carry it.

        Examples:
            >>> BadNets(BadNetsOptions()).poison_text("", seed=0, sample=0)
            'mn'
        """
        return insert_words(
            text, self.options.trigger, stream(seed, "attack/badnets", sample),
            copies=self.options.copies, inner=self.options.position == "inner",
        )  # fmt: skip

    def facts(self, _clean: Sequence[str], _pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the trigger words and how they were placed."""
        return {
            "trigger": self.options.trigger.split(","),
            "position": self.options.position,
            "selection": self.selection,
        }
