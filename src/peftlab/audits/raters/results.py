"""What was measured, as JSON: one row a group, DSI, pairs of groups, histograms of the null.

Nothing of a suppressed group gets in, nor what would show it: where everybody else is a suppressed
group, the values across groups are left out too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from peftlab.audits.raters import cohesion, intervals, significance
from peftlab.audits.raters.cohesion import Level, Metric
from peftlab.audits.raters.counts import components, count
from peftlab.audits.raters.measured import Measured, Null, label_values
from peftlab.audits.raters.options import GraspOptions
from peftlab.audits.raters.ratings import Ratings
from peftlab.core.corrections import corrected
from peftlab.core.types import Floats, Ints

BINS = 30
ROUNDING = 1e-9
SHOWN_NULLS: tuple[Metric, ...] = ("irr", "xrr", "gai")
SHARES: tuple[Metric, ...] = ("plurality", "voting", "negentropy", "cross_negentropy")
ACROSS: tuple[Metric, ...] = ("xrr", "voting", "cross_negentropy", "gai", "gap")


def _alpha(ratings: Ratings, level: Level) -> float | None:
    everybody = np.zeros(len(ratings.raters), dtype=np.int64)
    return plain(cohesion.irr(count(ratings, everybody, 1), level, label_values(ratings))[0])


def plain(value: Any) -> float | None:
    """Return a float to 6 digits, or None for NaN."""
    number = float(value)
    return None if np.isnan(number) else round(number, 6) + 0.0  # no -0.0 in a report


def about_data(ratings: Ratings, options: GraspOptions) -> dict[str, Any]:
    """Return sizes, labels, overall alpha and what was done to the data."""
    items, raters, labels = ratings.shape
    return {
        "items": items,
        "raters": raters,
        "ratings": len(ratings),
        "labels": list(ratings.labels),
        "label_counts": np.bincount(ratings.label, minlength=labels).tolist(),
        "alpha": _alpha(ratings, options.level),
        "batches": int(components(ratings).max()) + 1,
        "notes": list(ratings.notes),
    }


def about_axis(one: Measured) -> dict[str, Any]:
    """Return what an axis is made of, and which of its groups are suppressed."""
    axis, sizes = one.axis, one.axis.sizes
    notes = []
    if axis.shown != tuple(range(len(axis.groups))) and len(axis.groups) == 2:
        notes.append("two groups, one suppressed: nothing across groups can be shown")
    if one.layers is not None and _stuck(one, one.layers):
        notes.append("the strata leave nothing to shuffle on this axis: no stratified test")
    suppressed = [name for k, name in enumerate(axis.groups) if k not in axis.shown]
    n_groups = len(axis.groups)
    if suppressed and len(axis.attributes) > 1:
        # which cells of a table are filled tells of single people, so only their number is said
        n_groups, suppressed = len(axis.shown), [f"{len(suppressed)} small groups"]
    return {
        "axis": axis.name,
        "attributes": list(axis.attributes),
        # beside the sizes of all other groups these would tell that of a suppressed one
        "raters": None if suppressed else int(sizes.sum()),
        "unknown": None if suppressed else int((axis.codes < 0).sum()),
        "groups": n_groups,
        "suppressed": suppressed,
        "notes": notes,
    }


def _stuck(one: Measured, layers: Ints) -> bool:
    """Tell whether every stratum holds one group alone."""
    pairs = np.unique(np.stack([layers, one.codes], axis=1), axis=0)
    return len(pairs) == len(np.unique(layers))


def _hidden(one: Measured, group: int, metric: Metric, options: GraspOptions) -> bool:
    """Tell whether a value would show a suppressed group: everybody else is as small."""
    sizes = one.axis.sizes
    return metric in ACROSS and int(sizes.sum() - sizes[group]) < options.min_group


def group_rows(one: Measured, options: GraspOptions) -> list[dict[str, Any]]:
    """Return one row a group: every metric with its tests, side and interval."""
    axis, rows = one.axis, []
    ratings = np.bincount(one.codes[one.ratings.rater], minlength=len(axis.groups))
    for k, name in enumerate(axis.groups):
        shown = k in axis.shown
        row: dict[str, Any] = {
            "axis": axis.name,
            "group": name,
            "raters": int(axis.sizes[k]) if shown else None,
            "ratings": int(ratings[k]) if shown else None,
            "suppressed": not shown,
        }
        if shown:
            row |= {"tie_share": plain(one.ties[k]), "reasons": {}}
        rows.append(row)
    for metric in options.metrics:
        _fill(one, metric, rows, options)
    crossed = len(axis.attributes) > 1
    return [row for row in rows if not (crossed and row["suppressed"])]


def _fill(one: Measured, metric: Metric, rows: list[dict[str, Any]], options: GraspOptions) -> None:
    """Put one metric with its tests into the rows of all groups that are shown."""
    shown = [k for k in one.axis.shown if not _hidden(one, k, metric, options)]
    for kind, null in (("", one.plain), ("within_", one.within)):
        if null:
            p = [_p(one, null, metric, k, options) for k in shown]
            q = corrected(p, options.correction)
            for k, raw, fixed in zip(shown, p, q, strict=True):
                rows[k] |= {f"p_{kind}{metric}": plain(raw), f"q_{kind}{metric}": plain(fixed)}
    for k in set(one.axis.shown) - set(shown):
        kinds = ("", "within_") if one.within else ("",)
        rows[k] |= {f"{name}_{kind}{metric}": None for kind in kinds for name in ("p", "q")}
    for k in one.axis.shown:
        value = plain(one.observed[metric][k]) if k in shown else None
        rows[k][metric] = value
        rows[k][f"side_{metric}"] = _side(one, metric, k) if value is not None else None
        if one.draws:
            ends = _ends(one, metric, k) if k in shown else (np.nan, np.nan)
            rows[k] |= {f"low_{metric}": plain(ends[0]), f"high_{metric}": plain(ends[1])}
        if value is None:
            rows[k]["reasons"][metric] = _reason(one, metric, k, hidden=k not in shown)


def _ends(one: Measured, metric: Metric, k: int) -> tuple[float, float]:
    if metric not in SHARES:
        return intervals.percentile(one.draws[metric][:, k])
    low, high = intervals.percentile(one.draws[metric][:, k], float(one.observed[metric][k]))
    most = float(np.log(one.ratings.shape[2]))
    least, most = {"plurality": (0.0, 1.0), "voting": (-1.0, 1.0)}.get(metric, (0.0, most))
    if metric == "cross_negentropy":
        least = low  # it has no lower end
    return max(low, least), min(high, most)


def _p(one: Measured, null: Null, metric: Metric, k: int, options: GraspOptions) -> float:
    column = null[metric][:, k]
    known = column[~np.isnan(column)]
    if len(known) == 0 or not _moves(known):
        return float("nan")
    return significance.p_value(float(one.observed[metric][k]), column, options.pvalue)


def _moves(known: Floats) -> bool:
    """Tell whether shuffling changes a value by more than rounding."""
    return float(np.ptp(known)) > ROUNDING * max(1.0, float(np.abs(known).max()))


def _side(one: Measured, metric: Metric, k: int) -> str | None:
    column = one.plain[metric][:, k]
    known = column[~np.isnan(column)]
    if len(known) == 0:
        return None
    middle, value = float(np.median(known)), float(one.observed[metric][k])
    return "above" if value > middle else "below" if value < middle else None


def _reason(one: Measured, metric: Metric, k: int, *, hidden: bool) -> str:
    if hidden:
        return "everybody else is a suppressed group"
    if metric in {"gai", "gap"} and np.isnan(one.observed["irr"][k]):
        return "irr is undefined"
    if metric in {"gai", "gap"} and np.isnan(one.observed["xrr"][k]):
        return "xrr is undefined"
    if metric == "gai":
        return "xrr is not clearly above 0, so a ratio to it means nothing"
    return "one label only, or no item with enough raters"


def dsi(one: Measured, options: GraspOptions) -> dict[str, Any]:
    """Return the largest GAI of an axis, with its group's p values, and the largest gap."""
    rows = group_rows(one, options.model_copy(update={"metrics": ("gai", "gap")}))
    gai, gap = _largest(rows, "gai"), _largest(rows, "gap")
    return {
        "value": gai and gai["gai"],
        "group": gai and gai["group"],
        "p": gai and gai["p_gai"],
        "q": gai and gai["q_gai"],
        "gap": {"value": gap and gap["gap"], "group": gap and gap["group"]},
    }


def _largest(rows: list[dict[str, Any]], metric: Metric) -> dict[str, Any] | None:
    known = [row for row in rows if row.get(metric) is not None]
    return max(known, key=lambda row: float(row[metric])) if known else None


def pair_rows(one: Measured, options: GraspOptions) -> list[dict[str, Any]]:
    """Return xrr between every two groups that are shown.

    None where few raters are suppressed: theirs could be worked out from these and from xrr with
    everybody else.
    """
    if one.axis.closed:
        return []
    axis, counts = one.axis, count(one.ratings, one.codes, len(one.axis.groups))
    values, rows = label_values(one.ratings), []
    for place, a in enumerate(axis.shown):
        for b in axis.shown[place + 1 :]:
            value = cohesion.xrr(
                counts.pick(a).n, counts.pick(b).n, counts.weights, options.level, values
            )
            rows.append({
                "axis": axis.name, "a": axis.groups[a], "b": axis.groups[b],
                "xrr": plain(value[0]),
            })  # fmt: skip
    return rows


def null_rows(one: Measured) -> list[dict[str, Any]]:
    """Return histograms of what shuffled raters give."""
    rows = []
    for k in one.axis.shown:
        for metric in SHOWN_NULLS:
            column = one.plain[metric][:, k]
            known = column[~np.isnan(column)]
            if len(known) == 0 or not _moves(known):
                continue
            counts, edges = np.histogram(known, bins=BINS)
            rows.append({
                "axis": one.axis.name, "group": one.axis.groups[k], "metric": metric,
                "edges": [round(float(edge), 6) for edge in edges], "counts": counts.tolist(),
                "median": plain(np.median(known)),
            })  # fmt: skip
    return rows
