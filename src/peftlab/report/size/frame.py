"""What the figures of the size audit share: named rows, chance lines, coloured cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftlab.report.svg import ACCENT, INK, MUTED, TRIGGERED, WIDTH, axes, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 26  # pixels
LINES = {"best constant": (INK, "--"), "uniform guess": (MUTED, ":")}
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<")


def short(text: str, most: int = 25) -> str:
    """Return a name that fits beside a row."""
    return text if len(text) <= most else "…" + text[1 - most :]


def few_ticks(axis: Any, most: int = 5) -> None:
    """Put few round numbers on an axis."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(lambda value, _: f"{value:.4g}")


def row_axes(names: Sequence[str], *, top: float = 34) -> tuple[Any, Axes]:
    """Return a figure and axes with one named row per name, first on top."""
    figure = canvas(round(top + 46 + ROW * len(names)))
    shown = [short(name) for name in names]
    ax = axes(figure, left=min(30 + 6.4 * max(map(len, shown)), 0.45 * WIDTH), top=top)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_yticks(range(len(names)), shown)
    ax.tick_params(axis="y", length=0, pad=8, labelcolor=INK)
    ax.spines["left"].set_visible(False)
    return figure, ax


def chance_lines(ax: Axes, guessing: Mapping[str, float], *, across: bool = False) -> None:
    """Draw what guessing costs, across the axes or from the bottom to the top."""
    for name, value in guessing.items():
        colour, line = LINES[name]
        draw = ax.axhline if across else ax.axvline
        draw(value, color=colour, linestyle=line, linewidth=1.3, label=name, zorder=1)


def cells(
    names: Sequence[str], columns: Sequence[str], values: Mapping[tuple[int, int], float],
    words: Mapping[tuple[int, int], str], *, x_label: str = "", y_label: str = "",
    bad: bool = False, most: float | None = None,
) -> Any:  # fmt: skip
    """Return a figure of coloured cells with their numbers; the stronger, the larger.

    Args:
        names: of the rows.
        columns: of the columns.
        values: by row and column.
        words: what stands in a cell.
        x_label: under the columns.
        y_label: over the rows.
        bad: colour of what nobody wants.
        most: value of the full colour; by default the largest.
    """
    from matplotlib.patches import Rectangle

    shown = [short(name) for name in names]
    left = min(28 + 6.4 * max(map(len, shown)), 0.45 * WIDTH)
    high = 26.0
    top = 28.0
    figure = canvas(round(top + high * len(names) + (44 if x_label else 26)))
    side = min((WIDTH - left - 12) / len(columns), 56)
    ax = axes(
        figure, left=left, top=top, right=WIDTH - left - side * len(columns),
        bottom=44 if x_label else 26,
    )  # fmt: skip
    ax.set_xlim(-0.5, len(columns) - 0.5)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_yticks(range(len(names)), shown)
    ax.set_xticks(range(len(columns)), [short(column, 9) for column in columns])
    ax.tick_params(length=0, pad=5, labelcolor=INK)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel(x_label)
    if y_label:
        figure.text(8 / WIDTH, 1 - 18 / (figure.get_figheight() * 72), y_label, fontsize=10.5,
                    color=MUTED)  # fmt: skip
    largest = (max(values.values()) if most is None else most) or 1.0
    for (row, column), value in values.items():
        ax.add_patch(Rectangle(
            (column - 0.46, row - 0.45), 0.92, 0.9, facecolor=TRIGGERED if bad else ACCENT,
            alpha=0.05 + 0.45 * min(max(value / largest, 0.0), 1.0), linewidth=0,
        ))  # fmt: skip
        ax.text(column, row, words.get((row, column), ""), ha="center", va="center",
                fontsize=10.5 if side > 34 else 9, color=INK)  # fmt: skip
    return figure
