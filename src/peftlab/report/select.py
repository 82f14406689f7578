"""Part of some results: the cells of a few attacks, tuners or defences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftlab.core.errors import ConfigError, suggest
from peftlab.report.read import NONE, clean_text, mapping

ONLY = "only"  # key under which results say what they were cut down to


def select(results: Mapping[str, Any], wanted: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the results with the cells that were asked for, and the control beside them.

    Args:
        results: what ``results.json`` holds.
        wanted: labels by ``attack``, ``tuner`` and ``defence``; an empty list wants all.

    Raises:
        ConfigError: ``TABLE-FILTER`` if the results have no such label.
    """
    asked = {part: [clean_text(one) for one in names] for part, names in wanted.items() if names}
    cells = [cell for cell in results.get("cells") or [] if isinstance(cell, Mapping)]
    for part, names in asked.items():
        known = {_label(cell, part) for cell in cells}
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"these results have no {part} {name!r}", code="TABLE-FILTER",
                    got=name, fix=suggest(name, known),
                )  # fmt: skip
    kept = [c for c in cells if all(_label(c, part) in names for part, names in asked.items())]
    return {**results, "cells": kept, ONLY: asked}


def selected(results: Mapping[str, Any]) -> str:
    """Return in words what the results were cut down to; empty if they are whole."""
    asked = mapping(results.get(ONLY))
    parts = [f"{part} {', '.join(map(clean_text, names))}" for part, names in asked.items()]
    return "; ".join(parts)


def _label(cell: Mapping[str, Any], part: str) -> str:
    return clean_text(cell.get(part) or NONE)
