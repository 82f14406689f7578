"""The results as one plain table: Markdown for a document, aligned text for a terminal.

A combination that makes no sense has ``n/a`` and the number of a footnote, never a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftlab.report.read import DASH, read_cells
from peftlab.report.results import Group, Spread, group

METRICS: tuple[tuple[str, str], ...] = (
    ("ca", "CA"),
    ("asr", "ASR"),
    ("ca_def", "CA guarded"),
    ("asr_def", "ASR guarded"),
    ("fpr", "FPR"),
    ("tpr", "TPR"),
    ("auroc", "AUROC"),
)
NOT_APPLICABLE = "n/a"
NOTE = (
    "In per cent (AUROC as is): mean over seeds [smallest-largest; with one seed, 95 % interval]."
)


def number(metric: str, value: float) -> str:
    """Return a metric as it stands in a table: per cent with one decimal, AUROC as is.

    Examples:
        >>> number("asr", 0.998), number("auroc", 0.998)
        ('99.8', '0.998')
    """
    return f"{value:.3f}" if "auroc" in metric else f"{100 * value:.1f}"


def range_of(metric: str, spread: Spread) -> str:
    """Return ``[low-high]``, or nothing if the spread is not known."""
    if not spread.known:
        return ""
    return f"[{number(metric, spread.low)}-{number(metric, spread.high)}]"


def footnotes(groups: Sequence[Group]) -> dict[str, int]:
    """Return the number of each reason for which a combination makes no sense."""
    reasons = dict.fromkeys(one.not_applicable for one in groups if one.not_applicable)
    return {reason: number for number, reason in enumerate(reasons, start=1)}


def _value(one: Group, metric: str, notes: Mapping[str, int]) -> str:
    if one.not_applicable:
        mark = f" [{notes[one.not_applicable]}]" if metric == METRICS[0][0] else ""
        return NOT_APPLICABLE + mark
    found = one.spread(metric)
    if found is None:
        return DASH
    return f"{number(metric, found.mean)} {range_of(metric, found)}".rstrip()


def naming(groups: Sequence[Group]) -> list[str]:
    """Return which names a row needs: base and data only where there are several."""
    names = [name for name in ("base", "data") if len({getattr(one, name) for one in groups}) > 1]
    return [*names, "attack", "tuner", "defence"]


@dataclass(frozen=True, slots=True)
class _Parts:
    """Header, rows of poisoned bases, rows of the negative control, and the notes below."""

    header: list[str]
    names: int
    poisoned: list[list[str]]
    control: list[list[str]]
    notes: list[str]


def _parts(results: Mapping[str, Any]) -> _Parts:
    groups = group(read_cells(results))
    names = naming(groups)
    numbers = footnotes(groups)
    rows: dict[bool, list[list[str]]] = {False: [], True: []}
    for one in groups:
        values = (_value(one, key, numbers) for key, _ in METRICS)
        rows[one.control].append(
            [*(getattr(one, name) for name in names), *values, str(len(one.cells))]
        )
    header = [*names, *(title for _, title in METRICS), "seeds"]
    notes = [f"[{number}] not applicable: {reason}" for reason, number in numbers.items()]
    return _Parts(header, len(names), rows[False], rows[True], notes)


_SPECIAL = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_[]<>|#~$&!"})


def escaped(text: str) -> str:
    """Return text from outside so that Markdown takes every sign of it for itself."""
    return text.translate(_SPECIAL)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], names: int) -> str:
    """Return a Markdown table whose first ``names`` columns are text from outside, escaped."""
    lines = [
        "| " + " | ".join(header) + " |",
        "|" + "|".join(["---"] * names + ["---:"] * (len(header) - names)) + "|",
    ]
    for row in rows:
        cells = [escaped(cell) for cell in row[:names]] + list(row[names:])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def markdown(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown: one row per attack, tuner and defence.

    Args:
        results: what ``results.json`` holds.

    Returns:
        One table, and a second one below it for the negative control where there is one.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is not a results dict.
    """
    found = _parts(results)
    parts = ["No cell has finished."]
    if found.poisoned:
        parts = [markdown_table(found.header, found.poisoned, found.names)]
    if found.control:
        below = markdown_table(found.header, found.control, found.names)
        parts += ["Negative control (rate 0):", below]
    notes = [escaped(note) for note in found.notes]
    return "\n\n".join([*parts, NOTE, *notes]) + "\n"


def text(results: Mapping[str, Any]) -> str:
    """Return the results as aligned text for a terminal; same rows as ``markdown``.

    Args:
        results: what ``results.json`` holds.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is not a results dict.
    """
    found = _parts(results)
    rows = found.poisoned + found.control
    columns = range(len(found.header))
    widths = [max(len(row[i]) for row in [found.header, *rows]) for i in columns]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if i < found.names else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    lines = ["No cell has finished."]
    if rows:
        lines = [line(found.header), *(line(row) for row in found.poisoned)]
    if found.control:
        lines += ["", "negative control (rate 0)", *(line(row) for row in found.control)]
    return "\n".join([*lines, "", NOTE, *found.notes]) + "\n"
