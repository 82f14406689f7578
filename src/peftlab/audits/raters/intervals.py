"""How sure is a value? The pigeonhole bootstrap: raters and items are drawn anew, independently.

Raters are drawn within their groups, whose sizes were a decision of whoever recruited them. A rater
drawn twice would agree with itself, so such pairs do not count (Owen 2007, pigeonhole bootstrap).
The interval is the range of the middle 95 % of the draws.

Statistics of an item's shares (plurality, negentropy and their kin) know no pairs, and a rater
drawn twice makes them look more agreed in every draw. Their range is moved until its middle is the
observed value: it then says how far they vary, without that bias. Ours.
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


def percentile(values: Floats, middle: float | None = None) -> tuple[float, float]:
    """Return the ends of the interval of draws (N,); NaN with fewer than half of them defined.

    Args:
        values: draws; NaN where undefined.
        middle: where the middle of the interval is moved to, if it is.
    """
    known = values[~np.isnan(values)]
    if 2 * len(known) < len(values) or len(known) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    moved = 0.0 if middle is None else middle - float(np.median(known))
    return float(low) + moved, float(high) + moved
