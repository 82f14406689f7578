"""Attacks times defences as numbers: what HTML and Markdown both lay out."""

from __future__ import annotations

from dataclasses import dataclass

from peftlab.report.leaderboard.board import Board
from peftlab.report.leaderboard.units import Unit, blocks_of
from peftlab.report.read import DASH, NONE
from peftlab.report.results import Group, percent

IN_GRID = (
    ("asr", "ASR"), ("asr_def", "ASR left"), ("tpr", "TPR"), ("fpr", "FPR"), ("auroc", "AUROC"),
    ("ca", "CA"), ("ca_def", "CA guarded"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MapRow:
    """One attack in a heat map.

    Attributes:
        attack: as in the grid.
        label: its label in the recipe.
        remark: what sets it apart, in words; empty for most.
        took: whether the victim learned it.
        means: mean over seeds per defence, None if there is none.
        reasons: per defence why there cannot be one; empty if there can.
    """

    attack: str
    label: str
    remark: str
    took: bool
    means: tuple[float | None, ...]
    reasons: tuple[str, ...]


def name_of(defence: str) -> str:
    """Return what a defence is called in a table."""
    return "no defence" if defence == NONE else defence


def metric_text(one: Group, metric: str) -> str:
    """Return the mean over seeds of a metric as text, or a dash."""
    mean = one.mean(metric)
    if mean is None:
        return DASH
    return f"{mean:.3f}" if metric == "auroc" else percent(mean)


def heat_map(board: Board, measure: str, tuner: str) -> tuple[list[str], list[MapRow]]:
    """Return the defences, best first, and one row per attack; no rows if nothing was measured.

    Args:
        board: the leaderboard.
        measure: key of ``MEASURES``.
        tuner: label.
    """
    grid = board.grid
    units: dict[tuple[str, str], list[Unit]] = {}
    for unit in grid.units:
        if unit.tuner == tuner:
            units.setdefault((unit.attack, unit.defence), []).append(unit)
    means = {
        key: sum(values) / len(values)
        for key, own in units.items()
        for values in blocks_of(own, measure).values()
    }
    if not means:
        return [], []
    reasons = {
        (one.attack, one.defence): one.not_applicable
        for one in board.senseless if one.tuner == tuner
    }  # fmt: skip
    having = {defence for _, defence in means}
    tried = {defence for _, defence in units}
    never = {defence for _, defence in reasons} - tried
    heads = [row.defence for row in board.rows if row.tuner == tuner and row.defence in having]
    heads += [defence for defence in grid.defences if defence in never]
    gone = {one.attack for one in grid.not_taken if one.tuner == tuner}
    labels = {unit.attack: unit.label for unit in grid.units}
    rows = []
    for attack in grid.attacks:
        remarks = ["settings chosen here"] if attack in grid.chosen else []
        remarks += ["did not take"] if attack in gone else []
        rows.append(
            MapRow(
                attack, labels[attack], ", ".join(remarks), attack not in gone,
                tuple(means.get((attack, head)) for head in heads),
                tuple(
                    "" if (attack, head) in means else reasons.get((labels[attack], head), "")
                    for head in heads
                ),
            )
        )  # fmt: skip
    return heads, rows
