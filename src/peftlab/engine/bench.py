"""From a recipe to results: load the data, plan, run, and gather what the report draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from peftlab.core.errors import InputRejected
from peftlab.core.types import TaskData
from peftlab.engine.collect import SCHEMA
from peftlab.engine.metrics import summarise
from peftlab.engine.nodes import prepare, report_arrays
from peftlab.engine.plan import plan
from peftlab.engine.recipe import Recipe
from peftlab.engine.run import Progress, run
from peftlab.engine.steps import load_data
from peftlab.io.files import read_json
from peftlab.io.store import Node, Store
from peftlab.models.load import fingerprint

RESULTS = "results.json"
RESULTS_LIMIT = 256 * 2**20


def make_plan(recipe: Recipe) -> tuple[TaskData, list[Node]]:
    """Return the data as the recipe uses it, and all nodes in order."""
    data = prepare(load_data(recipe.data, recipe.data_options), recipe)
    return data, plan(recipe, data.digest(), fingerprint(recipe.base))


def run_recipe(
    recipe: Recipe, out: Path, *, workers: int = 1, ray: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run a recipe, or go on with it, and return the content of its ``results.json``.

    Args:
        recipe: fully resolved.
        out: the run folder.
        workers: processes, or CPUs of a local Ray cluster.
        ray: as ``engine.run.run`` takes it.
        progress: called on every change.

    Raises:
        PeftlabError: the codes of loading, planning and running.
    """
    data, nodes = make_plan(recipe)
    run(recipe, nodes, data, out, workers=workers, ray=ray, progress=progress)
    return read_results(out)


def read_results(path: Path) -> dict[str, Any]:
    """Return the results of a run folder, or of a ``results.json``.

    Raises:
        InputRejected: ``RESULTS-MISSING`` if there are none, ``RESULTS-SCHEMA`` if it is
            something else.
    """
    file = path / RESULTS if path.is_dir() else path
    if not file.is_file():
        raise InputRejected(
            f"there are no results at {path}", code="RESULTS-MISSING",
            fix="run `peftlab bench run RECIPE --out DIR` first",
        )  # fmt: skip
    found: Any = read_json(file, limit_bytes=RESULTS_LIMIT)
    about = found if isinstance(found, dict) else {}
    cells = about.get("cells")
    sound = isinstance(cells, list) and all(
        isinstance(cell, dict) and isinstance(cell.get("metrics"), dict) for cell in cells
    )
    if about.get("schema") != SCHEMA or not sound:
        raise InputRejected(
            f"{file} is not a results file",
            code="RESULTS-SCHEMA",
            got=f"schema {about.get('schema')!r}",
            allowed=f"schema {SCHEMA!r} with a list of cells",
            fix="give the results.json of a run",
        )
    return about


def gather_arrays(out: Path, cells: Iterable[str]) -> dict[str, Any]:
    """Return scores, thresholds and traces of some cells of a run, by cell id."""
    wanted = set(cells)
    found = {}
    with Store(out / "runs.db") as store:
        for row in store.rows():
            needs = row.key.get("needs", {})
            if row.id in wanted and "guard" in needs and row.state == "done":
                found[row.id] = report_arrays(
                    {role: out / "nodes" / needs[role] for role in ("guard", "scores")}
                )
    return found


def compare(first: dict[str, Any], second: dict[str, Any], metric: str) -> list[dict[str, Any]]:
    """Return one row per combination that both runs have: mean difference, paired over seeds.

    Args:
        first: results.
        second: results.
        metric: which metric; a difference is second minus first.

    Returns:
        Rows with attack, tuner, defence, control, n (pairs), first, second, difference, and the
        t 95 % interval of the mean difference (None with one pair).
    """
    pairs: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    values = {_identity(cell): cell["metrics"].get(metric) for cell in second["cells"]}
    for cell in first["cells"]:
        mine, other = cell["metrics"].get(metric), values.get(_identity(cell))
        if isinstance(mine, int | float) and isinstance(other, int | float):
            pairs.setdefault(_identity(cell)[:-1], []).append((mine, other))
    return [_row(names, both) for names, both in pairs.items()]


def _identity(cell: dict[str, Any]) -> tuple[Any, ...]:
    named = [cell.get(k) for k in ("attack", "tuner", "defence", "control", "seed")]
    return tuple(k if isinstance(k, str | int | None) else str(k) for k in named)


def _row(names: tuple[Any, ...], both: Sequence[tuple[float, float]]) -> dict[str, Any]:
    apart = summarise([{"metrics": {"d": b - a}} for a, b in both])["d"]
    return {
        **dict(zip(("attack", "tuner", "defence", "control"), names, strict=True)),
        "n": len(both),
        "first": sum(a for a, _ in both) / len(both),
        "second": sum(b for _, b in both) / len(both),
        "difference": apart["mean"],
        "low": apart["low"],
        "high": apart["high"],
    }
