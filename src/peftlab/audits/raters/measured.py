"""One axis measured: what is there, what shuffled raters give, what drawn raters and items give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from peftlab.audits.raters import cohesion, intervals, significance
from peftlab.audits.raters.axes import Axis, strata
from peftlab.audits.raters.cohesion import METRICS, Metric
from peftlab.audits.raters.counts import Counts, batches, count, count_many, count_weighted
from peftlab.audits.raters.options import GraspOptions
from peftlab.audits.raters.ratings import Ratings
from peftlab.core.seeds import stream
from peftlab.core.types import Floats, Ints

Progress = Callable[[int, int, str], None]
Null = dict[Metric, Floats]


@dataclass(slots=True)
class Measured:
    """What was computed of one axis, every metric for every group G of it.

    Attributes:
        axis: the groups.
        ratings, codes: of the raters whose group is known.
        observed: (G,).
        ties: (G,) share of items with a plurality tie.
        plain, within: (N, G) under free and under stratified shuffles.
        draws: (draws, G) of the bootstrap.
        layers: (raters,) strata of the stratified shuffles, if there are any.
    """

    axis: Axis
    ratings: Ratings
    codes: Ints
    observed: Null
    ties: Floats
    plain: Null
    within: Null = field(default_factory=dict)
    draws: Null = field(default_factory=dict)
    layers: Ints | None = None


class Teller:
    """Counts work for a progress bar."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, more: int, what: str) -> None:
        """Say that ``more`` shuffles or draws are done."""
        self.done += more
        if self.progress is not None:
            self.progress(self.done, self.total, what)


def measure_axis(ratings: Ratings, axis: Axis, options: GraspOptions, tell: Teller) -> Measured:
    """Compute everything about one axis, among the raters whose group is known."""
    known = axis.codes >= 0
    own, codes = ratings.pick(known), axis.codes[known]
    n_groups = len(axis.groups)
    counts = count(own, codes, n_groups)
    observed = _measure(counts, own, options)
    free = np.zeros(len(codes), dtype=np.int64)
    plain = _null(own, axis, codes, free, options, tell)
    found = Measured(axis, own, codes, observed, cohesion.tie_share(counts.n), plain)
    if options.within:
        found.layers = strata(own, options.within)
        found.within = _null(own, axis, codes, found.layers, options, tell)
    if options.bootstrap:
        found.draws = _bootstrap(own, axis, codes, options, tell)
    _guard(found)
    return found


def label_values(ratings: Ratings) -> Floats | None:
    """Return the labels as numbers (K,), or None if they are words."""
    numbers = ratings.numbers()
    return None if numbers is None else np.array(numbers)


def _measure(counts: Counts, ratings: Ratings, options: GraspOptions) -> Null:
    return cohesion.measure(
        counts,
        options.level,
        label_values(ratings),
        options.ties,
        options.smoothing,
        _needed(options),
    )


def _needed(options: GraspOptions) -> tuple[Metric, ...]:
    """Return the metrics to compute: the index needs its two parts."""
    extra: tuple[Metric, ...] = ("irr", "xrr", "gai", "gap")
    return tuple(m for m in METRICS if m in options.metrics or m in extra)


def _null(
    ratings: Ratings, axis: Axis, codes: Ints, layers: Ints, options: GraspOptions, tell: Teller
) -> Null:
    """Return every metric under shuffled raters, (N, G)."""
    kind = "free" if not layers.any() else "within"
    draws = stream(options.seed, "raters/shuffle", axis.name, kind)
    orders = significance.shuffles(layers, options.permutations, draws)
    parts: list[Null] = []
    for size in batches(options.permutations, ratings, len(axis.groups)):
        shuffled = np.stack([codes[next(orders)] for _ in range(size)])
        tables = Counts.plain(count_many(ratings, shuffled, len(axis.groups)))
        parts.append(_measure(tables, ratings, options))
        tell(size, f"shuffling {axis.name}")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _bootstrap(
    ratings: Ratings, axis: Axis, codes: Ints, options: GraspOptions, tell: Teller
) -> Null:
    """Return every metric of drawn raters and items, (draws, G)."""
    source = stream(options.seed, "raters/bootstrap", axis.name)
    rows: list[Null] = []
    for raters, items in intervals.draw(codes, len(ratings.items), options.bootstrap, source):
        tables = count_weighted(ratings, codes, len(axis.groups), raters, items)
        rows.append(_measure(tables, ratings, options))
        tell(1, f"drawing {axis.name}")
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _guard(one: Measured) -> None:
    """Blank GAI where XRR is not clearly above 0, as the ratio has a pole there.

    Clearly: above its spread under shuffles, and with its bootstrap interval, where there is one.
    """
    with np.errstate(invalid="ignore"):
        least = np.array([_spread(column) for column in one.plain["xrr"].T])
    for values in (one.observed, one.plain, one.within, one.draws):
        if values:
            values["gai"] = cohesion.indices(values["irr"], values["xrr"], least)[0]
    if one.draws:
        lows = np.array([intervals.percentile(column)[0] for column in one.draws["xrr"].T])
        one.observed["gai"] = np.where(lows > 0, one.observed["gai"], np.nan)


def _spread(column: Floats) -> float:
    known = column[~np.isnan(column)]
    return float(known.std()) if len(known) else 0.0
