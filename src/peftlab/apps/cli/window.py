"""PSIM's window on the command line: bench window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftlab.apps.cli.bench import find_recipe
from peftlab.apps.cli.console import bar, out_json, say
from peftlab.apps.cli.console import out as put
from peftlab.core.errors import PeftlabError


def window(
    recipe: str, out: Path | None, settings: Sequence[str], workers: int,
    *, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Run a window experiment, or go on with it."""
    from peftlab.engine.window.recipe import load_window_recipe

    loaded = load_window_recipe(find_recipe(recipe), settings)
    target = out or Path("runs") / loaded.name
    if dry_run:
        _print_plan(loaded, as_json=as_json)
        return
    results = _run(loaded, target, workers)
    if as_json:
        out_json(results)
        return
    from peftlab.report.window.read import read_windows
    from peftlab.report.window.words import sentences

    put("\n".join(sentences(read_windows(results))) + "\n")
    put(f"results: {target / 'window.json'}\nreport:  {target / 'window.html'}")


def _print_plan(recipe: Any, *, as_json: bool) -> None:
    from peftlab.engine.window.bench import make_window_plan

    _, nodes = make_window_plan(recipe)
    counts = Counter(node.kind for node in nodes)
    facts = {"bases": counts["base"], "paths": counts["path"], "looks": len(recipe.steps)}
    if as_json:
        out_json(facts)
        return
    put(
        f"{facts['paths']} paths of {recipe.steps[-1]} steps and {facts['looks']} looks each, on "
        f"{facts['bases']} trained bases; what is done is not done again"
    )


def _run(recipe: Any, target: Path, workers: int) -> dict[str, Any]:
    """Run, then write the page, also when some nodes failed."""
    from peftlab.engine.window.bench import RESULTS, read_window, run_window

    try:
        with bar(recipe.name) as tell:
            return run_window(recipe, target, workers=workers, progress=tell)
    except PeftlabError as error:
        if error.code == "RUN-NODES":
            say(f"report of what was done: {target / 'window.html'}")
        raise
    finally:
        if (target / RESULTS).is_file():
            write_page(target, read_window(target))


def write_page(target: Path, results: dict[str, Any]) -> None:
    """Write ``window.html`` beside the results."""
    from peftlab.io.files import write_atomic
    from peftlab.report.window.html import render_window

    write_atomic(target / "window.html", render_window(results))
