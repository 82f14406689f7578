"""The loop of a worker: claim a node, do it in a hidden folder, publish, finish, again."""

from __future__ import annotations

import importlib
import os
import signal
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Self

from peftlab.core.errors import ConfigError, PeftlabError, RunFailed
from peftlab.engine.recipe import Experiment
from peftlab.io.files import new_folder
from peftlab.io.process import identity
from peftlab.io.store import Lease, Node, Store

Execute = Callable[[Node, dict[str, Path], Path, Experiment, Any], dict[str, Any]]

BEAT_SECONDS = 5.0  # ours: see HEARTBEAT_LIMIT of the store
IDLE_SECONDS = 0.1  # ours: far below the time of any real node


@dataclass(frozen=True)
class Job:
    """What a worker needs to know; travels to worker processes.

    Attributes:
        out: the run folder, holding ``runs.db`` and ``nodes/<id>/``.
        recipe: the recipe.
        data: handed to ``execute`` as it is.
        execute: ``module:function``.
    """

    out: Path
    recipe: Experiment
    data: Any
    execute: str

    @property
    def database(self) -> Path:
        """Return the path of the run store."""
        return self.out / "runs.db"

    def folder(self, node: str) -> Path:
        """Return the folder of a finished node."""
        return self.out / "nodes" / node


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Give processes started in the block one computing thread each: faster, and repeatable."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def resolve(name: str) -> Execute:
    """Import the function called ``module:function``.

    Raises:
        ConfigError: ``RUN-EXECUTE``.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"cannot import {name!r} to execute nodes",
            code="RUN-EXECUTE",
            got=str(error),
            fix="write module:function of something that can be imported",
        ) from error
    execute: Execute = found
    return execute


class Heartbeat:
    """A thread that says every few seconds that ``owner`` is alive, while the block runs.

    Args:
        database: the run store.
        owner: whose leases to keep alive.
        parent: sentinel of the parent process; when that dies this process ends at once, so that
            no orphan works against the next run.
    """

    def __init__(self, database: Path, owner: str, parent: int | None = None) -> None:
        self._database, self._owner, self._parent = database, owner, parent
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._parent is None:  # else the thread waits on the parent and dies with the process
            self._thread.join()

    def _pause(self) -> bool:
        """Wait for one beat; tell whether to stop."""
        if self._parent is None:
            return self._stop.wait(BEAT_SECONDS)
        if wait([self._parent], BEAT_SECONDS):
            os._exit(RunFailed.exit_code)
        return self._stop.is_set()

    def _beat(self) -> None:
        while not self._pause():
            # A missed beat (a busy or full disk) is no reason to stop the work.
            with (
                suppress(PeftlabError, sqlite3.Error),
                Store(self._database, durable=False) as store,
            ):
                store.heartbeat(self._owner)


def describe(error: Exception) -> dict[str, str]:
    """Return what the store keeps of an error: type, code, message and trace."""
    return {
        "type": type(error).__name__,
        "code": error.code if isinstance(error, PeftlabError) else "RUN-ERROR",
        "message": str(error) or type(error).__name__,
        "trace": "".join(traceback.format_exception(error)),
    }


def _do(store: Store, lease: Lease, job: Job, execute: Execute) -> None:
    """Do one node; its folder appears and its row turns done under one lock of the store."""
    node = lease.node
    needs = {need: job.folder(need) for need in node.needs}
    try:
        with ExitStack() as stack:
            part = stack.enter_context(new_folder(job.folder(node.id), overwrite=True))
            result = execute(node, needs, part, job.recipe, job.data)
            store.finish(lease, result, publish=stack.close)
    except Exception as error:  # noqa: BLE001  whatever the work raises is recorded
        if isinstance(error, RunFailed) and error.code == "LEASE-LOST":
            return
        with suppress(RunFailed):  # the lease was lost while the work failed
            store.fail(lease, describe(error))


def work(job: Job, owner: str, changed: Callable[[Store], None] = lambda _: None) -> None:
    """Work until nothing is planned or leased any more.

    Args:
        job: what to work on.
        owner: identity of this process.
        changed: called after every claim and every finished node.
    """
    execute = resolve(job.execute)
    with Store(job.database) as store:
        while True:
            lease = store.claim(owner)
            if lease is not None:
                changed(store)
                _do(store, lease, job, execute)
                changed(store)
                continue
            counts = store.counts()
            if not counts.get("planned") and not counts.get("leased"):
                return
            if not store.reclaim_dead():
                time.sleep(IDLE_SECONDS)


def main(job: Job) -> None:
    """Run one worker process, from spawn to exit."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    parent = parent_process()
    owner = identity()
    with Heartbeat(job.database, owner, parent.sentinel if parent else None):
        try:
            work(job, owner)
        except PeftlabError as error:
            sys.exit(error.exit_code)
