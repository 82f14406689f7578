"""One self-contained ``raters.html``: verdict, tables, figures, models, what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftlab.report.page import MOST_LISTED, all_plain, common, environment
from peftlab.report.raters import figures
from peftlab.report.raters.read import METRICS, Group, Raters, Value, read_raters, texts, whole
from peftlab.report.raters.tables import footnotes
from peftlab.report.raters.words import decimal, p_text, verdict
from peftlab.report.read import DASH, clean_text, finite, mapping

QUESTION = "Which groups of raters have a perspective of their own?"
MOST_AXES = 12  # axes with figures of their own, for a page under 4 MB
TESTED = ("irr", "xrr", "gai", "gap")  # numbers of the small table of stratified tests
WITH_NULLS = ("gai", "irr", "xrr")


def render_raters(results: Mapping[str, Any]) -> str:
    """Return the whole page of a rater audit.

    Args:
        results: what ``raters.json`` holds.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is something else.
    """
    found = read_raters(results)
    notes = footnotes(found)
    page = environment().get_template("raters.html.j2")
    return page.render(
        **_common(results),
        verdict=verdict(found),
        n_groups=len(found.shown),
        settings=found.settings,
        columns=[METRICS[name] for name in found.settings.metrics],
        table=_table(found, notes),
        footnotes=[(number, reason) for reason, number in notes.items()],
        within=_within(found),
        suppressed=_suppressed(found),
        dsi=all_plain([figures.dsi("d", found)]),
        forests=_by_axis(found, "f"),
        nulls=_nulls(found),
        matrices=_by_axis(found, "x"),
        scatter=all_plain([figures.scatter("s", found)]),
        power=all_plain([figures.power("p", found)]),
        gaps=_gaps(found),
        gaps_left_out=found.gaps_left_out,
        models=_models(found),
        moves=_moves(found),
        ends=[found.models[0], found.models[-1]] if found.models else ["before", "after"],
        more_axes=max(len(found.axes) - MOST_AXES, 0),
        facts=_facts(results, found),
        axes=_axes(found),
        notes=_data_notes(results, found),
    )


def _common(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the skeleton shows; ratings have a data section of their own."""
    settings = mapping(results.get("settings"))
    seed = whole(settings.get("seed"))
    about = {
        "question": QUESTION, "recipe": settings, **results, "data": {},
    }  # fmt: skip
    values = common(about, [] if seed is None else [seed], "raters.json")
    if mapping(results.get("data")).get("synthetic") is True:
        values["synthetic"] = [values["name"]]
    return values


def _table(found: Raters, notes: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the rows of the main table, by axis."""
    return [
        {"axis": axis.label, "rows": [_row(group, found, notes) for group in found.on(axis.name)]}
        for axis in found.axes
        if found.on(axis.name)
    ]


def _row(group: Group, found: Raters, notes: Mapping[str, int]) -> dict[str, Any]:
    return {
        "group": group.label,
        "raters": DASH if group.raters is None else group.raters,
        "cells": [_cell(group.of(name), name, notes) for name in found.settings.metrics],
    }


def _cell(value: Value, metric: str, notes: Mapping[str, int]) -> dict[str, Any]:
    known = value.value is not None
    return {
        "text": decimal(value.value, metric) if value.value is not None else DASH,
        "arrow": value.arrow,
        "mark": value.mark,
        "look": {"**": "held", "*": "failed"}.get(value.mark, ""),
        "note": "" if known else notes.get(value.reason, ""),
    }


def _within(found: Raters) -> dict[str, Any] | None:
    """Return p beside stratified p, corrected where there is a correction."""
    settings = found.settings
    metrics = [name for name in TESTED if name in settings.metrics]
    if not settings.within or not found.shown or not metrics:
        return None
    parts = [
        {"axis": axis.label, "rows": [
            {"group": group.label, "cells": _both_p(group, metrics, corrected=settings.corrected)}
            for group in found.on(axis.name)
        ]}
        for axis in found.axes
        if found.on(axis.name)
    ]  # fmt: skip
    return {
        "by": " and ".join(settings.within),
        "metrics": [METRICS[name] for name in metrics],
        "parts": parts,
    }


def _both_p(group: Group, metrics: Sequence[str], *, corrected: bool) -> list[str]:
    cells = []
    for value in map(group.of, metrics):
        both = (value.q, value.q_within) if corrected else (value.p, value.p_within)
        cells += [p_text(p) for p in both]
    return cells


def _suppressed(found: Raters) -> list[tuple[str, str]]:
    return [
        (axis.label, ", ".join(found.label_of(axis.name, name) for name in axis.suppressed))
        for axis in found.axes
        if axis.suppressed
    ]


def _by_axis(found: Raters, key: str) -> list[dict[str, Any]]:
    draw = {"f": figures.forest, "x": figures.matrix}[key]
    return all_plain([
        draw(f"{key}{i}", found, axis) for i, axis in enumerate(found.axes[:MOST_AXES])
    ])  # fmt: skip


def _nulls(found: Raters) -> list[dict[str, Any]]:
    """Return the nulls by number, the first one open."""
    shown = []
    for metric in WITH_NULLS:
        drawn = all_plain([
            figures.nulls(f"n{metric}{i}", found, axis, metric)
            for i, axis in enumerate(found.axes[:MOST_AXES])
        ])  # fmt: skip
        if drawn:
            shown.append({"metric": METRICS[metric], "figures": drawn})
    return shown


def _gaps(found: Raters) -> list[list[str]]:
    labels = {axis.name: axis.label for axis in found.axes}
    return [
        [gap.item, labels.get(gap.axis, gap.axis), found.label_of(gap.axis, gap.group),
         f"{gap.gap:.2f}", DASH if gap.ratings is None else str(gap.ratings)]
        for gap in found.gaps[:MOST_LISTED]
    ]  # fmt: skip


def _models(found: Raters) -> list[dict[str, Any]]:
    if not found.models:
        return []
    named = [(axis.name, axis.label) for axis in found.axes[:MOST_AXES]]
    if all(not row.axis for row in found.model_rows):
        named = [("", "")]
    return all_plain([
        figures.models(f"m{i}", found, name, label) for i, (name, label) in enumerate(named)
    ])  # fmt: skip


def _moves(found: Raters) -> list[list[str]]:
    rows = []
    labels = {axis.name: axis.label for axis in found.axes}
    for move in found.moves[:MOST_LISTED]:
        known = move.low is not None and move.high is not None
        rows.append([
            found.label_of(move.axis, move.group) if move.axis else move.group,
            labels.get(move.axis, move.axis) or DASH,
            decimal(move.before, "xrr"), decimal(move.after, "xrr"), decimal(move.change, "gap"),
            f"{decimal(move.low or 0.0, 'gap')} to {decimal(move.high or 0.0, 'gap')}"
            if known else DASH,
            "" if not known else "moved" if move.clear else "not clear of 0",
        ])  # fmt: skip
    return rows


def _facts(results: Mapping[str, Any], found: Raters) -> list[tuple[str, str]]:
    data = mapping(results.get("data"))
    facts = []
    for key in ("items", "raters", "ratings", "batches"):
        number = whole(data.get(key))
        facts += [] if number is None else [(key, f"{number:,}".replace(",", "\u202f"))]
    labels, counts = texts(data.get("labels")), data.get("label_counts") or []
    if labels and len(labels) == len(counts):
        named = [f"{label} ({whole(n) or 0})" for label, n in zip(labels, counts, strict=True)]
        facts.append(("labels, ratings each", ", ".join(named)))
    elif labels:
        facts.append(("labels", ", ".join(labels)))
    alpha = finite(data.get("alpha"))
    facts += [] if alpha is None else [("alpha of all raters", f"{alpha:.3f}")]
    for key in ("source", "licence"):
        facts += [(key, clean_text(data[key]))] if data.get(key) else []
    ties = [g.tie_share for g in found.shown if g.tie_share is not None]
    facts += [("tied votes", f"at most {100 * max(ties):.1f} % of items a group")] if ties else []
    return facts


def _axes(found: Raters) -> list[list[str]]:
    """Return one row per axis; counts that would give away a suppressed group are dashes."""
    return [
        [axis.label, str(len(found.on(axis.name))), str(len(axis.suppressed)),
         *(DASH if n is None else str(n) for n in (axis.raters, axis.unknown))]
        for axis in found.axes
    ]  # fmt: skip


def _data_notes(results: Mapping[str, Any], found: Raters) -> list[str]:
    own = texts(mapping(results.get("data")).get("notes"))
    return [*own, *(f"{axis.label}: {note}" for axis in found.axes for note in axis.notes)]
