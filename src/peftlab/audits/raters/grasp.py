"""GRASP: do groups of raters see an item differently from everybody else, and is it chance?

For every axis (an attribute or an intersection) and every group: agreement within the group, with
everybody else, and their ratio GAI, each with a permutation p value, a corrected one, the side of
the null it lies on, and a bootstrap interval. DSI of an axis is the largest GAI of its groups.
Sources: arXiv 2311.05074 (NAACL 2024); ours: two-sided p, stratified permutation, bootstrap over
raters and items, the gap, suppression of small groups. Statistics: ``cohesion``; tests:
``significance``.
Cost: (permutations + bootstrap) x O(ratings + groups x items x K) an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peftlab.audits.raters.axes import make_axes
from peftlab.audits.raters.gaps import item_gaps
from peftlab.audits.raters.measured import Progress, Teller, measure_axis
from peftlab.audits.raters.options import GraspOptions
from peftlab.audits.raters.power import power_curve
from peftlab.audits.raters.ratings import Ratings
from peftlab.audits.raters.results import (
    about_axis,
    about_data,
    dsi,
    group_rows,
    null_rows,
    pair_rows,
)
from peftlab.core.errors import ConfigError

SCHEMA = "peftlab.raters/1"


def grasp(
    ratings: Ratings, axes: Sequence[str | Sequence[str]], options: GraspOptions | None = None,
    *, name: str = "ratings", progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Audit the groups of every axis; the same seed gives the same result to the last digit.

    Args:
        ratings: who gave what.
        axes: attributes (``"race"``), or intersections (``("race", "gender")``).
        options: see ``GraspOptions``.
        name: title of the report.
        progress: called with (done, total, what) as shuffles and draws are done.

    Returns:
        JSON-able, schema ``peftlab.raters/1``: ``groups`` (one row a group), ``dsi``, ``pairs``,
        ``nulls``, ``power``, ``gaps``; None where a value is undefined, with its reason.

    Raises:
        ConfigError: ``RATERS-AXIS``, ``RATERS-LEVEL``.
        InputRejected: ``RATERS-GROUPS``, ``RATERS-SINGLE``.

    Examples:
        >>> from peftlab.audits.raters.pools import Pool, draw_pool
        >>> pool = draw_pool(Pool(raters=40, items=30, planted=10, strength=0.8), seed=0)
        >>> few = GraspOptions(permutations=99, bootstrap=0)
        >>> found = grasp(pool, ["group"], few)
        >>> [row["group"] for row in found["groups"]], found["dsi"]["group"]["group"]
        (['others', 'planted'], 'planted')
    """
    chosen = options or GraspOptions()
    check_level(ratings, chosen)
    made = make_axes(ratings, axes, min_group=chosen.min_group, merge_small=chosen.merge_small)
    if not made:
        raise ConfigError(
            "no axis was given", code="RATERS-AXIS", allowed=", ".join(ratings.attributes),
            fix="name one attribute or more (--by)",
        )  # fmt: skip
    each = chosen.permutations * (1 + bool(chosen.within)) + chosen.bootstrap
    tell = Teller(progress, each * len(made))
    done = [measure_axis(ratings, axis, chosen, tell) for axis in made]
    return {
        "schema": SCHEMA,
        "name": name,
        "data": about_data(ratings, chosen),
        "settings": chosen.model_dump(mode="json"),
        "axes": [about_axis(one) for one in done],
        "groups": [row for one in done for row in group_rows(one, chosen)],
        "dsi": {one.axis.name: dsi(one, chosen) for one in done},
        "pairs": [row for one in done for row in pair_rows(one, chosen)],
        "nulls": [row for one in done for row in null_rows(one)],
        "power": power_curve(ratings, chosen.level, chosen.seed),
        "gaps": [
            row
            for one in done
            for row in item_gaps(one.ratings, one.axis, one.codes, chosen.min_group)
        ],
    }


def check_level(ratings: Ratings, options: GraspOptions) -> None:
    """Refuse interval distances between words, and ordinal ones where no order was given.

    Raises:
        ConfigError: ``RATERS-LEVEL``.
    """
    if options.level == "interval" and ratings.numbers() is None:
        raise ConfigError(
            "interval distances need labels that are numbers", code="RATERS-LEVEL",
            got=", ".join(ratings.labels), fix="use --level nominal or ordinal, or numbers",
        )  # fmt: skip
    if options.level == "ordinal" and not ratings.ordered:
        raise ConfigError(
            "ordinal distances need the order of the labels", code="RATERS-LEVEL",
            got=", ".join(ratings.labels), fix="list all labels in their order (--labels a,b,c)",
        )  # fmt: skip
