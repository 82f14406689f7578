"""One self-contained ``window.html``: conclusions, widths, windows, curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftlab.report.page import all_plain, common, environment
from peftlab.report.read import DASH, finite, mapping
from peftlab.report.results import percent, short_percent
from peftlab.report.window import figures
from peftlab.report.window.read import SCORES, Windows, read_windows
from peftlab.report.window.words import sentences

MOST_CURVES = 160  # figures of single curves, for a page under 4 MB


def render_window(results: Mapping[str, Any]) -> str:
    """Return the whole page of a window experiment.

    Args:
        results: what ``window.json`` holds.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is something else.
    """
    found = read_windows(results)
    page = environment().get_template("window.html.j2")
    curves, left_out = _curves(found)
    return page.render(
        **common(results, (unit.seed for unit in found.units), "window.json"),
        verdict=sentences(found),
        bar=short_percent(found.bar),
        attacks=found.names("attack"),
        tables=[_table(found, score) for score in SCORES],
        guards=[
            {"title": base, "rows": rows}
            for base in found.names("base")
            if (rows := _guards(found, base))
        ],
        widths=_widths(found),
        windows=_windows(found),
        curves=curves,
        left_out=left_out,
        trained=_trained(found),
        n_units=len(found.units),
    )


def _table(found: Windows, score: str) -> dict[str, Any]:
    """Return one row per variant and base, one cell per attack."""
    rows = []
    for variant in found.names("variant"):
        for index, base in enumerate(found.names("base")):
            known = [found.width(base, attack, variant, score) for attack in found.names("attack")]
            rows.append({
                "variant": variant,
                "base": base,
                "first": index == 0,
                "cells": [
                    None if one is None else {
                        "width": f"{one.mean:.0f}{'+' if one.open else ''}",
                        "range": f"[{one.low:.0f}-{one.high:.0f}]" if one.n > 1 else "",
                        "share": round(100 * min(one.mean / found.steps[-1], 1.0)),
                    }
                    for one in known
                ],
                "fpr": percent(_mean([one.fpr for one in known if one is not None])),
            })  # fmt: skip
    return {"title": SCORES[score], "rows": rows}


def _guards(found: Windows, base: str) -> list[dict[str, Any]]:
    """Return one row per guard, one cell per attack, the best on average first."""
    own = [row for row in found.guards if row.base == base]
    rows = []
    for name in dict.fromkeys(row.name for row in own):
        known = {row.attack: row for row in own if row.name == name}
        triggered = [row for row in known.values() if not row.control]
        rows.append({
            "guard": name,
            "chosen": any(row.chosen for row in triggered),
            "passes": next(iter(known.values())).passes,
            "cells": [
                None if (one := known.get(attack)) is None else {
                    "rate": percent(one.tpr),
                    "range": f"[{100 * one.tpr_low:.0f}-{100 * one.tpr_high:.0f}]"
                    if one.n > 1 else "",
                    "rate_01": percent(finite(one.tpr_01)),
                }
                for attack in found.names("attack")
            ],
            "fpr": percent(_mean([row.fpr for row in known.values()])),
            "mean": _mean([row.tpr for row in triggered]) or 0.0,
        })  # fmt: skip
    return sorted(rows, key=lambda row: -row["mean"])


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _poisoned(found: Windows) -> list[str]:
    return list(dict.fromkeys(unit.attack for unit in found.units if not unit.control))


def _widths(found: Windows) -> list[dict[str, Any]]:
    if len(found.names("base")) < 2:
        return []
    return all_plain([
        figures.by_base(f"w{i}-{score}", found, attack, score)
        for i, attack in enumerate(_poisoned(found))
        for score in ("gap", "trajectory")
    ])  # fmt: skip


def _windows(found: Windows) -> list[dict[str, Any]]:
    bases = list(enumerate(found.names("base")))
    return all_plain([
        figures.by_variant(f"v{i}-{j}", found, base, attack)
        for j, attack in enumerate(found.names("attack"))
        for i, base in bases
    ])  # fmt: skip


def _curves(found: Windows) -> tuple[list[dict[str, Any]], int]:
    """Return the curves, grouped by base and attack, and how many were left out.

    The control has none: its windows say all there is to say.
    """
    own = [unit for unit in found.units if not unit.control]
    wanted = list(dict.fromkeys((unit.base, unit.attack, unit.variant) for unit in own))
    groups: dict[tuple[str, str], list[Any]] = {}
    for number, (base, attack, variant) in enumerate(wanted[:MOST_CURVES]):
        drawn = figures.by_step(f"s{number}", found, base, attack, variant)
        groups.setdefault((base, attack), []).append(drawn)
    shown = [
        {"label": f"{base} · {attack}", "figures": all_plain(drawings)}
        for (base, attack), drawings in groups.items()
    ]
    return shown, max(len(wanted) - MOST_CURVES, 0)


def _trained(found: Windows) -> list[list[str]]:
    rows = []
    for row in found.trained:
        cells = [str(row.get("base")), str(row.get("attack"))]
        for metric in ("ca", "asr"):
            about = mapping(row.get(metric))
            mean, low, high = (finite(about.get(key)) for key in ("mean", "min", "max"))
            spread = DASH if low is None or high is None else f"{percent(low)} to {percent(high)}"
            cells += [percent(mean), spread]
        rows.append(cells)
    return rows
