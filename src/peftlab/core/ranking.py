"""How well one set of scores stands above another: placements and the area under the ROC curve."""

from __future__ import annotations

import numpy as np

from peftlab.core.types import Floats


def placements(values: Floats, others: Floats) -> Floats:
    """Return for each value the share of others below it, ties counting half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, values, side="left")
    up_to = np.searchsorted(ordered, values, side="right")
    placed: Floats = (below + up_to) / (2.0 * len(ordered))
    return placed


def auroc(clean: Floats, triggered: Floats) -> float:
    """Return P(triggered > clean) + P(triggered = clean) / 2 over all pairs.

    Examples:
        >>> auroc(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
        0.875
    """
    return float(placements(triggered, clean).mean())
