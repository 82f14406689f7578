"""Run a plan on a Ray cluster: one driver keeps the books, Ray's workers do the nodes.

The driver alone opens the store. It claims what is ready, makes the hidden folder of each node and
hands both to a Ray task; a worker fills the folder, the driver publishes it and finishes the row.
A worker, or a whole machine, that is lost takes nothing with it but the nodes it was on: the store
plans them again, and puts a node that lost two workers into quarantine. Ray itself retries nothing.

The run folder must be on a file system that all machines see under the same path. A machine that
does not see it, or whose peftlab, libraries or base are others, is refused: its results would be
others too.
"""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import peftlab
from peftlab.core.errors import BackendMissing, ConfigError, PeftlabError, RunFailed
from peftlab.engine.collect import versions
from peftlab.engine.worker import IDLE_SECONDS, Job, describe, one_thread_each, resolve
from peftlab.io.files import PREFIX, full_disk_errors, new_folder, sync_tree
from peftlab.io.process import identity
from peftlab.io.store import Lease, Node, Store
from peftlab.models.load import fingerprint

LOCAL = "local"
POLL_SECONDS = 0.2  # ours: as often as a run without Ray looks at its workers
SEEN_SECONDS = 10.0  # ours: network file systems show a new folder to others with such a delay
CONNECT_SECONDS = 10.0  # ours
LOOK_SECONDS = 300.0  # ours: a worker process may have to import torch over a network first
GOODBYE_SECONDS = 5.0  # ours: for workers to stop before the folders that they fill are removed

_FIXES = {
    "RAY-FOLDER": "put --out on a file system that all machines see under the same path",
    "RAY-DIFFERENT": "install the same versions, and put the same base, on all machines",
}


@dataclass(frozen=True)
class _Task:
    """A node in work: its lease, and its hidden folder, open until it is published or dropped."""

    lease: Lease
    folder: ExitStack


class _DroppedError(Exception):
    """Ends the ``new_folder`` of a node that came to nothing."""


def need_ray() -> None:
    """Refuse to go on where Ray is not installed.

    Raises:
        BackendMissing: ``RAY-MISSING``.
    """
    try:
        import ray  # noqa: F401
    except ImportError:
        raise BackendMissing(
            "a run on a cluster needs ray", code="RAY-MISSING", fix='pip install "peftlab[ray]"'
        ) from None


@contextmanager
def cluster(address: str, workers: int) -> Iterator[None]:
    """Be the driver of a Ray cluster while the block runs.

    Args:
        address: ``local`` starts one on this machine that ends with the block; ``auto`` or
            ``HOST:PORT`` is one that this machine belongs to.
        workers: CPUs of a local cluster; any other knows its own.

    Raises:
        ConfigError: ``RAY-ADDRESS``.
    """
    import ray

    try:
        if address.startswith("ray://"):
            raise ConnectionError("a client of Ray is no part of the cluster")  # noqa: TRY301
        if not _answers(address):
            raise ConnectionError("nothing answers there")  # noqa: TRY301  Ray would try for long
        own = {"num_cpus": workers, "include_dashboard": False} if address == LOCAL else {}
        with one_thread_each():
            ray.init(address, log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"there is no Ray cluster at {address!r}",
            code="RAY-ADDRESS",
            got=str(error).split("\n")[0][:200],
            allowed="local, auto, or HOST:PORT of a cluster that this machine belongs to",
            fix="run `ray status` on this machine to see its cluster",
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _answers(address: str) -> bool:
    """Return whether something listens at ``HOST:PORT``; True for what is no such address."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError):
        return False
    return True


def work_on_ray(store: Store, job: Job, owner: str, changed: Callable[[Store], None]) -> None:
    """Work until nothing is planned or leased any more, as the driver of a Ray cluster.

    Args:
        store: the run store, open.
        job: what to work on.
        owner: identity of this process, which holds all leases.
        changed: called on every poll.

    Raises:
        ConfigError: ``RAY-EMPTY`` for a cluster without a CPU, ``RAY-FOLDER`` for a machine that
            does not see the run folder, ``RAY-DIFFERENT`` for one that would compute otherwise.
        RunFailed: ``RAY-LOOK`` for a machine that gave no answer.
    """
    import ray

    _look_at_machines(job)
    gpus = _room(gpus=True) > 0
    do = ray.remote(do_node).options(num_cpus=1, num_gpus=int(gpus), max_retries=0)
    shared = ray.put(job)
    tasks: dict[Any, _Task] = {}
    try:
        while True:
            while len(tasks) < _room(gpus=gpus):
                lease = store.claim(owner)
                if lease is None:
                    break
                folder = ExitStack()
                target = job.folder(lease.node.id)
                part = folder.enter_context(new_folder(target, overwrite=True))
                started = do.remote(lease.node, part, shared, Path.cwd(), facts())
                tasks[started] = _Task(lease, folder)
            changed(store)
            if tasks:
                for done in ray.wait(list(tasks), timeout=POLL_SECONDS)[0]:
                    _settle(store, done, tasks.pop(done))
            elif not {"planned", "leased"} & store.counts().keys():
                return
            elif not store.reclaim_dead():
                time.sleep(IDLE_SECONDS)
    finally:
        _stop(tasks)


def _room(*, gpus: bool) -> int:
    """Return how many nodes the cluster has a CPU (and a GPU) for; machines come and go.

    Where there are GPUs each node takes one, whatever it needs: all nodes of a run are then done
    on the same kind of device, and its numbers do not depend on which machine did what.
    """
    import ray

    have = ray.cluster_resources()
    return int(min(have.get(name, 0) for name in (("CPU", "GPU") if gpus else ("CPU",))))


def _settle(store: Store, done: Any, task: _Task) -> None:
    """Publish and finish a node, or record what became of it."""
    import ray

    try:
        found: dict[str, Any] = ray.get(done)
    except ray.exceptions.RayTaskError as error:  # it could not even begin
        found = {"error": describe(error)}
    except ray.exceptions.RayError:  # the worker is gone, or its machine
        _drop(task.folder)
        with suppress(RunFailed):
            store.lose(task.lease)
        return
    if "result" not in found:
        _drop(task.folder)
    if "unfit" in found:
        raise _refusal([found["unfit"]])
    mishap: dict[str, str] | None = found.get("error")
    if mishap is None:
        try:
            with task.folder:
                store.finish(task.lease, found["result"], publish=task.folder.close)
        except Exception as error:  # noqa: BLE001  not JSON-able, a full disk, a lost lease
            mishap = describe(error)
    if mishap is not None:
        with suppress(RunFailed):  # the lease was lost
            store.fail(task.lease, mishap)


def _drop(folder: ExitStack) -> None:
    """Leave a node's ``new_folder`` as an exception would: removed, nothing published."""
    with suppress(_DroppedError), folder:
        raise _DroppedError


def _stop(tasks: dict[Any, _Task]) -> None:
    """Stop what still runs, and remove the folders that it was filling."""
    import ray

    for running in tasks:
        with suppress(ray.exceptions.RayError):
            ray.cancel(running, force=True)
    with suppress(ray.exceptions.RayError):
        if tasks:
            ray.wait(list(tasks), num_returns=len(tasks), timeout=GOODBYE_SECONDS)
    for task in tasks.values():
        _drop(task.folder)


# -- the machines ---------------------------------------------------------------------------------


def _look_at_machines(job: Job) -> None:
    """Ask every machine whether it sees the run folder and would compute the same."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if _room(gpus=False) < 1:
        raise ConfigError(
            "the Ray cluster has no CPU", code="RAY-EMPTY", got=f"{len(ray.nodes())} machines",
            fix="add a machine to it: ray start --address HOST:PORT",
        )  # fmt: skip
    base = getattr(job.recipe, "base", None)
    wanted = facts() if base is None else {**facts(), "base": fingerprint(base)}
    able = [one for one in ray.nodes() if one["Alive"] and one["Resources"].get("CPU")]
    refused: list[dict[str, str]] = []
    with TemporaryDirectory(prefix=f"{PREFIX}{identity()}-", dir=job.out / "nodes") as place:
        asked = {
            machine["NodeID"]: ray.remote(look).options(
                num_cpus=0, max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(
                    machine["NodeID"], soft=False
                ),
            ).remote(Path(place), machine["NodeID"], base, Path.cwd(), wanted)
            for machine in able
        }  # fmt: skip
        for machine, answer in asked.items():
            try:
                found: dict[str, str] | None = ray.get(answer, timeout=LOOK_SECONDS)
            except ray.exceptions.RayError as error:
                raise RunFailed(
                    "a machine of the Ray cluster gave no answer",
                    code="RAY-LOOK",
                    got=str(error).strip().split("\n")[-1][:300],
                    fix="see that peftlab is installed on all of them, then run again",
                ) from error
            if found is None and not _all_seen([Path(place, machine)]):
                found = _unfit("RAY-FOLDER", f"what it writes to {job.out} arrives elsewhere")
            if found is not None:
                refused.append(found)
    if refused:
        raise _refusal(refused)


def _refusal(unfit: Sequence[dict[str, str]]) -> ConfigError:
    """Return the error that tells which machines cannot take part, and why."""
    code = unfit[0]["code"]
    return ConfigError(
        f"{len(unfit)} machine{'s' * (len(unfit) > 1)} of the Ray cluster cannot take part",
        code=code,
        got="\n       ".join(f"{one['machine']}: {one['what']}" for one in unfit[:5]),
        fix=_FIXES[code],
    )


# -- what runs in workers -------------------------------------------------------------------------


@cache
def facts() -> dict[str, str]:
    """Return what a machine's results depend on, by name."""
    root, sha = Path(peftlab.__file__).parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        sha.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    # builds of torch for different devices are called 2.9.0+cpu and 2.9.0+cu128
    found = {name: version.partition("+")[0] for name, version in versions().items()}
    return {**found, "sources of peftlab": sha.hexdigest()[:16]}


def _unfit(code: str, what: str) -> dict[str, str]:
    return {"code": code, "machine": platform.node(), "what": what}


def _all_seen(places: Sequence[Path]) -> bool:
    """Return whether all of ``places`` are there, or come into sight within some seconds."""
    until = time.monotonic() + SEEN_SECONDS
    while not all(place.exists() for place in places):
        if time.monotonic() > until:
            return False
        time.sleep(IDLE_SECONDS)
    return True


def _difference(mine: dict[str, str], wanted: dict[str, str]) -> dict[str, str] | None:
    differing = [name for name in wanted if mine.get(name) != wanted[name]]
    if not differing:
        return None
    told = [f"{name} is {mine.get(name)} and not {wanted[name]}" for name in differing]
    return _unfit("RAY-DIFFERENT", ", ".join(told))


def look(
    place: Path, machine: str, base: str | None, home: Path, wanted: dict[str, str]
) -> dict[str, str] | None:
    """Return why this machine cannot take part, or None; leave a file that says it was here.

    Args:
        place: hidden folder in the run folder.
        machine: name of the file to leave.
        base: clean base of the recipe, if it has one.
        home: the driver's current folder.
        wanted: the driver's own facts.
    """
    _go(home)
    try:
        if not _all_seen([place]):
            return _unfit("RAY-FOLDER", f"it does not see {place.parent.parent}")
        (place / machine).touch()
        mine = facts() if base is None else {**facts(), "base": fingerprint(base)}
    except OSError as error:
        return _unfit("RAY-FOLDER", f"it cannot write {place.parent.parent}: {error.strerror}")
    except PeftlabError as error:
        return _unfit("RAY-DIFFERENT", error.what)
    return _difference(mine, wanted)


def do_node(node: Node, part: Path, job: Job, home: Path, wanted: dict[str, str]) -> dict[str, Any]:
    """Do one node in a worker.

    Args:
        node: as leased by the driver.
        part: the driver's hidden folder for it.
        job: the driver's.
        home: the driver's current folder, which relative paths of the recipe start from.
        wanted: the driver's facts; a machine may have joined after all were looked at.

    Returns:
        ``result``, or ``error`` of the work itself, or ``unfit``: why it cannot be done here.
    """
    _go(home)
    needs = {need: job.folder(need) for need in node.needs}
    unfit = _difference(facts(), wanted)
    if unfit is None and not _all_seen([part, *needs.values()]):
        unfit = _unfit("RAY-FOLDER", f"it does not see {job.out}")
    if unfit is not None:
        return {"unfit": unfit}
    try:
        with full_disk_errors(part):
            result = resolve(job.execute)(node, needs, part, job.recipe, job.data)
            sync_tree(part)
    except Exception as error:  # noqa: BLE001  whatever the work raises is recorded
        return {"error": describe(error)}
    return {"result": result}


def _go(home: Path) -> None:
    with suppress(OSError):  # a recipe without relative paths does not need it
        os.chdir(home)
