"""A cage for work on bytes from outside: a child with limits, without network, that always ends.

The child is this Python, started afresh with an almost empty environment in an empty folder. It is
no virtual machine: it may read what its user may read. Source: ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from peftlab.core.errors import BackendMissing

CHILD = Path(__file__).with_name("cage_child.py")
MOST_OUTPUT = 2**20  # bytes of stdout and of stderr that are kept
GRACE_SECONDS = 5.0  # for the warden to clean up, on top of the wall time
OUT_OF_MEMORY = (b"MemoryError", b"Cannot allocate memory", b"can't allocate memory")
ENVIRONMENT = {
    "PATH": os.defpath,
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # where this machine's own libraries stand


@dataclass(frozen=True, slots=True)
class Caged:
    """How a caged program ended.

    Attributes:
        returncode: its exit status; negative for a signal.
        stdout: at most the first MiB.
        stderr: at most the first MiB.
        killed: ``wall time``, ``cpu time``, ``memory`` or empty.
        isolated: the network and the other processes were out of reach (namespaces), not only
            refused by a guard in the child.
        cpu_seconds: of the program, without what it started.
        peak_bytes: largest resident size.
    """

    returncode: int
    stdout: bytes
    stderr: bytes
    killed: str = ""
    isolated: bool = False
    cpu_seconds: float = 0.0
    peak_bytes: int = 0


def has_cage() -> bool:
    """Return whether this system has limits for processes."""
    return os.name == "posix"


def run_caged(
    arguments: Sequence[str],
    *,
    cpu_seconds: int,
    wall_seconds: float,
    memory_bytes: int,
    file_bytes: int,
    stdin: bytes = b"",
    pass_fds: Sequence[int] = (),
    folder: Path | None = None,
) -> Caged:
    """Run a Python program in a cage, and everything it started is gone when this returns.

    Args:
        arguments: ``["-m", "some.module", ...]`` or ``["script.py", ...]``.
        cpu_seconds: of each process in the cage.
        wall_seconds: until all of them are killed.
        memory_bytes: that each process can fill; mapped files are not counted.
        file_bytes: largest file that it can write; also of stdout and stderr.
        stdin: what it reads.
        pass_fds: open files that it may use, under the same numbers.
        folder: where it runs; without one in an empty folder that is removed afterwards.

    Raises:
        BackendMissing: ``CAGE-SYSTEM`` where a process cannot be limited (Windows).

    Examples:
        >>> limits = dict(cpu_seconds=5, wall_seconds=10, memory_bytes=2**28, file_bytes=2**16)
        >>> run_caged(["-m", "json.tool"], stdin=b"[1]", **limits).stdout.split()
        [b'[', b'1', b']']
    """
    if not has_cage():
        raise BackendMissing(
            "this system has no limits for processes",
            code="CAGE-SYSTEM",
            got=sys.platform,
            allowed="Linux or macOS",
            fix="work on it in a container or on Linux",
        )
    plan = {
        "cpu_seconds": cpu_seconds,
        "wall_seconds": wall_seconds,
        "memory_bytes": memory_bytes,
        "file_bytes": file_bytes,
    }
    with contextlib.ExitStack() as held:
        place = folder or Path(held.enter_context(tempfile.TemporaryDirectory(prefix="peftlab-")))
        files = [held.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write(stdin)
        files[0].seek(0)
        ended = _run(plan, arguments, files, place, tuple(pass_fds), wall_seconds)
        out, err = (_start_of(file) for file in files[1:])
    return Caged(
        ended["returncode"], out, err, _cause(ended, cpu_seconds, err),
        ended["isolated"], ended["cpu_seconds"], ended["peak_bytes"],
    )  # fmt: skip


def _run(
    plan: dict[str, Any],
    arguments: Sequence[str],
    files: Sequence[IO[bytes]],
    place: Path,
    pass_fds: tuple[int, ...],
    wall_seconds: float,
) -> dict[str, Any]:
    """Start the child, wait, and return what its warden reports."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    reading, writing = os.pipe()
    command = [sys.executable, "-I", "-B", str(CHILD), json.dumps({**plan, "report": writing})]
    try:
        process = subprocess.Popen(  # noqa: S603  our own interpreter and our own script
            [*command, *arguments], stdin=files[0], stdout=files[1], stderr=files[2], cwd=place,
            env={**ENVIRONMENT, **kept, "HOME": str(place), "TMPDIR": str(place)},
            pass_fds=(*pass_fds, writing), start_new_session=True, umask=0o077,
        )  # fmt: skip
        try:
            process.wait(wall_seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass  # the warden itself hangs or was stopped
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        os.set_blocking(reading, False)
        report = _read(reading)
    finally:
        os.close(writing)
        os.close(reading)
    lost = {"returncode": -9, "late": True, "cpu_seconds": 0.0, "peak_bytes": 0, "isolated": False}
    return json.loads(report) if report else lost


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except BlockingIOError:
        return b""


def _start_of(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(MOST_OUTPUT)


def _cause(ended: dict[str, Any], cpu_seconds: int, err: bytes) -> str:
    """Say which limit ended the program, if one did."""
    if ended["late"]:
        return "wall time"
    if ended["returncode"] == -signal.SIGXCPU:
        return "cpu time"
    if ended["returncode"] == -signal.SIGKILL:  # by the hard limit, or by a system out of memory
        return "cpu time" if ended["cpu_seconds"] > 0.5 * cpu_seconds else "memory"
    if ended["returncode"] and any(words in err for words in OUT_OF_MEMORY):
        return "memory"
    return ""
