"""The figures of one combination: scores, ROC curve, un-learning path.

Every figure can be read without colour (hatches, line styles, markers, words), carries a text
alternative, and brings a table of its numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftlab.core.types import Floats
from peftlab.report import curves
from peftlab.report.plot import (
    ACCENT,
    CLEAN,
    DASHED,
    DOTTED,
    INK,
    MUTED,
    TRIGGERED,
    Plot,
    finished,
    hatching,
)
from peftlab.report.read import DASH, NONE, Cell, clean_text, finite, mapping
from peftlab.report.results import Group, percent, short_percent
from peftlab.report.scales import as_numbers, as_percent, as_powers, log_ticks, padded, ticks

MOST_CELLS = 6  # representative combinations that get figures of their own
MOST_SERIES = 3
_GRID = np.unique(np.concatenate([np.linspace(0, 1, 201), np.geomspace(1e-3, 0.05, 30)]))
_TABLE_FPR = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True, slots=True)
class Drawing:
    """One figure: an ``<svg>`` element, a heading, a caption, and its numbers as a table."""

    svg: str
    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def representatives(groups: Sequence[Group]) -> list[Group]:
    """Pick at most six poisoned, defended combinations to show in detail.

    One per attack at the tuner ``lora`` (or the first one there is) for the first defence, then
    the same for the next defence, until six are found. The choice looks at names and order
    only, never at results.
    """
    own = [g for g in groups if not g.control and g.defence != NONE]
    found: list[Group] = []
    for defence in dict.fromkeys(g.defence for g in own):
        for attack in dict.fromkeys(g.attack for g in own):
            fitting = [g for g in own if (g.defence, g.attack) == (defence, attack)]
            fitting.sort(key=lambda g: g.tuner != "lora")
            found += fitting[:1]
    return found[:MOST_CELLS]


def label(one: Group) -> str:
    """Return ``attack · tuner · defence`` of a group."""
    return label_of(one.attack, one.tuner, one.defence)


def label_of(*names: str) -> str:
    """Return names with dots between them, without what was left out."""
    return " · ".join(name for name in names if name != NONE) or NONE


def _arrays(one: Group, arrays: Mapping[str, Any]) -> list[tuple[Cell, Mapping[str, Any]]]:
    return [(cell, mapping(arrays.get(cell.id))) for cell in one.cells if cell.id in arrays]


def _pairs(one: Group, arrays: Mapping[str, Any]) -> list[tuple[Floats, Floats, float | None]]:
    """Return (clean scores, triggered scores, threshold) of each seed that has both."""
    found = []
    for _, held in _arrays(one, arrays):
        clean = curves.finite_array(held.get("clean_scores"))
        triggered = curves.finite_array(held.get("triggered_scores"))
        if len(clean) and len(triggered):
            found.append((clean, triggered, finite(held.get("threshold"))))
    return found


def _seeds(n: int) -> str:
    return "one seed" if n == 1 else f"{n} seeds together"


def histogram(key: str, one: Group, arrays: Mapping[str, Any]) -> Drawing | None:
    """Draw the scores of clean and triggered test texts, with the threshold of each seed."""
    pairs = _pairs(one, arrays)
    if not pairs:
        return None
    clean = np.concatenate([pair[0] for pair in pairs])
    triggered = np.concatenate([pair[1] for pair in pairs])
    edges, log = curves.bins(clean, triggered)
    low, high = curves.shares(clean, edges), curves.shares(triggered, edges)
    cuts = [pair[2] for pair in pairs if pair[2] is not None]
    title = "Scores of clean and triggered inputs"
    caption = (
        f"Share of test inputs per bin of the suspicion score, {_seeds(len(pairs))}; the "
        f"outermost bars hold everything beyond. "
        + (f"Right of the dashed line{'s' if len(cuts) > 1 else ''} an input is flagged."
           if cuts else "There is no single threshold to draw.")
    )  # fmt: skip
    plot, hatch = _histogram_axes(key, edges, float(max(low.max(), high.max())), log=log)
    outline = np.repeat(edges, 2)
    clean_at, triggered_at = (
        np.concatenate([[0], np.repeat(share, 2), [0]]) for share in (low, high)
    )
    plot.area(outline, clean_at, CLEAN, opacity=0.35, label="clean")
    plot.line(outline, clean_at, CLEAN, 1.6)
    plot.area(outline, triggered_at, hatch, edge=TRIGGERED, label="triggered")
    for index, cut in enumerate(cuts):
        plot.line([cut, cut], [0, 1], INK, 1.3, dash=DASHED, label="" if index else "threshold")
    plot.legend()
    svg = finished(key, 250, f"{title}: {label(one)}", caption, plot.parts)
    rows = tuple(
        (f"{a:.4g} to {b:.4g}", percent(float(c)), percent(float(t)))
        for a, b, c, t in zip(edges[:-1], edges[1:], low, high, strict=True)
    )
    return Drawing(svg, title, caption, ("score", "clean", "triggered"), rows)


def _histogram_axes(key: str, edges: Floats, most: float, *, log: bool) -> tuple[Plot, str]:
    """Return empty axes for bars up to ``most``, and a hatched fill."""
    across = padded([edges[0], edges[-1]], log=log)
    plot = Plot(250, across, (0, most * 1.04), left=46, log=log)
    definition, hatch = hatching(key, TRIGGERED)
    plot.parts.append(definition)
    at, up = log_ticks(*across) if log else ticks(*across, most=6), ticks(0, most * 1.04)
    plot.x_axis(at, (as_powers if log else as_numbers)(at),
                "suspicion score" + (" (log scale)" if log else ""))  # fmt: skip
    plot.y_axis(up, as_percent(up))
    return plot, hatch


def roc(key: str, one: Group, arrays: Mapping[str, Any]) -> Drawing | None:
    """Draw the ROC curve: mean over seeds, range over seeds, operating point, FPR 1 % mark."""
    pairs = _pairs(one, arrays)
    if not pairs:
        return None
    own = [curves.roc(clean, triggered) for clean, triggered, _ in pairs]
    mean, low, high = curves.mean_curve(own, _GRID)
    one_percent = float(curves.mean_curve(own, np.array([0.01]))[0][0])
    fpr, tpr, auroc = one.mean("fpr"), one.mean("tpr"), one.mean("auroc")
    title = "ROC curve"
    caption = f"○ At an FPR of 1 % the best TPR is {percent(one_percent)}."
    if fpr is not None and tpr is not None:
        caption = f"◆ In use: FPR {percent(fpr)}, TPR {percent(tpr)}. " + caption
    if auroc is not None:
        caption = f"AUROC {auroc:.3f}. " + caption
    caption += " Dotted: chance." + (" Shaded: range over seeds." if len(own) > 1 else "")
    plot = Plot(250, (0, 1), (0, 1.01), left=62)
    shares = ticks(0, 1)
    plot.x_axis(shares, as_percent(shares), "clean inputs flagged (FPR)")
    plot.y_axis(shares, as_percent(shares), "triggered flagged (TPR)")
    plot.line([0, 1], [0, 1], MUTED, 1.2, dash=DOTTED)
    steps = np.repeat(_GRID, 2)[1:]
    upper, lower, middle = (np.repeat(values, 2)[:-1] for values in (high, low, mean))
    if len(own) > 1:
        around = np.concatenate([steps, steps[::-1]]), np.concatenate([upper, lower[::-1]])
        plot.area(*around, ACCENT, opacity=0.22)
    plot.line(steps, middle, ACCENT, 2)
    plot.marks([0.01], [one_percent], INK, 4, hollow=1, label="FPR 1 %")
    if fpr is not None and tpr is not None:
        plot.marks([fpr], [tpr], INK, 3.6, shape="diamond", label="in use")
    plot.legend()
    svg = finished(key, 250, f"{title}: {label(one)}", caption, plot.parts)
    grid = np.array(_TABLE_FPR)
    at, least, most = curves.mean_curve(own, grid)
    rows = tuple(
        (short_percent(float(f)), percent(float(m)), percent(float(a)), percent(float(b)))
        for f, m, a, b in zip(grid, at, least, most, strict=True)
    )
    return Drawing(svg, title, caption, ("FPR", "TPR, mean", "lowest", "highest"), rows)


def trajectory(key: str, one: Group, arrays: Mapping[str, Any]) -> list[Drawing]:
    """Draw, per series, mean score of clean and triggered inputs and AUROC by step.

    The first seed that recorded a path is shown: paths of several seeds are not averaged, for
    their turning points differ.
    """
    for cell, held in _arrays(one, arrays):
        path = mapping(held.get("trajectory"))
        steps = curves.finite_array(path.get("steps"))
        series = path.get("series") or []
        if len(steps) and isinstance(series, Sequence):
            return [
                drawn
                for index, part in enumerate(series[:MOST_SERIES])
                if (drawn := _path(f"{key}-{index}", one, cell, steps, mapping(part))) is not None
            ]
    return []


def _path(
    key: str, one: Group, cell: Cell, steps: Floats, part: Mapping[str, Any]
) -> Drawing | None:
    names = ("clean_mean", "triggered_mean", "auroc")
    clean, triggered, auroc = (_same_length(part.get(name), len(steps)) for name in names)
    if not any(np.isfinite(values).any() for values in (clean, triggered, auroc)):
        return None
    title = clean_text(part.get("name") or "un-learning path")
    caption = (
        f"Seed {cell.seed}. Above: mean over clean (solid, ●) and triggered (dashed, ▲) test "
        f"inputs. Below: AUROC of that step alone; 0.5 (dotted) is chance."
    )
    across, up = padded(steps), padded([*clean, *triggered])
    top = Plot(310, across, up, left=46, bottom=152)
    low = Plot(310, across, (-0.03, 1.05), left=46, top=192)
    at, marks = ticks(*across, most=8), ticks(*up, most=5)
    top.x_axis(at, [])
    top.y_axis(marks, as_numbers(marks))
    top.line(steps, clean, CLEAN, 1.8, shape="circle", label="clean")
    top.line(steps, triggered, TRIGGERED, 1.8, dash=DASHED, shape="triangle", label="triggered")
    top.legend()
    low.x_axis(at, as_numbers(at), "un-learning step")
    low.y_axis([0, 0.5, 1], ["0.0", "0.5", "1.0"], "AUROC")
    low.line(across, [0.5, 0.5], MUTED, 1.2, dash=DOTTED)
    low.line(steps, auroc, ACCENT, 1.8, shape="square")
    svg = finished(
        key, 310, f"Un-learning path of {label(one)}: {title}", caption, [*top.parts, *low.parts]
    )
    rows = tuple(
        (f"{s:g}", *(f"{v:.3f}" if np.isfinite(v) else DASH for v in values))
        for s, *values in zip(steps, clean, triggered, auroc, strict=True)
    )
    return Drawing(svg, title, caption, ("step", "clean", "triggered", "AUROC"), rows)


def _same_length(values: object, n: int) -> Floats:
    """Return ``values`` as n floats, NaN where there is nothing to draw."""
    listed = list(values) if isinstance(values, Sequence | np.ndarray) else []
    numbers = [finite(value) for value in listed[:n]]
    filled = [np.nan if number is None else number for number in numbers]
    return np.array(filled + [np.nan] * (n - len(filled)), dtype=np.float64)
