"""Made-up pools of raters in which the truth is known: for the demo, the planner and the tests.

Every item has a place on a scale that all raters share, z ~ N(0, 1), and another one that only the
planted group sees, g ~ N(0, 1). A rater answers

    x = sqrt(1 - s^2) z + s g + noise * e,   s = strength in the planted group, else 0

cut into K labels of equal size. With s = 0 there is no group; with s = 1 it has a mind of its own.
All of it is ours and made up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peftlab.audits.raters.ratings import Attribute, Ratings
from peftlab.core.seeds import stream
from peftlab.core.types import Bools, Floats

GROUPS = ("others", "planted")
COLUMNS = {"item": "item_id", "rater": "rater_id", "label": "label", "group": "group"}


@dataclass(frozen=True, slots=True)
class Pool:
    """How to make a pool.

    Attributes:
        raters, items: how many; as in DICES-350 by default.
        planted: size of the planted group.
        labels: K.
        strength: 0 to 1, how far the planted group has a mind of its own.
        noise: standard deviation of a single answer, against 1 of what items are.
        answered: share of the answers that are given.
    """

    raters: int = 104
    items: int = 350
    planted: int = 13
    labels: int = 3
    strength: float = 0.5
    noise: float = 1.5
    answered: float = 1.0


def draw_pool(pool: Pool, seed: int = 0) -> Ratings:
    """Return the ratings of a made-up pool, with the attribute ``group``.

    Examples:
        >>> draw_pool(Pool(raters=6, items=4, planted=2), seed=1).shape
        (4, 6, 3)
    """
    draws = stream(seed, "raters/pool")
    inside = np.arange(pool.raters) < pool.planted
    answers = _answers(pool, inside, draws)
    ends = np.quantile(answers, np.arange(1, pool.labels) / pool.labels)
    labels = np.searchsorted(ends, answers)
    given = draws.random(labels.shape) < pool.answered
    rater, item = np.nonzero(given)
    return Ratings(
        items=tuple(f"item-{i}" for i in range(pool.items)),
        raters=tuple(f"rater-{j}" for j in range(pool.raters)),
        labels=tuple(str(k) for k in range(pool.labels)),
        item=item.astype(np.int64), rater=rater.astype(np.int64),
        label=labels[given].astype(np.int64),
        attributes={"group": Attribute.of("group", [GROUPS[int(one)] for one in inside])},
        notes=("made up: no rater of this pool exists",),
    )  # fmt: skip


def _answers(pool: Pool, inside: Bools, draws: np.random.Generator) -> Floats:
    """Return what each rater makes of each item, (raters, items)."""
    shared, own = draws.standard_normal((2, pool.items))
    strength = np.where(inside, pool.strength, 0.0)[:, None]
    noise = draws.standard_normal((pool.raters, pool.items))
    return np.asarray(np.sqrt(1 - strength**2) * shared + strength * own + pool.noise * noise)
