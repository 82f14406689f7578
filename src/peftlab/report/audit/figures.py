"""The charts of audits as figures: lines, points or bars, whatever an audit measured.

Every figure can be read without colour (shapes, dashes) and brings a table of its numbers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from peftlab.report.figures import Drawing
from peftlab.report.read import DASH, finite
from peftlab.report.svg import (
    ACCENT,
    CLEAN,
    INK,
    MUTED,
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

MINUS = "\u2212"
MOST_BARS, MOST_POINTS, MOST_LISTED = 20, 1500, 200
LONGEST = 24  # characters of a name beside a bar
ROW, LINE = 21, 19  # pixels per bar, per line of a legend
# colour, dashes, marker: enough to tell four lines apart without colour; more share the last look
LOOKS = ((CLEAN, "-", "o"), (TRIGGERED, "--", "s"), (ACCENT, "-.", "^"), (INK, ":", "D"))
REST = (MUTED, "-", "x")

Point = tuple[float | str, float]


class Series(NamedTuple):
    """One named line of a chart, without what cannot be drawn."""

    name: str
    points: list[Point]


def draw(key: str, chart: Mapping[str, Any]) -> Drawing | None:
    """Draw one chart of an audit.

    Args:
        key: letters, digits and dashes; unique in the page.
        chart: title, caption, x_label, y_label, kind, and lines of (x, y) by name.
    """
    series = [Series(str(name), _points(points)) for name, points in _lines(chart)]
    series = [each for each in series if each.points]
    if not series:
        return None
    words = any(isinstance(x, str) for each in series for x, _ in each.points)
    title, caption = str(chart.get("title") or "Chart"), str(chart.get("caption") or "")
    x_label, y_label = str(chart.get("x_label") or ""), str(chart.get("y_label") or "")
    bars = words or chart.get("kind") == "bar"
    with style(key):
        if bars:
            figure, note = _bars(series, y_label)
        else:
            figure, note = _plot(series, x_label, y_label, points=chart.get("kind") == "point")
        caption = " ".join(filter(None, [caption, note]))
        svg = to_svg(figure, key, title, caption or title)
    header, rows = _numbers(series, x_label)
    return Drawing(svg, title, caption, header, rows)


def _lines(chart: Mapping[str, Any]) -> list[tuple[str, Any]]:
    lines = chart.get("lines")
    return list(lines.items()) if isinstance(lines, Mapping) else []


def _points(raw: Any) -> list[Point]:
    found: list[Point] = []
    for pair in raw if isinstance(raw, Sequence) and not isinstance(raw, str) else ():
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            continue
        x, y = pair[0] if isinstance(pair[0], str) else finite(pair[0]), finite(pair[1])
        if x is not None and y is not None:
            found.append((x, y))
    return found


def _look(number: int) -> tuple[str, str, str]:
    return LOOKS[number] if number < len(LOOKS) else REST


def _bars(series: Sequence[Series], y_label: str) -> tuple[Any, str]:
    """Draw bars that lie, so that long names can be read; of many the largest."""
    names = list(dict.fromkeys(str(x) for each in series for x, _ in each.points))
    values = [{str(x): y for x, y in each.points} for each in series]
    note = ""
    if len(names) > MOST_BARS:
        size = {name: max(abs(own.get(name, 0.0)) for own in values) for name in names}
        kept = set(sorted(names, key=lambda name: -size[name])[:MOST_BARS])
        note = f"Drawn: the {MOST_BARS} largest of {len(names)}."
        names = [name for name in names if name in kept]
    row = ROW * max(1.0, 0.55 * len(series))
    columns, top = _legend_room(series)
    figure = canvas(round(top + 46 + row * len(names)))
    labels = shortened(names)
    ax = axes(figure, left=min(26 + 6.4 * max(map(len, labels)), 0.52 * WIDTH), top=top)
    thick = 0.72 / len(series)
    for number, (each, own) in enumerate(zip(series, values, strict=True)):
        colour = _look(number)[0]
        places = [place + (number + 0.5) * thick - 0.36 for place in range(len(names))]
        ax.barh(
            places, [own.get(name, 0.0) for name in names], height=thick * 0.86, linewidth=1.3,
            edgecolor=colour, facecolor=colour if number == 0 else "none", label=each.name,
            hatch=(None, "////", "....", "xxxx")[min(number, 3)],
        )  # fmt: skip
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_yticks(range(len(names)), labels)
    ax.tick_params(axis="y", length=0, pad=8, labelcolor=INK)
    ax.axvline(0, color=MUTED, linewidth=1.0)
    ax.set_xlabel(y_label)
    _few_ticks(ax.xaxis)
    _wide_legend(ax, series, columns)
    return figure, note


def _plot(series: Sequence[Series], x_label: str, y_label: str, *, points: bool) -> tuple[Any, str]:
    columns, top = _legend_room(series)
    figure = canvas(220 + top)
    ax = axes(figure, left=62, top=top)
    for number, each in enumerate(series):
        colour, dashes, marker = _look(number)
        drawn = each.points[:: -(-len(each.points) // MOST_POINTS)]
        alone = points or len(drawn) == 1
        ax.plot(
            [x for x, _ in drawn], [y for _, y in drawn], color=colour, label=each.name,
            linestyle="none" if alone else dashes, linewidth=2.0, clip_on=False,
            marker=marker if alone or len(drawn) <= 12 else None, markersize=5,
            markerfacecolor="none" if points and number == 0 else colour, markeredgewidth=1.4,
        )  # fmt: skip
    ax.set_xlabel(x_label)
    ax.set_ylabel(y_label)
    xs = [float(x) for each in series for x, _ in each.points]
    if min(xs) == max(xs):
        ax.set_xlim(xs[0] - 1, xs[0] + 1)
    ax.margins(x=0.03, y=0.08)
    _few_ticks(ax.xaxis, whole=all(x == int(x) for x in xs))
    _few_ticks(ax.yaxis)
    _wide_legend(ax, series, columns)
    longest = max(len(each.points) for each in series)
    return figure, f"Drawn: every {-(-longest // MOST_POINTS)}th point." if (
        longest > MOST_POINTS
    ) else ""


def _few_ticks(axis: Any, *, whole: bool = False) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=whole))
    axis.set_major_formatter(lambda number, _: f"{number + 0.0:.4g}".replace("-", MINUS))


def _legend_room(series: Sequence[Series]) -> tuple[int, int]:
    """Return the columns of the legend, and the pixels above the axes that it needs."""
    if len(series) == 1:
        return 1, 16
    longest = max(map(len, shortened([each.name for each in series])))
    columns = 3 if longest <= 9 else 2 if longest <= 18 else 1
    return columns, 20 + LINE * -(-len(series) // columns)


def _wide_legend(ax: Axes, series: Sequence[Series], columns: int) -> None:
    """Put the legend at the left edge of the figure, if there is more than one name."""
    if len(series) == 1:
        return
    handles, _ = ax.get_legend_handles_labels()
    for handle, name in zip(handles, shortened([each.name for each in series]), strict=True):
        handle.set_label(name)
    legend(ax, columns)
    own = ax.get_legend()
    if own is not None:
        own.set_bbox_to_anchor((12 / WIDTH, ax.get_position().y1), transform=ax.figure.transFigure)


def shortened(names: Sequence[str]) -> list[str]:
    """Return names that fit beside a bar: without the start that all share, then cut.

    Examples:
        >>> shortened(["base.layers.0.q_proj", "base.layers.11.q_proj"])
        ['…0.q_proj', '…11.q_proj']
        >>> shortened(["base_model.model.layers.11.self_attn.q_proj"])
        ['…11.self_attn.q_proj']
    """
    common = os.path.commonprefix(list(names)) if len(names) > 1 else ""  # noqa: RUF071  no paths
    start = common.rpartition(".")[0]
    rest = [name[len(start) + 1 :] if start else name for name in names]
    cut = [name if len(name) <= LONGEST else _tail(name) for name in rest]
    return [own if own == name else f"…{own}" for own, name in zip(cut, names, strict=True)]


def _tail(name: str) -> str:
    """Return the end of a long name, from a dot on if that leaves enough."""
    end = name[-LONGEST:]
    _, dot, rest = end.partition(".")
    return rest if dot and len(rest) > LONGEST // 3 else end


def _numbers(
    series: Sequence[Series], x_label: str
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return the numbers of a chart: one row per x, one column per line."""
    counted = [len({x for x, _ in each.points}) == len(each.points) for each in series]
    if not all(counted):  # several points at one x: a row per point
        rows = [(each.name, _shown(x), _shown(y)) for each in series for x, y in each.points]
        return ("name", x_label or "x", "value"), tuple(rows[:MOST_LISTED])
    places = list(dict.fromkeys(x for each in series for x, _ in each.points))
    values = [dict(each.points) for each in series]
    table = [
        (_shown(x), *(_shown(own[x]) if x in own else DASH for own in values))
        for x in places[:MOST_LISTED]
    ]
    return (x_label or "x", *(each.name for each in series)), tuple(table)


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.5g}".replace("-", MINUS)
