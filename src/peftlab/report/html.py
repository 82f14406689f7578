"""One self-contained ``report.html``: no script, no remote asset, same bytes for same results.

The page is a template plus plain values; every value from outside is escaped by the template
engine, and a content security policy in the page forbids loading anything at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftlab.report import figures, panels
from peftlab.report.page import MOST_LISTED, all_plain, common, environment
from peftlab.report.read import DASH, NONE, Cell, clean_text, read_cells
from peftlab.report.results import Group, group, name_of, sentences, standings
from peftlab.report.table import METRICS, NOT_APPLICABLE, footnotes, naming, number, range_of

MORE_METRICS: tuple[tuple[str, str], ...] = (
    ("tpr_roc_01", "TPR at FPR 1 %"),
    ("tpr_roc_05", "TPR at FPR 5 %"),
    ("fpr_at_01", "FPR at alpha 1 %"),
    ("tpr_at_01", "TPR at alpha 1 %"),
    ("fpr_at_05", "FPR at alpha 5 %"),
    ("tpr_at_05", "TPR at alpha 5 %"),
    ("auroc_paired", "AUROC paired"),
    ("coverage", "coverage"),
    ("selective_accuracy", "selective accuracy"),
    ("filter_tpr", "poisoned rows dropped"),
    ("filter_fpr", "clean rows dropped"),
    ("filter_auroc", "AUROC of rows"),
    ("flip_rate", "flip rate"),
    ("model_score", "score of the model"),
    ("model_flagged", "model flagged"),
)
AS_IS = ("model_score", "model_flagged")  # in units of their own, not in per cent
COSTS: tuple[tuple[str, str], ...] = (
    ("attack_seconds", "attack, s"),
    ("train_seconds", "train, s"),
    ("fit_seconds", "fit guard, s"),
    ("score_ms_per_text", "score, ms per text"),
    ("passes_per_text", "passes per text"),
)


def render(results: Mapping[str, Any], arrays: Mapping[str, Any] | None = None) -> str:
    """Return the whole report as one HTML page.

    Args:
        results: what ``results.json`` holds.
        arrays: per cell id the scores, p-values, threshold and un-learning path for the
            figures; a cell without them is in the tables only.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is not a results dict.
    """
    cells = read_cells(results)
    every = group(cells)
    groups = [one for one in every if not one.not_applicable]
    held = {clean_text(key): value for key, value in (arrays or {}).items()}
    page = environment().get_template("report.html.j2")
    return page.render(
        **common(results, (cell.seed for cell in cells), "results.json"),
        verdict=sentences(every),
        ranks=standings(groups),
        columns=METRICS,
        tables=_tables(every),
        footnotes=[(number, reason) for reason, number in footnotes(every).items()],
        details=_details(groups, held),
        overview=_overview(groups),
        control=_control_figures(groups),
        every=_every_cell(cells),
        cost=_cost(groups),
        n_cells=len(cells),
        n_groups=len(every),
        n_shown=len(figures.representatives(groups)),
        n_defended=sum(1 for g in groups if not g.control and g.defence != NONE),
    )


def _measure(one: Group, metric: str) -> dict[str, Any]:
    """Return one table cell: value, range, reason if missing, and the length of its bar."""
    found = one.spread(metric)
    if found is None:
        reason = one.not_applicable or one.reason(metric)
        return {"value": None, "range": "", "reason": reason, "bar": 0}
    bar = min(max(found.mean, 0.0), 1.0) if metric in {"asr", "asr_def"} else 0.0
    return {
        "value": number(metric, found.mean),
        "range": range_of(metric, found),
        "reason": "",
        "bar": round(100 * bar),
    }


def _table(
    groups: Sequence[Group], names: Sequence[str], notes: Mapping[str, int]
) -> list[dict[str, Any]]:
    extra = [name for name in names if name in {"base", "data"}]
    return [
        {
            "method": name_of(one),
            "defence": "no defence" if one.defence == NONE else one.defence,
            "extra": " · ".join(getattr(one, name) for name in extra),
            "first": index == 0 or name_of(groups[index - 1]) != name_of(one),
            "measures": [_measure(one, metric) for metric, _ in METRICS],
            "seeds": len(one.cells),
            "note": notes.get(one.not_applicable, 0),
        }
        for index, one in enumerate(groups)
    ]


def _tables(groups: Sequence[Group]) -> dict[str, list[dict[str, Any]]]:
    names, notes = naming(groups), footnotes(groups)
    return {
        "poisoned": _table([g for g in groups if not g.control], names, notes),
        "control": _table([g for g in groups if g.control], names, notes),
    }


def _details(groups: Sequence[Group], arrays: Mapping[str, Any]) -> dict[str, list[Any]]:
    scores, paths = [], []
    for index, one in enumerate(figures.representatives(groups)):
        drawn = all_plain([
            figures.histogram(f"h{index}", one, arrays),
            figures.roc(f"r{index}", one, arrays),
        ])  # fmt: skip
        if drawn:
            scores.append({"label": figures.label(one), "figures": drawn})
        path = all_plain(figures.trajectory(f"t{index}", one, arrays))
        if path:
            paths.append({"label": figures.label(one), "figures": path})
    return {"scores": scores, "paths": paths}


def _overview(groups: Sequence[Group]) -> dict[str, list[dict[str, Any]]]:
    names = dict.fromkeys(g.defence for g in groups if g.defence != NONE and not g.control)
    return {
        "before_after": all_plain([
            panels.before_after(f"b{index}", name, groups)
            for index, name in enumerate(list(names)[: figures.MOST_CELLS])
        ]),
        "calibration": all_plain([panels.calibration("c0", groups)]),
    }  # fmt: skip


def _control_figures(groups: Sequence[Group]) -> list[dict[str, Any]]:
    return all_plain([panels.control_auroc("n0", groups)])


def _every_cell(cells: Sequence[Cell]) -> dict[str, Any]:
    """Return one row per cell with all metrics that any of them has."""
    known = [
        pair for pair in (*METRICS, *MORE_METRICS) if any(pair[0] in cell.metrics for cell in cells)
    ]
    rows = [
        [
            figures.label_of(cell.attack, cell.tuner, cell.defence),
            "control" if cell.control else "poisoned",
            str(cell.seed),
            *(_number(cell, key) for key, _ in known),
        ]
        for cell in cells[:MOST_LISTED]
    ]
    header = ["cell", "base", "seed", *(title for _, title in known)]
    return {"header": header, "rows": rows, "left_out": max(len(cells) - MOST_LISTED, 0)}


def _number(cell: Cell, metric: str) -> str:
    if cell.not_applicable:
        return NOT_APPLICABLE
    value = cell.metrics.get(metric)
    if value is None:
        return DASH
    return f"{value:.4g}" if metric in AS_IS else number(metric, value)


def _cost(groups: Sequence[Group]) -> dict[str, Any]:
    """Return mean costs per tuner and defence; the attack hardly changes them."""
    known = [pair for pair in COSTS if any(pair[0] in c.cost for g in groups for c in g.cells)]
    rows = []
    for tuner, defence in dict.fromkeys((g.tuner, g.defence) for g in groups):
        own = [c for g in groups if (g.tuner, g.defence) == (tuner, defence) for c in g.cells]
        row = [tuner, defence]
        for key, _ in known:
            values = [cell.cost[key] for cell in own if key in cell.cost]
            row.append(f"{sum(values) / len(values):,.4g}" if values else DASH)
        rows.append(row)
    header = ["tuner", "defence", *(title for _, title in known)]
    return {"header": header, "rows": rows if known else []}
