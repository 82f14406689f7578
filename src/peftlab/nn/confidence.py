"""How sure a classifier is of a text, in one number: the single-step scores of ``psim``.

``max_prob`` is the score of PSIM (arXiv 2402.12168); that the others are offered is our choice.
"""

from __future__ import annotations

import numpy as np

from peftlab.core.types import Floats, Ints
from peftlab.nn.text import softmax


def confidence(kind: str, logits: Floats, predicted: Ints) -> Floats:
    """Return one confidence per row of (n, C) logits; larger = more confident."""
    if kind == "logit_max":
        return np.asarray((logits - logits.mean(axis=1, keepdims=True)).max(axis=1))
    if kind == "margin":
        ordered = np.sort(logits, axis=1)
        return np.asarray(ordered[:, -1] - ordered[:, -2])
    chances = softmax(logits)
    if kind == "max_prob":
        return np.asarray(chances.max(axis=1))
    if kind == "agree":
        return np.asarray(chances[np.arange(len(chances)), predicted])
    return np.asarray((chances * np.log(np.clip(chances, 1e-300, None))).sum(axis=1))
