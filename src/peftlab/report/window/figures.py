"""The figures of a window experiment: width by base, windows by variant, curves by step.

Every figure can be read without colour and brings a table of its numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from peftlab.core.types import Floats
from peftlab.report.figures import Drawing
from peftlab.report.read import DASH
from peftlab.report.results import short_percent
from peftlab.report.svg import (
    ACCENT,
    CLEAN,
    INK,
    MUTED,
    PAPER,
    RULE,
    TRIGGERED,
    WIDTH,
    axes,
    canvas,
    legend,
    percent_axis,
    style,
    to_svg,
)
from peftlab.report.window.read import SCORES, Spans, Unit, Width, Windows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 26  # pixels a variant
# marks of bases, from the least to the most pre-trained: in the drawing, hollow and filled in words
SHAPES = (("o", "○", "●"), ("s", "□", "■"), ("^", "△", "▲"), ("D", "◇", "◆"), ("v", "▽", "▼"))
DRAWN = (("trajectory", ACCENT, "-"), ("gap", INK, "--"), ("max_prob", MUTED, ":"))


def named_rows(height: float, names: Sequence[str], *, top: int = 34) -> tuple[Any, Axes]:
    """Return a figure and axes with one named row per name, first on top."""
    short = [name if len(name) <= 22 else name[:21] + "…" for name in names]
    figure = canvas(round(height))
    ax = axes(figure, left=min(30 + 6.4 * max(map(len, short)), 0.45 * WIDTH), top=top)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_yticks(range(len(names)), short)
    ax.tick_params(axis="y", length=0, pad=8, labelcolor=INK)
    ax.spines["left"].set_visible(False)
    return figure, ax


def by_base(key: str, found: Windows, attack: str, score: str) -> Drawing | None:
    """Draw the mean width of each variant's window, one mark a base."""
    bases, variants = found.names("base"), found.names("variant")
    title = f"{attack}: width by base, {SCORES[score]}"
    last = len(bases) - 1
    marks_of = [
        f"{SHAPES[i % len(SHAPES)][1 + (i == last)]}\u00a0{base}" for i, base in enumerate(bases)
    ]
    caption = (
        f"Mean over seeds of the widest window, in steps out of {found.steps[-1]:.0f}, from the "
        f"least to the most pre-trained base: {', '.join(marks_of)}."
    )
    rows: list[tuple[str, ...]] = []
    with style(key):
        figure, ax = named_rows(12 + 46 + ROW * len(variants), variants, top=12)
        for y, variant in enumerate(variants):
            marks = [found.width(base, attack, variant, score) for base in bases]
            rows.append((variant, *(DASH if each is None else width_text(each) for each in marks)))
            known = [each.mean for each in marks if each is not None]
            if known:
                ax.plot([min(known), max(known)], [y, y], color=RULE, linewidth=3, zorder=1)
            for i, mark in enumerate(marks):
                if mark is not None:
                    _mark(ax, mark.mean, y, i, last=i == last)
        ax.set_xlim(-0.02 * found.steps[-1], found.steps[-1])
        ax.set_xlabel("steps")
        svg = to_svg(figure, key, title, caption)
    if all(cell == DASH for row in rows for cell in row[1:]):
        return None
    return Drawing(svg, title, caption, ("way to un-learn", *bases), tuple(rows))


def _mark(ax: Axes, x: float, y: float, number: int, *, last: bool) -> None:
    ax.plot(
        [x], [y], SHAPES[number % len(SHAPES)][0], color=ACCENT, markersize=8, markeredgewidth=1.8,
        markerfacecolor=ACCENT if last else PAPER, linestyle="none", clip_on=False,
        zorder=3 + number,
    )  # fmt: skip


def width_text(row: Width) -> str:
    """Return mean [lowest-highest] width, with + where a seed's window was still open.

    Examples:
        >>> width_text(Width("b", "a", "v", "gap", False, 20.0, 10.0, 30.0, 3, 1, (), (), 0, 0, 0))
        '20+ [10-30]'
    """
    plus = "+" if row.open else ""
    if row.n == 1:
        return f"{row.mean:.0f}{plus}"
    return f"{row.mean:.0f}{plus} [{row.low:.0f}-{row.high:.0f}]"


def by_variant(key: str, found: Windows, base: str, attack: str) -> Drawing | None:
    """Draw at which steps the window of each variant is open, for the gap and the trajectory."""
    variants = [
        name for name in found.names("variant") if found.width(base, attack, name, "gap")
    ]  # fmt: skip
    if not variants:
        return None
    title = f"{base} · {attack}: open windows"
    caption = (
        f"TPR of {short_percent(found.bar)} or more: thick in every seed, thin by the mean over "
        f"seeds. Hatched, above: trajectory. Plain, below: gap of that step alone."
    )
    rows: list[tuple[str, ...]] = []
    with style(key):
        figure, ax = named_rows(34 + 46 + (ROW + 6) * len(variants), variants)
        for y, variant in enumerate(variants):
            row = [variant]
            for score, at in (("trajectory", y - 0.19), ("gap", y + 0.19)):
                one = found.width(base, attack, variant, score)
                if one is not None:
                    _bars(ax, one, at, ACCENT if score == "trajectory" else INK)
                    row += [_spans_text(one.windows), _spans_text(one.shared)]
                else:
                    row += [DASH, DASH]
            ax.axhline(y + 0.5, color=RULE, linewidth=0.6, zorder=0)
            rows.append(tuple(row))
        ax.plot([], [], color=ACCENT, linewidth=5, label="trajectory")
        ax.plot([], [], color=INK, linewidth=5, label="gap")
        ax.set_xlim(0, found.steps[-1])
        ax.set_xlabel("un-learning step")
        legend(ax, 2)
        svg = to_svg(figure, key, title, caption)
    header = ("way to un-learn", "trajectory, mean", "in every seed", "gap, mean", "in every seed")
    return Drawing(svg, title, caption, header, tuple(rows))


def _bars(ax: Axes, row: Width, y: float, colour: str) -> None:
    hatch = "////" if row.score == "trajectory" else None
    for spans, height in ((row.windows, 0.09), (row.shared, 0.3)):
        for start, end in spans:
            wide = max(end - start, 1.5)  # a window of a few steps must still be seen
            ax.barh(
                y, wide, left=start, height=height, color=colour, linewidth=0, zorder=2,
                hatch=hatch if height > 0.1 else None, edgecolor=PAPER,
            )  # fmt: skip


def _spans_text(spans: Spans) -> str:
    return ", ".join(f"{start:.0f} to {end:.0f}" for start, end in spans) or "none"


def by_step(key: str, found: Windows, base: str, attack: str, variant: str) -> Drawing | None:
    """Draw TPR, AUROC and mean confidence by step, mean over seeds with their range."""
    units = [
        unit for unit in found.units
        if (unit.base, unit.attack, unit.variant) == (base, attack, variant)
    ]  # fmt: skip
    if not units:
        return None
    title = variant
    caption = (
        f"{base} · {attack}. Above: TPR at an FPR calibrated for 5 % (dotted line: "
        f"{short_percent(found.bar)}). Middle: AUROC. Below: mean confidence of clean (solid) and "
        f"triggered (dashed) inputs." + (" Shaded: range over seeds." if len(units) > 1 else "")
    )
    with style(key):
        figure = canvas(430)
        panels = [axes(figure, left=58, top=top, bottom=430 - top - 108) for top in (34, 158, 282)]
        for score, colour, line in DRAWN:
            name = SCORES[score].partition(",")[0]
            _line(panels[0], found.steps, units, f"{score}.tpr_05", colour, line, name)
            _line(panels[1], found.steps, units, f"{score}.auroc", colour, line)
        panels[0].axhline(found.bar, color=MUTED, linestyle=":", linewidth=1.1)
        panels[1].axhline(0.5, color=MUTED, linestyle=":", linewidth=1.1)
        _line(panels[2], found.steps, units, "clean", CLEAN, "-")
        _line(panels[2], found.steps, units, "triggered", TRIGGERED, "--")
        _frame(panels, found.steps)
        svg = to_svg(figure, key, f"{base} · {attack} · {variant}", caption)
    return Drawing(svg, title, caption, *_numbers(found.steps, units))


def _line(
    ax: Axes, steps: Floats, units: Sequence[Unit], curve: str, colour: str, line: str,
    name: str | None = None,
) -> None:  # fmt: skip
    values = np.stack([unit.curves[curve] for unit in units])
    if np.isnan(values).any():
        return
    if len(units) > 1 and line != ":":  # three bands over each other cannot be read
        ax.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.18,
                        linewidth=0)  # fmt: skip
    ax.plot(steps, values.mean(axis=0), line, color=colour, linewidth=1.8, label=name)


def _frame(panels: Sequence[Axes], steps: Floats) -> None:
    for ax, name in zip(panels, ("TPR", "AUROC", "confidence"), strict=True):
        ax.set_ylabel(name)
        ax.set_xlim(-0.01 * steps[-1], steps[-1] * 1.01)
        if ax is not panels[-1]:
            ax.tick_params(labelbottom=False)
    panels[0].set_ylim(-0.03, 1.05)
    percent_axis(panels[0].yaxis)
    panels[1].set_ylim(-0.03, 1.05)
    panels[1].set_yticks([0, 0.5, 1])
    panels[2].set_ylim(top=1.02)
    panels[2].set_xlabel("un-learning step")
    legend(panels[0], 3)


_COLUMNS = {
    "trajectory.tpr_05": "TPR, trajectory", "gap.tpr_05": "TPR, gap", "gap.fpr_05": "FPR, gap",
    "trajectory.auroc": "AUROC, trajectory", "gap.auroc": "AUROC, gap",
    "clean": "confidence, clean", "triggered": "triggered",
}  # fmt: skip


def _numbers(
    steps: Floats, units: Sequence[Unit]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return header and rows: means over seeds, one row a look."""
    means = [np.mean([unit.curves[curve] for unit in units], axis=0) for curve in _COLUMNS]
    rows = tuple(
        (f"{step:.0f}", *(f"{value:.3f}" if np.isfinite(value) else DASH for value in values))
        for step, *values in zip(steps, *means, strict=True)
    )
    return ("step", *_COLUMNS.values()), rows
