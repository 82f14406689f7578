"""What guards find that sum several looks, from the looks that a run has kept.

A guard judges the looks of one way to un-learn, or of several together, as the defence psim does,
but for the hidden state, which is not kept (its path does not depend on where it ends, so a guard
with few looks is the one that was measured). So the defaults of psim can be chosen without
another un-learning. The choice is made on the first two attacks; the others confirm it or not.
What any of it gains is seen beside ``UNTOUCHED``: the gap of the base itself, without un-learning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from peftlab.engine.window.curves import Seen, judge, look_of
from peftlab.engine.window.plan import is_control
from peftlab.engine.window.recipe import GuardChoice, WindowRecipe
from peftlab.engine.window.summary import Row, Unit, ends
from peftlab.nn.evidence import Evidence, Kind

EVIDENCE: tuple[Kind, ...] = ("resistance", "path")
CHOSEN_ON = 2  # attacks
UNTOUCHED = "untouched base"
RATES = ("tpr_05", "tpr_01", "fpr_05", "auroc")


def guard_table(recipe: WindowRecipe, units: Iterable[tuple[Unit, Path]]) -> list[Row]:
    """Return one row per base, attack and guard: mean and range over seeds of each rate.

    Row: ``base``, ``attack``, ``control``, ``guard`` (the ways to un-learn, joined), ``looks``,
    ``passes`` a text, ``n`` seeds, ``tpr_05``, ``tpr_01``, ``fpr_05``, ``auroc`` and ``chosen``.

    Args:
        recipe: says which guards.
        units: each with the file of its looks. A seed in which a guard lacks a way to un-learn, or
            clean texts for a threshold at 5 %, does not count; too few for 1 % leave ``tpr_01``
            None.
    """
    groups: dict[tuple[str, str, bool], dict[int, dict[str, Path]]] = {}
    starts: dict[tuple[str, str, bool], dict[int, Unit]] = {}
    for unit, file in units:
        labels = (unit["base"], unit["attack"], unit["control"])
        groups.setdefault(labels, {}).setdefault(unit["seed"], {})[unit["variant"]] = file
        starts.setdefault(labels, {})[unit["seed"]] = unit["gap"]
    rows = [
        {"base": base, "attack": attack, "control": control, **row}
        for (base, attack, control), seeds in groups.items() if recipe.guard
        for row in [*_untouched(starts[base, attack, control]), *_rows(recipe, seeds)]
    ]  # fmt: skip
    poisoned = [attack.label for attack in recipe.attack if not is_control(attack)]
    _choose(rows, poisoned[:CHOSEN_ON])
    return rows


def _untouched(seeds: Mapping[int, Unit]) -> list[Row]:
    """Return what the gap finds at step 0, where all ways to un-learn are the same."""
    rates = [{name: gap[name][0] for name in RATES} for gap in seeds.values()]
    known = [rate for rate in rates if _whole(rate)]
    return [_row(UNTOUCHED, (), 1, known)] if known else []


def _whole(rate: Row) -> bool:
    return all(value is not None for name, value in rate.items() if name != "tpr_01")


def _row(name: str, looks: Sequence[int], passes: int, rates: Sequence[Row]) -> Row:
    return {
        "guard": name,
        "looks": list(looks),
        "passes": passes,
        "n": len(rates),
        **{
            rate: None if None in (found := [each[rate] for each in rates]) else ends(found)
            for rate in RATES
        },
        "chosen": False,
    }


def _rows(recipe: WindowRecipe, seeds: Mapping[int, Mapping[str, Path]]) -> list[Row]:
    read = {seed: {name: load_file(file) for name, file in files.items()}
            for seed, files in seeds.items()}  # fmt: skip
    found = []
    for guard in recipe.guard:
        at = [0, *(recipe.steps.index(step) for step in guard.looks)]
        for names in _ways(recipe, guard):
            rates = [
                rate
                for known in read.values()
                if all(name in known for name in names)
                and _whole(rate := _rates([known[name] for name in names], at))
            ]
            if rates:
                passes = 1 + len(names) * len(guard.looks)
                found.append(_row(" + ".join(names), guard.looks, passes, rates))
    return found


def _ways(recipe: WindowRecipe, guard: GuardChoice) -> list[tuple[str, ...]]:
    return [guard.together] if guard.together else [(one.label,) for one in recipe.variant]


def _rates(parts: Sequence[Mapping[str, Any]], at: Sequence[int]) -> Row:
    """Return the rates of one guard on one poisoned base, None where clean texts are too few."""
    seen = Seen(**{
        group: look_of(
            [part[group][:, at].astype(np.float64) for part in parts], first[:, 0].argmax(axis=1)
        )
        for group, first in parts[0].items()
    })  # fmt: skip
    n_classes = parts[0]["reference"].shape[2]
    evidence = Evidence.fit(seen.reference, EVIDENCE, n_classes)
    found = judge(evidence.score, seen)
    return {name: found[name] for name in RATES}


def _choose(rows: Sequence[Row], attacks: Sequence[str]) -> None:
    """Mark, on each base, the guard with the highest rate at 5 % on ``attacks``.

    Of equals the highest at 1 %, then the fewest passes. Guards that lack an attack, or a seed
    that another has, are left out: a mean without the hardest seed is no rival.
    """
    for base in dict.fromkeys(row["base"] for row in rows):
        own = [row for row in rows if row["base"] == base and not row["control"]]
        guards: dict[tuple[Any, ...], list[Row]] = {}
        for row in own:
            if row["looks"]:
                guards.setdefault((row["guard"], *row["looks"]), []).append(row)
        seeds = max((row["n"] for row in own), default=0)
        whole = [
            each for each in guards.values()
            if set(attacks) <= {row["attack"] for row in each if row["n"] == seeds}
        ]  # fmt: skip
        if not whole:
            continue
        for row in max(whole, key=lambda each: _worth(each, attacks)):
            row["chosen"] = True


def _worth(rows: Sequence[Row], attacks: Sequence[str]) -> tuple[float, float, int]:
    known = [row for row in rows if row["attack"] in attacks]
    at_5, at_1 = (
        round(fmean(row[name]["mean"] if row[name] else 0.0 for row in known), 6)
        for name in RATES[:2]
    )
    return at_5, at_1, -rows[0]["passes"]
