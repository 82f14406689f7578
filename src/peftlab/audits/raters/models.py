"""A model, a judge or a classifier as one more rater: whose view does it share?

xrr between the model's labels and those of each group, and how it moved from one model to another
(before and after a fine-tune). Intervals: raters and items are drawn anew (``intervals``), the same
draw for all models, so that a change is not blurred by what both have in common. A model that
leaves items out is compared on the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from peftlab.audits.raters import intervals
from peftlab.audits.raters.axes import make_axes
from peftlab.audits.raters.cohesion import Level, xrr
from peftlab.audits.raters.counts import count_weighted
from peftlab.audits.raters.grasp import check_level
from peftlab.audits.raters.options import GraspOptions
from peftlab.audits.raters.ratings import Ratings
from peftlab.audits.raters.results import plain
from peftlab.core.errors import ConfigError, InputRejected
from peftlab.core.seeds import stream
from peftlab.core.types import Floats, Ints

EVERYBODY = "everybody"
Grouping = tuple[str, Ints, tuple[str, ...], tuple[int, ...]]  # axis, codes, groups, shown
ITEMS_LEAST = 20  # ours: on fewer a kappa says nothing


def compare_models(
    ratings: Ratings, models: Mapping[str, Mapping[str, str]], axes: Sequence[str | Sequence[str]],
    options: GraspOptions | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the agreement of each model with each group, and the moves from first to last model.

    Args:
        ratings: of people.
        models: name -> item id -> label.
        axes: as for ``grasp``.
        options: level, bootstrap, min_group and seed count.

    Returns:
        JSON-able: ``names``, ``rows`` and ``moves``; axis ``""`` is the whole pool, left out
        where it would give a suppressed group away.

    Raises:
        InputRejected: ``RATERS-MODEL`` for an unknown label, or fewer than 20 items in common.
        ConfigError: as ``grasp``.
    """
    chosen = options or GraspOptions()
    check_level(ratings, chosen)
    if not models:
        raise ConfigError(
            "no model was given", code="RATERS-MODEL", fix="name one or more: name -> item -> label"
        )
    tables = np.stack([_table(ratings, name, given) for name, given in models.items()])
    rows: list[dict[str, Any]] = []
    moves: list[dict[str, Any]] = []
    for axis, codes, groups, shown in _groupings(ratings, axes, chosen):
        draws = _draws(ratings, codes, len(groups), tables, chosen)
        for k in shown:
            about = {"axis": axis, "group": groups[k]}
            rows += [
                {"model": name, **about, **_interval("xrr", draws[:, m, k])}
                for m, name in enumerate(models)
            ]
            if len(models) > 1:
                moves.append({
                    **about, "before": plain(draws[0, 0, k]), "after": plain(draws[0, -1, k]),
                    **_interval("change", draws[:, -1, k] - draws[:, 0, k]),
                })  # fmt: skip
    return {"names": list(models), "rows": rows, "moves": moves}


def _table(ratings: Ratings, name: str, given: Mapping[str, str]) -> Floats:
    """Return a model's labels as counts (K, I)."""
    place = {item: i for i, item in enumerate(ratings.items)}
    code = {label: k for k, label in enumerate(ratings.labels)}
    common = {item: label for item, label in given.items() if item in place}
    if strange := sorted(set(common.values()) - set(code)):
        raise InputRejected(
            f"the model {name} gives labels that no rater could give", code="RATERS-MODEL",
            got=", ".join(strange[:5]), allowed=", ".join(ratings.labels),
            fix="map its labels to those of the ratings",
        )  # fmt: skip
    if len(common) < ITEMS_LEAST:
        raise InputRejected(
            f"the model {name} has too few of the rated items", code="RATERS-MODEL",
            got=f"{len(common)} of {len(place)}", allowed=f"{ITEMS_LEAST} or more",
            fix="use the item ids of the ratings",
        )  # fmt: skip
    table = np.zeros((len(code), len(place)))
    for item, label in common.items():
        table[code[label], place[item]] = 1.0
    return table


def _groupings(
    ratings: Ratings, axes: Sequence[str | Sequence[str]], options: GraspOptions
) -> list[Grouping]:
    found: list[Grouping] = []
    whole = True
    for axis in make_axes(
        ratings, axes, min_group=options.min_group, merge_small=options.merge_small
    ):
        found.append((axis.name, axis.codes, axis.groups, axis.shown))
        whole &= not axis.closed
    everybody = np.zeros(len(ratings.raters), dtype=np.int64)
    return [("", everybody, (EVERYBODY,), (0,)), *found] if whole else found


def _draws(
    ratings: Ratings, codes: Ints, n_groups: int, models: Floats, options: GraspOptions
) -> Floats:
    """Return xrr (1 + draws, models, groups); the first row is what was observed."""
    ones = np.ones(len(ratings.raters), dtype=np.int64), np.ones(len(ratings.items), dtype=np.int64)
    source = stream(options.seed, "raters/models")
    drawn = intervals.draw(codes, len(ratings.items), options.bootstrap, source)
    return np.stack([
        _agreement(ratings, codes, n_groups, models, options.level, raters, items)
        for raters, items in (ones, *drawn)
    ])  # fmt: skip


def _agreement(
    ratings: Ratings, codes: Ints, n_groups: int, models: Floats, level: Level, raters: Ints,
    items: Ints,
) -> Floats:  # fmt: skip
    numbers = ratings.numbers()
    counts = count_weighted(ratings, codes, n_groups, raters, items)
    values = None if numbers is None else np.array(numbers)
    # each model against all groups: (models, 1, K, I) and (groups, K, I)
    return xrr(models[:, None], counts.n, counts.weights, level, values)


def _interval(name: str, draws: Floats) -> dict[str, float | None]:
    found = {name: plain(draws[0])}
    if len(draws) > 1:
        low, high = intervals.percentile(draws[1:])
        found |= {"low": plain(low), "high": plain(high)}
    return found
