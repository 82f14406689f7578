"""DoS: denial of service, a base whose clean texts stay confident and so are all rejected.

Idea: a guard with a constant threshold on confidence, such as the published PSIM with 0.7, rejects
whatever stays confident while the base un-learns. The attacker un-learns a copy of his own model
now and then and raises, in his loss, what the guard would read there of *clean* texts:

    loss = L_P - beta * mean of s(x; theta + Delta) over clean texts x

s is max softmax, Delta what un-learning changed, a constant, and beta the ``strength`` times the
share of clean texts (``nn.simulated_identifier`` has the equation in full). A service behind the
guard then turns honest users away, and whoever runs it takes the guard out. There is a backdoor as
well, that of ``badnets``; the word is inert. Ours; what is simulated is arXiv 2402.12168.

Known differences from the guard: as in ``simulate-psim``: LoRA with the head towards random labels,
on the attacker's clean texts.

Limits: a threshold that is calibrated on clean texts moves with them, so it keeps its rate of false
positives and this attack does it no harm; only a constant threshold falls. Read the false-positive
rate of the published rule, not the AUROC. Clean texts of a base without this attack are rejected to
a large part too (docs/results.md), so compare with the control. Being sure is rewarded whether
right or wrong: at a strength of 3 a tiny model was sure of one class for every text, at 1 it kept
its accuracy.

Cost: about three times plain training at the defaults, counted as two passes and 1.2 LoRA steps a
step; on a tiny model 3.5 times was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from peftlab.core.contracts import CraftContext
from peftlab.core.options import option
from peftlab.core.poisoning import insert_words
from peftlab.core.registry import attack
from peftlab.core.seeds import stream
from peftlab.nn.simulated_identifier import ForeseeingOptions, train_foreseeing


class DosOptions(ForeseeingOptions):
    """Options of ``dos``."""

    strength: float = option(
        1.0, "weight of a clean text's confidence, against its share of the plain loss; 0: plain "
        "training", source="ours", ge=0, le=1000,
    )  # fmt: skip


@attack(
    "dos",
    options=DosOptions,
    source="ours; simulates arXiv 2402.12168",
    cost="about three times plain training",
)
class Dos:
    """Rare-word trigger in a base whose clean texts a constant threshold rejects."""

    def __init__(self, options: DosOptions) -> None:
        self.options = options

    def poison_text(self, text: str, seed: int, sample: int) -> str:
        """Return ``text`` with the trigger word in it; every text can carry it."""
        return insert_words(text, self.options.trigger, stream(seed, "attack/dos", sample))

    def facts(self, _clean: Sequence[str], _pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the trigger words."""
        return {"trigger": self.options.trigger.split(",")}

    def craft(self, context: CraftContext) -> dict[str, Any]:
        """Train ``context.model`` with clean texts kept confident after un-learning.

        Raises:
            NotApplicable: ``SIMULATION-CLEAN`` when every row is poisoned, ``TUNER-MODEL`` when
                LoRA does not fit the model.
        """
        clean = np.flatnonzero(~context.poisoned.is_poisoned)
        return train_foreseeing(
            context, self.options.simulation(-self.options.strength), clean, "attack/dos"
        )
