"""Whom to recruit next: for which groups would more raters turn a hint into a finding?

For each group of a pilot: its effect GAI - 1, shrunk for the luck that made it look large
(James-Stein, positive part: e (1 - sd^2 / e^2)), the power of a two-sided test at 5 % with the
raters it has, and how many it would need for 80 %. The money goes to the groups that need least,
first. Under the alternative the spread is taken to be that of the null (``power.Spread``).
All of it ours; checked against simulation in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

from peftlab.audits.raters.grasp import grasp
from peftlab.audits.raters.options import GraspOptions
from peftlab.audits.raters.power import Spread
from peftlab.audits.raters.ratings import Ratings
from peftlab.core.errors import InputRejected

SCHEMA = "peftlab.raters.plan/1"
ALPHA, WANTED = 0.05, 0.8
MOST = 10_000  # raters of a group; more is as good as never
_NORMAL = NormalDist()
_EDGE = _NORMAL.inv_cdf(1 - ALPHA / 2)


def plan_recruiting(
    pilot: Ratings, axes: Sequence[str | Sequence[str]], budget: int,
    options: GraspOptions | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return which groups to recruit for, with at most ``budget`` new ratings.

    Args:
        pilot: ratings that are there already.
        axes: as for ``grasp``.
        budget: ratings that can be bought; a new rater gives as many as those of the pilot do.
        options: as for ``grasp``.

    Returns:
        JSON-able: ``groups`` (raters, GAI, shrunk effect, power now, raters needed, cost, funded),
        cheapest finding first, ``axes`` and what is spent.

    Raises:
        ConfigError, InputRejected: as ``grasp``; ``RATERS-PILOT`` if the pool is too small to
            tell chance from effect.
    """
    chosen = (options or GraspOptions()).model_copy(update={"metrics": ("gai",), "bootstrap": 0})
    spread = Spread.measure(pilot, chosen.level, chosen.seed)
    if spread is None:
        raise InputRejected(
            "the pilot is too small to tell what chance does to GAI", code="RATERS-PILOT",
            got=f"{len(pilot.raters)} raters", fix="collect more ratings, or raters, first",
        )  # fmt: skip
    found = grasp(pilot, axes, chosen)
    each = max(1, round(len(pilot) / len(pilot.raters)))
    rows = [
        _row(row, spread, each, len(pilot.raters), chosen.min_group)
        for row in found["groups"]
        if not row["suppressed"]
    ]
    rows.sort(key=lambda row: math.inf if row["cost"] is None else row["cost"])
    spent = _fund(rows, budget)
    return {
        "schema": SCHEMA,
        "budget": budget,
        "spent": spent,
        "ratings_per_rater": each,
        "alpha": ALPHA,
        "power": WANTED,
        "spread": {name: round(getattr(spread, name), 6) for name in ("c", "a", "d", "b")},
        "groups": rows,
        "axes": [
            {"axis": name, "dsi": about["value"], "group": about["group"], "p": about["p"],
             "funded": sum(row["funded"] for row in rows if row["axis"] == name)}
            for name, about in found["dsi"].items()
        ],
        "suppressed": {row["axis"]: row["suppressed"] for row in found["axes"]},
    }  # fmt: skip


def shrunk(effect: float, sd: float) -> float:
    """Return an effect without the part that chance explains.

    Examples:
        >>> shrunk(0.3, 0.1).__round__(3), shrunk(0.1, 0.2)
        (0.267, 0.0)
    """
    return 0.0 if abs(effect) <= sd else effect * (1 - (sd / effect) ** 2)


def power_of(effect: float, sd: float) -> float:
    """Return the chance that a two-sided test at 5 % finds an effect.

    Examples:
        >>> round(power_of(0.0, 0.1), 3), round(power_of(0.28, 0.1), 2)
        (0.05, 0.8)
    """
    z = abs(effect) / sd
    return _NORMAL.cdf(z - _EDGE) + _NORMAL.cdf(-z - _EDGE)


def raters_needed(effect: float, spread: Spread, rest: int | None = None) -> int | None:
    """Return the smallest group in which the effect is found with a chance of 80 %.

    Args:
        effect: GAI - 1.
        spread: of random groups.
        rest: raters outside the group, who stay as they are; none: very many.
    """
    if effect == 0 or spread.a <= 0 or power_of(effect, spread.at(MOST, rest)) < WANTED:
        return None
    low, high = 1, MOST
    while low < high:
        middle = (low + high) // 2
        enough = power_of(effect, spread.at(middle, rest)) >= WANTED
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def _row(row: dict[str, Any], spread: Spread, each: int, total: int, least: int) -> dict[str, Any]:
    raters, gai = row["raters"], row["gai"]
    found: dict[str, Any] = {
        "axis": row["axis"], "group": row["group"], "raters": raters, "gai": gai,
        "p": row["p_gai"], "effect": None, "power": None, "needed": None, "extra": None,
        "cost": None, "funded": False,
    }  # fmt: skip
    if gai is None:
        return found
    rest = total - raters
    sd = spread.at(raters, rest)
    effect = shrunk(gai - 1, sd)
    needed = raters_needed(effect, spread, rest)
    needed = None if needed is None else max(needed, least)
    extra = None if needed is None else max(0, needed - raters)
    return found | {
        "effect": round(effect, 6), "power": round(power_of(effect, sd), 4), "needed": needed,
        "extra": extra, "cost": None if extra is None else extra * each,
    }  # fmt: skip


def _fund(rows: list[dict[str, Any]], budget: int) -> int:
    """Mark what can be paid for, cheapest first, which brings the most groups to 80 %."""
    spent = 0
    for row in rows:
        if row["cost"] and spent + row["cost"] <= budget:
            row["funded"] = True
            spent += row["cost"]
    return spent
