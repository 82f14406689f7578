"""Figures of a bench: heads, confusion, training concepts, kinds, norms, spectra, layers.

Every figure of an error has the lines of chance, can be read without colour, and brings its table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftlab.report.figures import Drawing
from peftlab.report.read import DASH, clean_text, finite
from peftlab.report.size.frame import (
    SHAPES,
    cells,
    chance_lines,
    few_ticks,
    row_axes,
    short,
)
from peftlab.report.size.read import Box, Head, rows
from peftlab.report.size.words import number
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

MOST_LAYERS = 12  # best and worst that are drawn
COLOURS = (ACCENT, TRIGGERED, CLEAN)


def head_errors(key: str, found: Sequence[Head], guessing: Mapping[str, float]) -> Drawing | None:
    """Draw the MAE of each head, the best on top."""
    if not found:
        return None
    title = "Error of each head"
    caption = (
        "Mean absolute error over test adapters of unseen concepts; thin bars: standard deviation "
        "over splits, which overlap. Dashed: always the one best size; dotted: a uniform guess."
    )
    with style(key):
        figure, ax = row_axes([head.name for head in found])
        for y, head in enumerate(found):
            ax.plot([head.mae - head.mae_std, head.mae + head.mae_std], [y, y], color=MUTED,
                    linewidth=2)  # fmt: skip
            ax.plot([head.mae], [y], "o", color=ACCENT, markersize=8, linestyle="none")
        chance_lines(ax, guessing)
        ax.set_xlim(left=0)
        ax.margins(x=0.05)
        ax.set_xlabel("MAE, training examples")
        few_ticks(ax.xaxis)
        legend(ax, 2)
        svg = to_svg(figure, key, title, caption)
    table = [(head.name, number(head.mae), number(head.mae_std)) for head in found]
    table += [(name, number(value), DASH) for name, value in guessing.items()]
    return Drawing(svg, title, caption, ("head", "MAE", "std over splits"), tuple(table))


def confusion(key: str, head: Head, sizes: Sequence[int]) -> Drawing | None:
    """Draw how often each size is taken for each other."""
    if not head.confusion or len(head.confusion) != len(sizes):
        return None
    title = f"Confusion: {head.name}"
    caption = "Share of the adapters of each size (row) that are guessed as each size (column)."
    totals = [sum(row) or 1.0 for row in head.confusion]
    values = {
        (i, j): cell / totals[i] for i, row in enumerate(head.confusion)
        for j, cell in enumerate(row)
    }  # fmt: skip
    names = [str(size) for size in sizes]
    with style(key):
        figure = cells(
            names, names, values, {place: f"{100 * value:.0f}" for place, value in values.items()},
            x_label="guessed size, %", y_label="true size", most=1.0,
        )  # fmt: skip
        svg = to_svg(figure, key, title, caption)
    table = tuple(
        (names[i], *(f"{100 * values[i, j]:.1f} %" for j in range(len(names))))
        for i in range(len(names))
    )
    return Drawing(svg, title, caption, ("true size", *names), table)


def learning_curve(
    key: str, results: Mapping[str, Any], sizes: Sequence[int], guessing: Mapping[str, float],
    *, what: str,
) -> Drawing | None:  # fmt: skip
    """Draw accuracy (or MAE) against the number of training concepts.

    Args:
        key: of the figure.
        results: with ``curve``.
        sizes: the known ones; their number gives the accuracy of chance.
        guessing: what guessing costs.
        what: ``accuracy`` or ``mae``.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows(results.get("curve")):
        x, y = finite(row.get("train")), finite(row.get(what))
        if x is not None and y is not None:
            points.setdefault(clean_text(row.get("head", "")), []).append((x, y))
    if not points or not sizes:
        return None
    exact = what == "accuracy"
    title = f"{'Exact hits' if exact else 'Error'} by number of training concepts"
    caption = "Test adapters of unseen concepts, one training concept and up." + (
        f" Dotted: chance, 1 in {len(sizes)}." if exact else " Lines of guessing as above."
    )
    with style(key):
        figure = canvas(250)
        ax = axes(figure, left=58, top=34)
        for place, (name, own) in enumerate(points.items()):
            ax.plot(*zip(*own, strict=True), "-" if place == 0 else "--",
                    marker=SHAPES[place % len(SHAPES)], color=COLOURS[place % len(COLOURS)],
                    markersize=6, linewidth=1.8, label=short(name))  # fmt: skip
        if exact:
            ax.axhline(1 / len(sizes), color=MUTED, linestyle=":", linewidth=1.3)
        else:
            chance_lines(ax, guessing, across=True)
        ax.set_ylim(0, 1.06 * ax.get_ylim()[1])
        ax.set_xlabel("training concepts")
        ax.set_ylabel("exact hits" if exact else "MAE")
        few_ticks(ax.xaxis)
        percent_axis(ax.yaxis) if exact else few_ticks(ax.yaxis)
        legend(ax, 2)
        svg = to_svg(figure, key, title, caption)
    table = tuple(
        (f"{x:.0f}", name, f"{100 * y:.1f} %" if exact else number(y))
        for name, own in points.items() for x, y in own
    )  # fmt: skip
    header = ("training concepts", "head", "exact hits" if exact else "MAE")
    return Drawing(svg, title, caption, header, table)


def kinds(key: str, results: Mapping[str, Any], guessing: Mapping[str, float]) -> Drawing | None:
    """Draw the error of the vote by kind of matrix."""
    found = [
        (" + ".join(map(clean_text, row.get("kinds") or [])), mae, finite(row.get("accuracy")))
        for row in rows(results.get("kinds"))
        if (mae := finite(row.get("mae"))) is not None
    ]
    if not found:
        return None
    title = "Error of the vote by kind of matrix"
    caption = "Spectra of the factors A and B, of the update BA, and all together."
    with style(key):
        figure, ax = row_axes([name for name, *_ in found])
        ax.barh(range(len(found)), [mae for _, mae, _ in found], height=0.5, color=ACCENT,
                alpha=0.75)  # fmt: skip
        chance_lines(ax, guessing)
        ax.margins(x=0.05)
        ax.set_xlabel("MAE, training examples")
        few_ticks(ax.xaxis)
        legend(ax, 2)
        svg = to_svg(figure, key, title, caption)
    table = tuple(
        (name, number(mae), DASH if hits is None else f"{100 * hits:.1f} %")
        for name, mae, hits in found
    )
    return Drawing(svg, title, caption, ("kind", "MAE", "exact hits"), table)


def norms(key: str, boxes: Sequence[Box], target: float | None = None) -> Drawing | None:
    """Draw the norms of the updates by size; ``target``: a line for one adapter."""
    if not boxes:
        return None
    title = "Norm of the update by size"
    caption = (
        "Mean Frobenius norm of s B A over the layers. Box: middle half of the adapters; line: "
        "median; whiskers: 5 % to 95 %."
        + ("" if target is None else " Dashed: the adapter that was asked about.")
    )
    with style(key):
        figure = canvas(250)
        ax = axes(figure, left=58, top=12 if target is None else 34)
        for x, box in enumerate(boxes):
            low, first, median, third, high = box.quantiles
            ax.plot([x, x], [low, high], color=MUTED, linewidth=1.5, zorder=1)
            ax.bar(x, third - first, bottom=first, width=0.5, facecolor=PAPER, edgecolor=CLEAN,
                   linewidth=1.6, zorder=2)  # fmt: skip
            ax.plot([x - 0.25, x + 0.25], [median, median], color=CLEAN, linewidth=2.2, zorder=3)
        if target is not None:
            ax.axhline(target, color=TRIGGERED, linestyle="--", linewidth=1.6,
                       label="this adapter")  # fmt: skip
        ax.set_xticks(range(len(boxes)), [str(box.size) for box in boxes])
        ax.set_xlabel("training examples")
        ax.set_ylabel("norm")
        few_ticks(ax.yaxis)
        legend(ax, 1)
        svg = to_svg(figure, key, title, caption)
    table = tuple((str(box.size), number(box.mean), *map(number, box.quantiles)) for box in boxes)
    return Drawing(svg, title, caption, ("size", "mean", "5 %", "25 %", "50 %", "75 %", "95 %"),
                   table)  # fmt: skip


def spectra(key: str, results: Mapping[str, Any]) -> list[Drawing]:
    """Draw the mean BA spectrum by size of the best and of the worst layer."""
    by_layer: dict[str, list[tuple[str, list[float]]]] = {}
    for row in rows(results.get("spectra")):
        values = [v for v in map(finite, row.get("values") or []) if v is not None]
        if values:
            own = by_layer.setdefault(clean_text(row.get("layer", "")), [])
            own.append((clean_text(row.get("size", "")), values))
    drawn = []
    words = ("that tells most", "that tells least")
    for place, (layer, lines) in enumerate(list(by_layer.items())[:2]):
        drawn.append(_spectrum(f"{key}{place}", layer, words[place], lines))
    return drawn


def _spectrum(
    key: str, layer: str, which: str, lines: Sequence[tuple[str, list[float]]]
) -> Drawing:
    title = f"Spectrum by size: {short(layer, 40)}"
    caption = (
        f"Mean singular values of s B A in the layer {which} (by MAE of its own votes); from few "
        "examples (faint) to many (strong)."
    )
    with style(key):
        figure = canvas(250)
        ax = axes(figure, left=58, top=34)
        for place, (size, values) in enumerate(lines):
            ax.plot(range(1, len(values) + 1), values, marker=SHAPES[place % len(SHAPES)],
                    color=ACCENT, alpha=0.35 + 0.65 * place / max(len(lines) - 1, 1),
                    markersize=5, linewidth=1.6, label=size)  # fmt: skip
        ax.set_ylim(bottom=0)
        ax.set_xlabel("singular value")
        few_ticks(ax.xaxis)
        few_ticks(ax.yaxis)
        legend(ax, 6)
        svg = to_svg(figure, key, title, caption)
    longest = max(len(values) for _, values in lines)
    header = ("size", *(str(i + 1) for i in range(longest)))
    table = tuple((size, *map(number, values)) for size, values in lines)
    return Drawing(svg, title, caption, header, table)


def layer_map(key: str, results: Mapping[str, Any], count: int) -> Drawing | None:
    """Draw how often each matrix alone is right, layers that leak most on top."""
    values: dict[str, dict[str, float]] = {}
    for row in rows(results.get("layer_map")):
        share = finite(row.get("accuracy"))
        if share is not None:
            layer = clean_text(row.get("layer", ""))
            values.setdefault(layer, {})[clean_text(row.get("kind", ""))] = share
    if not values or not count:
        return None
    kinds_here = list(dict.fromkeys(kind for own in values.values() for kind in own))
    ranked = sorted(values, key=lambda layer: -sum(values[layer].values()))
    drawn = ranked if len(ranked) <= 2 * MOST_LAYERS else (
        ranked[:MOST_LAYERS] + ranked[-MOST_LAYERS:]
    )  # fmt: skip
    title = "Which layers tell"
    caption = (
        f"Exact hits, in %, of each matrix alone; chance is {100 / count:.0f}."
        + ("" if len(drawn) == len(ranked) else
           f" Drawn: the {MOST_LAYERS} best and the {MOST_LAYERS} worst of {len(ranked)} layers.")
    )  # fmt: skip
    cell = {
        (i, j): values[layer][kind] for i, layer in enumerate(drawn)
        for j, kind in enumerate(kinds_here) if kind in values[layer]
    }  # fmt: skip
    with style(key):
        figure = cells(
            drawn, kinds_here, cell, {place: f"{100 * share:.0f}" for place, share in cell.items()}
        )
        svg = to_svg(figure, key, title, caption)
    table = tuple(
        (layer, *(f"{100 * values[layer][kind]:.1f} %" if kind in values[layer] else DASH
                  for kind in kinds_here))
        for layer in ranked
    )  # fmt: skip
    return Drawing(svg, title, caption, ("layer", *kinds_here), table)


def votes(key: str, results: Mapping[str, Any]) -> Drawing | None:
    """Draw the share of each size, with those that cannot be ruled out."""
    listed = results.get("votes")
    shares = {
        clean_text(size): share
        for size, value in (listed.items() if isinstance(listed, Mapping) else ())
        if (share := finite(value)) is not None
    }
    about = results.get("set") if isinstance(results.get("set"), Mapping) else {}
    kept = {str(size) for size in (about or {}).get("sizes", [])}
    if not shares:
        return None
    title = "Votes for each size"
    caption = "Filled: sizes in the prediction set; hatched: ruled out. Dotted: an even spread."
    with style(key):
        figure = canvas(240)
        ax = axes(figure, left=58, top=12)
        for x, (size, share) in enumerate(shares.items()):
            inside = size in kept
            ax.bar(x, share, width=0.62, facecolor=ACCENT if inside else "none",
                   edgecolor=ACCENT if inside else MUTED, hatch=None if inside else "////",
                   linewidth=1.5)  # fmt: skip
        ax.axhline(1 / len(shares), color=INK, linestyle=":", linewidth=1.2)
        ax.set_xticks(range(len(shares)), list(shares))
        ax.set_xlabel("training examples")
        ax.set_ylabel("share")
        percent_axis(ax.yaxis)
        svg = to_svg(figure, key, title, caption)
    table = tuple(
        (size, f"{100 * share:.1f} %", "yes" if size in kept else "ruled out")
        for size, share in shares.items()
    )
    return Drawing(svg, title, caption, ("size", "share", "in the set"), table)
