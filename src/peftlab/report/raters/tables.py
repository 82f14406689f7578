"""The audit as files for other programs: CSV with everything, LaTeX as the published table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from peftlab.report.raters.read import (
    LEVEL,
    METRICS,
    MINUS,
    TIMES,
    Group,
    Raters,
    Value,
    read_raters,
)
from peftlab.report.raters.words import decimal
from peftlab.report.read import DASH, clean_text, finite

_FIRST = ("axis", "group", "raters", "ratings", "suppressed", "tie_share")
_OF_METRIC = ("", "p_", "q_", "side_", "low_", "high_", "p_within_", "q_within_")
# what a spreadsheet takes for a formula, and the wide forms that some take for the same
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "{''}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # these three mean something after the end of a row
    "`": r"\textasciigrave{}", TIMES.strip(): r"$\times$", MINUS: "$-$",
    DASH: "--", "…": r"\ldots{}", "\ufffd": "?",
}  # fmt: skip
_LATEX = str.maketrans(_SPECIAL)
_ARROWS = {"↑": r"\uparrow", "↓": r"\downarrow"}


def footnotes(found: Raters) -> dict[str, int]:
    """Return a number for each reason why a value of the main table is missing."""
    reasons = [
        value.reason for group in found.shown for value in group.values.values() if value.reason
    ]
    return {reason: number for number, reason in enumerate(dict.fromkeys(reasons), start=1)}


def to_csv(results: Mapping[str, Any]) -> str:
    """Return one row per group with all its numbers, as RFC 4180 has it.

    Args:
        results: what ``raters.json`` holds.

    Returns:
        A header and one row per group; a suppressed group has its names and no number. Text that
        a spreadsheet would run as a formula starts with an apostrophe.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is something else.
    """
    found = read_raters(results)
    columns = _columns(found)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([_cell(name) for name in (*columns, "reasons")])
    for group in found.groups:
        known = {**group.raw, "axis": group.axis, "group": group.name}
        known["suppressed"] = group.suppressed
        reasons = "; ".join(f"{key}: {text}" for key, text in group.reasons.items())
        writer.writerow([*(_cell(known.get(name)) for name in columns), _cell(reasons)])
    return out.getvalue()


def _columns(found: Raters) -> list[str]:
    """Return all keys that any group has, known ones first."""
    there = dict.fromkeys(key for group in found.groups for key in group.raw)
    ours = [f"{prefix}{metric}" for metric in METRICS for prefix in _OF_METRIC]
    first = [*_FIRST, *(name for name in ours if name in there)]
    return [*first, *(key for key in there if key not in first)]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return "" if finite(value) is None else repr(value)
    text = clean_text(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def to_latex(results: Mapping[str, Any]) -> str:
    r"""Return the main table for a paper; it needs ``\usepackage{booktabs,textcomp}``.

    Args:
        results: what ``raters.json`` holds.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is something else.
    """
    found = read_raters(results)
    metrics = found.settings.metrics
    header = ["axis", "group", "raters", *(METRICS[name] for name in metrics)]
    lines = [
        "% needs booktabs and textcomp; names in other scripts need XeLaTeX or LuaLaTeX",
        r"\begin{table*}",
        r"\centering\small",
        rf"\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}",
        r"\toprule",
        _row(header),
    ]
    notes = footnotes(found)
    for axis in found.axes:
        rows = found.on(axis.name)
        lines += [r"\midrule"] if rows else []
        for index, group in enumerate(rows):
            start = escape(axis.label) if index == 0 else ""
            lines.append(_row([start, *_latex_cells(group, metrics, notes)]))
    lines += [
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{_caption(results, found)} {_note(found, notes)}}}",
        r"\label{tab:raters}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    r"""Return text that LaTeX prints as it is.

    Examples:
        >>> escape("50 % of R&D_1")
        '50 \\% of R\\&D\\_1'
    """
    return text.translate(_LATEX)


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cells(group: Group, metrics: Sequence[str], notes: Mapping[str, int]) -> list[str]:
    raters = "--" if group.raters is None else str(group.raters)
    numbers = [_latex_value(group.of(name), name, notes) for name in metrics]
    return [escape(group.label), raters, *numbers]


def _latex_value(value: Value, metric: str, notes: Mapping[str, int]) -> str:
    if value.value is None:
        return f"--$^{{{notes[value.reason]}}}$" if value.reason in notes else "--"
    signs = f"${_ARROWS.get(value.arrow, '')}^{{{value.mark}}}$" if value.mark else ""
    return escape(decimal(value.value, metric)) + signs


def _caption(results: Mapping[str, Any], found: Raters) -> str:
    data = results.get("data")
    counts = []
    for key in ("raters", "items", "ratings"):
        number = finite(data.get(key)) if isinstance(data, Mapping) else None
        counts += [] if number is None else [f"{number:.0f} {key}"]
    inside = f" ({', '.join(counts)})" if counts else ""
    return f"Agreement within and across rater groups, {escape(found.name)}{inside}."


def _note(found: Raters, notes: Mapping[str, int]) -> str:
    settings = found.settings
    rule = "published one-tail rule" if settings.paper else "two-sided"
    text = (
        rf"$\uparrow$ / $\downarrow$: above / below the median of the null, where $p < {LEVEL}$. "
        rf"$^{{*}}$ $p < {LEVEL}$ ({rule}, {settings.permutations} permutations)"
    )
    if settings.corrected:
        text += f"; $^{{**}}$ also after {escape(settings.correction_name)} correction"
    parts = [text + "."]
    dsi = [
        f"{escape(axis.label)} {decimal(row.value)}"
        for axis, row in zip(found.axes, found.dsi, strict=True)
        if row.value is not None
    ]
    parts += [f"DSI: {', '.join(dsi)}."] if dsi else []
    parts += [f"$^{{{number}}}$ {escape(reason)}." for reason, number in notes.items()]
    if settings.min_group:
        parts.append(f"Groups under {settings.min_group} raters are suppressed.")
    return " ".join(parts)
