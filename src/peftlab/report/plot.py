"""Plots as SVG text written by hand: a report of many figures takes milliseconds for each.

Colours are the page's CSS variables, so a figure follows its light or dark theme; nothing in the
output depends on the clock or on the machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from peftlab.core.types import Floats
from peftlab.report.scales import Scale
from peftlab.report.svg import WIDTH, opening

Numbers = Sequence[float] | Floats

RIGHT = 26  # margin
INK, MUTED, RULE, PAPER = "var(--ink)", "var(--muted)", "var(--rule)", "var(--panel)"
CLEAN, TRIGGERED, ACCENT = "var(--clean)", "var(--triggered)", "var(--accent)"
DASHED, DOTTED = "6 3", "1.4 2"

_LETTER = 6.2  # pixels that a letter takes at most, on average
_SAMPLE = 19  # pixels of line or area beside a word of the legend
_SHAPES = {  # outlines around (0, 0) inside a circle of radius 1
    "square": ((-0.89, -0.89), (0.89, -0.89), (0.89, 0.89), (-0.89, 0.89)),
    "triangle": ((0, -1), (1, 1), (-1, 1)),
    "diamond": ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
}


def _path(
    d: str, fill: str = "none", stroke: str = "none", width: float = 0, more: str = ""
) -> str:
    pen = f";stroke:{stroke};stroke-width:{width:g}" if width else ""
    return f'<path d="{d}" style="fill:{fill}{pen}{more}"/>'


def _text(
    x: float, y: float, words: str, colour: str, anchor: str = "start", more: str = ""
) -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="fill:{colour}"{more}>'
            f"{escape(words)}</text>")  # fmt: skip


def _joined(xs: Iterable[float], ys: Iterable[float]) -> str:
    """Return a polyline's path, broken where a number is missing."""
    parts, pen = [], "M"
    for x, y in zip(xs, ys, strict=True):
        if np.isfinite(x) and np.isfinite(y):
            parts.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def _marks(xs: Iterable[float], ys: Iterable[float], shape: str, radius: float) -> str:
    """Return one path of all marks."""
    points = [(x, y) for x, y in zip(xs, ys, strict=True) if np.isfinite(x) and np.isfinite(y)]
    if shape == "circle":
        arc = f"a{radius:g} {radius:g} 0 1 0"
        return "".join(f"M{x - radius:.1f} {y:.1f}{arc} {2 * radius:g} 0{arc} {-2 * radius:g} 0z"
                       for x, y in points)  # fmt: skip
    corners = _SHAPES[shape]
    return "".join(
        _joined([x + radius * dx for dx, _ in corners], [y + radius * dy for _, dy in corners])
        + "z"
        for x, y in points
    )


class Plot:
    """One pair of axes; what is added later lies on top of what was added before.

    Args:
        height: of the whole figure, in pixels.
        x: numbers at the left and right end.
        y: numbers at the lower and upper end.
        left: margin in pixels, as are the others.
        top: where the legend stands.
        bottom: where the ticks and the name of the axis stand.
        log: whether the x axis is logarithmic.
    """

    def __init__(
        self, height: float, x: tuple[float, float], y: tuple[float, float], *, left: float,
        top: float = 34, bottom: float = 44, log: bool = False,
    ) -> None:  # fmt: skip
        self.height = height
        self.x = Scale(*x, left, WIDTH - RIGHT, log)
        self.y = Scale(*y, height - bottom, top)
        self.parts: list[str] = []
        self._legend: list[tuple[str, str]] = []

    def _add(self, drawn: str, label: str, sample: str) -> None:
        self.parts.append(drawn)
        if label:
            self._legend.append((sample, label))

    def line(
        self, xs: Numbers, ys: Numbers, colour: str, width: float,
        *, dash: str = "", label: str = "", shape: str = "", radius: float = 3,
    ) -> None:  # fmt: skip
        """Draw a line, with marks on it if a shape is given."""
        at = self.x.at(xs), self.y.at(ys)
        more = f";stroke-dasharray:{dash}" if dash else ""
        drawn = _path(_joined(*at), stroke=colour, width=width, more=more)
        sample = _path(f"M0 0H{_SAMPLE}", stroke=colour, width=width, more=more)
        if shape:
            drawn += _path(_marks(*at, shape, radius), colour)
            sample += _path(_marks([_SAMPLE / 2], [0], shape, radius), colour)
        self._add(drawn, label, sample)

    def marks(
        self, xs: Numbers, ys: Numbers, colour: str, radius: float, *,
        shape: str = "circle", hollow: float = 0, label: str = "",
    ) -> None:  # fmt: skip
        """Draw marks; hollow ones have an edge of that width."""
        fill, edge = (PAPER, colour) if hollow else (colour, "none")
        at = self.x.at(xs), self.y.at(ys)
        drawn = _path(_marks(*at, shape, radius), fill, edge, hollow)
        sample = _path(_marks([_SAMPLE / 2], [0], shape, radius), fill, edge, hollow)
        self._add(drawn, label, sample)

    def area(
        self, xs: Numbers, ys: Numbers, fill: str, *,
        edge: str = "none", opacity: float = 1, label: str = "",
    ) -> None:  # fmt: skip
        """Fill a polygon, given by its corners."""
        width = 1.6 if edge != "none" else 0
        more = f";fill-opacity:{opacity:g}"
        sample = _path(f"M0 -4H{_SAMPLE}V4H0z", fill, edge, width, more)
        self._add(_path(_joined(self.x.at(xs), self.y.at(ys)) + "z", fill, edge, width, more),
                  label, sample)  # fmt: skip

    def segments(
        self, x0: Numbers, y0: Numbers, x1: Numbers, y1: Numbers, colour: str, width: float
    ) -> None:
        """Draw one straight line from each (x0, y0) to its (x1, y1)."""
        ends = self.x.at(x0), self.y.at(y0), self.x.at(x1), self.y.at(y1)
        d = "".join(f"M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" for a, b, c, d in zip(*ends, strict=True))
        self.parts.append(_path(d, stroke=colour, width=width))

    def x_axis(self, values: Numbers, words: Sequence[str], title: str = "") -> None:
        """Draw the lower axis with its ticks, their words and its name if there are any."""
        floor, at = self.y.start, self.x.at(values)
        ticks = "".join(f"M{x:.1f} {floor:.1f}v3.5" for x in at)
        self.parts.append(
            _path(f"M{self.x.start:.1f} {floor:.1f}H{self.x.end:.1f}{ticks}", stroke=RULE, width=1)
        )
        self.parts += [_text(x, floor + 16, word, MUTED, "middle")
                       for x, word in zip(at, words, strict=bool(words))]  # fmt: skip
        if title:
            middle = (self.x.start + self.x.end) / 2
            self.parts.append(_text(middle, floor + 31, title, MUTED, "middle"))

    def y_axis(self, values: Numbers, words: Sequence[str], title: str = "") -> None:
        """Draw the left axis with its ticks, and its name, turned, if it has one."""
        left, at = self.x.start, self.y.at(values)
        ticks = "".join(f"M{left:.1f} {y:.1f}h-3.5" for y in at)
        self.parts.append(
            _path(f"M{left:.1f} {self.y.start:.1f}V{self.y.end:.1f}{ticks}", stroke=RULE, width=1)
        )
        self.parts += [_text(left - 7, y + 4, word, MUTED, "end")
                       for y, word in zip(at, words, strict=True)]  # fmt: skip
        if title:
            middle = (self.y.start + self.y.end) / 2
            turn = f' transform="rotate(-90 14 {middle:.1f})"'
            self.parts.append(_text(14, middle, title, MUTED, "middle", turn))

    def names(self, names: Sequence[str]) -> None:
        """Write one name left of each row; rows are counted from 0."""
        at = self.y.at(range(len(names)))
        self.parts += [_text(self.x.start - 11, y + 4, name, INK, "end")
                       for y, name in zip(at, names, strict=True)]  # fmt: skip

    def legend(self) -> None:
        """Write the labels above the axes, where they cover nothing."""
        widths = [_SAMPLE + 20 + _LETTER * len(label) for _, label in self._legend]
        x, y = max(min(self.x.start, WIDTH - sum(widths)), 4), self.y.end - 11
        for (sample, label), width in zip(self._legend, widths, strict=True):
            self.parts.append(f'<g transform="translate({x:.1f} {y:.1f})">{sample}'
                              f"{_text(_SAMPLE + 7, 4, label, INK)}</g>")  # fmt: skip
            x += width


def hatching(key: str, colour: str) -> tuple[str, str]:
    """Return the definition of a hatched fill, and what refers to it."""
    lines = _path("M2.4 0V4.8", stroke=colour, width=1.1)
    pattern = (
        f'<pattern id="{key}-hatch" width="4.8" height="4.8" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)">{lines}</pattern>'
    )
    return pattern, f"url(#{key}-hatch)"


def finished(key: str, height: float, title: str, description: str, body: Iterable[str]) -> str:
    """Return plots as one ``<svg>`` element for use inside HTML."""
    return f"{opening(key, height, title, description)}{''.join(body)}</svg>"
