"""How good the built-in text models are: five tasks, full fine-tuning and LoRA, with controls.

Bases     encoder     ``builtin:encoder``
          scratch     ``builtin:encoder-random``: the same architecture, all weights drawn
          embeddings  the encoder's embeddings under a body that is drawn anew for each seed
          any ``--base NAME=REFERENCE``: a folder, a hub id, or ``builtin:lm``
Tasks     see ``_builtin_tasks.py``; without its files a task is skipped, loudly.
Measured  accuracy (Wilson interval) or Matthews correlation (bootstrap over the test texts), for
          each seed, on test, once. ``tune`` trains as ``peftlab tune`` does.
Options   ``CHOSEN`` holds them, one set for each tuner and kind of base; the two large tasks take
          2 epochs (``_builtin_tasks.py``). ``--choose`` measures the candidates of ``GRID`` on dev,
          with a seed that is not reported; test is not looked at.
Bars      SST-2 0.86 (full, 67,349), 0.83 and 0.81 (full and LoRA, 6,920); CoLA above 0.10; the
          encoder above ``scratch`` on every task. ``--page`` says which of them are missed.

Run: ``python benchmarks/builtin_models.py --work DIR [--tasks rte,cola] [--workers 2]``. Every unit
(task, base, tuner, seed) is one JSON file in DIR, so the run can be stopped and taken up again, or
made in pieces; a unit whose base, data or options have changed is measured again. Then
``--work DIR --page > docs/measured/builtin-models.md``. Data: ``PEFTLAB_DATA``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from _builtin_page import choice_table, page
from _builtin_tasks import TASKS, missing
from _builtin_units import EMBEDDINGS, SCHEMA, Base, Unit, work_on

from peftlab.core.errors import PeftlabError
from peftlab.io.files import read_json
from peftlab.models.load import PREFIX, UNTRAINED

CHOICE_TASKS = ("sst2-6920", "cola")  # ours: the cheap ones
CHOICE_SEED = 100  # not one of the reported
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]*")

# (tuner, kind of base) -> options. Encoder and scratch: chosen on dev, seed 100, with one that
# does not ship; of two that were alike the one in use before. Causal: not measured, the encoder's.
CHOSEN: dict[tuple[str, str], dict[str, Any]] = {
    ("full", "encoder"): {"lr": 2e-4, "epochs": 3},
    ("full", "scratch"): {"lr": 2e-4, "epochs": 3},
    ("full", "causal"): {"lr": 2e-4, "epochs": 3},
    ("lora", "encoder"): {"lr": 1e-3, "epochs": 4},
    ("lora", "scratch"): {"lr": 1e-3, "epochs": 4},
    ("lora", "causal"): {"lr": 1e-3, "epochs": 4},
}
GRID: dict[str, dict[str, list[float]]] = {
    "full": {"lr": [1e-4, 2e-4, 5e-4], "epochs": [3]},
    "lora": {"lr": [1e-3, 2e-3, 5e-3], "epochs": [4]},
}
BASES = {
    "encoder": f"{PREFIX}encoder",
    "scratch": f"{PREFIX}encoder{UNTRAINED}",
    EMBEDDINGS: f"{PREFIX}encoder",
}


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker without a traceback
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _one_thread()


def _end_with_the_parent() -> None:
    """End this process when its parent was killed: nobody would write down what it measures."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def results(
    units: list[Unit], root: Path, work: Path, workers: int, deadline: float
) -> Iterator[tuple[Unit, dict[str, Any] | None]]:
    """Yield each unit with its result as it is done."""
    if workers == 1:
        _one_thread()
        for unit in units:
            yield unit, work_on(unit, root, work, deadline)
        return
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start_worker
    ) as pool:
        jobs = {pool.submit(work_on, unit, root, work, deadline): unit for unit in units}
        try:
            for job in as_completed(jobs):
                yield jobs[job], job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def plan(given: argparse.Namespace, root: Path) -> list[Unit]:
    """Return the units that were asked for, task by task.

    What cannot be measured here is named on stderr.
    """
    references = BASES | dict(given.base)
    bases = [Base.of(name, references[name]) for name in given.bases or references]
    tasks = given.tasks or (list(CHOICE_TASKS) if given.choose else list(TASKS))
    units = []
    for task in tasks:
        if (gap := missing(task, root)) is not None:
            say(f"SKIPPED {task}: there is no {gap} in the data folder; set PEFTLAB_DATA")
            continue
        seeds = [CHOICE_SEED] if given.choose else given.seeds
        for seed, base, tuner in itertools.product(seeds, bases, given.tuners):
            few = {} if TASKS[task].epochs is None else {"epochs": TASKS[task].epochs}
            chosen = tuple((CHOSEN[tuner, base.kind] | few).items())
            units += [
                Unit(task, base, tuner, seed, options, choosing=given.choose)
                for options in (candidates(tuner) if given.choose else [chosen])
            ]
    return units


def candidates(tuner: str) -> list[tuple[tuple[str, Any], ...]]:
    """Return the option sets that ``--choose`` compares."""
    names = list(GRID[tuner])
    return [
        tuple(zip(names, values, strict=True))
        for values in itertools.product(*GRID[tuner].values())
    ]


def collect(work: Path, folder: str) -> list[dict[str, Any]]:
    """Return the results that are there, in a fixed order."""
    return [read_json(file) for file in sorted((work / folder).glob("*.json"))]


def say(line: str) -> None:
    """Print talk; results alone go to stdout."""
    print(line, file=sys.stderr, flush=True)


def _names(allowed: Any) -> Any:
    def parse(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        wrong = [name for name in names if allowed and name not in allowed]
        if wrong or not names:
            raise argparse.ArgumentTypeError(f"{wrong or text!r}; there are {', '.join(allowed)}")
        return names

    return parse


def _new_base(text: str) -> tuple[str, str]:
    name, found, reference = text.partition("=")
    if not found or not NAME.fullmatch(name) or name in BASES:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=REFERENCE with a new, plain NAME")
    return name, reference


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of the results")
    parser.add_argument("--base", type=_new_base, action="append", default=[],
                        metavar="NAME=REFERENCE", help="one more base; repeatable")  # fmt: skip
    parser.add_argument("--tasks", type=_names(TASKS), help=f"of {', '.join(TASKS)}")
    parser.add_argument("--bases", type=_names(()), help="of the bases, by name")
    parser.add_argument("--tuners", type=_names(GRID), default=list(GRID))
    parser.add_argument("--seeds", type=lambda text: [int(s) for s in text.split(",")],
                        default=[0, 1, 2])  # fmt: skip
    parser.add_argument("--workers", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--limit-minutes", type=float, default=float("inf"),
                        help="begin no unit after this time")  # fmt: skip
    parser.add_argument("--choose", action="store_true", help="compare options on dev")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print all results")
    shown.add_argument("--page", action="store_true", help="measure nothing, print the page")
    given = parser.parse_args(arguments)
    known = [*BASES, *(name for name, _ in given.base)]
    if unknown := [name for name in given.bases or [] if name not in known]:
        parser.error(f"no base {unknown[0]!r}; there are {', '.join(known)}")
    return given


def run(given: argparse.Namespace) -> int:
    """Measure what is not measured yet; return how many units are left."""
    root = Path(os.environ.get("PEFTLAB_DATA", "../shared/data")).absolute()
    units = plan(given, root)
    todo = [unit for unit in units if not unit.is_done(given.work, root)]
    say(f"{len(units)} units, {len(units) - len(todo)} of them done")
    deadline, left = time.time() + 60 * given.limit_minutes, 0
    for unit, result in results(todo, root, given.work, given.workers, deadline):
        if result is None:
            left += 1
            continue
        split = "dev" if unit.choosing else "test"
        value = f"{split} {result[split]['value']:.3f}" if split in result else result["failed"]
        say(f"{unit.title}: {value} ({result['wall_seconds']:.0f} s)")
    if left:
        say(f"out of time: {left} units are left; run the same command again")
    return left


def main(arguments: list[str] | None = None) -> int:
    """Measure, then print what was asked for."""
    given = parse(arguments)
    if not given.page:
        try:
            run(given)
        except PeftlabError as error:
            say(str(error))
            return error.exit_code
        except KeyboardInterrupt:
            say("stopped; the same command goes on from here")
            return 130
    units, choices = collect(given.work, "units"), collect(given.work, "choices")
    if given.page:
        print(page(units, choices, CHOSEN))
    elif given.choose and not given.json:
        print(choice_table(choices, CHOSEN))
    elif given.json:
        print(json.dumps({"schema": SCHEMA, "units": units, "choices": choices}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
