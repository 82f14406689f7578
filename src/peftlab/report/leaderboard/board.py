"""The whole leaderboard of a run, and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from peftlab.report.leaderboard.claims import Comparison, comparisons_of
from peftlab.report.leaderboard.grid import Grid, make_grid
from peftlab.report.leaderboard.rows import Row, rows_of
from peftlab.report.results import Group, group
from peftlab.report.stages import Filtering, Verdicts, filterings, verdicts

SCHEMA = "peftlab.leaderboard/1"


@dataclass(frozen=True, slots=True)
class Board:
    """The leaderboard of a run.

    Attributes:
        grid: what is counted.
        rows: one per defence and tuner, best first.
        comparisons: the best against its rivals, per tuner and measure.
        groups: all cells, gathered over seeds.
        filterings, verdicts: what defences did that judge no inputs.
    """

    grid: Grid
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    groups: tuple[Group, ...]
    filterings: tuple[Filtering, ...]
    verdicts: tuple[Verdicts, ...]

    def row(self, defence: str, tuner: str) -> Row:
        """Return the row of one defence and tuner."""
        return next(row for row in self.rows if (row.defence, row.tuner) == (defence, tuner))

    def compared(self, measure: str, tuner: str) -> Comparison | None:
        """Return the comparison by one measure through one tuner, if there is one."""
        return next(
            (one for one in self.comparisons if (one.measure, one.tuner) == (measure, tuner)), None
        )

    def distinct(self) -> list[tuple[Comparison, tuple[str, ...]]]:
        """Return the comparisons that can be made, each with the tuners that it is the same for.

        A guard looks at the base alone, so what it finds is mostly the same for all tuners.
        """
        found: dict[Comparison, list[str]] = {}
        for one in self.comparisons:
            if one.claims:
                found.setdefault(replace(one, tuner=""), []).append(one.tuner)
        every = len(self.grid.tuners)
        return [
            (one, shown)
            for one, tuners in found.items()
            for shown in ([tuple(tuners)] if len(tuners) == every else [(t,) for t in tuners])
        ]

    @property
    def senseless(self) -> list[Group]:
        """Return the combinations on poisoned bases that make no sense."""
        return [one for one in self.groups if one.not_applicable and not one.control]


def make_board(results: Mapping[str, Any]) -> Board:
    """Return the leaderboard of any results.

    Args:
        results: what ``results.json`` holds.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is not a results dict.
    """
    grid = make_grid(results)
    return Board(
        grid,
        tuple(rows_of(grid)),
        tuple(comparisons_of(grid)),
        tuple(group(grid.cells)),
        tuple(filterings(grid.cells)),
        tuple(verdicts(grid.cells)),
    )


def as_json(board: Board) -> dict[str, Any]:
    """Return the leaderboard as ``leaderboard.json`` holds it."""
    grid = board.grid
    return {
        "schema": SCHEMA,
        "level": grid.level,
        "chosen_on": [attack for attack in grid.attacks if attack in grid.chosen],
        "unseen": list(grid.unseen),
        "seeds": grid.seeds,
        "rows": [asdict(row) for row in board.rows],
        "comparisons": [asdict(one) for one in board.comparisons],
        "not_taken": [asdict(one) for one in grid.not_taken],
        "filters": [asdict(one) for one in board.filterings],
        "verdicts": [asdict(one) for one in board.verdicts],
        "not_applicable": [
            {"attack": one.attack, "tuner": one.tuner, "defence": one.defence,
             "reason": one.not_applicable}
            for one in board.senseless
        ],
    }  # fmt: skip
