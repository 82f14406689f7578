"""What the pages of all kinds of experiment share: template engine, drawings, data, provenance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftlab.report.figures import Drawing
from peftlab.report.read import DASH, clean_text, clean_tree, mapping
from peftlab.report.results import percent, short_percent

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
# Above this many rows a long list is cut off (a page stays under 3 MB).
MOST_LISTED = 1000


def environment() -> Environment:
    """Return the template engine: all values are escaped, a missing one is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["percent"] = percent
    made.filters["short_percent"] = short_percent
    made.filters["tight"] = _tight
    return made


def _tight(text: object) -> str:
    """Keep a number and its per cent sign on one line."""
    return str(text).replace(" %", "\u00a0%")


def plain(drawing: Drawing) -> dict[str, Any]:
    """Return a drawing as template values; its SVG is ours, with every name in it escaped."""
    from markupsafe import Markup

    return {
        "svg": Markup(drawing.svg),  # noqa: S704  made by plot or svg, which escape all text
        "title": drawing.title,
        "caption": drawing.caption,
        "header": drawing.header,
        "rows": drawing.rows,
    }


def all_plain(drawings: Sequence[Drawing | None]) -> list[dict[str, Any]]:
    """Return drawings as template values, without those that had nothing to draw."""
    return [plain(drawing) for drawing in drawings if drawing is not None]


def common(results: Mapping[str, Any], seeds: Iterable[int], source: str) -> dict[str, Any]:
    """Return what the page skeleton shows of any results.

    Args:
        results: name, question, created, versions, machine, recipe, data, failures.
        seeds: of all that was measured.
        source: name of the file that holds the results.
    """
    return {
        "name": clean_text(results.get("name") or "report"),
        "question": clean_text(results.get("question") or ""),
        "created": clean_text(results.get("created") or ""),
        "data": _data(results),
        "synthetic": _synthetic(results),
        "failures": _failures(results),
        "provenance": _provenance(results, seeds),
        "source": source,
    }


def _data(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    sets = clean_tree(mapping(results.get("data")))
    found = []
    for name, about in sets.items():
        about_set = mapping(about)
        notes = about_set.get("notes") or []
        found.append({
            "name": name,
            "sizes": [
                (split, about_set[key])
                for split, key in (("train", "n_train"), ("dev", "n_dev"), ("test", "n_test"))
                if about_set.get(key) is not None
            ],
            "labels": ", ".join(map(str, about_set.get("label_names") or [])),
            "source": str(about_set.get("source") or ""),
            "licence": str(about_set.get("licence") or ""),
            "notes": [notes] if isinstance(notes, str) else list(notes),
        })  # fmt: skip
    return found


def _synthetic(results: Mapping[str, Any]) -> list[str]:
    """Return the data sets that were generated, so that no result on them looks like more."""
    sets = mapping(results.get("data"))
    return [
        clean_text(name)
        for name, about in sets.items()
        if mapping(about).get("source") == "generated" or mapping(about).get("synthetic") is True
    ]


def _failures(results: Mapping[str, Any]) -> list[list[str]]:
    """Return one row per step that failed, so that a missing cell has a reason."""
    listed = results.get("failures")
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        return []
    keys = ("kind", "state", "code", "message")
    return [
        [clean_text(failure.get(key) or DASH) for key in keys]
        for failure in listed[:MOST_LISTED]
        if isinstance(failure, Mapping)
    ]


def _provenance(results: Mapping[str, Any], seeds: Iterable[int]) -> dict[str, Any]:
    def listed(key: str) -> list[tuple[str, str]]:
        values = clean_tree(mapping(results.get(key)))
        return [(name, _as_text(value)) for name, value in values.items()]

    recipe = clean_tree(results.get("recipe") or {})
    return {
        "seeds": ", ".join(str(seed) for seed in dict.fromkeys(seeds)),
        "versions": listed("versions"),
        "machine": listed("machine"),
        "recipe": json.dumps(recipe, indent=2, ensure_ascii=False) if recipe else "",
    }


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
