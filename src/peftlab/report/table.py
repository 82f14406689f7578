"""The results as one plain table: Markdown for a document, aligned text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
NOTE = (
    "In per cent (AUROC as is): mean over seeds [smallest-largest; with one seed, 95 % interval]."
)


def number(metric: str, value: float) -> str:
    """Return a metric as it stands in a table: per cent with one decimal, AUROC as is.

    Examples:
        >>> number("asr", 0.998), number("auroc", 0.998)
        ('99.8', '0.998')
    """
    return f"{value:.3f}" if metric.startswith("auroc") else f"{100 * value:.1f}"


def range_of(metric: str, spread: Spread) -> str:
    """Return ``[low-high]``, or nothing if the spread is not known."""
    if not spread.known:
        return ""
    return f"[{number(metric, spread.low)}-{number(metric, spread.high)}]"


def _value(one: Group, metric: str) -> str:
    found = one.spread(metric)
    if found is None:
        return DASH
    return f"{number(metric, found.mean)} {range_of(metric, found)}".rstrip()


def naming(groups: Sequence[Group]) -> list[str]:
    """Return which names a row needs: base and data only where there are several."""
    names = [name for name in ("base", "data") if len({getattr(one, name) for one in groups}) > 1]
    return [*names, "attack", "tuner", "defence"]


def _rows(groups: Sequence[Group], names: Sequence[str]) -> list[list[str]]:
    return [
        [*(getattr(one, name) for name in names), *(_value(one, key) for key, _ in METRICS),
         str(len(one.cells))]
        for one in groups
    ]  # fmt: skip


def _parts(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Return header, rows of poisoned bases, rows of the negative control."""
    groups = group(read_cells(results))
    names = naming(groups)
    header = [*names, *(title for _, title in METRICS), "seeds"]
    poisoned = _rows([one for one in groups if not one.control], names)
    return header, poisoned, _rows([one for one in groups if one.control], names)


_SPECIAL = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_[]<>|#~$&!"})


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], names: int) -> str:
    lines = [
        "| " + " | ".join(header) + " |",
        "|" + "|".join(["---"] * names + ["---:"] * (len(header) - names)) + "|",
    ]
    for row in rows:
        cells = [cell.translate(_SPECIAL) for cell in row[:names]] + list(row[names:])
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
    header, poisoned, control = _parts(results)
    names = header.index("CA")
    parts = [_markdown_table(header, poisoned, names)] if poisoned else ["No cell has finished."]
    if control:
        parts += ["Negative control (rate 0):", _markdown_table(header, control, names)]
    return "\n\n".join([*parts, NOTE]) + "\n"


def text(results: Mapping[str, Any]) -> str:
    """Return the results as aligned text for a terminal; same rows as ``markdown``.

    Args:
        results: what ``results.json`` holds.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is not a results dict.
    """
    header, poisoned, control = _parts(results)
    rows = poisoned + control
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    names = header.index("CA")

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if i < names else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    lines = [line(header), *(line(row) for row in poisoned)] if rows else ["No cell has finished."]
    if control:
        lines += ["", "negative control (rate 0)", *(line(row) for row in control)]
    return "\n".join([*lines, "", NOTE]) + "\n"
