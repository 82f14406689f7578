"""What is measured of one defence on one attack, tuner and seed, at one false-positive rate.

All guards are judged at the level that most of them are calibrated for. One with another level, or
with a published threshold of its own, is judged by its conformal p values there (``tpr_at_05`` and
kin), so that its TPR is bought at the same price; what is left of the attack and the accuracy are
those of its own threshold.

The flip rate is the share of the same triggered texts that an unpoisoned victim gives the target
class: honest error. It is taken off what is left of an attack.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from peftlab.core.paired import Blocks
from peftlab.report.read import NONE, Cell

TOOK = 0.1  # ours: ASR above the flip rate from which a backdoor is said to have taken
_P_LEVELS = {0.01: "01", 0.05: "05"}


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of the leaderboard.

    Attributes:
        key: its name in JSON.
        title: its name in a table.
        up: whether larger is better.
        kind: ``share`` (shown in per cent), ``auroc`` (as is) or ``plain``.
    """

    key: str
    title: str
    up: bool
    kind: str = "share"


MEASURES: dict[str, Measure] = {
    one.key: one
    for one in (
        Measure("tpr", "TPR", up=True),
        Measure("auroc", "AUROC", up=True, kind="auroc"),
        Measure("asr_left", "ASR left", up=False),
        Measure("excess", "ASR above flips", up=False),
        Measure("ca_cost", "accuracy lost", up=False),
        Measure("fpr", "FPR", up=False),
    )
}
COSTS: dict[str, str] = {
    "score_ms_per_text": "ms per text",
    "passes_per_text": "passes per text",
    "fit_seconds": "fit, s",
}


@dataclass(frozen=True, slots=True)
class Unit:
    """What one defence did on one attack, tuner and seed.

    Attributes:
        attack: its label; base and data stand beside it where the results have several.
        label: the attack's label alone.
        tuner, defence, seed: as in the results.
        values: by key of ``MEASURES``; what is not in here was not measured.
        cost: by key of ``COSTS``.
    """

    attack: str
    label: str
    tuner: str
    defence: str
    seed: int
    values: dict[str, float]
    cost: dict[str, float]


def level_of(cells: Iterable[Cell]) -> float | None:
    """Return the false-positive rate that most guards were allowed; None if none claims one."""
    rates = Counter(
        cell.alpha for cell in cells
        if cell.alpha is not None and "fpr" in cell.metrics and not cell.control
    )  # fmt: skip
    return min(rates, key=lambda rate: (-rates[rate], rate)) if rates else None


def has_own_threshold(cell: Cell, level: float | None) -> bool:
    """Tell whether a guard decides at another rate than the common one."""
    return "fpr" in cell.metrics and cell.alpha != level


def units_of(cells: Sequence[Cell], level: float | None) -> list[Unit]:
    """Return one unit per poisoned cell that makes sense, ``none`` among the defences.

    Args:
        cells: of any results.
        level: of ``level_of``.
    """
    naming = _naming(cells)
    flips = _flips(cells)
    return [
        Unit(
            attack=_label(cell, naming),
            label=cell.attack,
            tuner=cell.tuner,
            defence=cell.defence,
            seed=cell.seed,
            values=_values(cell, level, flips.get(_place(cell))),
            cost={key: cell.cost[key] for key in COSTS if key in cell.cost},
        )
        for cell in cells
        if not cell.control and not cell.not_applicable
    ]


def _naming(cells: Sequence[Cell]) -> list[str]:
    return [name for name in ("base", "data") if len({getattr(c, name) for c in cells}) > 1]


def _label(cell: Cell, naming: Sequence[str]) -> str:
    return " · ".join([cell.attack, *(getattr(cell, name) for name in naming)])


def _place(cell: Cell) -> tuple[object, ...]:
    return cell.base, cell.data, cell.attack, cell.tuner, cell.seed


def _flips(cells: Iterable[Cell]) -> dict[tuple[object, ...], float]:
    """Return the flip rate by place, from the negative control; no defence changes it."""
    return {
        _place(cell): cell.metrics["asr"]
        for cell in cells
        if cell.control and "asr" in cell.metrics
    }


def _values(cell: Cell, level: float | None, flips: float | None) -> dict[str, float]:
    known = cell.metrics
    flips = known.get("flip_rate", flips)
    left = known.get("asr" if cell.defence == NONE else "asr_def")
    tpr, fpr = _rates(cell, level)
    before, after = known.get("ca"), known.get("ca_def")
    found = {
        "tpr": tpr,
        "fpr": fpr,
        "auroc": known.get("auroc"),
        "asr": known.get("asr"),
        "flips": flips,
        "asr_left": left,
        "excess": None if left is None or flips is None else left - flips,
        "ca_cost": None if before is None or after is None else before - after,
    }
    return {key: value for key, value in found.items() if value is not None}


def _rates(cell: Cell, level: float | None) -> tuple[float | None, float | None]:
    """Return TPR and FPR at the common level, however the guard decides."""
    known = cell.metrics
    if cell.alpha == level:
        return known.get("tpr"), known.get("fpr")
    key = _P_LEVELS.get(level or 0.0)
    return (known.get(f"tpr_at_{key}"), known.get(f"fpr_at_{key}")) if key else (None, None)


def blocks_of(units: Iterable[Unit], measure: str) -> dict[str, list[float]]:
    """Return the values of a measure by attack, one per seed; attacks without any are left out."""
    found: dict[str, list[float]] = {}
    for unit in units:
        if measure in unit.values:
            found.setdefault(unit.attack, []).append(unit.values[measure])
    return found


def differences(first: Iterable[Unit], second: Iterable[Unit], measure: str) -> Blocks:
    """Return first minus second by attack, for the attacks and seeds that both have.

    Args:
        first: units of one defence and tuner.
        second: units of another defence and the same tuner.
        measure: key of ``MEASURES``.
    """
    other = {
        (unit.attack, unit.seed): unit.values[measure]
        for unit in second
        if measure in unit.values
    }  # fmt: skip
    found: dict[str, list[float]] = {}
    for unit in first:
        key = (unit.attack, unit.seed)
        if measure in unit.values and key in other:
            found.setdefault(unit.attack, []).append(unit.values[measure] - other[key])
    return found


@dataclass(frozen=True, slots=True)
class NotTaken:
    """A backdoor that the victim does not have, so that there is nothing to find.

    Attributes:
        attack, tuner: where.
        asr, flips: mean attack success and flip rate over seeds.
    """

    attack: str
    tuner: str
    asr: float
    flips: float


def not_taken(units: Sequence[Unit]) -> list[NotTaken]:
    """Return the attacks that did not take through a tuner, by their mean over seeds."""
    found = []
    for tuner, attack in dict.fromkeys((unit.tuner, unit.attack) for unit in units):
        own = [unit for unit in units if (unit.tuner, unit.attack) == (tuner, attack)]
        rates = [(u.values["asr"], u.values["flips"]) for u in own if "asr" in u.values
                 and "flips" in u.values]  # fmt: skip
        if rates:
            asr, flips = (sum(values) / len(values) for values in zip(*rates, strict=True))
            if asr - flips <= TOOK:
                found.append(NotTaken(attack, tuner, asr, flips))
    return found
