"""One self-contained ``leaderboard.html``: tables that sort and filter, heat maps, no request.

The page loads nothing. The one script in it is named by its hash in the page's security policy, so
that no other can run; without it all is there, only not sortable.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from peftlab.report.leaderboard.board import Board
from peftlab.report.leaderboard.cells import IN_GRID, heat_map, metric_text, name_of
from peftlab.report.leaderboard.claims import Comparison
from peftlab.report.leaderboard.rows import Row, Summary
from peftlab.report.leaderboard.units import COSTS, MEASURES
from peftlab.report.leaderboard.words import (
    claim_cells,
    named,
    percent_range,
    sentences,
    value,
)
from peftlab.report.page import MOST_LISTED, TEMPLATES, common, environment
from peftlab.report.read import DASH
from peftlab.report.results import Group, percent, short_percent
from peftlab.report.table import NOT_APPLICABLE, footnotes

MAPS = {
    "tpr": "Share of triggered inputs that is found",
    "asr_left": "Share of triggered inputs that still succeeds",
}


def render_leaderboard(
    results: Mapping[str, Any], board: Board, scores: Mapping[str, str] | None = None
) -> str:
    """Return the leaderboard as one HTML page.

    Args:
        results: what ``results.json`` holds.
        board: made of them.
        scores: by cell id, the link to the file with the cell's scores.
    """
    from markupsafe import Markup

    grid = board.grid
    script = (TEMPLATES / "leaderboard.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment().get_template("leaderboard.html.j2")
    return page.render(
        **common(results, sorted({unit.seed for unit in grid.units}), "results.json"),
        script=Markup(script),  # noqa: S704  ours, of a file of this package
        digest=digest,
        verdict=sentences(board),
        level=None if grid.level is None else short_percent(grid.level),
        names=_names(board),
        several_tuners=len(grid.tuners) > 1,
        shows_chosen=bool(grid.chosen) and grid.unseen != grid.attacks,
        columns=_columns(board),
        rows=[_row(board, row) for row in board.rows],
        own_threshold=sorted({row.defence for row in board.rows if row.own_threshold}),
        maps=_maps(board),
        comparisons=[_comparison(board, one, tuners) for one, tuners in board.distinct()],
        filterings=[
            [f.defence, percent(f.caught), percent(f.lost), value("auroc", f.auroc), str(f.sets)]
            for f in board.filterings
        ],
        verdicts=[
            [v.defence, f"{v.caught} of {v.poisoned}", f"{v.accused} of {v.sound}",
             value("auroc", v.auroc)]
            for v in board.verdicts
        ],
        not_taken=[
            [one.attack, one.tuner, percent(one.asr), percent(one.flips)]
            for one in grid.not_taken
        ],
        footnotes=[(number, reason) for reason, number in footnotes(board.groups).items()],
        cells=_cells(board, scores or {}),
        left_out=max(len(board.groups) - MOST_LISTED, 0),
        has_scores=bool(scores),
        n_cells=len(grid.cells),
    )  # fmt: skip


def _names(board: Board) -> dict[str, list[str]]:
    """Return the names that can be filtered by; elements of the page carry their numbers."""
    return {
        "attack": list(dict.fromkeys(one.attack for one in board.groups)),
        "tuner": list(board.grid.tuners),
        "defence": list(board.grid.defences),
    }


def _number(names: list[str], name: str) -> int:
    return names.index(name) if name in names else -1


def _columns(board: Board) -> list[str]:
    """Return the titles of the main table, without the name of the row."""
    grid = board.grid
    rate = "" if grid.level is None else f" at FPR {short_percent(grid.level)}"
    titles = [f"TPR{rate}", "worst TPR"]
    if grid.chosen and grid.unseen != grid.attacks:
        titles.append("TPR, seen trigger")
    titles += [MEASURES[key].title for key in _shown(board)]
    return [*titles, "attacks", *COSTS.values()]


def _shown(board: Board) -> tuple[str, ...]:
    """Return the measures beside TPR; without a control there is no flip rate to take off."""
    flips = any("excess" in row.unseen for row in board.rows)
    return "auroc", "excess" if flips else "asr_left", "ca_cost", "fpr"


def _row(board: Board, row: Row) -> dict[str, Any]:
    grid, unseen = board.grid, row.unseen
    tpr = unseen.get("tpr")
    cells = [_summary("tpr", tpr), _worst(tpr)]
    if grid.chosen and grid.unseen != grid.attacks:
        cells.append(_summary("tpr", row.chosen.get("tpr")))
    cells += [_summary(key, unseen.get(key), worst=True) for key in _shown(board)]
    tried = max((one.attacks for one in unseen.values()), default=0)
    cells.append(_plain(float(tried), f"{tried} of {len(grid.unseen)}"))
    for key in COSTS:
        spent = row.cost.get(key)
        cells.append(_plain(spent, DASH if spent is None else f"{spent:,.3g}"))
    return {
        "defence": name_of(row.defence),
        "tuner": row.tuner,
        "numbers": {
            "tuner": _number(list(grid.tuners), row.tuner),
            "defence": _number(list(grid.defences), row.defence),
        },
        "own": row.own_threshold,
        "cells": cells,
    }


def _plain(number: float | None, text: str) -> dict[str, Any]:
    return {"sort": number, "text": text, "small": [], "title": ""}


def _summary(measure: str, found: Summary | None, *, worst: bool = False) -> dict[str, Any]:
    if found is None:
        return _plain(None, DASH)
    small, title = [percent_range(measure, found)], ""
    if worst and found.attacks > 1:
        small.append(f"worst {value(measure, found.worst)}")
        title = f"worst on {found.worst_on}"
    return _plain(found.mean, value(measure, found.mean)) | {
        "small": [line for line in small if line], "title": title,
    }  # fmt: skip


def _worst(found: Summary | None) -> dict[str, Any]:
    if found is None:
        return _plain(None, DASH)
    return _plain(found.worst, value("tpr", found.worst)) | {"small": [found.worst_on]}


def _maps(board: Board) -> list[dict[str, Any]]:
    """Return one heat map per measure and tuner, of the defences that have it; equal ones once."""
    made = []
    for measure, title in MAPS.items():
        maps = [(tuner, _map(board, measure, tuner)) for tuner in board.grid.tuners]
        maps = [(tuner, found) for tuner, found in maps if found["rows"]]
        same = len(maps) == len(board.grid.tuners) and all(m == maps[0][1] for _, m in maps)
        for tuner, found in maps[:1] if same else maps:
            through = _through(board, board.grid.tuners if same else [tuner])
            made.append({"title": title, "measure": measure, **through, **found})
    return made


def _map(board: Board, measure: str, tuner: str) -> dict[str, Any]:
    numbers = _names(board)
    heads, rows = heat_map(board, measure, tuner)
    columns = [_number(numbers["defence"], head) for head in heads]
    return {
        "heads": [
            {"name": name_of(head), "number": number}
            for head, number in zip(heads, columns, strict=True)
        ],
        "rows": [
            {
                "attack": row.attack,
                "number": _number(numbers["attack"], row.label),
                "small": row.remark,
                "gone": not row.took,
                "cells": [
                    _map_cell(measure, mean, reason) | {"number": number}
                    for mean, reason, number in zip(row.means, row.reasons, columns, strict=True)
                ],
            }
            for row in rows
        ],
    }


def _map_cell(measure: str, mean: float | None, reason: str) -> dict[str, Any]:
    if mean is None:
        return {"text": NOT_APPLICABLE if reason else DASH, "reason": reason, "share": None}
    # In both maps a deep colour is good for the defender.
    good = mean if MEASURES[measure].up else 1 - mean
    return {"text": f"{100 * mean:.0f}", "reason": "", "share": min(max(good, 0.0), 1.0)}


def _through(board: Board, tuners: Sequence[str]) -> dict[str, Any]:
    """Return which tuners a part is about; all of them need no word and no filter."""
    every = list(board.grid.tuners)
    if len(tuners) == len(every):
        return {"through": "", "number": ""}
    return {"through": f" through {named(tuners)}", "number": _number(every, tuners[0])}


def _comparison(board: Board, one: Comparison, tuners: Sequence[str]) -> dict[str, Any]:
    return {
        **_through(board, tuners),
        "title": MEASURES[one.measure].title,
        "best": one.best,
        "mean": value(one.measure, one.mean),
        "family": one.family,
        "rows": [
            {"rival": claim.rival, "better": claim.better, "cells": claim_cells(one.measure, claim)}
            for claim in one.claims
        ],
    }


def _cells(board: Board, scores: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return one row per combination, poisoned ones first."""
    names, notes = _names(board), footnotes(board.groups)
    ordered = sorted(board.groups, key=lambda one: one.control)[:MOST_LISTED]
    return [
        {
            "numbers": {key: _number(names[key], getattr(one, key)) for key in names},
            "name": [one.attack, one.tuner, name_of(one.defence)],
            "control": one.control,
            "note": notes.get(one.not_applicable, 0),
            "reason": one.not_applicable,
            "cells": [_mean(one, key) for key, _ in IN_GRID],
            "links": [
                (str(cell.seed), scores.get(cell.id, ""))
                for cell in one.cells
            ],
        }
        for one in ordered
    ]  # fmt: skip


def _mean(one: Group, metric: str) -> dict[str, Any]:
    made = _plain(one.mean(metric), metric_text(one, metric))
    return made | {"reason": "" if metric in one.cells[0].metrics else one.reason(metric)}
