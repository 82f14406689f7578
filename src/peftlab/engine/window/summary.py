"""From the curves of all units to widths, comparisons and a choice; pure functions.

A unit is one (base, attack, seed, variant) with its curves. Widths are of the true-positive rate
at a false-positive rate calibrated for 5 %; means are over seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from peftlab.engine.metrics import summarise
from peftlab.engine.window.curves import SCORES
from peftlab.engine.window.width import Stretch, mean_rate, stretches, widest

Unit = Mapping[str, Any]
Row = dict[str, Any]
RATE = "tpr_05"


def _groups(units: Iterable[Unit], *names: str) -> dict[tuple[Any, ...], list[Unit]]:
    found: dict[tuple[Any, ...], list[Unit]] = {}
    for unit in units:
        found.setdefault(tuple(unit[name] for name in names), []).append(unit)
    return found


def _width(unit: Unit, score: str, bar: float) -> float:
    found = widest(unit["steps"], unit[score][RATE], bar)
    return 0.0 if found is None else found.width


def _shared(units: Sequence[Unit], score: str, bar: float) -> list[Stretch]:
    """Return the stretches on which the rate reaches the bar in every one of the units."""
    lowest = np.min([unit[score][RATE] for unit in units], axis=0)
    return stretches(units[0]["steps"], lowest.tolist(), bar)


def _on_average(units: Sequence[Unit], score: str, bar: float) -> list[Stretch]:
    """Return the stretches on which the mean rate of the units reaches the bar."""
    mean = np.mean([unit[score][RATE] for unit in units], axis=0)
    return stretches(units[0]["steps"], mean.tolist(), bar)


def _pairs(found: Iterable[Stretch]) -> list[list[float]]:
    return [[each.start, each.end] for each in found]


def _measured(units: Iterable[Unit]) -> list[Unit]:
    """Return the units with enough clean texts for a threshold at 5 %."""
    return [unit for unit in units if unit[SCORES[0]][RATE][0] is not None]


def ends(values: Sequence[float]) -> Row:
    """Return mean, smallest and largest."""
    return {"mean": fmean(values), "min": min(values), "max": max(values)}


def width_table(units: Iterable[Unit], bar: float) -> list[Row]:
    """Return one row per (base, attack, variant, score), in order of appearance.

    Row: ``width`` (mean, min, max over seeds of the widest window), ``open`` (in how many seeds it
    reached the last look), ``windows`` of the mean rate and those ``shared`` by all seeds (lists of
    [start, end]), ``blind`` (mean TPR over all steps), ``fpr`` (realised, mean and worst over looks
    and seeds), ``n`` seeds.
    """
    rows: list[Row] = []
    names = ("base", "attack", "variant", "control")
    for group, members in _groups(_measured(units), *names).items():
        for score in SCORES:
            found = [widest(unit["steps"], unit[score][RATE], bar) for unit in members]
            rates = [rate for unit in members for rate in unit[score]["fpr_05"]]
            rows.append({
                **dict(zip(names, group, strict=True)),
                "score": score,
                "n": len(members),
                "width": ends([0.0 if each is None else each.width for each in found]),
                "open": sum(each is not None and each.open for each in found),
                "windows": _pairs(_on_average(members, score, bar)),
                "shared": _pairs(_shared(members, score, bar)),
                "blind": fmean(mean_rate(unit["steps"], unit[score][RATE]) for unit in members),
                "fpr": {"mean": fmean(rates), "max": max(rates)},
            })  # fmt: skip
    return rows


def trained_table(units: Iterable[Unit]) -> list[Row]:
    """Return one row per (base, attack): clean accuracy and attack success of the poisoned base."""
    rows = []
    for (base, attack, control), members in _groups(units, "base", "attack", "control").items():
        by_seed = {unit["seed"]: unit for unit in members}.values()
        rows.append({
            "base": base, "attack": attack, "control": control, "n": len(by_seed),
            "ca": ends([unit["ca"] for unit in by_seed]),
            "asr": ends([unit["asr"] for unit in by_seed]),
        })  # fmt: skip
    return rows


def compare_bases(units: Iterable[Unit], bar: float) -> list[Row]:
    """Return, per score and base, how much wider its windows are than those of the first base.

    Widths are paired by attack, variant and seed; the 95 % interval is of the mean over seeds.
    Controls are left out. ``wider`` and ``narrower`` count attacks x variants by their means.
    """
    own = [unit for unit in _measured(units) if not unit["control"]]
    bases = list(dict.fromkeys(unit["base"] for unit in own))
    rows = []
    for score in SCORES:
        widths = {
            (unit["base"], unit["attack"], unit["variant"], unit["seed"]): _width(unit, score, bar)
            for unit in own
        }
        for base in bases[1:]:
            apart = {
                key[1:]: width - widths[(bases[0], *key[1:])]
                for key, width in widths.items()
                if key[0] == base and (bases[0], *key[1:]) in widths
            }
            if apart:
                rows.append({"score": score, "base": base, "against": bases[0], **_paired(apart)})
    return rows


def _paired(apart: Mapping[tuple[Any, ...], float]) -> Row:
    seeds: dict[Any, list[float]] = {}
    pairs: dict[Any, list[float]] = {}
    for (attack, variant, seed), difference in apart.items():
        seeds.setdefault(seed, []).append(difference)
        pairs.setdefault((attack, variant), []).append(difference)
    means = [fmean(values) for values in pairs.values()]
    spread = summarise([{"metrics": {"d": fmean(values)}} for values in seeds.values()])["d"]
    return {
        "n": len(seeds),
        "difference": spread["mean"],
        "low": spread["low"],
        "high": spread["high"],
        "wider": sum(mean > 0 for mean in means),
        "narrower": sum(mean < 0 for mean in means),
        "pairs": len(means),
    }


def choices(units: Iterable[Unit], bar: float) -> list[Row]:
    """Return, per base, all variants x scores, the one with the widest worst window first.

    A choice is made on the first attack alone (widest mean window, then highest mean TPR) and
    marked ``chosen``; the others only show what it is worth there. ``common`` are
    the windows that all attacks and seeds share. Variants that lack an attack, or a seed that
    another has, are left out.
    """
    own = [unit for unit in _measured(units) if not unit["control"]]
    attacks = list(dict.fromkeys(unit["attack"] for unit in own))
    table = width_table(own, bar)
    found = []
    for (base,), members in _groups(own, "base").items():
        rows = []
        seeds = max(row["n"] for row in table if row["base"] == base)
        for (variant,), mine in _groups(members, "variant").items():
            for score in SCORES:
                known = {
                    row["attack"]: row for row in table
                    if (row["base"], row["variant"], row["score"], row["n"])
                    == (base, variant, score, seeds)
                }  # fmt: skip
                if set(known) == set(attacks):
                    row = _choice([known[attack] for attack in attacks])
                    common = _pairs(_shared(mine, score, bar))
                    rows.append({**row, "common": common, "chosen": False})
        if rows:
            max(rows, key=lambda row: (row["first"], row["first_blind"]))["chosen"] = True
        rows.sort(key=lambda row: (-row["worst"], -row["mean"], -row["blind"]))
        found += rows
    return found


def _choice(rows: Sequence[Row]) -> Row:
    worst = min(rows, key=lambda row: (row["width"]["mean"], row["blind"]))
    first = rows[0]
    return {
        "base": first["base"], "variant": first["variant"], "score": first["score"],
        "first_attack": first["attack"],
        "first": first["width"]["mean"],
        "first_blind": first["blind"],
        "worst_attack": worst["attack"],
        "worst": worst["width"]["mean"],
        "mean": fmean(row["width"]["mean"] for row in rows),
        "blind": fmean(row["blind"] for row in rows),
        "fpr": max(row["fpr"]["max"] for row in rows),
        "open": sum(row["open"] for row in rows),
        "attacks": len(rows),
    }  # fmt: skip
