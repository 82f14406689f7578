"""Grids on the command line: demo, bench run, table, compare, bank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftlab.apps.cli.console import bar, out_json, say
from peftlab.apps.cli.console import out as put
from peftlab.core.errors import ConfigError, PeftlabError, suggest

SHIPPED = Path(__file__).parents[2] / "recipes"


def find_recipe(recipe: str) -> Path:
    """Return the recipe file: a path, or the name of a shipped recipe."""
    path = Path(recipe)
    if path.is_file():
        return path
    shipped = {file.stem: file for file in sorted(SHIPPED.glob("*.toml"))}
    if path.stem in shipped and path.suffix in {"", ".toml"}:
        return shipped[path.stem]
    raise ConfigError(
        f"there is no recipe {recipe!r}", code="RECIPE-FILE", fix=suggest(path.stem, shipped)
    )


def run(
    recipe: str, out: Path | None, settings: Sequence[str], workers: int,
    *, dry_run: bool, as_json: bool, ray: str | None = None,
) -> None:  # fmt: skip
    """Run a grid, or go on with it."""
    from peftlab.engine.recipe import load_recipe

    loaded = load_recipe(find_recipe(recipe), settings)
    target = out or Path("runs") / loaded.name
    if dry_run:
        _print_plan(loaded, as_json=as_json)
        return
    results = _run(loaded, target, workers, ray)
    if as_json:
        out_json(results)
        return
    from peftlab.report.results import verdict
    from peftlab.report.table import text

    put(verdict(results) + "\n\n" + text(results) + "\n")
    put(f"results: {target / 'results.json'}\nreport:  {target / 'report.html'}")


def _print_plan(recipe: Any, *, as_json: bool) -> None:
    from peftlab.engine.bench import make_plan
    from peftlab.engine.estimate import FLOP_PER_SECOND, estimate

    data, nodes = make_plan(recipe)
    found = estimate(recipe, nodes, data)
    count = {kind: found.nodes.get(kind, 0) for kind in ("cell", "base", "victim", "guard")}
    if as_json:
        out_json({
            "nodes": found.nodes, "cells": count["cell"], "not_applicable": found.not_applicable,
            "trainings": found.trainings, "cpu_hours": found.cpu_hours,
            "assumed_flop_per_second": FLOP_PER_SECOND,
        })  # fmt: skip
        return
    senseless = f" ({found.not_applicable} not applicable)" if found.not_applicable else ""
    put(
        f"{count['cell']} cells{senseless} from {count['base']} trained bases, {count['victim']} "
        f"tuned victims and {count['guard']} fitted guards; shared work is done once"
    )
    put(
        f"{found.trainings} trainings, about {_hours(found.cpu_hours)} of one CPU core: a rough "
        f"guess from a base of {found.parameters / 1e6:.3g} M parameters and "
        f"{FLOP_PER_SECOND / 1e9:.0f} GFLOP/s, a factor of three either way"
    )


def _hours(hours: float) -> str:
    """Return a time that is not more exact than it is known."""
    if hours >= 10:
        return f"{hours:,.0f} hours"
    return f"{hours:.1f} hours" if hours >= 1 else f"{max(60 * hours, 1):.0f} minutes"


def _run(recipe: Any, target: Path, workers: int, ray: str | None) -> dict[str, Any]:
    """Run, then write the report, also when some nodes failed."""
    from peftlab.engine.bench import RESULTS, read_results, run_recipe

    try:
        with bar(recipe.name) as tell:
            return run_recipe(recipe, target, workers=workers, ray=ray, progress=tell)
    except PeftlabError as error:
        if error.code == "RUN-NODES":
            say(f"report of what was done: {target / 'report.html'}")
        raise
    finally:
        if (target / RESULTS).is_file():
            write_report(target, read_results(target))


def write_report(target: Path, results: dict[str, Any]) -> None:
    """Write ``report.html`` beside the results."""
    from peftlab.engine.bench import gather_arrays
    from peftlab.io.files import write_atomic
    from peftlab.report.figures import representatives
    from peftlab.report.html import render
    from peftlab.report.read import read_cells
    from peftlab.report.results import group

    shown = [cell.id for one in representatives(group(read_cells(results))) for cell in one.cells]
    write_atomic(target / "report.html", render(results, gather_arrays(target, shown)))


def demo(out: Path, workers: int, *, as_json: bool) -> None:
    """Take the tour."""
    say(
        "The tour: an attacker poisons a small language model so that the word 'mn' in a review\n"
        "forces the class it wants. You tune that model by LoRA on your own clean reviews; the\n"
        "backdoor stays. Then a guard is fitted, without knowing trigger or target, and tried.\n"
    )
    run("demo", out, [], workers, dry_run=False, as_json=as_json)


def table(
    path: Path, out: Path | None, wanted: Mapping[str, Sequence[str]],
    *, markdown: bool, as_json: bool,
) -> None:  # fmt: skip
    """Print the table of a run; with a folder, write its leaderboard there, too."""
    from peftlab.apps.cli import leaderboard
    from peftlab.engine.bench import read_results
    from peftlab.report import table as tables
    from peftlab.report.select import select

    results = select(read_results(path), wanted)
    if out is not None:
        leaderboard.write(path, results, out)
    if as_json:
        out_json({"cells": results["cells"]})
    else:
        put(tables.markdown(results) if markdown else tables.text(results))


def compare(first: Path, second: Path, metric: str, *, as_json: bool) -> None:
    """Compare two runs."""
    from peftlab.engine.bench import compare as compare_runs
    from peftlab.engine.bench import read_results

    rows = compare_runs(read_results(first), read_results(second), metric)
    if not rows:
        raise ConfigError(
            "the two runs have no cell in common that has this metric",
            code="COMPARE-NONE", got=metric, fix="compare runs of the same recipe",
        )  # fmt: skip
    if as_json:
        out_json({"metric": metric, "rows": rows})
        return
    put(f"{metric}: second minus first, mean over seeds [95 % interval]")
    for row in rows:
        name = " x ".join(str(row[k]) for k in ("attack", "tuner", "defence"))
        name += ", control" if row["control"] else ""
        spread = "" if row["low"] is None else f"  [{row['low']:+.4f}, {row['high']:+.4f}]"
        put(f"{name:44} {row['difference']:+.4f}{spread}  n = {row['n']}")


def bank(
    out: Path, base: str, data: str, attacks: Sequence[str], option: Sequence[str],
    tuner_option: Sequence[str], seed: int, *, as_json: bool,
) -> None:  # fmt: skip
    """Make a bank of clean and backdoored adapters."""
    from peftlab.apps.cli.steps import option_values, read_pairs
    from peftlab.audits.backdoor.classifier import cross_scores
    from peftlab.core.options import parse_options
    from peftlab.core.ranking import auroc
    from peftlab.engine.adapter_bank import BankOptions, make_bank
    from peftlab.engine.steps import load_data

    options = parse_options(
        BankOptions, read_pairs(BankOptions, option) | {"seed": seed}, "bench bank"
    )
    with bar("adapters") as tell:
        made = make_bank(
            base, load_data(data), attacks, "lora", option_values("tuner", "lora", tuner_option),
            options, out, progress=tell,
        )  # fmt: skip
    scores = cross_scores(made.rows.reshape(len(made), -1), made.backdoored, seed)
    facts = {
        "bank": str(out), "clean": int((~made.backdoored).sum()),
        "backdoored": int(made.backdoored.sum()),
        "auroc": auroc(scores[~made.backdoored], scores[made.backdoored]),
    }  # fmt: skip
    if as_json:
        out_json(facts)
        return
    put(f"{facts['clean']} clean and {facts['backdoored']} backdoored adapters: {out}")
    put(f"AUROC, each judged by the others in 5 folds: {facts['auroc']:.3f}")
