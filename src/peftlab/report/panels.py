"""Figures with one row per method: success before and after, false alarms, negative control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from peftlab.core.types import Floats
from peftlab.report import curves
from peftlab.report.figures import Drawing
from peftlab.report.read import DASH, NONE, Cell
from peftlab.report.results import Group, Spread, honest_error, percent, short_percent
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 24  # rows that one panel draws; its table has them all
ROW = 24  # pixels per row


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of a dumbbell panel."""

    name: str
    before: Spread
    after: Spread
    honest: float | None


def before_after(key: str, defence: str, groups: Sequence[Group]) -> Drawing | None:
    """Draw the attack success rate without and with one defence, per attack and tuner."""
    rows = _dumbbells(defence, groups)
    if not rows:
        return None
    shown = rows[:MOST_ROWS]
    title = f"Attack success without and with {defence}"
    caption = (
        "Share of triggered inputs that get the attacker's class: ○ without, ● with the guard. "
        "Thin bars: range over seeds (one seed: 95 % interval). | marks what an unpoisoned base "
        "gives by honest error."
        + (f" The first {MOST_ROWS} of {len(rows)} are drawn." if len(rows) > MOST_ROWS else "")
    )
    with style(key):
        figure = canvas(34 + 46 + ROW * len(shown))
        ax = _row_axes(figure, [row.name for row in shown])
        # One artist per kind of mark, not per row: a grid has hundreds of rows.
        ys = np.arange(len(shown), dtype=np.float64)
        before, after = ([getattr(row, when).mean for row in shown] for when in ("before", "after"))
        ax.hlines(ys, before, after, color=RULE, linewidth=4, zorder=1)
        _bars(ax, [row.before for row in shown], ys - 0.2, TRIGGERED)
        _bars(ax, [row.after for row in shown], ys + 0.2, ACCENT)
        ax.plot(before, ys, "o", color=TRIGGERED, markerfacecolor=PAPER, markersize=8.5,
                markeredgewidth=2, clip_on=False, linestyle="none", label="without",
                zorder=3)  # fmt: skip
        ax.plot(after, ys, "o", color=ACCENT, markersize=8.5, clip_on=False, linestyle="none",
                label="with", zorder=4)  # fmt: skip
        honest = [(row.honest, y) for y, row in enumerate(shown) if row.honest is not None]
        if honest:
            at, rows_with = np.array(honest).T
            ax.vlines(at, rows_with - 0.32, rows_with + 0.32, color=MUTED, linewidth=1.6, zorder=2)
        ax.set_xlim(0, 1)
        ax.set_xlabel("attack success rate")
        percent_axis(ax.xaxis)
        legend(ax, 2)
        svg = to_svg(figure, key, title, caption)
    table = tuple(
        (r.name, percent(r.before.mean), percent(r.after.mean), _range(r.after), percent(r.honest))
        for r in rows
    )
    header = ("attack · tuner", "without", "with", "range with", "honest error")
    return Drawing(svg, title, caption, header, table)


def _dumbbells(defence: str, groups: Sequence[Group]) -> list[_Row]:
    own = [g for g in groups if g.defence == defence and not g.control]
    several = len({(g.base, g.data) for g in own}) > 1
    rows = []
    for one in own:
        before, after = one.spread("asr"), one.spread("asr_def")
        if before is not None and after is not None:
            parts = [one.attack, "" if one.tuner == NONE else one.tuner]
            parts += [one.data] if several else []
            name = " · ".join(part for part in parts if part)
            rows.append(_Row(name, before, after, honest_error(groups, one)))
    return rows


def _row_axes(figure: Any, names: Sequence[str]) -> Axes:
    """Return axes with one named row per name, first on top."""
    short = [_short(name, 24) for name in names]
    ax = axes(figure, left=min(32 + 6.4 * max(map(len, short)), 0.42 * WIDTH), top=34)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_yticks(range(len(names)), short)
    ax.tick_params(axis="y", length=0, pad=11, labelcolor=INK)
    ax.spines["left"].set_visible(False)
    return ax


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _bars(ax: Axes, spreads: Sequence[Spread], ys: Floats, colour: str) -> None:
    known = [(one.low, one.high, y) for one, y in zip(spreads, ys, strict=True) if one.known]
    if known:
        low, high, at = np.array(known).T
        ax.hlines(at, low, high, color=colour, linewidth=1.6, zorder=2)


def _range(spread: Spread) -> str:
    return f"{percent(spread.low)} to {percent(spread.high)}" if spread.known else DASH


def calibration(key: str, groups: Sequence[Group]) -> Drawing | None:
    """Draw realised false-positive rates against the claimed one, with the band of chance."""
    cells = _guards(groups)
    names = list(dict.fromkeys(cell.defence for cell in cells))[:MOST_ROWS]
    if not names:
        return None
    title = "Claimed and realised false-positive rate"
    caption = (
        "Each mark is one fitted guard (● poisoned base, ○ negative control). Thick line: what "
        "it was allowed. Shaded: where 95 % of the guards should lie if the claim is true; for "
        "one that promises an upper bound only the line counts."
    )
    rows = []
    with style(key):
        figure = canvas(34 + 46 + (ROW + 10) * len(names))
        ax = _row_axes(figure, names)
        for y, name in enumerate(names):
            own = [cell for cell in cells if cell.defence == name]
            rows.append(_calibration_row(ax, y, name, own))
        ax.set_xlim(left=0)
        ax.set_xlabel("clean inputs flagged (FPR)")
        percent_axis(ax.xaxis)
        legend(ax, 3)
        svg = to_svg(figure, key, title, caption)
    header = ("defence", "allowed", "mean", "lowest", "highest", "95 % band", "in band")
    return Drawing(svg, title, caption, header, tuple(rows))


def _guards(groups: Sequence[Group]) -> list[Cell]:
    """Return one cell per fitted guard: cells that differ in the tuner share theirs."""
    found: dict[tuple[object, ...], Cell] = {}
    for cell in (c for g in groups for c in g.cells if g.defence != NONE and "fpr" in c.metrics):
        attack = "" if cell.control else cell.attack
        key = (cell.base, cell.data, attack, cell.defence, cell.seed, cell.control)
        found.setdefault((*key, cell.metrics["fpr"]), cell)
    return list(found.values())


def _calibration_row(ax: Axes, y: int, name: str, cells: Sequence[Cell]) -> tuple[str, ...]:
    rates = [cell.metrics["fpr"] for cell in cells]
    band = _band(cells[0])
    if band is not None:
        ax.fill_betweenx([y - 0.36, y + 0.36], *band, color=ACCENT, alpha=0.22, linewidth=0,
                         label=None if y else "95 % band")  # fmt: skip
    alpha = cells[0].alpha
    if alpha is not None:
        ax.plot([alpha, alpha], [y - 0.36, y + 0.36], color=INK, linewidth=2.4, zorder=2)
    for control, mark in ((False, "o"), (True, "o")):
        own = [(i, c) for i, c in enumerate(cells) if c.control is control]
        # Spread the marks over the height of the row, so that equal rates stay countable.
        heights = [y - 0.24 + 0.48 * ((i * 0.618034) % 1) for i, _ in own]
        ax.plot([c.metrics["fpr"] for _, c in own], heights, mark, color=CLEAN, markersize=5.5,
                markerfacecolor=PAPER if control else CLEAN, linestyle="none", zorder=3,
                clip_on=False,
                label=("control" if control else "poisoned") if own and y == 0 else None,
                )  # fmt: skip
    inside = DASH if band is None else (
        f"{sum(band[0] <= rate <= band[1] for rate in rates)} of {len(rates)}"
    )  # fmt: skip
    return (
        name,
        DASH if alpha is None else short_percent(alpha),
        percent(sum(rates) / len(rates)),
        percent(min(rates)),
        percent(max(rates)),
        DASH if band is None else f"{percent(band[0])} to {percent(band[1])}",
        inside,
    )


def _band(cell: Cell) -> tuple[float, float] | None:
    n = cell.metrics.get("n_clean")
    if cell.alpha is None or cell.bounded or not n or not 0 < cell.alpha < 1:
        return None
    known = cell.metrics.get("n_calibration")
    return curves.rate_band(cell.alpha, int(n), None if known is None else int(known))


def control_auroc(key: str, groups: Sequence[Group]) -> Drawing | None:
    """Draw the AUROC of each defence on poisoned bases and on the negative control."""
    names = list(dict.fromkeys(g.defence for g in groups if g.defence != NONE))[:MOST_ROWS]
    rows = []
    for name in names:
        own = [(g.control, g.mean("auroc")) for g in groups if g.defence == name]
        poisoned = [value for control, value in own if not control and value is not None]
        control = [value for is_control, value in own if is_control and value is not None]
        if poisoned and control:
            rows.append((name, poisoned, control))
    if not rows:
        return None
    title = "AUROC on poisoned bases and on the negative control"
    caption = (
        "Each mark is one attack and tuner: ● poisoned base, ○ unpoisoned base that reads the "
        "same triggered texts. A guard that sees the backdoor is at the dotted line (chance) on "
        "the unpoisoned one; a guard that sees odd words is not."
    )
    with style(key):
        figure = canvas(34 + 46 + (ROW + 10) * len(rows))
        ax = _row_axes(figure, [row[0] for row in rows])
        ax.axvline(0.5, color=MUTED, linestyle=":", linewidth=1.4)
        for y, (_, poisoned, control) in enumerate(rows):
            first = "_" if y else ""
            ax.plot(control, [y + 0.18] * len(control), "o", color=CLEAN, markersize=7,
                    markerfacecolor=PAPER, markeredgewidth=1.8, linestyle="none",
                    clip_on=False, label=f"{first}control")  # fmt: skip
            ax.plot(poisoned, [y - 0.18] * len(poisoned), "o", color=TRIGGERED, markersize=7,
                    linestyle="none", clip_on=False, label=f"{first}poisoned")  # fmt: skip
        ax.set_xlim(0, 1)
        ax.set_xlabel("AUROC")
        legend(ax, 2)
        svg = to_svg(figure, key, title, caption)
    table = tuple(
        (name, f"{np.mean(p):.3f}", f"{min(p):.3f}", f"{np.mean(c):.3f}", f"{max(c):.3f}")
        for name, p, c in rows
    )
    header = ("defence", "poisoned, mean", "lowest", "control, mean", "highest")
    return Drawing(svg, title, caption, header, table)
