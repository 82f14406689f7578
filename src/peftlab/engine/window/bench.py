"""From a window recipe to ``window.json``: load the data, plan, run, summarise."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peftlab.core.errors import InputRejected
from peftlab.core.types import TaskData
from peftlab.engine.collect import failure, machine, versions
from peftlab.engine.nodes import prepare
from peftlab.engine.run import Progress, run
from peftlab.engine.steps import load_data
from peftlab.engine.window.guards import guard_table
from peftlab.engine.window.plan import plan_window
from peftlab.engine.window.recipe import WindowRecipe
from peftlab.engine.window.summary import choices, compare_bases, trained_table, width_table
from peftlab.engine.window.work import FILE, LOOKS
from peftlab.io.files import read_json, write_json
from peftlab.io.store import Node, Row, Store
from peftlab.models.load import fingerprint

SCHEMA = "peftlab.window/1"
RESULTS = "window.json"
RESULTS_LIMIT = 256 * 2**20


def make_window_plan(recipe: WindowRecipe) -> tuple[TaskData, list[Node]]:
    """Return the data as the recipe uses it, and all nodes in order."""
    data = prepare(load_data(recipe.data, recipe.data_options), recipe)
    digests = {base.label: fingerprint(base.reference) for base in recipe.base}
    return data, plan_window(recipe, data.digest(), digests)


def run_window(
    recipe: WindowRecipe, out: Path, *, workers: int = 1, progress: Progress | None = None
) -> dict[str, Any]:
    """Run a window experiment, or go on with it, and return the content of its ``window.json``.

    The folder may have been started with another recipe: what both have in common is kept.

    Args:
        recipe: as loaded.
        out: the run folder; made when absent.
        workers: 1 works in this process; more are spawned, with one computing thread each.
        progress: called on every change.

    Raises:
        PeftlabError: the codes of loading, planning and running.
    """
    data, nodes = make_window_plan(recipe)
    run(
        recipe, nodes, data, out, workers=workers, progress=progress, growing=True,
        gather=collect_window, execute="peftlab.engine.window.work:execute",
    )  # fmt: skip
    return read_window(out)


def collect_window(out: Path, recipe: WindowRecipe) -> dict[str, Any]:
    """Write ``window.json`` into the run folder and return its content.

    Equal units give equal bytes, except under ``created`` and ``cost``.
    """
    with Store(out / "runs.db") as store:
        rows = store.rows()
        data = store.fact("data") or {}
    units = [
        _unit(out, row) for row in _in_order(rows, recipe)
        if row.kind == "path" and row.state == "done"
    ]  # fmt: skip
    results = {
        "schema": SCHEMA,
        "name": recipe.name,
        "question": recipe.question,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine(),
        "recipe": recipe.model_dump(mode="json"),
        "data": data,
        "trained": trained_table(units),
        "table": width_table(units, recipe.bar),
        "compare": compare_bases(units, recipe.bar),
        "choices": choices(units, recipe.bar),
        "guards": guard_table(
            recipe, [(unit, out / "nodes" / unit["id"] / LOOKS) for unit in units]
        ),
        "units": units,
        "cost": _cost(rows),
        "failures": [failure(row) for row in rows if row.error is not None],
    }
    write_json(out / RESULTS, results)
    return results


def _in_order(rows: list[Row], recipe: WindowRecipe) -> list[Row]:
    """Return the paths as the recipe lists bases, attacks and variants; seeds innermost."""
    places = {
        kind: {each.label: i for i, each in enumerate(getattr(recipe, kind))}
        for kind in ("base", "attack", "variant")
    }
    paths = [row for row in rows if row.kind == "path"]
    return sorted(
        paths, key=lambda row: tuple(at[row.key["labels"][kind]] for kind, at in places.items())
    )


def _unit(out: Path, row: Row) -> dict[str, Any]:
    curves = read_json(out / "nodes" / row.id / FILE)
    return {
        "id": row.id,
        **row.key["labels"],
        "seed": row.key["seed"],
        "control": row.key["control"],
        **curves,
    }


def _cost(rows: list[Row]) -> dict[str, Any]:
    """Return how many bases and paths were done, and the mean seconds of each kind."""
    found: dict[str, Any] = {}
    for kind in ("base", "path"):
        seconds = [row.seconds for row in rows if row.kind == kind and row.seconds is not None]
        found[kind] = {
            "n": len(seconds),
            "mean_seconds": sum(seconds) / len(seconds) if seconds else None,
        }
    return found


def read_window(path: Path) -> dict[str, Any]:
    """Return the results of a run folder, or of a ``window.json``.

    Raises:
        InputRejected: ``RESULTS-MISSING`` if there are none, ``RESULTS-SCHEMA`` if it is
            something else.
    """
    file = path / RESULTS if path.is_dir() else path
    if not file.is_file():
        raise InputRejected(
            f"there are no results at {path}", code="RESULTS-MISSING",
            fix="run `peftlab bench window RECIPE --out DIR` first",
        )  # fmt: skip
    found: Any = read_json(file, limit_bytes=RESULTS_LIMIT)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise InputRejected(
            f"{file} is not a window file", code="RESULTS-SCHEMA", allowed=f"schema {SCHEMA!r}",
            fix="give the window.json of a run",
        )  # fmt: skip
    return found
