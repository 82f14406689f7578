"""Figures with one row per method: success before and after, false alarms, negative control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from peftlab.core.types import Floats
from peftlab.report import curves
from peftlab.report.figures import Drawing
from peftlab.report.plot import (
    ACCENT,
    CLEAN,
    DOTTED,
    INK,
    MUTED,
    RULE,
    TRIGGERED,
    Plot,
    finished,
)
from peftlab.report.read import DASH, NONE, Cell
from peftlab.report.results import Group, Spread, honest_error, percent, short_percent
from peftlab.report.scales import as_numbers, as_percent, ticks
from peftlab.report.svg import WIDTH

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
    plot = _row_plot([row.name for row in shown], ROW, (0, 1))
    _percent_axis(plot, "attack success rate")
    # One path per kind of mark, not per row: a grid has hundreds of rows.
    ys = np.arange(len(shown), dtype=np.float64)
    before, after = ([getattr(row, when).mean for row in shown] for when in ("before", "after"))
    plot.segments(before, ys, after, ys, RULE, 4)
    _bars(plot, [row.before for row in shown], ys - 0.2, TRIGGERED)
    _bars(plot, [row.after for row in shown], ys + 0.2, ACCENT)
    honest = [(row.honest, y) for y, row in enumerate(shown) if row.honest is not None]
    at, heights = np.array(honest).reshape(-1, 2).T
    plot.segments(at, heights - 0.32, at, heights + 0.32, MUTED, 1.6)
    plot.marks(before, ys, TRIGGERED, 4.25, hollow=2, label="without")
    plot.marks(after, ys, ACCENT, 4.75, label="with")
    plot.legend()
    svg = finished(key, plot.height, title, caption, plot.parts)
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


def _row_plot(names: Sequence[str], row: int, across: tuple[float, float]) -> Plot:
    """Return axes with one named row per name, first on top."""
    short = [_short(name, 24) for name in names]
    left = min(32 + 6.4 * max(map(len, short)), 0.42 * WIDTH)
    plot = Plot(34 + 46 + row * len(names), across, (len(names) - 0.4, -0.6), left=left)
    plot.names(short)
    return plot


def _percent_axis(plot: Plot, title: str) -> None:
    at = ticks(plot.x.low, plot.x.high)
    plot.x_axis(at, as_percent(at), title)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _bars(plot: Plot, spreads: Sequence[Spread], ys: Floats, colour: str) -> None:
    known = [(one.low, one.high, y) for one, y in zip(spreads, ys, strict=True) if one.known]
    low, high, at = np.array(known).reshape(-1, 3).T
    plot.segments(low, at, high, at, colour, 1.6)


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
    shown = [cell for cell in cells if cell.defence in names]
    known = [edge for cell in shown for edge in (*(_band(cell) or ()), cell.alpha) if edge]
    widest = max([cell.metrics["fpr"] for cell in shown] + known) or 1.0
    plot = _row_plot(names, ROW + 10, (0, 1.05 * widest))
    _percent_axis(plot, "clean inputs flagged (FPR)")
    rows = tuple(
        _calibration_row(plot, y, name, [cell for cell in shown if cell.defence == name])
        for y, name in enumerate(names)
    )
    plot.legend()
    svg = finished(key, plot.height, title, caption, plot.parts)
    header = ("defence", "allowed", "mean", "lowest", "highest", "95 % band", "in band")
    return Drawing(svg, title, caption, header, rows)


def _guards(groups: Sequence[Group]) -> list[Cell]:
    """Return one cell per fitted guard: cells that differ in the tuner share theirs."""
    found: dict[tuple[object, ...], Cell] = {}
    for cell in (c for g in groups for c in g.cells if g.defence != NONE and "fpr" in c.metrics):
        attack = "" if cell.control else cell.attack
        key = (cell.base, cell.data, attack, cell.defence, cell.seed, cell.control)
        found.setdefault((*key, cell.metrics["fpr"]), cell)
    return list(found.values())


def _calibration_row(plot: Plot, y: int, name: str, cells: Sequence[Cell]) -> tuple[str, ...]:
    rates = [cell.metrics["fpr"] for cell in cells]
    band = _band(cells[0])
    low, high = y - 0.36, y + 0.36
    if band is not None:
        plot.area([band[0], band[1], band[1], band[0]], [low, low, high, high], ACCENT,
                  opacity=0.22, label="" if y else "95 % band")  # fmt: skip
    alpha = cells[0].alpha
    if alpha is not None:
        plot.segments([alpha], [low], [alpha], [high], INK, 2.4)
    for control in (False, True):
        own = [(i, c.metrics["fpr"]) for i, c in enumerate(cells) if c.control is control]
        # Spread the marks over the height of the row, so that equal rates stay countable.
        heights = [y - 0.24 + 0.48 * ((i * 0.618034) % 1) for i, _ in own]
        word = ("control" if control else "poisoned") if own and y == 0 else ""
        plot.marks([rate for _, rate in own], heights, CLEAN, 2.75 if control else 3.25,
                   hollow=1 if control else 0, label=word)  # fmt: skip
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
    plot = _row_plot([row[0] for row in rows], ROW + 10, (0, 1))
    at = ticks(0, 1, most=5)
    plot.x_axis(at, as_numbers(at), "AUROC")
    plot.line([0.5, 0.5], [plot.y.low, plot.y.high], MUTED, 1.4, dash=DOTTED)
    for y, (_, poisoned, control) in enumerate(rows):
        words = ("", "") if y else ("control", "poisoned")
        plot.marks(control, [y + 0.18] * len(control), CLEAN, 3.5, hollow=1.8, label=words[0])
        plot.marks(poisoned, [y - 0.18] * len(poisoned), TRIGGERED, 4, label=words[1])
    plot.legend()
    svg = finished(key, plot.height, title, caption, plot.parts)
    table = tuple(
        (name, f"{np.mean(p):.3f}", f"{min(p):.3f}", f"{np.mean(c):.3f}", f"{max(c):.3f}")
        for name, p, c in rows
    )
    header = ("defence", "poisoned, mean", "lowest", "control, mean", "highest")
    return Drawing(svg, title, caption, header, table)
