"""Rater groups on the command line: raters grasp, load, plan, reproduce, demo."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftlab.apps.cli.console import bar, out_json, spinner
from peftlab.apps.cli.console import out as put
from peftlab.apps.cli.steps import read_pairs
from peftlab.core.errors import ConfigError
from peftlab.core.options import parse_options

if TYPE_CHECKING:
    from peftlab.audits.raters import GraspOptions, Ratings

FILES = ("raters.json", "groups.csv", "groups.tex", "report.html")
TABLE = ("irr", "xrr", "plurality", "voting", "gai", "gap")  # columns on the terminal
DASH = "-"


@dataclass(frozen=True, slots=True)
class Source:
    """Where ratings come from: a long table with named columns, or a public data set.

    Attributes:
        file: the table, or the file or folder of the data set.
        item, rater, label: columns; not needed with ``known``.
        labels: the answer domain in its order; empty: what occurs.
        drop_labels: answers that do not count.
        known: name of a public data set.
        drop_raters: file with one rater id a line.
        keep_first: keep the first of several ratings of an item by one rater.
    """

    file: Path
    item: str = ""
    rater: str = ""
    label: str = ""
    labels: str = ""
    drop_labels: tuple[str, ...] = ()
    known: str = ""
    drop_raters: Path | None = None
    keep_first: bool = False


def split(text: str) -> list[str]:
    """Return the parts of a list written with commas.

    Examples:
        >>> split("race, gender")
        ['race', 'gender']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def _axes(by: str, cross: Sequence[str]) -> list[tuple[str, ...]]:
    from peftlab.audits.raters.axes import parse_axis

    axes = [
        parse_axis(text) for text in (*split(by), *(one for text in cross for one in split(text)))
    ]
    if not axes:
        raise ConfigError(
            "no group of raters was named", code="RATERS-AXIS",
            fix="name attributes of the raters, for example --by race,gender --cross race*gender",
        )  # fmt: skip
    return list(dict.fromkeys(axes))


def read(source: Source, attributes: Sequence[str]) -> Ratings:
    """Read ratings, of a plain table with these attributes, of a data set with all it has."""
    from peftlab.audits.raters.sets import load_set
    from peftlab.audits.raters.sets.long import load_long, read_ids

    dropped = read_ids(source.drop_raters) if source.drop_raters else ()
    if source.known:
        return load_set(source.known, source.file, drop_raters=dropped)
    for flag, value in (("item", source.item), ("rater", source.rater), ("label", source.label)):
        if not value:
            raise ConfigError(
                f"the column of the {flag}s was not named", code="RATERS-COLUMN",
                fix=f"add --{flag} COLUMN, or --set NAME for a public data set",
            )  # fmt: skip
    return load_long(
        source.file, item=source.item, rater=source.rater, label=source.label,
        attrs=attributes, labels=split(source.labels) or None, drop_labels=source.drop_labels,
        duplicates="first" if source.keep_first else "error", drop_raters=dropped,
    )  # fmt: skip


def _attributes(axes: Sequence[tuple[str, ...]], within: Sequence[str]) -> list[str]:
    """Return what must be known of the raters: the parts of all axes, and the strata."""
    from peftlab.audits.raters.axes import ITEMS

    parts = [name for axis in axes for name in axis]
    return list(dict.fromkeys([*parts, *(name for name in within if name != ITEMS)]))


def _models(given: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return NAME=FILE options as name -> item -> label; a file has the columns item and label."""
    from peftlab.audits.raters.sets.long import read_labels

    found: dict[str, dict[str, str]] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not equals or not name.strip() or name in found:
            raise ConfigError(
                "a model is not NAME=FILE with a name of its own", code="CLI-OPTION", got=text,
                fix="write --model before=before.csv --model after=after.csv",
            )  # fmt: skip
        found[name] = read_labels(Path(file))
    return found


def grasp(
    source: Source, by: str, cross: Sequence[str], models: Sequence[str], option: Sequence[str],
    flags: dict[str, Any], out: Path, *, as_json: bool,
) -> None:  # fmt: skip
    """Audit groups of raters and write the report."""
    from peftlab.audits.raters import GraspOptions

    options = parse_options(GraspOptions, read_pairs(GraspOptions, option) | flags, "raters grasp")
    axes = _axes(by, cross)
    inputs = [source.file, source.drop_raters, *(Path(text.partition("=")[2]) for text in models)]
    _spare([out / name for name in FILES], inputs)
    ratings = read(source, _attributes(axes, options.within))
    results = _audit(ratings, axes, options, source.file.name, _models(models))
    results["data"] |= {"source": source.file.name, "set": source.known or None}
    _finish(results, out, as_json=as_json)


def _audit(
    ratings: Ratings, axes: Sequence[tuple[str, ...]], options: GraspOptions, name: str,
    models: dict[str, dict[str, str]],
) -> dict[str, Any]:  # fmt: skip
    from peftlab.audits.raters import compare_models
    from peftlab.audits.raters import grasp as run

    with bar("raters") as tell:
        results = run(ratings, axes, options, name=name, progress=tell)
    results["models"] = compare_models(ratings, models, axes, options) if models else None
    return results


def demo(out: Path, seed: int, *, as_json: bool) -> None:
    """Audit a made-up pool in which one group has a view of its own."""
    from peftlab.audits.raters import GraspOptions
    from peftlab.audits.raters.pools import Pool, draw_pool

    ratings = draw_pool(Pool(), seed)
    results = _audit(ratings, [("group",)], GraspOptions(seed=seed), "a made-up pool", {})
    results["data"] |= {"source": "generated", "synthetic": True}
    _finish(results, out, as_json=as_json)


def _spare(written: Sequence[Path], inputs: Sequence[Path | None]) -> None:
    """Refuse to write over what is read."""
    read_from = {path.resolve() for path in inputs if path is not None}
    for path in written:
        if path.resolve() in read_from:
            raise ConfigError(
                f"{path} is an input and would be overwritten", code="PATH-WRITE",
                fix="choose another --out",
            )  # fmt: skip


def _finish(results: dict[str, Any], out: Path, *, as_json: bool) -> None:
    """Write report, numbers and tables, and print what was found."""
    from peftlab.io.files import write_atomic, write_json
    from peftlab.report.raters.html import render_raters
    from peftlab.report.raters.tables import to_csv, to_latex
    from peftlab.report.raters.words import sentences

    write_json(out / "raters.json", results)
    write_atomic(out / "groups.csv", to_csv(results))
    write_atomic(out / "groups.tex", to_latex(results))
    write_atomic(out / "report.html", render_raters(results))
    if as_json:
        out_json(results)
        return
    put(_table(results))
    put("* p < 0.05; ** after correction too\n")
    put("\n".join(sentences(results)) + "\n")
    put(f"numbers: {out / 'raters.json'}, {out / 'groups.csv'}, {out / 'groups.tex'}")
    put(f"report:  {out / 'report.html'}")


def _table(results: dict[str, Any]) -> str:
    shown = [metric for metric in TABLE if metric in results["settings"]["metrics"]]
    rows = [["axis", "group", "raters", *shown]]
    rows += [
        [row["axis"], row["group"], str(row["raters"] or DASH), *(_cell(row, m) for m in shown)]
        for row in results["groups"]
    ]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if k < 2 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _cell(row: dict[str, Any], metric: str) -> str:
    """Return a value with its stars: * p < 0.05, ** after correction."""
    value = row.get(metric)
    if value is None:
        return DASH
    p, q = row.get(f"p_{metric}"), row.get(f"q_{metric}")
    stars = "**" if q is not None and q < 0.05 else "*" if p is not None and p < 0.05 else ""
    return f"{value:.3f}{stars:2}"


def load(source: Source, out: Path | None, *, as_json: bool) -> None:
    """Read a public data set, say what is in it, and write it as a plain long table."""
    from peftlab.io.files import write_atomic

    if out is not None:
        _spare([out], [source.file, source.drop_raters])
        if out.suffix != ".csv":
            raise ConfigError(
                "the table is written as csv", code="PATH-WRITE", got=out.name,
                fix="give --out a name that ends with .csv",
            )  # fmt: skip
    with spinner(f"reading {source.known}"):
        ratings = read(source, ())
    items, raters, _ = ratings.shape
    facts = {
        "set": source.known, "items": items, "raters": raters, "ratings": len(ratings),
        "labels": list(ratings.labels), "notes": list(ratings.notes),
        "attributes": {name: list(each.values) for name, each in ratings.attributes.items()},
    }  # fmt: skip
    if out is not None:
        write_atomic(out, as_long_csv(ratings))
        facts["out"] = str(out)
    if as_json:
        out_json(facts)
        return
    for key, value in facts.items():
        put(f"{key:11} {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {', '.join(groups)}" for name, groups in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def as_long_csv(ratings: Ratings) -> str:
    """Return ratings as a table with one row a rating: item, rater, label, attributes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(ratings.attributes)
    writer.writerow(["item_id", "rater_id", "label", *names])
    of_rater = [
        [
            "" if each.codes[j] < 0 else each.values[each.codes[j]]
            for each in ratings.attributes.values()
        ]
        for j in range(len(ratings.raters))
    ]
    for item, rater, label in zip(ratings.item, ratings.rater, ratings.label, strict=True):
        writer.writerow(
            [ratings.items[item], ratings.raters[rater], ratings.labels[label], *of_rater[rater]]
        )
    return text.getvalue()


def plan(
    source: Source, by: str, cross: Sequence[str], budget: int, option: Sequence[str],
    flags: dict[str, Any], *, as_json: bool,
) -> None:  # fmt: skip
    """Say for which groups more raters would turn a hint into a finding."""
    from peftlab.audits.raters import GraspOptions, plan_recruiting

    options = parse_options(GraspOptions, read_pairs(GraspOptions, option) | flags, "raters plan")
    axes = _axes(by, cross)
    with spinner("planning"):
        found = plan_recruiting(
            read(source, _attributes(axes, options.within)), axes, budget, options
        )
    if as_json:
        out_json(found)
        return
    put(_plan_table(found))


def _plan_table(found: dict[str, Any]) -> str:
    header = ("axis", "group", "raters", "GAI", "effect", "power now", "needed", "cost", "recruit")
    rows = [
        [
            row["axis"], row["group"], str(row["raters"]), _short(row["gai"]),
            _short(row["effect"]),
            _short(row["power"]), str(row["needed"] or DASH),
            DASH if row["cost"] is None else str(row["cost"]),
            f"+{row['extra']}" if row["funded"] else "",
        ]
        for row in found["groups"]
    ]  # fmt: skip
    widths = [max(len(row[k]) for row in [header, *rows]) for k in range(len(header))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
             for row in [header, *rows]]  # fmt: skip
    note = (
        f"{found['spent']} of {found['budget']} ratings would be spent, at "
        f"{found['ratings_per_rater']} a rater. Power and raters needed: two-sided test at "
        f"{found['alpha']:.0%}, found with a chance of {found['power']:.0%}. Effect: GAI - 1, less "
        f"what chance explains; where nothing is left of it, no number of raters is needed (-)."
    )
    hidden = [
        f"suppressed on {axis}, so not planned for: {', '.join(names)}"
        for axis, names in found["suppressed"].items()
        if names
    ]
    axes = [
        f"DSI of {axis['axis']}: {_short(axis['dsi'])} ({axis['group'] or 'no group'})"
        for axis in found["axes"]
    ]
    return "\n".join([*lines, "", *axes, *hidden, note])


def _short(value: float | None) -> str:
    return DASH if value is None else f"{value + 0.0:.3f}"


def reproduce(path: Path, permutations: int, seed: int, *, all_raters: bool, as_json: bool) -> None:
    """Run the audit of table 5 on a user's DICES-350 and print the difference cell by cell."""
    from peftlab.audits.raters import GraspOptions
    from peftlab.audits.raters import grasp as run
    from peftlab.audits.raters.published import METRICS, SMALLEST, SOURCE, compare_with_table5
    from peftlab.audits.raters.sets.dices import load_350, load_paper_350

    ratings = load_350(path) if all_raters else load_paper_350(path)
    axes = [("rater_age",), ("rater_gender",), ("rater_race",), ("rater_race", "rater_gender")]
    options = GraspOptions(
        metrics=METRICS, permutations=permutations, bootstrap=0, min_group=SMALLEST, seed=seed
    )
    with bar("reproduce") as tell:
        results = run(ratings, axes, options, name="DICES-350", progress=tell)
    rows = {
        row["group"]: {str(m): row[m] for m in METRICS if row.get(m) is not None}
        for row in results["groups"]
    }
    cells = compare_with_table5(rows)
    worst = {m: max((abs(c["difference"]) for c in cells if c["metric"] == m), default=None)
             for m in METRICS}  # fmt: skip
    if as_json:
        out_json({"source": SOURCE, "notes": list(ratings.notes), "cells": cells, "worst": worst})
        return
    put("\n".join([SOURCE, *ratings.notes, ""]))
    put(f"{'group':18} {'metric':17} {'ours':>7} {'paper':>7} {'difference':>11}")
    for cell in cells:
        put(f"{cell['group']:18} {cell['metric']:17} {cell['ours']:7.3f} "
            f"{cell['published']:7.3f}{cell['mark']:2} {cell['difference']:+9.3f}")  # fmt: skip
    put("\nlargest difference: " + ", ".join(f"{m} {_short(value)}" for m, value in worst.items()))
    put("cross_negentropy is smoothed here and is not comparable with the paper's")
