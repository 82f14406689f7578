"""Claim: a grid costs at most 0.3 of the CPU time of its cells one by one.

Claim     CPU seconds of one grid (attacks x tuners x defences, one seed), whose cells share
          poisoned bases, victims, guards and answers, against the sum over its cells, each run
          from nothing in a folder of its own. All metrics of a cell are equal to the last digit.
Baseline  The same engine and the same recipe with one attack, one tuner and one defence a run:
          what a user does who has one script a cell.
Bar       0.3 (of 24 cells here; the share falls with the size of the grid).
Cost      Of A attacks, T tuners, D defences: A bases, A T victims, A D guards instead of A T D of
          each. With costs b, v, g of one: (b + T v + D g) / (T D (b + v + g)).

Run: ``python benchmarks/claim_sharing.py``; about 6 minutes of one slow core.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from peftlab.engine.bench import make_plan, run_recipe
from peftlab.engine.recipe import make_recipe

BAR = 0.3
ATTACKS, TUNERS = ("badnets", "insent"), ("lora", "ptuning", "full")
DEFENCES = ("none", "onion", "strip", "psim")
NAMES = ("attack", "tuner", "defence")


def recipe(attacks: tuple[str, ...], tuners: tuple[str, ...], defences: tuple[str, ...]) -> Any:
    """Return a small grid on generated reviews."""
    return make_recipe(
        {
            "name": "sharing", "seeds": [0], "control": False, "attacker": {"epochs": 2},
            "limits": {"max_train": 160, "max_dev": 80, "max_test": 40},
            "attack": list(attacks), "tuner": list(tuners), "defence": list(defences),
        }
    )  # fmt: skip


def measured(grid: Any, out: Path) -> tuple[float, list[dict[str, Any]]]:
    """Return the CPU seconds of a run in this process, and its cells."""
    start = time.process_time()
    found = run_recipe(grid, out)
    return time.process_time() - start, found["cells"]


def main() -> int:
    """Run the claim and print one JSON object of schema ``bench/1``."""
    whole = recipe(ATTACKS, TUNERS, DEFENCES)
    with tempfile.TemporaryDirectory() as place:
        warm = recipe(ATTACKS[:1], TUNERS[:1], DEFENCES[-1:])
        measured(warm, Path(place) / "warm")  # what is imported and read first is paid by nobody
        shared, cells = measured(whole, Path(place) / "grid")
        known = {tuple(cell[name] for name in NAMES): cell["metrics"] for cell in cells}
        alone, equal = 0.0, True
        for names in itertools.product(ATTACKS, TUNERS, DEFENCES):
            spent, (cell,) = measured(
                recipe(*((name,) for name in names)), Path(place) / "-".join(names)
            )
            alone += spent
            equal = equal and cell["metrics"] == known[names]
            print(f"{' x '.join(names):32} {spent:6.1f} s", file=sys.stderr)
    nodes: dict[str, int] = {}
    for node in make_plan(whole)[1]:
        nodes[node.kind] = nodes.get(node.kind, 0) + 1
    holds = shared <= BAR * alone and equal
    print(json.dumps({
        "schema": "bench/1",
        "claim": "C7 sharing",
        "holds": holds,
        "cells": len(known),
        "nodes": nodes,
        "grid_cpu_seconds": shared,
        "cells_cpu_seconds": alone,
        "share": shared / alone,
        "equal_metrics": equal,
        "machine": {"processor": platform.processor() or platform.machine(),
                    "python": platform.python_version()},
    }, indent=2))  # fmt: skip
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
