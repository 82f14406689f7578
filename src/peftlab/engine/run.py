"""Run a plan with one or more workers; run it again after any interruption to go on.

The run folder holds ``runs.db`` (the store), ``nodes/<id>/`` (one folder per finished node) and
``results.json``. Nothing in it is ever half-written, so ``kill -9`` at any moment costs at most
the nodes in progress.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any

from peftlab.core.errors import ConfigError, ResourceLimit, RunFailed
from peftlab.core.types import TaskData
from peftlab.engine.collect import collect
from peftlab.engine.recipe import Experiment
from peftlab.engine.worker import Heartbeat, Job, main, one_thread_each, resolve, work
from peftlab.io.files import clean_leftovers, disk_errors, dump_json
from peftlab.io.process import identity
from peftlab.io.store import Node, Store

__all__ = ["EXECUTE", "Progress", "collect", "run"]

EXECUTE = "peftlab.engine.nodes:execute"
POLL_SECONDS = 0.2  # ours: five updates of a progress bar per second
IDLE_DEATHS = 3  # ours: workers that die before they hold any lease point at the set-up

Progress = Callable[[int, int, str], None]
"""Called with (settled nodes, all nodes, what is being worked on)."""


_ROLES = {
    "base": "attack",
    "victim": "tuner",
    "guard": "defence",
    "outputs": "attack",
    "scores": "attack",
    "filter": "defence",
    "verdict": "defence",
}


def title(kind: str, key: dict[str, Any]) -> str:
    """Return a node's name for people, such as ``victim lora, seed 0``."""
    if "labels" in key:
        what = " x ".join(key["labels"].values())
    else:
        role = _ROLES[kind]
        what = key[role]["name"] if key.get(role) else "clean"
        if kind == "victim" and "defence" in key:
            what = f"{what} by {key['defence']['name']}"
    return f"{kind} {what}, seed {key['seed']}" + (", control" if key["control"] else "")


class _Reporter:
    """Calls ``progress`` whenever something changed, never twice with the same."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._last = progress, (-1, -1, "")

    def __call__(self, store: Store) -> None:
        if self._progress is None:
            return
        counts = store.counts()
        total = sum(counts.values())
        settled = total - counts.get("planned", 0) - counts.get("leased", 0)
        now = (settled, total, "; ".join(title(*work) for work in store.working()))
        if now != self._last:
            self._last = now
            self._progress(*now)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does, where signals can be caught (the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start(job: Job) -> SpawnProcess:
    process = multiprocessing.get_context("spawn").Process(target=main, args=(job,), daemon=True)
    with one_thread_each():
        process.start()
    return process


def _stop(pool: Sequence[SpawnProcess]) -> None:
    for process in pool:
        process.terminate()
    for process in pool:
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()


def _settled(store: Store) -> bool:
    counts = store.counts()
    return not counts.get("planned") and not counts.get("leased")


def _supervise(store: Store, job: Job, workers: int, report: _Reporter) -> None:
    """Keep ``workers`` processes at work until all is settled; replace those that die."""
    pool = [_start(job) for _ in range(workers)]
    idle_deaths = 0
    try:
        while not _settled(store):
            report(store)
            wait([process.sentinel for process in pool], POLL_SECONDS)
            store.reclaim_dead()
            for place, process in enumerate(pool):
                if process.is_alive():
                    continue
                process.join()
                idle_deaths += not store.has_claimed(process.pid or 0)
                if idle_deaths >= IDLE_DEATHS:
                    raise RunFailed(
                        "worker processes die before they start to work",
                        code="RUN-WORKERS",
                        got=f"exit code {process.exitcode}",
                        fix="try --workers 1 to see the cause",
                    )
                pool[place] = _start(job)
        report(store)
    finally:
        _stop(pool)


def _on_ray(
    store: Store, job: Job, owner: str, address: str, workers: int, report: _Reporter
) -> None:
    """Let a Ray cluster do the work."""
    from peftlab.engine.on_ray import cluster, work_on_ray

    # Ray turns SIGTERM into an exit when it connects; inside it is an interrupt again
    with cluster(address, workers), _sigterm_as_interrupt():
        work_on_ray(store, job, owner, report)


def _data_facts(data: object) -> dict[str, Any]:
    """Return what a report says about the data, by name."""
    if not isinstance(data, TaskData):
        return {}
    return {
        data.name: {
            "n_train": len(data.train),
            "n_dev": len(data.dev),
            "n_test": len(data.test),
            "label_names": list(data.label_names),
            "source": data.source,
            "licence": data.licence,
            "notes": list(data.notes),
        }
    }


def _check_folder(out: Path) -> None:
    """Refuse a folder that holds other things: a run never mixes with them."""
    if not out.is_dir():
        return
    names = [path.name for path in out.iterdir() if not path.name.startswith(".")]
    if names and "runs.db" not in names:
        raise ConfigError(
            f"{out} holds other files and is not a run folder",
            code="FOLDER-EXISTS",
            got=", ".join(sorted(names)[:5]),
            fix="choose another --out",
        )


def _check_recipe(store: Store, job: Job, *, growing: bool) -> None:
    mine = json.loads(dump_json(job.recipe.model_dump(mode="json")))
    theirs = store.fact("recipe")
    if theirs is None or growing:
        store.set_fact("recipe", mine)
        return
    # a key that an older peftlab did not know means what it means where nothing is said: None
    keys = mine.keys() | theirs.keys()
    other = sorted(key for key in keys if mine.get(key) != theirs.get(key))
    if other:
        raise ConfigError(
            f"{job.out} holds a run of another recipe",
            code="RUN-OTHER",
            got=f"different: {', '.join(other)}",
            fix="choose another --out, or use the recipe that the run was started with",
        )


def _prepare(store: Store, job: Job, nodes: Sequence[Node], *, growing: bool) -> None:
    _check_recipe(store, job, growing=growing)
    with disk_errors(job.out):
        (job.out / "nodes").mkdir(exist_ok=True)
    clean_leftovers(job.out / "nodes")
    store.set_fact("data", _data_facts(job.data))
    store.add(nodes)
    store.renew()
    for row in store.rows():
        if row.state == "done" and not job.folder(row.id).is_dir():
            store.forget(row.id)


def _raise_failures(store: Store) -> None:
    rows = store.rows()
    failed = [row for row in rows if row.state in ("failed", "quarantined")]
    if not failed:
        return
    errors = [(title(row.kind, row.key), row.error or {}) for row in failed]
    lines = [f"{name}: {error.get('message', '')}".split("\n")[0] for name, error in errors]
    blocked = sum(row.state == "blocked" for row in rows)
    full = any(error.get("code") == "DISK-FULL" for _, error in errors)
    raise (ResourceLimit if full else RunFailed)(
        f"{len(failed)} of {len(rows)} steps failed, {blocked} more could not start",
        code="DISK-FULL" if full else "RUN-NODES",
        got="\n       ".join(lines[:5] + ([f"and {len(lines) - 5} more"] if lines[5:] else [])),
        fix="remove the cause, then run again with the same --out: finished work is kept",
    )


def run(
    recipe: Experiment,
    nodes: Sequence[Node],
    data: object,
    out: Path,
    *,
    workers: int = 1,
    execute: str = EXECUTE,
    gather: Callable[[Path, Any], object] = collect,
    growing: bool = False,
    ray: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Run a plan, or go on with it; at the end ``results.json`` is written (by ``gather``).

    Args:
        recipe: the recipe; the same one when going on.
        nodes: as returned by ``plan``.
        data: handed to ``execute`` (must survive pickling when ``workers`` > 1).
        out: the run folder; made when absent.
        workers: 1 works in this process; more are spawned, with one computing thread each.
        execute: ``module:function`` that does one node:
            ``execute(node, needs, folder, recipe, data) -> dict``, where ``needs`` gives the
            folder of each needed node by id and ``folder`` is empty and becomes the node's own.
            The dict must be JSON-able; a cell's has ``metrics``, ``intervals``, ``reasons``,
            ``cost``.
        gather: called with the run folder and the recipe when all nodes are settled.
        growing: let the recipe differ from the one that the folder was started with; what both
            plans have in common is not done again.
        ray: run on Ray instead of worker processes: ``local`` for a cluster of ``workers`` CPUs
            that is started here and ended afterwards, ``auto`` or ``HOST:PORT`` for one that this
            machine belongs to. The run folder is the same, so either kind of run goes on with it.
        progress: called on every change.

    Raises:
        ConfigError: ``RUN-OTHER``, ``RUN-BUSY``, ``RUN-EXECUTE``, ``FOLDER-EXISTS``;
            ``RAY-ADDRESS``, ``RAY-EMPTY``, ``RAY-FOLDER``, ``RAY-DIFFERENT``.
        BackendMissing: ``RAY-MISSING``.
        RunFailed: ``RUN-NODES`` lists what failed (all the rest is done and collected),
            ``RUN-WORKERS``; ``RAY-LOOK``.
        ResourceLimit: ``DISK-FULL``.
        KeyboardInterrupt: Ctrl-C or SIGTERM; call again to go on.
    """
    if workers < 1:
        raise ConfigError(
            "at least one worker is needed",
            code="RUN-WORKERS",
            got=workers,
            fix="pass --workers 1 or more",
        )
    resolve(execute)
    if ray is not None:
        from peftlab.engine.on_ray import need_ray

        need_ray()
    job = Job(Path(out).absolute(), recipe, data, execute)
    _check_folder(job.out)
    with disk_errors(job.out):
        job.out.mkdir(parents=True, exist_ok=True)
    owner = identity()
    report = _Reporter(progress)
    with Store(job.database) as store:
        store.lock(owner)
        try:
            _prepare(store, job, nodes, growing=growing)
            with _sigterm_as_interrupt(), Heartbeat(job.database, owner):
                if ray is not None:
                    _on_ray(store, job, owner, ray, workers, report)
                elif workers == 1:
                    work(job, owner, report)
                else:
                    _supervise(store, job, workers, report)
            gather(job.out, recipe)
        finally:
            store.release(owner)
            store.unlock(owner)
        _raise_failures(store)
