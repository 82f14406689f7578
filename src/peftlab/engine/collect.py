"""From a run store to ``results.json``, the input of every report."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from peftlab.engine.recipe import Recipe
from peftlab.io.files import write_json
from peftlab.io.store import Row, Store

SCHEMA = "peftlab.results/1"
_FITTED = ("guard", "filter", "defended", "verdict")  # what a defence costs before it is used
_PACKAGES = ("peftlab", "torch", "transformers", "peft", "safetensors", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """Return what kind of machine this is; nothing that names it."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count() or 1,
    }


def _cost(row: Row, seconds: dict[str, float | None]) -> dict[str, Any]:
    """Return the cell's cost; the time of shared nodes is given in full to every cell."""
    needs = row.key["needs"]
    if not needs:  # a cell that is not applicable
        return {}
    trained = needs["victim"] if needs["victim"] != needs["base"] else None
    measured = {
        "attack_seconds": seconds.get(needs["base"]),
        "train_seconds": seconds.get(trained) if trained else None,
        "fit_seconds": next((seconds.get(needs[role]) for role in _FITTED if role in needs), None),
        "cell_seconds": row.seconds,
    }
    given = (row.result or {}).get("cost", {})
    return {**{key: value for key, value in measured.items() if value is not None}, **given}


def _cell(row: Row, recipe: Recipe, seconds: dict[str, float | None]) -> dict[str, Any]:
    result = row.result or {}
    return {
        "metrics": {},
        "intervals": {},
        "reasons": {},
        "not_applicable": None,
        **result,
        "id": row.id,
        "base": recipe.base,
        "data": recipe.data,
        **row.key["labels"],
        "seed": row.key["seed"],
        "control": row.key["control"],
        "cost": _cost(row, seconds),
    }


def failure(row: Row) -> dict[str, str]:
    """Return what a report says of a node that did not finish."""
    error = row.error or {}
    return {
        "id": row.id,
        "kind": row.kind,
        "state": row.state,
        "code": error.get("code", ""),
        "message": error.get("message", ""),
    }


def collect(out: Path, recipe: Recipe) -> dict[str, Any]:
    """Write ``results.json`` into the run folder and return its content.

    Equal cells give equal bytes, except under ``cost`` and ``created``. Cells that are not done
    are left out; nodes that failed are listed under ``failures``.

    Args:
        out: the run folder.
        recipe: its recipe.

    Raises:
        InputRejected: ``STORE-DAMAGED``.
        ResourceLimit: ``DISK-FULL``.
    """
    with Store(out / "runs.db") as store:
        rows = store.rows()
        data = store.fact("data") or {}
    seconds = {row.id: row.seconds for row in rows}
    results = {
        "schema": SCHEMA,
        "name": recipe.name,
        "question": recipe.question,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine(),
        "recipe": recipe.model_dump(mode="json"),
        "data": data,
        "cells": [
            _cell(row, recipe, seconds)
            for row in rows
            if row.kind == "cell" and row.state == "done"
        ],
        "failures": [failure(row) for row in rows if row.error is not None],
    }  # fmt: skip
    write_json(out / "results.json", results)
    return results
