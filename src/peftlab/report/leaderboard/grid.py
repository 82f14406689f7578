"""Which attacks a leaderboard counts: those on which no setting was chosen, and that took.

Settings are chosen on a few attacks (``chosen_on`` of the recipe) and frozen; what counts is what
a defence does on the others. An attack that the victim did not learn leaves nothing to find and
would only dilute every mean; it is left out for all defences alike, and listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftlab.report.leaderboard.units import NotTaken, Unit, level_of, not_taken, units_of
from peftlab.report.read import Cell, clean_text, mapping, read_cells
from peftlab.report.select import selected


@dataclass(frozen=True, slots=True)
class Grid:
    """The poisoned cells of a run, as a leaderboard looks at them.

    Attributes:
        cells: all, with the controls and those that make no sense.
        level: false-positive rate that guards are judged at, or None.
        tuners, defences: in order of first appearance, ``none`` among them.
        attacks: as ``Unit.attack``, those on which settings were chosen first.
        chosen: the attacks on which settings were chosen.
        told: whether the recipe says on which they were.
        seeds: how many there are.
        units: all poisoned cells that make sense.
        not_taken: attacks that did not take.
        only: in words what the results were cut down to; empty if they are whole.
    """

    cells: tuple[Cell, ...]
    level: float | None
    tuners: tuple[str, ...]
    defences: tuple[str, ...]
    attacks: tuple[str, ...]
    chosen: frozenset[str]
    told: bool
    seeds: int
    units: tuple[Unit, ...]
    not_taken: tuple[NotTaken, ...]
    only: str

    @property
    def main_tuner(self) -> str:
        """Return the tuner that sentences are about: ``lora``, else the first."""
        return "lora" if "lora" in self.tuners else next(iter(self.tuners), "")

    @property
    def unseen(self) -> tuple[str, ...]:
        """Return the attacks that count: unseen ones, or all where settings saw every attack."""
        return tuple(a for a in self.attacks if a not in self.chosen) or self.attacks

    def of(self, defence: str, tuner: str, *, chosen: bool = False) -> list[Unit]:
        """Return the units of one defence and tuner, on attacks that count and took.

        Args:
            defence: its label.
            tuner: its label.
            chosen: those on which settings were chosen instead.
        """
        gone = {one.attack for one in self.not_taken if one.tuner == tuner}
        wanted = (self.chosen if chosen else set(self.unseen)) - gone
        return [
            unit for unit in self.units
            if unit.defence == defence and unit.tuner == tuner and unit.attack in wanted
        ]  # fmt: skip


def make_grid(results: Mapping[str, Any]) -> Grid:
    """Return what a leaderboard counts.

    Args:
        results: what ``results.json`` holds.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is not a results dict.
    """
    cells = read_cells(results)
    level = level_of(cells)
    units = units_of(cells, level)
    chosen_on = _chosen_on(results)
    seen = {unit.attack: unit.label in chosen_on for unit in units}
    own = [cell for cell in cells if not cell.control]
    return Grid(
        cells=tuple(cells),
        level=level,
        tuners=tuple(dict.fromkeys(cell.tuner for cell in own)),
        defences=tuple(dict.fromkeys(cell.defence for cell in own)),
        attacks=tuple(sorted(seen, key=lambda name: not seen[name])),
        chosen=frozenset(name for name, chosen in seen.items() if chosen),
        told=bool(chosen_on),
        seeds=len({unit.seed for unit in units}),
        units=tuple(units),
        not_taken=tuple(not_taken(units)),
        only=selected(results),
    )


def _chosen_on(results: Mapping[str, Any]) -> set[str]:
    listed = mapping(results.get("recipe")).get("chosen_on") or []
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        return set()
    return {clean_text(label) for label in listed}
