"""What each look at an identifier tells: scores of texts, calibrated rates, AUROC, confidence.

At look k (step 0 is the untouched base, whose class counts as predicted throughout)

    gap         how far the predicted class's margin lies above that of clean reference texts of
                the class, in standard deviations (one step alone)
    max_prob    max softmax (one step alone; the published score)
    trajectory  path evidence of the looks 0 .. k (see nn.evidence), what a guard that stops at
                k would sum

Reference and thresholds come from clean dev texts alone, one half each; triggered texts enter
nothing but the final counts. Sources: arXiv 2402.12168 (``max_prob``), arXiv 2104.08279 (the
thresholds); ``gap`` and ``trajectory``: ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftlab.core.ranking import auroc
from peftlab.core.types import Floats, Ints, Scores
from peftlab.engine.calibrate import Calibration, flags, smallest_m
from peftlab.nn.confidence import confidence
from peftlab.nn.evidence import Evidence, Look, own_margin
from peftlab.nn.gaussian import ClassNormals

SCORES = ("gap", "max_prob", "trajectory")
LEVELS = {"05": 0.05, "01": 0.01}
DIGITS = 6  # of what is written

Score = Callable[[Look], Floats]


@dataclass(frozen=True, slots=True)
class Seen:
    """The looks at the four kinds of texts.

    Attributes:
        reference, calibration: the two halves of the clean dev texts.
        clean, triggered: test texts.
    """

    reference: Look
    calibration: Look
    clean: Look
    triggered: Look


def _scorer(name: str, k: int, reference: Look, n_classes: int) -> Score:
    """Return one score at look k, fitted on the clean reference."""
    if name == "max_prob":
        return lambda look: confidence("max_prob", look.logits[0][:, k], look.predicted)
    if name == "gap":
        normals = ClassNormals.fit(_margin(reference, k), reference.predicted, n_classes)
        return lambda look: normals.unusual(_margin(look, k), look.predicted)
    evidence = Evidence.fit(_until(reference, k), ("path",), n_classes)
    return lambda look: evidence.score(_until(look, k))


def _margin(look: Look, k: int) -> Floats:
    return own_margin(look.logits[0][:, k : k + 1], look.predicted)[:, 0]


def _until(look: Look, k: int) -> Look:
    return Look([look.logits[0][:, : k + 1]], look.hidden, look.predicted)


def judge(score: Score, seen: Seen) -> dict[str, float | None]:
    """Return AUROC and, at each level, realised FPR and TPR (None with too few clean texts)."""
    clean, triggered = score(seen.clean), score(seen.triggered)
    usual = score(seen.calibration)
    found: dict[str, float | None] = {"auroc": auroc(clean, triggered)}
    for name, alpha in LEVELS.items():
        enough = len(usual) >= smallest_m(alpha)
        calibration = Calibration(usual, alpha) if enough else None
        for rate, values in (("fpr", clean), ("tpr", triggered)):
            found[f"{rate}_{name}"] = (
                None if calibration is None
                else float(flags(calibration, Scores(values)).mean())
            )  # fmt: skip
    return found


def curves(seen: Seen, n_classes: int) -> dict[str, Any]:
    """Return the curves over looks: ``confidence`` (clean, triggered) and one entry per score.

    Args:
        seen: looks with one identifier, logits (n, K + 1, C).
        n_classes: C.

    Returns:
        JSON-able; every curve has K + 1 values.
    """
    looks = range(seen.reference.logits[0].shape[1])
    found: dict[str, Any] = {
        "confidence": {
            name: [_mean_confidence(look, k) for k in looks]
            for name, look in (("clean", seen.clean), ("triggered", seen.triggered))
        }
    }
    for name in SCORES:
        rows = [judge(_scorer(name, k, seen.reference, n_classes), seen) for k in looks]
        found[name] = {key: [_round(row[key]) for row in rows] for key in rows[0]}
    return found


def _mean_confidence(look: Look, k: int) -> float:
    return round(float(confidence("max_prob", look.logits[0][:, k], look.predicted).mean()), DIGITS)


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def look_of(logits: list[Floats], predicted: Ints) -> Look:
    """Return what was seen of n texts, one array an identifier, without hidden states."""
    return Look(logits, np.zeros((len(predicted), 0)), predicted)
