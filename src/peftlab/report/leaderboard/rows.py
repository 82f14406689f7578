"""One row per defence and tuner: means and worst cases over attacks, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from peftlab.core.paired import bootstrap_interval, mean_of_blocks
from peftlab.core.seeds import stream
from peftlab.report.leaderboard.grid import Grid
from peftlab.report.leaderboard.units import COSTS, MEASURES, Unit, blocks_of, has_own_threshold


@dataclass(frozen=True, slots=True)
class Summary:
    """One measure of one defence and tuner over attacks.

    Attributes:
        mean: over attacks of the mean over seeds.
        low, high: 95 % bootstrap interval over attacks (over seeds, if there is one attack); None
            with one attack and one seed.
        worst, worst_on: worst attack by its mean over seeds.
        attacks, cases: how many attacks, and attacks times seeds, there are.
    """

    mean: float
    low: float | None
    high: float | None
    worst: float
    worst_on: str
    attacks: int
    cases: int


@dataclass(frozen=True, slots=True)
class Row:
    """One defence through one tuner.

    Attributes:
        defence, tuner: labels; defence ``none`` is the baseline.
        unseen: by measure, over the attacks that count.
        chosen: by measure, over the attacks on which settings were chosen.
        cost: means over all attacks by key of ``COSTS``.
        own_threshold: it decides at another false-positive rate than the common one, so what is
            left of the attack and the accuracy are not at that rate.
    """

    defence: str
    tuner: str
    unseen: dict[str, Summary]
    chosen: dict[str, Summary]
    cost: dict[str, float]
    own_threshold: bool


def rows_of(grid: Grid) -> list[Row]:
    """Return the rows, best first.

    The order is by mean TPR, then by what is left of the attacks; a defence that flags nothing
    follows those that do. It looks at unseen attacks alone.
    """
    pairs = dict.fromkeys((unit.defence, unit.tuner) for unit in grid.units)
    rows = [_row(grid, defence, tuner) for defence, tuner in pairs]
    return sorted(
        (row for row in rows if row.unseen or row.chosen),
        key=lambda row: (grid.tuners.index(row.tuner), *_place(row)),
    )


def _place(row: Row) -> tuple[float, float]:
    tpr, left = row.unseen.get("tpr"), row.unseen.get("asr_left")
    return (-tpr.mean if tpr else 1.0, left.mean if left else 2.0)


def _row(grid: Grid, defence: str, tuner: str) -> Row:
    every = [u for u in grid.units if (u.defence, u.tuner) == (defence, tuner)]
    own = (
        has_own_threshold(cell, grid.level)
        for cell in grid.cells
        if (cell.defence, cell.tuner, cell.control) == (defence, tuner, False)
    )
    return Row(
        defence, tuner,
        unseen=_summaries(grid.of(defence, tuner), (defence, "unseen")),
        chosen=_summaries(grid.of(defence, tuner, chosen=True), (defence, "chosen")),
        cost={key: mean for key in COSTS if (mean := _mean(every, key)) is not None},
        own_threshold=any(own),
    )  # fmt: skip


def _mean(units: Sequence[Unit], cost: str) -> float | None:
    values = [unit.cost[cost] for unit in units if cost in unit.cost]
    return sum(values) / len(values) if values else None


def _summaries(units: Sequence[Unit], path: tuple[str, ...]) -> dict[str, Summary]:
    found = {}
    for key, measure in MEASURES.items():
        blocks = blocks_of(units, key)
        if blocks:
            low, high = bootstrap_interval(
                blocks, stream(0, "report/leaderboard", key, *path)
            ) or (None, None)  # fmt: skip
            means = {attack: float(np.mean(values)) for attack, values in blocks.items()}
            worst = (min if measure.up else max)(means, key=lambda attack: means[attack])
            found[key] = Summary(
                mean_of_blocks(blocks), low, high, means[worst], worst, len(blocks),
                sum(map(len, blocks.values())),
            )  # fmt: skip
    return found
