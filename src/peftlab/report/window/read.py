"""``window.json`` into typed rows: strict about the schema, tolerant of gaps, safe to print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftlab.core.errors import InputRejected
from peftlab.core.types import Floats
from peftlab.report.read import clean_text, finite, mapping

SCHEMA = "peftlab.window/1"
SCORES = {
    "gap": "gap, one step", "max_prob": "max softmax, one step", "trajectory": "trajectory",
}  # fmt: skip
Spans = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """The curves of one base, attack, variant and seed.

    Attributes:
        curves: ``"clean"`` and ``"triggered"`` (mean confidence) and ``"SCORE.METRIC"``, each
            (K + 1,) with NaN where nothing was measured.
    """

    base: str
    attack: str
    variant: str
    seed: int
    control: bool
    curves: dict[str, Floats]


@dataclass(frozen=True, slots=True)
class Width:
    """The windows of one base, attack, variant and score, over seeds.

    Attributes:
        mean, low, high: width in steps of the widest window.
        n, open: seeds, and those whose window reached the last look.
        windows, shared: windows of the mean rate, and those that all seeds share.
        blind: mean TPR over all steps.
        fpr, fpr_max: realised false-positive rate, mean and worst.
    """

    base: str
    attack: str
    variant: str
    score: str
    control: bool
    mean: float
    low: float
    high: float
    n: int
    open: int
    windows: Spans
    shared: Spans
    blind: float
    fpr: float
    fpr_max: float


@dataclass(frozen=True, slots=True)
class Guard:
    """What one guard finds on one base against one attack, over seeds.

    Attributes:
        name: ways to un-learn, and the steps it looks at.
        passes: of the base a text.
        n: seeds.
        tpr, tpr_low, tpr_high: at 5 %, mean and range.
        tpr_01, fpr: at 1 % (NaN with too few clean texts); realised at 5 %; means.
        chosen: by the first two attacks.
    """

    base: str
    attack: str
    name: str
    control: bool
    passes: int
    n: int
    tpr: float
    tpr_low: float
    tpr_high: float
    tpr_01: float
    fpr: float
    chosen: bool


@dataclass(frozen=True, slots=True)
class Windows:
    """All that the page shows.

    Attributes:
        steps: (K + 1,) looks.
        bar: true-positive rate from which a window counts.
        units, widths: as measured.
        trained: per (base, attack): clean accuracy and attack success, plain rows.
        compare, choices: plain rows as the engine wrote them, numbers only where finite.
        guards: per base, attack and guard: what several looks find together.
    """

    steps: Floats
    bar: float
    units: tuple[Unit, ...]
    widths: tuple[Width, ...]
    trained: tuple[Mapping[str, Any], ...]
    compare: tuple[Mapping[str, Any], ...]
    choices: tuple[Mapping[str, Any], ...]
    guards: tuple[Guard, ...]

    def names(self, kind: str) -> list[str]:
        """Return the labels of ``base``, ``attack`` or ``variant``, in the recipe's order."""
        return list(dict.fromkeys(getattr(unit, kind) for unit in self.units))

    def width(self, base: str, attack: str, variant: str, score: str) -> Width | None:
        """Return one row of the table, if it was measured."""
        wanted = (base, attack, variant, score)
        return next(
            (row for row in self.widths
             if (row.base, row.attack, row.variant, row.score) == wanted), None,
        )  # fmt: skip


def _listed(value: object) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else []


def _rows(value: object) -> list[Mapping[str, Any]]:
    return [row for row in _listed(value) if isinstance(row, Mapping)]


def _number(row: Mapping[str, Any], *path: str) -> float:
    value: Any = row
    for key in path:
        value = mapping(value).get(key)
    found = finite(value)
    return float("nan") if found is None else found


def _curve(values: object, n: int) -> Floats:
    numbers = [finite(value) for value in _listed(values)[:n]]
    filled = [np.nan if number is None else number for number in numbers]
    return np.array(filled + [np.nan] * (n - len(filled)), dtype=np.float64)


def _labels(row: Mapping[str, Any]) -> dict[str, str]:
    return {kind: clean_text(row.get(kind, "")) for kind in ("base", "attack", "variant")}


def _unit(row: Mapping[str, Any], n: int) -> Unit:
    confidence = mapping(row.get("confidence"))
    curves = {name: _curve(confidence.get(name), n) for name in ("clean", "triggered")}
    for score in SCORES:
        for metric in ("tpr_05", "fpr_05", "tpr_01", "fpr_01", "auroc"):
            curves[f"{score}.{metric}"] = _curve(mapping(row.get(score)).get(metric), n)
    seed = finite(row.get("seed"))
    return Unit(
        **_labels(row), seed=0 if seed is None else int(seed), control=bool(row.get("control")),
        curves=curves,
    )  # fmt: skip


def _spans(value: object) -> Spans:
    found = []
    for pair in _listed(value):
        ends = [finite(end) for end in _listed(pair)]
        if len(ends) == 2 and ends[0] is not None and ends[1] is not None:
            found.append((ends[0], ends[1]))
    return tuple(found)


def _width(row: Mapping[str, Any]) -> Width:
    return Width(
        **_labels(row),
        score=clean_text(row.get("score", "")),
        control=bool(row.get("control")),
        mean=_number(row, "width", "mean"),
        low=_number(row, "width", "min"),
        high=_number(row, "width", "max"),
        n=int(finite(row.get("n")) or 0),
        open=int(finite(row.get("open")) or 0),
        windows=_spans(row.get("windows")),
        shared=_spans(row.get("shared")),
        blind=_number(row, "blind"),
        fpr=_number(row, "fpr", "mean"),
        fpr_max=_number(row, "fpr", "max"),
    )


def _guard(row: Mapping[str, Any]) -> Guard:
    steps = [finite(step) for step in _listed(row.get("looks"))]
    shown = ", ".join(f"{step:.0f}" for step in steps if step is not None)
    return Guard(
        base=clean_text(row.get("base", "")),
        attack=clean_text(row.get("attack", "")),
        name=clean_text(row.get("guard", "")) + (f" at {shown}" if shown else ""),
        control=bool(row.get("control")),
        passes=int(finite(row.get("passes")) or 0),
        n=int(finite(row.get("n")) or 0),
        tpr=_number(row, "tpr_05", "mean"),
        tpr_low=_number(row, "tpr_05", "min"),
        tpr_high=_number(row, "tpr_05", "max"),
        tpr_01=_number(row, "tpr_01", "mean"),
        fpr=_number(row, "fpr_05", "mean"),
        chosen=row.get("chosen") is True,
    )


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{key: clean_text(value) for key, value in row.items() if isinstance(value, str)},
        **{key: value for key, value in row.items()
           if isinstance(value, int | float) and finite(value) is not None},
        "common": _spans(row.get("common")),
        **{key: row.get(key) is True for key in ("control", "chosen")},
        **{key: mapping(row.get(key)) for key in ("ca", "asr")},
    }  # fmt: skip


def _whole(value: object, *needed: str) -> tuple[Mapping[str, Any], ...]:
    """Return the rows that have all the numbers which the words are made from."""
    rows = [_plain(row) for row in _rows(value)]
    return tuple(row for row in rows if all(finite(row.get(key)) is not None for key in needed))


def read_windows(results: Mapping[str, Any]) -> Windows:
    """Return what a ``window.json`` holds.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is something else.
    """
    schema = results.get("schema") if isinstance(results, Mapping) else None
    recipe = mapping(results.get("recipe")) if schema == SCHEMA else {}
    looks = _listed(recipe.get("steps"))
    steps = _curve(looks, len(looks))
    if not len(steps) or not np.isfinite(steps).all():
        raise InputRejected(
            "this is not a window file that the report can read", code="REPORT-SCHEMA",
            got=clean_text(schema), allowed=f"{SCHEMA}, with the steps of its recipe",
            fix="give the window.json of a run",
        )  # fmt: skip
    units = tuple(_unit(row, len(steps)) for row in _rows(results.get("units")))
    bases = {unit.base for unit in units}
    bar = finite(recipe.get("bar"))
    return Windows(
        steps=steps,
        bar=0.8 if bar is None else bar,
        units=units,
        widths=tuple(
            row for row in map(_width, _rows(results.get("table")))
            if row.score in SCORES and row.base in bases
            and np.isfinite([row.mean, row.low, row.high, row.blind]).all()
        ),
        trained=tuple(map(_plain, _rows(results.get("trained")))),
        compare=_whole(results.get("compare"), "difference", "wider", "narrower", "pairs"),
        choices=_whole(results.get("choices"), "first", "worst", "attacks"),
        guards=tuple(
            row for row in map(_guard, _rows(results.get("guards")))
            if all(
                0 <= rate <= 1  # NaN is not
                for rate in (row.tpr, row.tpr_low, row.tpr_high, row.fpr)
            )
        ),
    )  # fmt: skip
