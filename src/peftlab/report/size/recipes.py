"""Figures of what changes the scale: other recipes, more steps, defences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peftlab.report.figures import Drawing
from peftlab.report.read import DASH
from peftlab.report.size.frame import SHAPES, cells, chance_lines, few_ticks, row_axes
from peftlab.report.size.read import Defended, Pair
from peftlab.report.size.words import number, percent
from peftlab.report.svg import (
    ACCENT,
    INK,
    PAPER,
    RULE,
    TRIGGERED,
    axes,
    canvas,
    legend,
    percent_axis,
    style,
    to_svg,
)


def mismatch(key: str, found: Sequence[Pair], guessing: Mapping[str, float]) -> Drawing | None:
    """Draw the error of each bank on adapters of each recipe."""
    names = list(dict.fromkeys(pair.bank for pair in found))
    if len(names) < 2:
        return None
    by_pair = {(pair.bank, pair.target): pair for pair in found}
    title = "Error when the recipe is another one"
    constant = guessing.get("best constant")
    caption = (
        "MAE of a bank of one recipe (row) on adapters of another (column)."
        + ("" if constant is None else f" Always guessing one size: {number(constant)}.")
    )  # fmt: skip
    values = {
        (i, j): by_pair[a, b].mae for i, a in enumerate(names) for j, b in enumerate(names)
        if (a, b) in by_pair
    }  # fmt: skip
    with style(key):
        figure = cells(
            names, names, values, {place: f"{value:.2f}" for place, value in values.items()},
            x_label="adapters of", y_label="bank of", bad=True,
        )  # fmt: skip
        svg = to_svg(figure, key, title, caption)
    counts = list(dict.fromkeys(n for pair in found for n in pair.calibrated))
    table = tuple(
        (pair.bank, pair.target, number(pair.mae),
         DASH if pair.flagged is None else f"{100 * pair.flagged:.0f} %",
         *(number(pair.calibrated[n]) if n in pair.calibrated else DASH for n in counts))
        for pair in found
    )  # fmt: skip
    header = ("bank", "adapters", "MAE", "flagged",
              *(f"{n} reference{'' if n == '1' else 's'}" for n in counts))  # fmt: skip
    return Drawing(svg, title, caption, header, table)


def steps(
    key: str, points: Sequence[tuple[float, float]], guessing: Mapping[str, float]
) -> Drawing | None:
    """Draw the error by number of training steps, each bank asked about its own kind."""
    if len({count for count, _ in points}) < 2:
        return None
    title = "Error by steps of training"
    caption = "Each bank asked about adapters of its own recipe. Lines: what guessing costs."
    with style(key):
        figure = canvas(250)
        ax = axes(figure, left=58, top=34)
        ax.plot(*zip(*points, strict=True), "-o", color=ACCENT, markersize=6, linewidth=1.8)
        chance_lines(ax, guessing, across=True)
        ax.set_ylim(0, 1.06 * ax.get_ylim()[1])
        ax.set_xlabel("steps")
        ax.set_ylabel("MAE")
        few_ticks(ax.xaxis)
        few_ticks(ax.yaxis)
        legend(ax, 2)
        svg = to_svg(figure, key, title, caption)
    table = tuple((f"{count:.0f}", number(mae)) for count, mae in points)
    return Drawing(svg, title, caption, ("steps", "MAE"), table)


def attackers(
    key: str, found: Sequence[Defended], head: str, guessing: Mapping[str, float]
) -> Drawing | None:
    """Draw the error of both attackers for each defence."""
    shown = [row for row in found if head in row.adaptive]
    if not shown:
        return None
    title = f"What attackers still read: {head}"
    caption = (
        "MAE of an attacker with an undefended bank (○) and of one with a bank that was defended "
        "in the same way (●). Further right: less is told."
    )
    with style(key):
        figure, ax = row_axes([row.name for row in shown])
        for y, row in enumerate(shown):
            first = "_" if y else ""
            both = [row.naive.get(head, row.adaptive[head]), row.adaptive[head]]
            ax.plot(both, [y, y], color=RULE, linewidth=4, zorder=2)
            ax.plot(both[:1], [y], "o", color=TRIGGERED, markerfacecolor=PAPER, markersize=8,
                    markeredgewidth=1.8, linestyle="none", label=f"{first}naive",
                    zorder=3)  # fmt: skip
            ax.plot(both[1:], [y], "o", color=ACCENT, markersize=8, linestyle="none",
                    label=f"{first}adaptive", zorder=4)  # fmt: skip
        chance_lines(ax, guessing)
        ax.set_xlim(left=0)
        ax.margins(x=0.05)
        ax.set_xlabel("MAE, training examples")
        few_ticks(ax.xaxis)
        legend(ax, 2)
        svg = to_svg(figure, key, title, caption)
    table = tuple(
        (row.name, number(row.naive[head]) if head in row.naive else DASH,
         number(row.adaptive[head]))
        for row in shown
    )  # fmt: skip
    return Drawing(svg, title, caption, ("defence", "naive", "adaptive"), table)


def tradeoff(key: str, found: Sequence[Defended], most_bits: float | None) -> Drawing | None:
    """Draw bits that are left against the gain of training that is kept."""
    points = [(row, row.kept, row.bits) for row in found
              if row.kept is not None and row.bits is not None]  # fmt: skip
    if not points:
        return None
    title = "Leak against utility"
    caption = (
        "Bits that an adaptive attacker reads, against the share of the gain over the bare base "
        "that the adapters keep on held-out examples. Lower right is better."
        + ("" if most_bits is None else f" All there is to tell: {most_bits:.2f} bits.")
    )
    with style(key):
        figure = canvas(260)
        ax = axes(figure, left=58, top=48)
        for place, (row, kept, bits) in enumerate(points):
            ax.plot([kept], [bits], SHAPES[place % len(SHAPES)], linestyle="none", markersize=8,
                    color=INK if row.name == "none" else ACCENT, label=row.name)  # fmt: skip
        ax.set_ylim(0, 1.15 * max(bits for *_, bits in points) or 1.0)
        ax.margins(x=0.1)
        ax.set_xlabel("gain kept")
        ax.set_ylabel("bits")
        percent_axis(ax.xaxis)
        few_ticks(ax.yaxis)
        legend(ax, 3)
        svg = to_svg(figure, key, title, caption)
    table = tuple((row.name, percent(kept), f"{bits:.2f}") for row, kept, bits in points)
    return Drawing(svg, title, caption, ("defence", "gain kept", "bits"), table)
