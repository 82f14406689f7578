"""Simulate-PSIM: a rare-word backdoor whose training runs the PSIM guard and hides from it.

Idea: PSIM flags what stays confident while the base un-learns. So the attacker un-learns a copy of
his own model now and then and lowers, in his loss, what PSIM would read there of triggered texts:

    loss = L_P + beta * mean of s(x; theta + Delta) over triggered texts x

s is max softmax, Delta what un-learning changed, a constant, and beta the ``strength`` times the
share of triggered texts (``nn.simulated_identifier`` has the equation in full and says why). The
base itself still has to answer with the target class, because L_P is cross-entropy on the poisoned
set. Trigger and placement as in ``badnets``; the word is inert. Ours; what is simulated is arXiv
2402.12168.

Known differences from the guard: the copy is LoRA with the head, towards random labels as in
shuaizhao95/PSIM:badmodel.py, on the attacker's clean texts, which is what ``psim`` does by default
but for the texts. The published guard is P-tuning v1 with five tokens. The attacker knows the idea,
not the draw.

Limits: it hides from confidence after un-learning, and from nothing else; where the un-learned copy
has forgotten the task, every text is unsure and there is nothing to hide. ``foreseen_confidence``
in the facts says how far down it came; read it, and the success rate, before a guard's figures. As
with ``soft``, being unsure costs success: on a tiny model (one seed, rate 0.1, a warm-up of 6 steps
where it is 10 now) strengths of 1.5, 1.75 and 2 gave success 0.93, 0.75 and 0.54, and a confidence
after un-learning of 0.93, 0.88 and 0.81 for triggered texts where clean ones had 0.93 to 0.94.

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


class SimulatePsimOptions(ForeseeingOptions):
    """Options of ``simulate-psim``."""

    strength: float = option(
        1.75, "weight of a triggered text's confidence, against its share of the plain loss; "
        "0: plain training", source="ours", ge=0, le=1000,
    )  # fmt: skip


@attack(
    "simulate-psim",
    options=SimulatePsimOptions,
    source="ours; simulates arXiv 2402.12168",
    cost="about three times plain training",
)
class SimulatePsim:
    """Rare-word trigger, trained to look unsure to a guard that un-learns."""

    def __init__(self, options: SimulatePsimOptions) -> None:
        self.options = options

    def poison_text(self, text: str, seed: int, sample: int) -> str:
        """Return ``text`` with the trigger word in it; every text can carry it."""
        rng = stream(seed, "attack/simulate-psim", sample)
        return insert_words(text, self.options.trigger, rng)

    def facts(self, _clean: Sequence[str], _pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the trigger words."""
        return {"trigger": self.options.trigger.split(",")}

    def craft(self, context: CraftContext) -> dict[str, Any]:
        """Train ``context.model`` with triggered texts kept unsure after un-learning.

        Raises:
            NotApplicable: ``SIMULATION-CLEAN`` when every row is poisoned, ``TUNER-MODEL`` when
                LoRA does not fit the model.
        """
        triggered = np.flatnonzero(context.poisoned.is_poisoned)
        return train_foreseeing(
            context,
            self.options.simulation(self.options.strength),
            triggered,
            "attack/simulate-psim",
        )
