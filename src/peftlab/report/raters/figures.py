"""The figures of a rater audit: DSI, GAI, nulls, XRR by pair, IRR by XRR, power, models.

Every figure can be read without colour (shapes, line styles, stars) and brings a table of its
numbers. With many groups a figure draws some of them by a rule its caption states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from peftlab.report.figures import Drawing
from peftlab.report.raters.read import (
    EVERYBODY,
    METRICS,
    MINUS,
    Axis,
    Dsi,
    Group,
    ModelRow,
    Null,
    Raters,
    Value,
)
from peftlab.report.raters.words import decimal, p_text, short
from peftlab.report.read import DASH
from peftlab.report.svg import (
    ACCENT,
    INK,
    MUTED,
    PAPER,
    RULE,
    TRIGGERED,
    WIDTH,
    axes,
    canvas,
    legend,
    style,
    to_svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 24  # pixels per row
MOST_ROWS, MOST_PANELS, MOST_MATRIX, MOST_LABELS = 20, 12, 10, 8
MOST_LISTED = 200  # rows of a figure's table
PANEL = 104  # pixels of a null histogram with its title
# colour, line, width, marker, filled: of what differs after correction, before it, and not at all
LOOKS = {
    "**": (ACCENT, "-", 2.4, "D", True),
    "*": (TRIGGERED, "--", 1.9, "s", True),
    "": (MUTED, ":", 1.6, "o", False),
}
WORDS = {"": "as chance", "*": "p < 0.05", "**": "corrected"}
KEYS = {"": "○ as chance", "*": "■ p < 0.05", "**": "◆ after correction"}
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
SIGNS = ("●", "■", "▲", "◆", "▼", "✚", "✖", "◀", "▶", "⬟")


def likeliest(groups: Sequence[Group], metric: str, most: int) -> list[Group]:
    """Return the groups with a value, of many those with the smallest p, in their order."""
    known = [group for group in groups if group.of(metric).value is not None]
    if len(known) <= most:
        return known
    ranked = sorted(
        range(len(known)),
        key=lambda i: (1.0 if (p := known[i].of(metric).p) is None else p, -(known[i].raters or 0)),
    )
    return [known[i] for i in sorted(ranked[:most])]


def _drawn(shown: int, of: int, rule: str = "with the smallest p") -> str:
    return "" if shown >= of else f" Drawn: the {shown} of {of} groups {rule}."


def _rows_axes(names: Sequence[str], *, row: float = ROW, top: float = 34) -> tuple[Any, Axes]:
    """Return a figure and axes with one named row per name, first on top."""
    figure = canvas(round(top + 46 + row * len(names)))
    longest = max(len(line) for name in names for line in name.split("\n"))
    ax = axes(figure, left=min(28 + 6.4 * longest, 0.47 * WIDTH), top=top)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", length=0, pad=8, labelcolor=INK)
    ax.spines["left"].set_visible(False)
    return figure, ax


def _point(ax: Axes, x: float, y: float, mark: str, *, size: float = 7.5) -> None:
    colour, _, _, shape, filled = LOOKS[mark]
    ax.plot(
        [x], [y], shape, color=colour, markersize=size - (1 if shape == "D" else 0),
        markeredgewidth=1.8, markerfacecolor=colour if filled else PAPER, linestyle="none",
        zorder=4, clip_on=False,
    )  # fmt: skip


def _keys(ax: Axes, marks: Sequence[str]) -> None:
    """Add a legend of those marks that were drawn."""
    for mark in ("", "*", "**"):
        if mark in marks:
            colour, _, _, shape, filled = LOOKS[mark]
            ax.plot(
                [], [], shape, color=colour, markersize=7, markeredgewidth=1.8, linestyle="none",
                markerfacecolor=colour if filled else PAPER, label=WORDS[mark],
            )  # fmt: skip
    _wide_legend(ax, 3)


def _wide_legend(ax: Axes, columns: int) -> None:
    """Put the legend at the left edge of the figure: beside long names there is no room."""
    legend(ax, columns)
    own = ax.get_legend()
    if own is not None:
        start = ax.get_position()
        own.set_bbox_to_anchor((12 / WIDTH, start.y1), transform=ax.figure.transFigure)


def _legend_words(marks: Sequence[str]) -> str:
    return ", ".join(KEYS[mark] for mark in ("", "*", "**") if mark in marks)


def _few_ticks(axis: Any, most: int = 4) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(lambda number, _: f"{number:.4g}".replace("-", MINUS))


def dsi(key: str, found: Raters) -> Drawing | None:
    """Draw one bar per axis, from 1 to its DSI."""
    rows = [row for row in found.dsi if row.value is not None]
    if not rows:
        return None
    title = "DSI by axis"
    labels = {axis.name: axis.label for axis in found.axes}
    marks = [_dsi_mark(row) for row in rows]
    caption = (
        "Largest GAI of each axis and the group it comes from. 1: no association. Filled: differs "
        "after correction (**); hatched: p < 0.05 before it (*); empty: as chance."
    )
    with style(key):
        figure, ax = _rows_axes(
            [f"{short(labels[row.axis])}\n{short(found.label_of(row.axis, row.group))}"
             for row in rows], row=42, top=12,
        )  # fmt: skip
        values = [row.value or 0.0 for row in rows]
        for y, (value, mark) in enumerate(zip(values, marks, strict=True)):
            colour = LOOKS[mark][0]
            ax.barh(
                y, value - 1, left=1, height=0.42, linewidth=1.6, edgecolor=colour,
                facecolor=colour if mark == "**" else "none", hatch="////" if mark == "*" else None,
            )  # fmt: skip
            ax.annotate(
                f"{decimal(value)}{mark}", (max(value, 1), y), (5, 0), textcoords="offset points",
                va="center", fontsize=11,
            )  # fmt: skip
        ax.axvline(1, color=INK, linewidth=1.2)
        low, high = min(*values, 1.0), max(*values, 1.05)
        ax.set_xlim(low - 0.06 * (high - low), high + 0.34 * (high - low))
        ax.set_xlabel("DSI")
        _few_ticks(ax.xaxis, 3)
        svg = to_svg(figure, key, title, caption)
    table = [
        (labels[row.axis], decimal(row.value or 0.0), found.label_of(row.axis, row.group),
         p_text(row.p), p_text(row.q))
        for row in rows
    ]  # fmt: skip
    return Drawing(svg, title, caption, ("axis", "DSI", "group", "p", "corrected"), tuple(table))


def _dsi_mark(row: Dsi) -> str:
    return Value(value=row.value, p=row.p, q=row.q).mark


def forest(key: str, found: Raters, axis: Axis) -> Drawing | None:
    """Draw GAI with its bootstrap interval, largest on top."""
    everyone = found.on(axis.name)
    known = [group for group in everyone if group.of("gai").value is not None]
    shown = likeliest(everyone, "gai", MOST_ROWS)
    if not shown:
        return None
    shown.sort(key=lambda group: -(group.of("gai").value or 0.0))
    title = f"GAI: {axis.label}"
    marks = [group.of("gai").mark for group in shown]
    intervals = any(group.of("gai").low is not None for group in shown)
    caption = (
        ("Bars: 95 % bootstrap interval, with an arrow where it goes on. " if intervals else
         "No bootstrap was run, so there are no intervals. ")
        + f"Line: 1, no association. {_legend_words(marks)}." + _drawn(len(shown), len(known))
    )  # fmt: skip
    with style(key):
        figure, ax = _rows_axes([short(group.label) for group in shown])
        left, right = _forest_limits([group.of("gai") for group in shown])
        ax.axvline(1, color=INK, linewidth=1.2, zorder=1)
        for y, group in enumerate(shown):
            value = group.of("gai")
            _interval(ax, value.low, value.high, y, left, right)
            _point(ax, value.value or 0.0, y, value.mark)
        ax.set_xlim(left, right)
        ax.set_xlabel("GAI")
        _few_ticks(ax.xaxis)
        _keys(ax, marks)
        svg = to_svg(figure, key, title, caption)
    known.sort(key=lambda group: -(group.of("gai").value or 0.0))
    return Drawing(
        svg, title, caption, ("group", "raters", "GAI", "low", "high", "p", "corrected"),
        tuple(_forest_row(group) for group in known[:MOST_LISTED]),
    )  # fmt: skip


def _forest_row(group: Group) -> tuple[str, ...]:
    value = group.of("gai")
    ends = (_number(end) for end in (value.value, value.low, value.high))
    return group.label, _count(group.raters), *ends, p_text(value.p), p_text(value.q)


def _number(value: float | None, metric: str = "gai") -> str:
    return DASH if value is None else decimal(value, metric)


def _count(value: int | None) -> str:
    return DASH if value is None else str(value)


def _forest_limits(values: Sequence[Value]) -> tuple[float, float]:
    """Return limits that hold all points, and intervals as far as they do not drown them."""
    points = [value.value for value in values if value.value is not None] + [1.0]
    span = max(max(points) - min(points), 0.2)
    lows = [value.low for value in values if value.low is not None] + points
    highs = [value.high for value in values if value.high is not None] + points
    left = max(min(lows), min(points) - span)
    right = min(max(highs), max(points) + span)
    pad = 0.05 * (right - left)
    return left - pad, right + pad


def _interval(
    ax: Axes, low: float | None, high: float | None, y: float, left: float, right: float
) -> None:
    if low is None or high is None:
        return
    ax.plot([max(low, left), min(high, right)], [y, y], color=MUTED, linewidth=2.2, zorder=2)
    for gone, x, sign in ((low < left, left, "◂"), (high > right, right, "▸")):
        if gone:
            ax.text(x, y - 0.06, sign, ha="center", va="center", fontsize=14, color=MUTED)


def nulls(key: str, found: Raters, axis: Axis, metric: str) -> Drawing | None:
    """Draw the null of each group as a small histogram with the observed value as a line."""
    by_group = {
        null.group: null for null in found.nulls if (null.axis, null.metric) == (axis.name, metric)
    }
    having = [group for group in found.on(axis.name) if group.name in by_group]
    shown = likeliest(having, metric, MOST_PANELS)
    if not shown:
        return None
    known = sum(group.of(metric).value is not None for group in having)
    title = f"{METRICS[metric]} against chance: {axis.label}"
    caption = (
        f"Grey: {METRICS[metric]} of random groups of the same size, each on its own scale. Line: "
        f"observed; dotted if as chance, dashed if p < 0.05 (*), solid if after correction too "
        f"(**)." + _drawn(len(shown), known)
    )
    rows = (len(shown) + 1) // 2
    with style(key):
        figure = canvas(PANEL * rows + 12)
        for number, group in enumerate(shown):
            _panel(figure, number, group, by_group[group.name], metric, PANEL * rows + 12)
        svg = to_svg(figure, key, title, caption)
    table = [
        (group.label, _number(group.of(metric).value, metric),
         _number(by_group[group.name].median, metric), p_text(group.of(metric).p),
         p_text(group.of(metric).q))
        for group in having[:MOST_LISTED]
    ]  # fmt: skip
    header = ("group", METRICS[metric], "median of the null", "p", "corrected")
    return Drawing(svg, title, caption, header, tuple(table))


def _panel(
    figure: Any, number: int, group: Group, null: Null, metric: str, height: float
) -> None:  # fmt: skip
    """Draw one small histogram, two in a row."""
    value = group.of(metric)
    observed = value.value or 0.0
    left, top = 8 + (number % 2) * WIDTH / 2, 34 + (number // 2) * PANEL
    high = PANEL - 64
    ax = figure.add_axes((
        left / WIDTH, 1 - (top + high) / height, (WIDTH / 2 - 24) / WIDTH, high / height,
    ))  # fmt: skip
    ax.stairs(null.counts, null.edges, fill=True, color=MUTED, alpha=0.38)
    colour, line, width, *_ = LOOKS[value.mark]
    ax.axvline(observed, color=colour, linestyle=line, linewidth=width)
    first, last = min(null.edges[0], observed), max(null.edges[-1], observed)
    pad = 0.04 * (last - first) or 0.1
    ax.set_xlim(first - pad, last + pad)
    ax.set_ylim(0, max(*null.counts, 1) * 1.05)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    _few_ticks(ax.xaxis, 3)
    shown = f"{decimal(observed, metric)} {value.arrow}{value.mark}".rstrip()
    for words, up, tone in ((short(group.label, 24), 20, INK), (shown, 6, MUTED)):
        figure.text(left / WIDTH, 1 - (top - up) / height, words, fontsize=10.5, color=tone)


def matrix(key: str, found: Raters, axis: Axis) -> Drawing | None:
    """Draw XRR of each pair of groups, IRR on the diagonal."""
    everyone = found.on(axis.name)
    pairs = {(a, b): xrr for (where, a, b), xrr in found.pairs.items() if where == axis.name}
    if not pairs:
        return None
    ranked = sorted(everyone, key=lambda group: -(group.raters or 0))[:MOST_MATRIX]
    shown = [group for group in everyone if group in ranked]
    title = f"XRR between groups: {axis.label}"
    caption = (
        "Agreement of each pair of groups; the stronger the colour, the higher. Framed: IRR, "
        "inside the group. Columns have the numbers of the rows."
        + _drawn(len(shown), len(everyone), "with the most raters")
    )  # fmt: skip
    cells = {
        (i, j): value
        for i, a in enumerate(shown) for j, b in enumerate(shown[: i + 1])
        if (value := _cohesion(a, b, pairs)) is not None
    }  # fmt: skip
    if not cells:
        return None
    with style(key):
        figure, ax = _matrix_axes(shown)
        _squares(ax, cells, len(shown))
        svg = to_svg(figure, key, title, caption)
    labels = {group.name: group.label for group in everyone}
    rows = [
        (labels.get(a, a), labels.get(b, b), decimal(xrr, "xrr"))
        for (a, b), xrr in list(pairs.items())[:MOST_LISTED]
    ]
    return Drawing(svg, title, caption, ("group", "and", "XRR"), tuple(rows))


def _cohesion(a: Group, b: Group, pairs: dict[tuple[str, str], float]) -> float | None:
    if a is b:
        return a.of("irr").value
    return pairs.get((a.name, b.name), pairs.get((b.name, a.name)))


def _matrix_axes(shown: Sequence[Group]) -> tuple[Any, Axes]:
    count = len(shown)
    names = [f"{short(group.label, 18)}  {i + 1}" for i, group in enumerate(shown)]
    left = min(22 + 6.4 * max(map(len, names)), 0.42 * WIDTH)
    side = min((WIDTH - left - 10) / count, 46)  # few groups need no huge cells
    figure = canvas(round(10 + max(side * 0.75, 20) * count + 28))
    ax = axes(figure, left=left, top=10, right=WIDTH - left - side * count, bottom=28)
    ax.set_xlim(-0.5, count - 0.5)
    ax.set_ylim(count - 0.5, -0.5)
    ax.set_yticks(range(count), names)
    ax.set_xticks(range(count), [str(i + 1) for i in range(count)])
    ax.tick_params(length=0, pad=5, labelcolor=INK)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return figure, ax


def _squares(ax: Axes, cells: dict[tuple[int, int], float], count: int) -> None:
    from matplotlib.patches import Rectangle

    low, high = min(cells.values()), max(cells.values())
    for (i, j), value in cells.items():
        share = (value - low) / (high - low) if high > low else 0.5
        ax.add_patch(Rectangle(
            (j - 0.46, i - 0.45), 0.92, 0.9, facecolor=ACCENT, alpha=0.06 + 0.38 * share,
            linewidth=0,
        ))  # fmt: skip
        if i == j:
            ax.add_patch(Rectangle(
                (j - 0.46, i - 0.45), 0.92, 0.9, fill=False, edgecolor=INK, linewidth=1.2,
            ))  # fmt: skip
        ax.text(
            j, i, decimal(round(value, 2), "xrr")[: 3 if value >= 0 else 4] if abs(value) < 0.995
            else decimal(value, "xrr")[:4],
            ha="center", va="center", fontsize=10.5 if count <= 8 else 9.5, color=INK,
        )  # fmt: skip


def scatter(key: str, found: Raters) -> Drawing | None:
    """Draw IRR against XRR; on the diagonal GAI is 1."""
    groups = [
        group for group in found.shown
        if group.of("irr").value is not None and group.of("xrr").value is not None
    ]  # fmt: skip
    if not groups:
        return None
    names = list(dict.fromkeys(group.axis for group in groups))
    labels = {axis.name: axis.label for axis in found.axes}
    title = "IRR against XRR"
    marks = ", ".join(
        f"{SIGNS[i % len(SIGNS)]}\u00a0{labels.get(name, name)}" for i, name in enumerate(names)
    )
    caption = (
        f"Above the diagonal (GAI = 1) a group agrees more among itself than with the others. "
        f"{marks}. Filled: GAI differs after correction; half: before it; empty: as chance. "
        f"Named, where there is room: those that differ, then the furthest from the diagonal."
    )
    points = [(_known(group, "xrr"), _known(group, "irr")) for group in groups]
    with style(key):
        figure = canvas(330)
        ax = axes(figure, left=54, top=12)
        _square_limits(ax, points)
        ax.axline((0, 0), slope=1, color=MUTED, linestyle=":", linewidth=1.3, zorder=1)
        for group, (x, y) in zip(groups, points, strict=True):
            _shape(ax, x, y, names.index(group.axis), group.of("gai").mark)
        _name_points(ax, points, groups, [-abs(y - x) for x, y in points])
        ax.set_xlabel("XRR, with everybody else")
        ax.set_ylabel("IRR, inside the group")
        svg = to_svg(figure, key, title, caption)
    header = ("group", "axis", "IRR", "XRR", "GAI")
    rows = [
        (group.label, labels.get(group.axis, group.axis), decimal(y, "irr"), decimal(x, "xrr"),
         _number(group.of("gai").value))
        for group, (x, y) in list(zip(groups, points, strict=True))[:MOST_LISTED]
    ]  # fmt: skip
    return Drawing(svg, title, caption, header, tuple(rows))


def _known(group: Group, metric: str) -> float:
    value = group.of(metric).value
    return float("nan") if value is None else value


def _square_limits(ax: Axes, points: Sequence[tuple[float, float]]) -> None:
    numbers = [number for point in points for number in point]
    pad = 0.12 * (max(numbers) - min(numbers)) or 0.05
    ax.set_xlim(min(numbers) - pad, max(numbers) + pad)
    ax.set_ylim(min(numbers) - pad, max(numbers) + pad)
    for axis in (ax.xaxis, ax.yaxis):
        _few_ticks(axis)


def _shape(ax: Axes, x: float, y: float, number: int, mark: str) -> None:
    ax.plot(
        [x], [y], SHAPES[number % len(SHAPES)], color=ACCENT if mark else MUTED, markersize=8,
        markeredgewidth=1.6, markerfacecolor=ACCENT, markerfacecoloralt=PAPER, linestyle="none",
        fillstyle={"**": "full", "*": "left"}.get(mark, "none"), zorder=3 + len(mark),
    )  # fmt: skip


def _name_points(
    ax: Axes, points: Sequence[tuple[float, float]], groups: Sequence[Group],
    rank: Sequence[float], *, only_marked: bool = False,
) -> None:  # fmt: skip
    """Name points, the significant ones first, where a name covers no other name or point."""
    pixels = [tuple(xy) for xy in ax.transData.transform(points)]
    box = ax.get_window_extent()
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in pixels]
    marks = [group.of("gai").mark for group in groups]
    wanted = [i for i in range(len(groups)) if marks[i] or not only_marked]
    order = sorted(wanted, key=lambda i: (-len(marks[i]), rank[i]))
    for i in order[:MOST_LABELS]:
        text = short(groups[i].label, 18)
        x, y = pixels[i]
        for dx, dy, align in (
            (8, -4, "left"),
            (-8, -4, "right"),
            (0, 9, "center"),
            (0, -17, "center"),
        ):
            wide = 6.5 * len(text)
            left = x + dx - {"left": 0, "right": wide, "center": wide / 2}[align]
            own = (left, y + dy, left + wide, y + dy + 10)
            inside = (
                box.x0 < own[0] and own[2] < box.x1 + 20 and box.y0 < own[1] and own[3] < box.y1
            )
            if inside and not any(_overlap(own, other) for other in taken):
                ax.annotate(
                    text, points[i], (dx, dy), textcoords="offset points", ha=align, va="bottom",
                    fontsize=10, color=INK, annotation_clip=False,
                )  # fmt: skip
                taken.append(own)
                break


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def power(key: str, found: Raters) -> Drawing | None:
    """Draw the GAI that chance gives by size of group, with the observed groups as points."""
    if len(found.power) < 2:
        return None
    sizes, low, median, high = (np.array(column) for column in zip(*found.power, strict=True))
    groups = [g for g in found.shown if g.of("gai").value is not None and g.raters]
    title = "What can be detected at which size"
    marks = [group.of("gai").mark for group in groups]
    caption = (
        "Shaded: GAI of 95 % of random groups of that size; line: their median. What lies inside "
        "is not told from chance, as a rule." + (f" {_legend_words(marks)}." if groups else "")
    )
    points = [(float(group.raters or 0), _known(group, "gai")) for group in groups]
    with style(key):
        figure = canvas(280)
        ax = axes(figure, left=54, top=34)
        ax.fill_between(sizes, low, high, color=ACCENT, alpha=0.2, linewidth=0)
        for edge in (low, high):
            ax.plot(sizes, edge, color=ACCENT, linewidth=1, linestyle="--")
        ax.plot(sizes, median, color=ACCENT, linewidth=1.8)
        ax.axhline(1, color=INK, linewidth=1)
        _power_limits(ax, sizes, (low, high), points)
        for (x, y), mark in zip(points, marks, strict=True):
            _point(ax, x, y, mark, size=6.5)
        _name_points(ax, points, groups, [-abs(y - 1) for _, y in points], only_marked=True)
        ax.set_xlabel("raters in the group (log scale)")
        ax.set_ylabel("GAI")
        _keys(ax, marks)
        svg = to_svg(figure, key, title, caption)
    rows = tuple(
        (f"{size:.0f}", *(decimal(float(value)) for value in values))
        for size, *values in zip(sizes, low, median, high, strict=True)
    )
    return Drawing(svg, title, caption, ("raters", "2.5 %", "median", "97.5 %"), rows)


def _power_limits(
    ax: Axes, sizes: Any, band: tuple[Any, Any], points: Sequence[tuple[float, float]]
) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    ax.set_xscale("log")
    left = min([sizes[0], *(x for x, _ in points)])
    right = max([sizes[-1], *(x for x, _ in points)])
    ax.set_xlim(left / 1.15, right * 1.15)
    wide = right / left > 60
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 3) if wide else (1, 2, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda number, _: f"{number:.0f}")
    own = [y for _, y in points]
    # the smallest sizes may have a band without end; the points must stay apart
    top = min(float(band[1].max()), max([2.5, *(1.2 * y for y in own)]))
    bottom = max(float(band[0].min()), min([-0.5, *own]))
    low, high = min([bottom, *own]), max([top, *own])
    ax.set_ylim(low - 0.06 * (high - low), high + 0.08 * (high - low))
    _few_ticks(ax.yaxis)


def models(key: str, found: Raters, axis: str, label: str) -> Drawing | None:
    """Draw the agreement of each model with each group: first hollow, last filled."""
    rows: dict[tuple[str, str], dict[str, ModelRow]] = {}
    for row in found.model_rows:
        if row.axis in {"", axis}:
            rows.setdefault((row.axis, row.group), {})[row.model] = row
    own = sorted(rows, key=lambda where: where[0] != "")  # the whole pool first
    if not any(where[0] == axis for where in own):
        return None
    shown = own[:MOST_ROWS]
    title = f"Models and groups: {label}" if axis else "Models and the whole pool"
    first, last = found.models[0], found.models[-1]
    caption = (
        (f"XRR of the model with each group: ○ {first} → ● {last}"
         if first != last else f"XRR of {first} with each group")
        + (", x others" if len(found.models) > 2 else "") + ". Thin bars: 95 % interval."
        + (f" The first {MOST_ROWS} of {len(own)} are drawn." if len(own) > MOST_ROWS else "")
    )  # fmt: skip
    with style(key):
        names = [_model_name(found, where) for where in shown]
        figure, ax = _rows_axes([short(name) for name in names])
        for y, where in enumerate(shown):
            _dumbbell(ax, y, rows[where], found.models)
        ax.set_xlabel("XRR")
        ax.margins(x=0.06)
        _few_ticks(ax.xaxis)
        _wide_legend(ax, 2)
        svg = to_svg(figure, key, title, caption)
    header = ("group", *(part for name in found.models for part in (name, "95 % interval")))
    table = [
        (_model_name(found, where), *_model_cells(rows[where], found.models))
        for where in own[:MOST_LISTED]
    ]
    return Drawing(svg, title, caption, header, tuple(table))


def _model_name(found: Raters, where: tuple[str, str]) -> str:
    return found.label_of(*where) if where[0] else EVERYBODY


def _dumbbell(ax: Axes, y: int, row: dict[str, ModelRow], names: Sequence[str]) -> None:
    there = [row[name] for name in names if name in row]
    if len(there) > 1:
        ax.plot([there[0].xrr, there[-1].xrr], [y, y], color=RULE, linewidth=4, zorder=1)
    for number, name in enumerate(names):
        if name not in row:
            continue
        last = number == len(names) - 1
        one, colour = row[name], ACCENT if last else TRIGGERED
        if one.low is not None and one.high is not None:
            at = y + (0.22 if last else -0.22)
            ax.plot([one.low, one.high], [at, at], color=colour, linewidth=1.5, zorder=2)
        middle = number > 0 and not last
        ax.plot(
            [one.xrr], [y], "x" if middle else "o", color=colour, markersize=8, markeredgewidth=2,
            markerfacecolor=colour if last else PAPER, linestyle="none", zorder=3 + number,
            label=None if y or middle else short(name, 18),
        )  # fmt: skip


def _model_cells(row: dict[str, ModelRow], names: Sequence[str]) -> list[str]:
    cells = []
    for name in names:
        one = row.get(name)
        known = one is not None and one.low is not None and one.high is not None
        cells.append(DASH if one is None else decimal(one.xrr, "xrr"))
        cells.append(_span(one.low, one.high) if one is not None and known else DASH)
    return cells


def _span(low: float | None, high: float | None) -> str:
    return f"{_number(low, 'xrr')} to {_number(high, 'xrr')}"
