"""The leaderboard as Markdown: the same tables, for a repository or a paper's appendix."""

from __future__ import annotations

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
from peftlab.report.page import MOST_LISTED
from peftlab.report.read import DASH, clean_text
from peftlab.report.results import percent, short_percent
from peftlab.report.table import NOT_APPLICABLE, escaped, footnotes, markdown_table

CLAIM_TITLES = ("rival", "difference", "95 % interval", "p, attacks and seeds",
                "p, whole attacks", "attacks", "pairs")  # fmt: skip


def render_markdown(
    results: Mapping[str, Any], board: Board, scores: Mapping[str, str] | None = None
) -> str:
    """Return the leaderboard as one Markdown document.

    Args:
        results: what ``results.json`` holds.
        board: made of them.
        scores: by cell id, the link to the file with the cell's scores.
    """
    title = clean_text(results.get("question") or results.get("name") or "Leaderboard")
    parts = [f"# {escaped(title)}", *(escaped(part) for part in sentences(board))]
    if board.rows:
        parts += ["## Leaderboard", _main(board), _key(board)]
    for one, tuners in board.distinct():
        parts += _comparison(board, one, tuners)
    parts += _maps(board)
    parts += _others(board)
    if board.groups:
        parts += ["## Every combination", _combinations(board, scores or {})]
    notes = footnotes(board.groups)
    if notes:
        parts.append("## Not applicable")
        parts.append("\n".join(f"{n}. {escaped(reason)}" for reason, n in notes.items()))
    return "\n\n".join(parts) + "\n"


def _main(board: Board) -> str:
    grid = board.grid
    rate = "" if grid.level is None else f" at FPR {short_percent(grid.level)}"
    header = ["defence", "tuner", f"TPR{rate}", "worst", "TPR, seen trigger"]
    for key in ("auroc", "excess", "asr_left", "ca_cost"):
        header += [MEASURES[key].title, "worst"]
    header += [MEASURES["fpr"].title, "attacks", *COSTS.values()]
    return markdown_table(header, [_row(board, row) for row in board.rows], 2)


def _row(board: Board, row: Row) -> list[str]:
    unseen = row.unseen
    cells = [name_of(row.defence) + (" †" if row.own_threshold else ""), row.tuner]
    cells += [_mean("tpr", unseen.get("tpr")), _worst("tpr", unseen.get("tpr"))]
    cells.append(_mean("tpr", row.chosen.get("tpr")))
    for key in ("auroc", "excess", "asr_left", "ca_cost"):
        cells += [_mean(key, unseen.get(key)), _worst(key, unseen.get(key))]
    cells.append(_mean("fpr", unseen.get("fpr")))
    tried = max((one.attacks for one in unseen.values()), default=0)
    cells.append(f"{tried} of {len(board.grid.unseen)}")
    spent = [row.cost.get(key) for key in COSTS]
    return cells + [DASH if one is None else f"{one:,.3g}" for one in spent]


def _mean(measure: str, found: Summary | None) -> str:
    if found is None:
        return DASH
    return f"{value(measure, found.mean)} {percent_range(measure, found)}".rstrip()


def _worst(measure: str, found: Summary | None) -> str:
    if found is None:
        return DASH
    return f"{value(measure, found.worst)}, {escaped(found.worst_on)}"


def _key(board: Board) -> str:
    text = (
        "Mean over attacks of the mean over seeds, 95 % bootstrap interval over attacks; worst "
        "attack."
    )
    own = sorted({row.defence for row in board.rows if row.own_threshold})
    if own:
        text += (
            f" † {named(own)}: TPR and FPR at the common rate, by conformal p values; the rest at "
            f"a threshold of its own."
        )
    return escaped(text)


def _comparison(board: Board, one: Comparison, tuners: Sequence[str]) -> list[str]:
    through = "" if len(tuners) == len(board.grid.tuners) else f" through {named(tuners)}"
    best = f"{one.best}, {value(one.measure, one.mean)}"
    title = f"{MEASURES[one.measure].title}{through}: {best}, against"
    rows = [[claim.rival, *claim_cells(one.measure, claim)] for claim in one.claims]
    header = [*CLAIM_TITLES, f"{escaped(one.best)} is"]
    return [f"## {escaped(title)}", markdown_table(header, rows, 1)]


def _maps(board: Board) -> list[str]:
    notes = footnotes(board.groups)
    parts = []
    for measure, title in (("tpr", "Found"), ("asr_left", "Still succeeds")):
        for tuner in board.grid.tuners:
            heads, rows = heat_map(board, measure, tuner)
            if not rows:
                continue
            through = f" through {tuner}" if len(board.grid.tuners) > 1 else ""
            parts.append(f"## {title}, per cent of triggered inputs{escaped(through)}")
            header = ["attack", *(escaped(name_of(head)) for head in heads)]
            table = []
            for row in rows:
                name = row.attack + (f" ({row.remark})" if row.remark else "")
                cells = [
                    f"{NOT_APPLICABLE} [{notes[reason]}]" if reason
                    else DASH if mean is None else f"{100 * mean:.0f}"
                    for mean, reason in zip(row.means, row.reasons, strict=True)
                ]  # fmt: skip
                table.append([name, *cells])
            parts.append(markdown_table(header, table, 1))
    return parts


def _others(board: Board) -> list[str]:
    parts = []
    if board.filterings:
        header = ["filter", "poisoned rows dropped", "clean rows dropped", "AUROC", "sets"]
        rows = [
            [f.defence, percent(f.caught), percent(f.lost), value("auroc", f.auroc), str(f.sets)]
            for f in board.filterings
        ]
        parts += ["## Filters of training sets", markdown_table(header, rows, 1)]
    if board.verdicts:
        header = ["inspector", "poisoned models found", "clean models accused", "AUROC"]
        rows = [
            [v.defence, f"{v.caught} of {v.poisoned}", f"{v.accused} of {v.sound}",
             value("auroc", v.auroc)]
            for v in board.verdicts
        ]  # fmt: skip
        parts += ["## Verdicts on models", markdown_table(header, rows, 1)]
    return parts


def _combinations(board: Board, scores: Mapping[str, str]) -> str:
    notes = footnotes(board.groups)
    header = ["attack", "tuner", "defence", "base", *(title for _, title in IN_GRID), "seeds"]
    rows = []
    for one in sorted(board.groups, key=lambda one: one.control)[:MOST_LISTED]:
        names = [one.attack, one.tuner, name_of(one.defence),
                 "control" if one.control else "poisoned"]  # fmt: skip
        cells = [metric_text(one, key) for key, _ in IN_GRID]
        if one.not_applicable:
            mark = f"{NOT_APPLICABLE} [{notes[one.not_applicable]}]"
            cells = [mark, *[NOT_APPLICABLE] * (len(cells) - 1)]
        seeds = [
            f"[{cell.seed}]({scores[cell.id]})" if cell.id in scores else str(cell.seed)
            for cell in one.cells
        ]
        rows.append([*names, *cells, " ".join(seeds)])
    left = len(board.groups) - len(rows)
    more = f"\n\n{left} more are in results.json." if left > 0 else ""
    return markdown_table(header, rows, 4) + more
