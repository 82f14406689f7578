"""All audits of one artefact, in threads: one that fails never takes the others down."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from peftlab.core.contracts import Audit, AuditContext
from peftlab.core.errors import NotApplicable, PeftlabError, ResourceLimit, RunFailed
from peftlab.core.findings import Check, status_of
from peftlab.engine.audit.plain import plain
from peftlab.engine.audit.verdict import Failure

Say = Callable[[str], None]


class Job(NamedTuple):
    """One audit, ready to run."""

    name: str
    title: str
    audit: Audit


class Outcome(NamedTuple):
    """What became of a job."""

    check: Check
    failure: Failure | None = None


class _Stopped(BaseException):
    """Raised inside an audit, where it next says how far it is, once nobody waits for it."""


def one_at_a_time(progress: Callable[[str], None] | None) -> Say:
    """Return a function that tells ``progress``, from one thread at a time."""
    lock = threading.Lock()

    def say(text: str) -> None:
        if progress is not None:
            with lock:
                progress(text)

    return say


def run_jobs(jobs: Sequence[Job], context: AuditContext, workers: int) -> list[Outcome]:
    """Run all jobs and return their outcomes in the order of the jobs.

    The threads are daemons, so that Ctrl-C ends the program although an audit is in the middle of a
    long call; an audit that talks ends there.
    """
    waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Outcome]] = queue.SimpleQueue()
    stop = threading.Event()

    def work() -> None:
        with suppress(_Stopped):
            while (number := waiting.get()) is not None:
                done.put((number, _run(jobs[number], context, stop)))

    for item in (*range(len(jobs)), *[None] * workers):
        waiting.put(item)
    for _ in range(workers):
        threading.Thread(target=work, daemon=True, name="peftlab-audit").start()
    outcomes: dict[int, Outcome] = {}
    try:
        while len(outcomes) < len(jobs):
            number, outcome = done.get()
            outcomes[number] = outcome
            context.progress(_line(outcome.check))
    finally:
        stop.set()
    return [outcomes[number] for number in range(len(jobs))]


def _line(check: Check) -> str:
    many = f"{len(check.findings)} {{}}{'' if len(check.findings) == 1 else 's'}"
    words = {
        "passed": many.format("remark") if check.findings else "nothing found",
        "found": many.format("finding"),
    }
    said = words.get(check.status, f"{check.status}: {check.reason}")
    return f"{check.name}: {said} ({check.seconds:.1f} s)"


def _run(job: Job, context: AuditContext, stop: threading.Event) -> Outcome:
    def progress(text: str) -> None:
        if stop.is_set():
            raise _Stopped
        context.progress(f"{job.name}: {text}")

    own = replace(context, progress=progress)
    start = time.perf_counter()
    try:
        outcome = Outcome(_looked(job, own))
    except NotApplicable as error:
        outcome = Outcome(Check(job.name, job.title, "not applicable", error.what))
    except _Stopped:
        raise
    except BaseException as error:  # noqa: BLE001  the others go on, even after sys.exit in a plugin
        known = _known(job, error)
        reason = f"{known.what} [{known.code}]"
        outcome = Outcome(
            Check(job.name, job.title, "not checked", reason),
            Failure(job.name, known.code, known.what, known.exit_code),
        )
    return outcome._replace(check=outcome.check.took(time.perf_counter() - start))


def _looked(job: Job, context: AuditContext) -> Check:
    reason = job.audit.why_not(context)
    if reason:
        return Check(job.name, job.title, "not applicable", reason)
    found = job.audit.run(context)
    check = Check(
        job.name, job.title, status_of(found.findings), "", found.findings, found.facts,
        found.tables, found.charts, found.not_checked,
    )  # fmt: skip
    plain(check.to_json())  # what cannot be written down fails here, with its name
    return check


def _known(job: Job, error: BaseException) -> PeftlabError:
    """Return what went wrong as an error with a code."""
    if isinstance(error, PeftlabError):
        return error
    if isinstance(error, MemoryError):
        return ResourceLimit(
            f"the audit {job.name} ran out of memory", code="AUDIT-MEMORY",
            fix="run it where there is more, or with a smaller bank",
        )  # fmt: skip
    text = str(error).split("\n", maxsplit=1)[0][:200]
    return RunFailed(
        f"the audit {job.name} failed: {type(error).__name__}: {text}", code="AUDIT-CRASH",
        fix="report it with the output of `peftlab doctor --json`",
    )  # fmt: skip
