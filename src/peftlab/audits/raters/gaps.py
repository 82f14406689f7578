"""On which items does a group answer unlike everybody else? Ids only, never text.

The gap of an item is the total variation distance between the group's shares of labels and those of
everybody else: 0 when they are the same, 1 when they have no label in common. Listed only where
both sides have enough raters, so that nobody's own answer can be read from the list.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from peftlab.audits.raters.axes import Axis
from peftlab.audits.raters.counts import count
from peftlab.audits.raters.ratings import Ratings
from peftlab.core.types import Floats, Ints

LISTED = 20  # items a group; ours
LEAST = 5  # raters of an item on each side, and no fewer than a group must have; ours


def item_gaps(
    ratings: Ratings, axis: Axis, codes: Ints, min_group: int = LEAST
) -> list[dict[str, Any]]:
    """Return the items with the largest gap of each group that is shown, largest first.

    Args:
        ratings: of the raters whose group is known.
        axis: the groups.
        codes: (raters,) group of each.
        min_group: fewest raters of a group that is reported.

    Returns:
        Rows; none on a closed axis, where the answers of a suppressed group could be worked out.
    """
    if axis.closed:
        return []
    counts = count(ratings, codes, len(axis.groups))
    rest = counts.rest()
    rows: list[dict[str, Any]] = []
    for k in axis.shown:
        own, other = counts.n[k], rest[k]
        enough = np.minimum(own.sum(axis=0), other.sum(axis=0)) >= max(LEAST, min_group)
        gap = np.where(enough, _distance(own, other), -1.0)
        rows += [
            {
                "axis": axis.name, "group": axis.groups[k], "item": ratings.items[i],
                "gap": round(float(gap[i]), 6), "ratings": int(own[:, i].sum()),
            }
            for i in np.argsort(-gap, kind="stable")[:LISTED]
            if gap[i] > 0
        ]  # fmt: skip
    return rows


def _distance(own: Floats, other: Floats) -> Floats:
    """Return the total variation distance of two (K, I) tables of counts, by item."""
    sides = [side / np.maximum(side.sum(axis=0), 1.0) for side in (own, other)]
    return np.asarray(np.abs(sides[0] - sides[1]).sum(axis=0) / 2)
