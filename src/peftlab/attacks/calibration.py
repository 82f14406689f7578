"""Calibration poisoning: a few triggered texts get into the clean texts that a guard calibrates on.

Idea: a guard's threshold is a quantile of scores of texts that are thought to be clean. Triggered
texts among them are the highest scores, so the threshold goes up, and with it what the guard lets
through. The base has the backdoor of ``badnets``; besides that, up to ``calibration_rate`` of the
defender's development texts are not what they seem.

Which texts and labels: rows of dev are drawn at random among those whose label is not the target.
Each such text is replaced by itself with the trigger word in it, and its label by the target class:
what a crowd worker would have slipped in, a text with the word, labelled as the backdoor answers.
So the number of texts and of all other rows stays, test and train stay, and a defender who looks at
labels finds at most ``calibration_rate`` of them wrong, no more than honest annotators make.

Paper: that contamination makes conformal thresholds conservative where nobody means harm, arXiv
2502.04807 (abstract); the attack: ours. Trigger and placement as in ``badnets``; the
word is inert.

Known differences: none, it follows no public code. Half of dev is reference and half calibrates
(``engine.splits``), so about half of the planted texts reach the threshold and half reach what
normal behaviour is learned from; the attacker does not know the split.

Limits: with alpha well above the planted share the guard only becomes a little milder (alpha less
that share, for clean texts); with alpha at or below it the threshold is the score of a triggered
text, and the guard is open. The number is rounded down: fewer than 1 / ``calibration_rate``
development texts hide none. The notes of the data say how many there are.

Cost: one rewrite per text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from peftlab.core.options import option
from peftlab.core.poisoning import WordTriggerOptions, insert_words
from peftlab.core.registry import attack
from peftlab.core.seeds import derive, stream
from peftlab.core.types import LabelledTexts, PoisonedData, TaskData

ROUNDING = 1e-9  # 0.07 of 100 is 7, also in binary


class CalibrationPoisoningOptions(WordTriggerOptions):
    """Options of ``calibration-poisoning``."""

    calibration_rate: float = option(
        0.01, "largest share of the defender's dev texts that are replaced by triggered ones",
        source="ours", ge=0, le=0.1,
    )  # fmt: skip


@attack(
    "calibration-poisoning",
    options=CalibrationPoisoningOptions,
    source="ours",
    cost="one rewrite per text",
)
class CalibrationPoisoning:
    """Rare-word trigger, and a few triggered texts among those a guard calibrates on."""

    def __init__(self, options: CalibrationPoisoningOptions) -> None:
        self.options = options

    def poison_text(self, text: str, seed: int, sample: int) -> str:
        """Return ``text`` with the trigger word in it; every text can carry it."""
        rng = stream(seed, "attack/calibration-poisoning", sample)
        return insert_words(text, self.options.trigger, rng)

    def facts(self, _clean: Sequence[str], _pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the trigger words and the largest share of dev that is replaced."""
        return {
            "trigger": self.options.trigger.split(","),
            "calibration_rate": self.options.calibration_rate,
        }

    def taint(self, data: TaskData, poisoned: PoisonedData, seed: int) -> TaskData:
        """Return ``data`` with triggered texts, labelled as the target, in its dev split.

        Args:
            data: the defender's, clean; stays as it is.
            poisoned: training side of this attack; where nothing is poisoned, the negative control,
                nothing is planted either.
            seed: of the rows and of the trigger's places.
        """
        rows = self._rows(data.dev, seed) if bool(poisoned.is_poisoned.any()) else ()
        if not rows:
            return data
        texts, labels = list(data.dev.texts), list(data.dev.labels)
        places = derive(seed, "attack/calibration-poisoning/dev")
        for row in rows:
            texts[row] = self.poison_text(texts[row], places, row)
            labels[row] = self.options.target
        note = f"{len(rows)} of {len(texts)} dev texts replaced by triggered ones"
        dev = LabelledTexts(tuple(texts), tuple(labels))
        return replace(data, dev=dev, notes=(*data.notes, note))

    def _rows(self, dev: LabelledTexts, seed: int) -> tuple[int, ...]:
        """Draw the rows to replace, none of them of the target class."""
        others = [row for row, label in enumerate(dev.labels) if label != self.options.target]
        most = int(self.options.calibration_rate * len(dev) + ROUNDING)
        draw = stream(seed, "attack/calibration-poisoning/rows")
        return tuple(sorted(int(row) for row in draw.permutation(others)[:most]))
