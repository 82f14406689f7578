"""Runs the gate over hostile artefacts in a process of its own and watches what it does there.

    python hostile_watch.py FOLDER [NAME ...] > results.jsonl

One line of JSON per artefact, first the hostile one and then its harmless twin: the checks, the
traps that were sprung, and every event of the interpreter that a gate has no business with.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import hostile_cases
from hostile_artefacts import CANARY, SECRET, Case, Traps

from peftlab.core.findings import Check
from peftlab.io import gate
from peftlab.io.artefact import Artefact

MEMORY = 2 * 2**30
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# what no step of the gate may do, whatever the arguments
NEVER = (
    "socket.", "os.system", "os.exec", "os.posix_spawn", "os.putenv", "pickle.find_class",
    "ctypes.", "code.__new__", "os.symlink", "os.link", "os.chmod", "os.chown", "os.kill",
)  # fmt: skip
HOME = tuple(map(os.path.realpath, (sys.prefix, sys.base_prefix, Path(gate.__file__).parents[2])))


class Watch:
    """An audit hook that can be paused; it cannot be taken away again."""

    def __init__(self) -> None:
        self.on = False
        self.events: list[str] = []
        self.places: tuple[str, ...] = ()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        self.on = False  # what this hook does is not the gate's doing
        try:
            odd = self._odd(event, arguments)
            if odd:
                self.events.append(f"{event}: {odd}"[:200])
        finally:
            self.on = True

    def _odd(self, event: str, arguments: tuple[Any, ...]) -> str:
        if event.startswith(NEVER):
            return str(arguments)
        if event == "import":
            top = str(arguments[0]).partition(".")[0]
            known = top in sys.stdlib_module_names or top in sys.modules
            return "" if known and top != CANARY else top
        if event == "exec":
            name = arguments[0].co_filename
            return "" if name.startswith(("<frozen", *HOME)) else name
        if event == "subprocess.Popen":
            return "" if arguments[1][0] == sys.executable else str(arguments[1])
        if event in {"open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove"}:
            return self._outside(event, arguments)
        return ""

    def _outside(self, event: str, arguments: tuple[Any, ...]) -> str:
        path = arguments[0]
        if isinstance(path, int) or path is None:
            return ""
        text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        flags = arguments[2] or 0 if event == "open" else WRITES
        writes = bool(flags & WRITES)
        if not writes and "/" not in str(path) and path != ".." and flags & os.O_NOFOLLOW:
            return ""  # relative to a folder that is open, and no link is followed
        if text in {"/dev/null", "/dev/urandom"} or text.startswith(self.places):
            return ""
        reads_home = not writes or event in {"os.listdir", "os.scandir"}
        return "" if reads_home and text.startswith((*HOME, "/proc/self")) else text


def checked(case: Case, reference: str) -> tuple[list[Check], bool]:
    """Return the checks of one artefact, and whether its bytes are still those of the hashes."""
    base, base_checks = None, []
    if case.against:
        base, base_checks = gate.open_artefact(os.environ["HOSTILE_BASE"], offline=True)
        assert base is not None, base_checks
        gate.inspect(base)
    artefact, checks = gate.open_artefact(reference, offline=True)
    if artefact is None:
        return checks, True
    if case.meanwhile:
        case.meanwhile(Path(reference))
    checks = checks + gate.inspect(artefact, against=base)
    held = all(_held(artefact, name) for name in artefact.files)
    artefact.close()
    if base is not None:
        base.close()
    return checks, held


def _held(artefact: Artefact, name: str) -> bool:
    return hashlib.sha256(artefact.read(name)).hexdigest() == artefact.files[name].sha256


def cpu_seconds() -> float:
    """Return the processor time of this process and of the children that have ended."""
    return sum(os.times()[:4])


def peak_mib() -> int:
    """Return the most memory of this process; ``ru_maxrss`` would start at that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def run(case: Case, place: Path, traps: Traps, watch: Watch, *, bad: bool) -> dict[str, Any]:
    """Return what happened with one artefact."""
    place.mkdir(parents=True)
    reference = case.make(place, traps, bad)
    before = set(place.rglob("*"))
    trusted = os.environ["HOSTILE_BASE"]
    watch.events, watch.places = [], (str(place), os.environ["TMPDIR"], trusted)
    start, checks, error, held = cpu_seconds(), [], "", True
    watch.on = True
    try:
        checks, held = checked(case, str(reference))
    except Exception:  # noqa: BLE001 - the test says which artefact broke the gate
        watch.on = False
        error = traceback.format_exc(limit=-4)
    watch.on = False
    return {
        "name": case.name,
        "bad": bad,
        "seconds": round(cpu_seconds() - start, 3),
        "mib": peak_mib(),
        "error": error,
        "held": held,
        "sprung": traps.sprung(),
        "events": watch.events,
        "new": [] if case.meanwhile else [str(x) for x in set(place.rglob("*")) - before],
        "left": os.listdir(os.environ["TMPDIR"]),  # noqa: PTH208
        "checks": [check.to_json() for check in checks],
    }


def main() -> None:
    """Run the cases that are named, or all."""
    folder, *names = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    root = Path(folder)
    os.environ["TMPDIR"] = str(root / "tmp")
    os.environ["PEFTLAB_CANARY_SECRET"] = SECRET
    os.environ["HOSTILE_BASE"] = str(hostile_cases.make_base(root / "base"))
    (root / "tmp").mkdir()
    sys.path.append(str(root / "modules"))  # the attacker's module can be imported by name
    with Traps(root) as traps:
        watch = Watch()
        warm = {"GATE-WARM": hostile_cases.CASES[0], "GATE-WARM-ZIP": hostile_cases.ZIPS[0]}
        for name, case in warm.items():  # lazy imports of ours are none of an artefact's doing
            run(case, root / name, traps, watch, bad=False)
        for case in hostile_cases.CASES:
            if not names or case.name in names:
                for bad in (True, False) if case.twin else (True,):
                    traps.reset()
                    place = root / f"{case.name}-{'bad' if bad else 'twin'}"
                    print(json.dumps(run(case, place, traps, watch, bad=bad)), flush=True)


if __name__ == "__main__":
    main()
