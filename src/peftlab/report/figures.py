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
from peftlab.report.read import DASH, NONE, Cell, clean_text, finite, mapping
from peftlab.report.results import Group, percent, short_percent
from peftlab.report.svg import (
    ACCENT,
    CLEAN,
    INK,
    MUTED,
    PAPER,
    TRIGGERED,
    axes,
    canvas,
    legend,
    percent_axis,
    style,
    to_svg,
)

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
    with style(key):
        figure = canvas(250)
        ax = axes(figure, left=46, top=34)
        if log:
            ax.set_xscale("log")
        ax.stairs(low, edges, fill=True, color=CLEAN, alpha=0.35, label="clean")
        ax.stairs(low, edges, color=CLEAN, linewidth=1.6)
        ax.stairs(
            high, edges, fill=True, facecolor="none", edgecolor=TRIGGERED, hatch="////",
            linewidth=1.6, label="triggered",
        )  # fmt: skip
        for index, cut in enumerate(cuts):
            cut = float(np.clip(cut, edges[0], edges[-1]))  # noqa: PLW2901  keep it in sight
            ax.axvline(cut, color=INK, linewidth=1.3, linestyle=(0, (5, 3)),
                       label="threshold" if index == 0 else None)  # fmt: skip
        ax.set_xlabel("suspicion score" + (" (log scale)" if log else ""))
        ax.set_ylim(0, max(low.max(), high.max()) * 1.04)
        percent_axis(ax.yaxis)
        legend(ax, 3)
        svg = to_svg(figure, key, f"{title}: {label(one)}", caption)
    rows = tuple(
        (f"{a:.4g} to {b:.4g}", percent(float(c)), percent(float(t)))
        for a, b, c, t in zip(edges[:-1], edges[1:], low, high, strict=True)
    )
    return Drawing(svg, title, caption, ("score", "clean", "triggered"), rows)


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
    with style(key):
        figure = canvas(250)
        ax = axes(figure, left=62, top=34)
        ax.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1.2)
        if len(own) > 1:
            ax.fill_between(_GRID, low, high, step="post", color=ACCENT, alpha=0.22, linewidth=0)
        ax.step(_GRID, mean, where="post", color=ACCENT, linewidth=2)
        ax.plot([0.01], [one_percent], "o", color=INK, markerfacecolor=PAPER, markersize=8,
                clip_on=False, label="FPR 1 %", linestyle="none")  # fmt: skip
        if fpr is not None and tpr is not None:
            ax.plot([fpr], [tpr], "D", color=INK, markersize=7, clip_on=False, linestyle="none",
                    label="in use")  # fmt: skip
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1.01)
        ax.set_xlabel("clean inputs flagged (FPR)")
        ax.set_ylabel("triggered flagged (TPR)")
        percent_axis(ax.xaxis)
        percent_axis(ax.yaxis)
        legend(ax, 2)
        svg = to_svg(figure, key, f"{title}: {label(one)}", caption)
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
    with style(key):
        figure = canvas(310)
        top = axes(figure, left=46, top=34, bottom=152)
        low = axes(figure, left=46, top=192)
        top.plot(steps, clean, "-o", color=CLEAN, markersize=5, linewidth=1.8, label="clean")
        top.plot(steps, triggered, "--^", color=TRIGGERED, markersize=5.5, linewidth=1.8,
                 label="triggered")  # fmt: skip
        low.axhline(0.5, color=MUTED, linestyle=":", linewidth=1.2)
        low.plot(steps, auroc, "-s", color=ACCENT, markersize=4.5, linewidth=1.8)
        low.set_ylim(-0.03, 1.05)
        low.set_yticks([0, 0.5, 1])
        low.set_ylabel("AUROC")
        low.set_xlabel("un-learning step")
        top.set_xticklabels([])
        top.set_xlim(low.get_xlim())
        legend(top, 2)
        svg = to_svg(figure, key, f"Un-learning path of {label(one)}: {title}", caption)
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
