"""How sure is a value? The pigeonhole bootstrap: raters and items are drawn anew, independently.

Raters are drawn within their groups, whose sizes were a decision of whoever recruited them. A rater
drawn twice would agree with itself, so such pairs do not count (Owen 2007, pigeonhole bootstrap;
raters.md 5). The interval is the range of the middle 95 % of the draws.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from peftlab.core.types import Floats, Ints

LEVEL = 0.95


def draw(groups: Ints, items: int, total: int, draws: np.random.Generator) -> Iterator[
    tuple[Ints, Ints]
]:  # fmt: skip
    """Yield how often each rater and each item was drawn.

    Args:
        groups: (raters,) group of each; drawn with replacement within it, so sizes stay.
        items: number of items.
        total: how many draws.
        draws: source of randomness.
    """
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    for _ in range(total):
        raters = np.zeros(len(groups), dtype=np.int64)
        for rows in members:
            np.add.at(raters, draws.choice(rows, len(rows)), 1)
        yield raters, np.bincount(draws.integers(0, items, items), minlength=items)


def percentile(values: Floats) -> tuple[float, float]:
    """Return the ends of the interval of draws (N,); NaN with fewer than half of them defined."""
    known = values[~np.isnan(values)]
    if 2 * len(known) < len(values) or len(known) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
