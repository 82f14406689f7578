"""How large must a group be for its perspective to show? GAI of random groups, by their size.

Groups of s raters are drawn from the pool at random, so whatever they show is chance. The middle
95 % of their GAI is what a real group of that size has to leave. Its spread falls with size about
like a power of it, c s^-a, which is fitted and extended to sizes beyond the pool. All of it ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftlab.audits.raters.cohesion import Level, measure
from peftlab.audits.raters.counts import Counts, batches, count_many
from peftlab.audits.raters.ratings import Ratings
from peftlab.core.seeds import stream
from peftlab.core.types import Floats

DRAWS = 400  # ours: the ends of 95 % then rest on ten draws each
SMALLEST = 5
GROWTH = 1.6  # ours: from one size to the next


def group_sizes(raters: int) -> list[int]:
    """Return sizes to try, up to half of the pool.

    Examples:
        >>> group_sizes(104)
        [5, 8, 13, 20, 33, 52]
    """
    sizes: list[int] = []
    size = float(SMALLEST)
    while round(size) < raters // 2:
        sizes.append(round(size))
        size *= GROWTH
    return [*sizes, raters // 2] if raters // 2 >= SMALLEST else []


def random_groups(
    ratings: Ratings, sizes: Sequence[int], level: Level = "nominal", draws: int = DRAWS,
    seed: int = 0,
) -> list[Floats]:  # fmt: skip
    """Return the GAI of random groups, (draws,) for each size; NaN where it is undefined.

    Args:
        ratings: the pool.
        sizes: raters in a group.
        level: of measurement.
        draws: groups a size.
        seed: of the draws.
    """
    numbers = ratings.numbers()
    values = None if numbers is None else np.array(numbers)
    found = []
    for size in sizes:
        source = stream(seed, "raters/size", size)
        parts = []
        for many in batches(draws, ratings, 2):
            groups = np.ones((many, len(ratings.raters)), dtype=np.int64)
            for row in groups:
                row[source.permutation(len(row))[:size]] = 0
            tables = Counts.plain(count_many(ratings, groups, 2))
            parts.append(measure(tables, level, values, metrics=("gai",))["gai"][:, 0])
        found.append(np.concatenate(parts))
    return found


def power_curve(ratings: Ratings, level: Level = "nominal", seed: int = 0) -> dict[str, Any]:
    """Return sizes, and the 2.5, 50 and 97.5 % points of the GAI of random groups of each."""
    sizes = group_sizes(len(ratings.raters))
    points = [
        np.nanquantile(gai, (0.025, 0.5, 0.975)) if np.isfinite(gai).any() else [np.nan] * 3
        for gai in random_groups(ratings, sizes, level, seed=seed)
    ]
    known = [(size, point) for size, point in zip(sizes, points, strict=True)
             if not np.isnan(point).any()]  # fmt: skip
    names = ("low", "median", "high")
    return {"sizes": [size for size, _ in known]} | {
        name: [round(float(point[k]), 6) for _, point in known] for k, name in enumerate(names)
    }


@dataclass(frozen=True, slots=True)
class Spread:
    """Standard deviation of the GAI of random groups, by their size and that of everybody else.

        sd^2 = (c size^-a)^2 + (d rest^-b)^2

    Attributes:
        c, a: fitted on a logarithmic scale, on groups up to half of the pool.
        d, b: fitted on what groups of more than half vary beyond that.
    """

    c: float
    a: float
    d: float = 0.0
    b: float = 0.0

    @classmethod
    def fit(cls, sizes: Sequence[int], draws: Sequence[Floats]) -> Spread | None:
        """Fit; None with fewer than two sizes at which the spread is known."""
        known = [
            (np.log(size), np.log(np.nanstd(gai)))
            for size, gai in zip(sizes, draws, strict=True)
            if 2 * np.isfinite(gai).sum() > len(gai) and np.nanstd(gai) > 0
        ]
        if len(known) < 2:
            return None
        at, spread = np.array(known).T
        slope, level = np.polyfit(at, spread, 1)
        return cls(float(np.exp(level)), float(-slope))

    @classmethod
    def measure(cls, pool: Ratings, level: Level, seed: int) -> Spread | None:
        """Measure both parts on random groups of a pool; None if it is too small."""
        total, sizes = len(pool.raters), group_sizes(len(pool.raters))
        found = cls.fit(sizes, random_groups(pool, sizes, level, seed=seed))
        if found is None:
            return None
        large = [total - size for size in sizes if 2 * size < total]
        beyond = [
            (total - size, max(float(np.nanstd(gai)) ** 2 - found.at(size) ** 2, 0.0) ** 0.5)
            for size, gai in zip(large, random_groups(pool, large, level, seed=seed), strict=True)
            if np.isfinite(gai).any()
        ]
        known = [(np.log(rest), np.log(sd)) for rest, sd in beyond if sd > 0]
        if len(known) < 2:
            return found
        at, spread = np.array(known).T
        slope, start = np.polyfit(at, spread, 1)
        return cls(found.c, found.a, float(np.exp(start)), float(-slope))

    def at(self, size: float, rest: float | None = None) -> float:
        """Return the standard deviation at a size; ``rest`` raters are outside, or very many."""
        outside = 0.0 if rest is None else self.d * rest**-self.b
        return float(np.hypot(self.c * size**-self.a, outside))
