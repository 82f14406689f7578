"""matplotlib figures as small inline SVG that follows the page's light or dark theme.

Colours are drawn as sentinels and become CSS variables; text stays text; nothing in the output
depends on the clock, on the machine or on what was drawn before.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 360  # pixels; a phone's width, two fit side by side on a desk

INK, MUTED, RULE, PAPER = "#a10001", "#a10002", "#a10003", "#a10004"
CLEAN, TRIGGERED, ACCENT = "#a10005", "#a10006", "#a10007"
_VARIABLES = {
    INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--panel",
    CLEAN: "--clean", TRIGGERED: "--triggered", ACCENT: "--accent",
}  # fmt: skip

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # ships with matplotlib, so the layout is the same everywhere
    "font.size": 11,
    "text.color": INK,
    "text.parse_math": False,  # a name with dollar signs is a name
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1.0,
    "axes.unicode_minus": True,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "hatch.linewidth": 1.1,
    "path.simplify": True,
}

_UNWANTED = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.DOTALL)
_OPENING = re.compile(r"<svg\b[^>]*>")
_REFERENCE = re.compile(r'(?:href="#|url\(#)([\w.-]+)')
_ID = re.compile(r'\sid="([^"]*)"')
_GEOMETRY = re.compile(r'\s(?:d|x|y|x1|y1|x2|y2|width|height|transform|points)="[^"]*"', re.DOTALL)
_LONG_NUMBER = re.compile(r"(\d+\.\d\d)\d+")


@contextmanager
def style(key: str) -> Iterator[None]:
    """Draw inside this: our look, and identifiers that depend on ``key`` alone."""
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        mpl.rcParams["svg.hashsalt"] = key
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")  # the browser has it
        yield


def canvas(height: int) -> Figure:
    """Return an empty transparent figure, 360 pixels wide; one pixel is one point."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH / 72, height / 72), dpi=72)


def axes(figure: Figure, *, left: float, top: float, right: float = 26, bottom: float = 44) -> Axes:
    """Return axes with margins in pixels."""
    height = figure.get_figheight() * 72
    return figure.add_axes((
        left / WIDTH,
        bottom / height,
        (WIDTH - left - right) / WIDTH,
        (height - top - bottom) / height,
    ))  # fmt: skip


def legend(ax: Axes, columns: int) -> None:
    """Put the legend above the axes, where it covers nothing."""
    handles, _ = ax.get_legend_handles_labels()
    if handles:
        ax.legend(
            loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, frameon=False, fontsize=11,
            handlelength=1.7, handletextpad=0.6, columnspacing=1.4, borderaxespad=0.1,
            labelcolor=INK,
        )  # fmt: skip


def percent_axis(axis: Any) -> None:
    """Label an axis of shares in per cent, with few ticks."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")


def opening(key: str, height: float, title: str, description: str) -> str:
    """Return the start of an ``<svg>`` element, with words for people who cannot see it.

    Args:
        key: letters, digits and dashes; unique in the page, prefix of all identifiers.
        height: in pixels.
        title: what the figure is.
        description: what it shows.
    """
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" '
        f'aria-labelledby="{key}-t {key}-d"><title id="{key}-t">{escape(title)}</title>'
        f'<desc id="{key}-d">{escape(description)}</desc>'
    )


def to_svg(figure: Figure, key: str, title: str, description: str) -> str:
    """Return the figure as one ``<svg>`` element for use inside HTML.

    Args:
        figure: drawn inside ``style(key)`` and saved inside it too.
        key: letters, digits and dashes; unique in the page, prefix of all identifiers.
        title: what the figure is, for people who cannot see it.
        description: what it shows.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = _UNWANTED.sub("", buffer.getvalue())
    text = text[text.index("<svg") :]
    height = round(figure.get_figheight() * 72)
    body = _own_ids(text[_OPENING.match(text).end() :], key)  # type: ignore[union-attr]
    body = _GEOMETRY.sub(lambda found: _LONG_NUMBER.sub(r"\1", found.group()), body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    body = body.replace("xlink:href", "href").replace("'DejaVu Sans'", "system-ui, sans-serif")
    body = re.sub(r">\s+<", "><", body).strip()
    return opening(key, height, title, description) + body


def _own_ids(text: str, key: str) -> str:
    """Drop identifiers that nothing refers to; prefix the others, as a page has many figures."""
    used = set(_REFERENCE.findall(text))
    text = _ID.sub(lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", text)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{key}-", text)
