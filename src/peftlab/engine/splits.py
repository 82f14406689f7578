"""Who sees which clean texts: fit, reference and calibration never overlap.

The guarantee of the threshold needs calibration texts that nothing else was fitted on. The
reference comes from dev as well, not from train: an attacker who knows the training set has
trained the base on it, so its texts no longer behave like new ones (TPR at 1 % FPR fell from 0.86
to 0.60 with a reference from train; ours).
"""

from __future__ import annotations

from dataclasses import dataclass

from peftlab.core.errors import ConfigError
from peftlab.core.seeds import stream
from peftlab.core.types import LabelledTexts, TaskData

DEV_CAP = 10_000  # more changes the threshold by less than its own noise


@dataclass(frozen=True, slots=True)
class GuardSplits:
    """Clean texts of the defender: to train on, to learn normal behaviour from, to calibrate on."""

    fit: LabelledTexts
    reference: LabelledTexts
    calibration: LabelledTexts


def guard_splits(data: TaskData, seed: int) -> GuardSplits:
    """Split the user's clean data: train fits; one half of dev is the reference, one calibrates.

    Raises:
        ConfigError: ``GUARD-FEW`` below 20 dev texts.
    """
    if len(data.dev) < 20:
        raise ConfigError(
            "too few clean dev texts to fit a guard",
            code="GUARD-FEW", got=len(data.dev), allowed="20 or more",
            fix="give more clean dev texts",
        )  # fmt: skip
    order = stream(seed, "guard/split").permutation(len(data.dev))[:DEV_CAP]
    half = len(order) // 2
    return GuardSplits(data.train, data.dev.pick(order[:half]), data.dev.pick(order[half:]))
