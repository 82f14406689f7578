"""First code of a caged child: no network, limits, then the program; standard library only.

Three processes, because a cage has to outlive what it holds::

    outer    leaves the network and the table of processes (user, net and pid namespaces)
    warden   first process of the new table: waits, counts the wall time, kills what is left over
    worker   sets its own limits, then runs the program

Where namespaces are not allowed, a guard in the worker refuses sockets (enough for a program that
is not hostile Python), and the warden adopts and kills orphans by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

NEW_USER, NEW_PROCESSES, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000  # linux/sched.h
DIE_WITH_PARENT, ADOPT_ORPHANS = 1, 36  # linux/prctl.h
OPEN_FILES = 256
LIBRARIES = 12 * 2**30  # address space of mapped files: torch for GPUs comes with 5 GB of code
HARMLESS = frozenset({"socket.gethostname"})


def _libc(function: str, *arguments: int) -> bool:
    """Call a function that answers 0 when it worked; without it (not Linux) it did not."""
    try:
        return int(getattr(ctypes.CDLL(None), function)(*arguments)) == 0
    except (OSError, AttributeError):
        return False


def _isolate() -> bool:
    """Leave the network and the process table behind; return whether that worked."""
    user, group = os.getuid(), os.getgid()
    if not _libc("unshare", NEW_USER | NEW_NETWORK | NEW_PROCESSES):
        return _libc("unshare", NEW_NETWORK | NEW_PROCESSES)  # in a container, as its root
    maps = (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    )
    for name, text in maps:
        with contextlib.suppress(OSError):
            Path("/proc/self", name).write_text(text, encoding="ascii")
    return True


def _refuse_sockets(event: str, _: tuple[Any, ...]) -> None:
    if event.startswith("socket.") and event not in HARMLESS:
        raise PermissionError(f"no network in the cage: {event}")


def _children() -> list[int]:
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(word) for word in text.split()]


def _kill_left_over() -> None:
    """Kill and reap descendants until there are none; those of the killed are adopted meanwhile."""
    while left := _children():
        for process in left:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        for process in left:
            with contextlib.suppress(OSError):
                os.waitpid(process, 0)


def _work(plan: dict[str, Any], arguments: list[str]) -> None:
    _libc("prctl", DIE_WITH_PARENT, signal.SIGKILL)
    for name, wanted in (
        ("RLIMIT_DATA", plan["memory_bytes"]),
        ("RLIMIT_AS", plan["memory_bytes"] + LIBRARIES),
        ("RLIMIT_CPU", plan["cpu_seconds"]),
        ("RLIMIT_FSIZE", plan["file_bytes"]),
        ("RLIMIT_NOFILE", OPEN_FILES),
        ("RLIMIT_CORE", 0),
    ):
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]  # of our own parent; it cannot be raised
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        later = limit + 1 if name == "RLIMIT_CPU" and limit != hard else limit
        resource.setrlimit(which, (limit, later))  # SIGXCPU says why; who ignores it is killed
    sys.addaudithook(_refuse_sockets)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def _watch(worker: int, wall_seconds: float) -> dict[str, Any]:
    """Wait for the worker, kill it when its time is over, and say how it ended."""
    deadline, late = time.monotonic() + wall_seconds, False
    while True:
        process, status, used = os.wait4(worker, os.WNOHANG)
        if process:
            break
        if not late and time.monotonic() > deadline:
            late = True
            os.kill(worker, signal.SIGKILL)
        time.sleep(0.005)
    return {
        "returncode": os.waitstatus_to_exitcode(status),
        "late": late,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }


def _keep(plan: dict[str, Any], arguments: list[str], *, isolated: bool) -> NoReturn:
    """Be the warden."""
    _libc("prctl", DIE_WITH_PARENT, signal.SIGKILL)
    _libc("prctl", ADOPT_ORPHANS, 1)
    worker = os.fork()
    if not worker:
        os.close(plan["report"])
        _work(plan, arguments)
        sys.exit(0)
    ended = _watch(worker, plan["wall_seconds"])
    _kill_left_over()
    os.write(plan["report"], json.dumps({**ended, "isolated": isolated}).encode())
    os._exit(0)


def main() -> None:
    """Run ``-m MODULE ARGUMENTS`` or ``SCRIPT ARGUMENTS`` under the plan in the first argument."""
    _libc("prctl", DIE_WITH_PARENT, signal.SIGKILL)
    plan, arguments = json.loads(sys.argv[1]), sys.argv[2:]
    isolated = _isolate()
    warden = os.fork()
    if not warden:
        _keep(plan, arguments, isolated=isolated)
    os.close(plan["report"])
    os.waitpid(warden, 0)


if __name__ == "__main__":
    main()
