"""Claim: the pages of a grid of 270 cells are written in 2 seconds each, or less.

Claim     From ``results.json`` in memory to text: ``report.html`` with its figures, and the
          leaderboard (statistics, HTML, Markdown, JSON) of 6 defences x 9 attacks x 5 seeds.
Baseline  None: this is a bar, not a ratio; ours.
Bar       Median CPU time of the rounds <= 2.0 s for each page, after one round that loads the
          templates.
Cost      Report: some 30 figures at 3 ms, whatever the number of cells. Leaderboard: pairs of
          defences x 20,000 sign vectors, and 4,000 resamples a number.
Ends      Numbers are made up by formula; 1,800 cells of 15 defences take about four times as long.

Run: ``python benchmarks/claim_render.py [--rounds 5]``
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from peftlab.core.seeds import stream
from peftlab.report.figures import representatives
from peftlab.report.html import render
from peftlab.report.leaderboard.board import as_json, make_board
from peftlab.report.leaderboard.html import render_leaderboard
from peftlab.report.leaderboard.markdown import render_markdown
from peftlab.report.read import read_cells
from peftlab.report.results import group

BAR = 2.0
ATTACKS, DEFENCES, SEEDS = 9, 6, 5
CLEAN, TRIGGERED = 800, 400


def scores(attack: int, defence: int, seed: int) -> tuple[Any, Any]:
    """Return made-up scores of clean and triggered texts."""
    draw = stream(seed, "benchmarks/render", attack, defence)
    shift = 0.4 * (attack + 1) * (1 - 0.12 * defence)
    return draw.normal(0, 1, CLEAN), draw.normal(shift, 1.2, TRIGGERED)


def cell(attack: int, defence: int, seed: int) -> dict[str, Any]:
    """Return one made-up cell; the first attack is where settings were chosen."""
    clean, triggered = scores(attack, defence, seed)
    fpr, tpr = float((clean > 1.645).mean()), float((triggered > 1.645).mean())
    above = float((triggered[:, None] > clean).mean())
    return {
        "id": f"{attack}-{defence}-{seed}", "base": "b", "data": "d", "attack": f"attack-{attack}",
        "tuner": "lora", "defence": f"defence-{defence}", "seed": seed, "control": False,
        "metrics": {
            "ca": 0.88, "asr": 0.97, "ca_def": 0.88 * (1 - fpr), "asr_def": 0.97 * (1 - tpr),
            "fpr": fpr, "tpr": tpr, "auroc": above, "alpha": 0.05, "flip_rate": 0.06,
            "n_clean": CLEAN, "n_calibration": 300,
        },
        "cost": {"fit_seconds": 9.0, "score_ms_per_text": 2.5, "passes_per_text": 10},
    }  # fmt: skip


def arrays(attack: int, defence: int, seed: int) -> dict[str, Any]:
    """Return what the figures of a cell are drawn from."""
    clean, triggered = scores(attack, defence, seed)
    steps = list(range(0, 200, 10))
    falling = [3.0 * 0.985**step for step in steps]
    series = {"clean_mean": falling, "triggered_mean": falling[::-1],
              "auroc": [0.5 + 0.4 * np.sin(step / 60) for step in steps]}  # fmt: skip
    return {
        "clean_scores": clean.tolist(), "triggered_scores": triggered.tolist(), "threshold": 1.645,
        "trajectory": {"steps": steps, "series": [{"name": "gap", **series}] * 2},
    }  # fmt: skip


def spent(work: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Return CPU seconds over rounds, the first of which does not count."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return {
        "median": statistics.median(seconds[1:]), "min": min(seconds[1:]), "max": max(seconds[1:]),
        "first": seconds[0],
    }  # fmt: skip


def main() -> int:
    """Run the claim and print one JSON object of schema ``bench/1``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    keys = [(a, d, s) for a in range(ATTACKS) for d in range(DEFENCES) for s in range(SEEDS)]
    results = {
        "schema": "peftlab.results/1", "name": "render", "recipe": {"chosen_on": ["attack-0"]},
        "cells": [cell(*key) for key in keys],
    }  # fmt: skip
    shown = {c.id for one in representatives(group(read_cells(results))) for c in one.cells}
    drawn = {f"{a}-{d}-{s}": arrays(a, d, s) for a, d, s in keys if f"{a}-{d}-{s}" in shown}
    links = {one["id"]: f"scores/{one['id']}.parquet" for one in results["cells"]}

    def leaderboard() -> int:
        board = make_board(results)
        page = render_leaderboard(results, board, links)
        return len(page + render_markdown(results, board, links) + json.dumps(as_json(board)))

    found = {
        "report": spent(lambda: render(results, drawn), rounds),
        "leaderboard": spent(leaderboard, rounds),
    }
    ok = all(one["median"] <= BAR for one in found.values())
    print(
        json.dumps(
            {
                "schema": "bench/1", "claim": "render", "holds": ok, "bar_s": BAR,
                "cells": len(keys), "seconds": found, "rounds": rounds,
                "load_average": os.getloadavg()[0], "python": platform.python_version(),
            },
            indent=2,
        )
    )  # fmt: skip
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
