"""Who owns a lease or a temporary folder: a process identity that survives the reuse of pids.

An identity reads ``domain-pid-start``. ``domain`` stands for host, boot and pid namespace, so that
a run folder on a shared disk is never judged by the process table of another machine.
"""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache
from pathlib import Path


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeError):
        return ""


@cache
def domain() -> str:
    """Return a short hash of (host name, boot, pid namespace)."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    text = "\n".join((platform.node(), _read("/proc/sys/kernel/random/boot_id"), namespace))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _start_time(pid: int) -> str:
    """Return the start time of a process in clock ticks since boot.

    Without ``/proc`` the start time is ``0`` for every live process: reuse of a pid then goes
    unnoticed, which errs on the side of leaving other people's work alone.

    Raises:
        ProcessLookupError: there is no such process.
        OSError: it cannot be known (not our process, too many open files).
    """
    if not Path("/proc/self/stat").exists():
        os.kill(pid, 0)
        return "0"
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        os.kill(pid, 0)  # /proc may hide the processes of other users
        raise PermissionError(pid) from None
    # The command name is in brackets and may itself hold spaces and brackets.
    fields = line.rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):  # a zombie will not write again
        raise ProcessLookupError(pid)
    return fields[19]


def identity(pid: int | None = None) -> str:
    """Return the identity of a live process of this machine (this one by default).

    Raises:
        ProcessLookupError: there is no such process.

    Examples:
        >>> is_alive(identity())
        True
    """
    pid = os.getpid() if pid is None else pid
    if os.name != "posix":  # os.kill(pid, 0) is not a question on Windows
        return f"{domain()}-{pid}-0"
    return f"{domain()}-{pid}-{_start_time(pid)}"


def is_alive(who: str) -> bool | None:
    """Tell whether the process with this identity still runs; None if that cannot be known here.

    It cannot be known for processes of another machine, boot, pid namespace or (without ``/proc``)
    user, for text that is not an identity, and on systems without POSIX processes.
    """
    place, _, rest = who.partition("-")
    pid, _, start = rest.partition("-")
    if os.name != "posix" or place != domain() or not pid.isdecimal() or len(pid) > 9:
        return None
    try:
        return _start_time(int(pid)) == start
    except ProcessLookupError:
        return False
    except OSError:
        return None
