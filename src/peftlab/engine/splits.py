"""Who sees which clean texts: fit, reference and calibration never overlap.

The guarantee of the threshold needs calibration texts that nothing else was fitted on.
"""

from __future__ import annotations

from dataclasses import dataclass

from peftlab.core.errors import ConfigError
from peftlab.core.seeds import stream
from peftlab.core.types import LabelledTexts, TaskData

REFERENCE_SHARE = 0.2  # of the training set, kept out of un-learning
CALIBRATION_CAP = 5000  # more changes the threshold by less than its own noise


@dataclass(frozen=True, slots=True)
class GuardSplits:
    """Clean texts of the defender: to train on, to learn normal behaviour from, to calibrate on."""

    fit: LabelledTexts
    reference: LabelledTexts
    calibration: LabelledTexts


def guard_splits(data: TaskData, seed: int) -> GuardSplits:
    """Split the user's clean data: training texts 80 : 20 into fit and reference, dev calibrates.

    Raises:
        ConfigError: ``GUARD-FEW`` below 20 training texts.
    """
    n = len(data.train)
    if n < 20:
        raise ConfigError(
            "too few clean training texts to fit a guard",
            code="GUARD-FEW", got=n, allowed="20 or more", fix="give more clean training texts",
        )  # fmt: skip
    order = stream(seed, "guard/split").permutation(n)
    cut = n - max(round(REFERENCE_SHARE * n), 1)
    calibration = stream(seed, "guard/calibration").permutation(len(data.dev))[:CALIBRATION_CAP]
    return GuardSplits(
        fit=data.train.pick(order[:cut]),
        reference=data.train.pick(order[cut:]),
        calibration=data.dev.pick(calibration),
    )
