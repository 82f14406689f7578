"""A toy executor for tests of the engine, and a script that runs it in a process to be killed."""

import errno
import hashlib
import os
import signal
import sys
import time
from pathlib import Path

from peftlab.core.errors import RunFailed
from peftlab.engine.plan import plan
from peftlab.engine.recipe import make_recipe
from peftlab.engine.run import run
from peftlab.io.store import Store


def toy_recipe(**changes):
    values = {
        "name": "toy",
        "attack": [{"name": "badnets"}, {"name": "insent"}],
        "tuner": [{"name": "lora"}],
        "defence": [{"name": "none"}, {"name": "psim"}],
        "seeds": [0, 1],
    }
    return make_recipe({**values, **changes})


def execute(node, needs, folder, recipe, data):
    """Write content that depends on the node and on the content of all that it needs."""
    time.sleep(data.get("sleep", 0))
    sha = hashlib.sha256(node.id.encode())
    for need in node.needs:
        sha.update((needs[need] / "value.txt").read_bytes())
    (folder / "value.txt").write_text(sha.hexdigest())
    misbehave(node, data)
    value = float("nan") if data.get("what") == "nan" else int(sha.hexdigest()[:8], 16)
    return {"metrics": {"value": value}, "cost": {"at": time.time()}}


def misbehave(node, data):
    """Fail in the way that ``data`` asks for, on one kind of node."""
    if node.kind != data.get("kind"):
        return
    what, flag = data["what"], Path(data["flag"])
    if what == "raise":
        raise RunFailed("toy failure", code="TOY-FAIL")
    if what == "full" and not flag.exists():
        raise OSError(errno.ENOSPC, "No space left on device")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "die once" and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "interrupt" and not flag.exists():
        flag.touch()
        raise KeyboardInterrupt


def completions(out):
    """Return how often each node was finished, by the event log."""
    with Store(out / "runs.db") as store:
        done = [node for node, what in store.events() if what == "done"]
    return {node: done.count(node) for node in done}


def main(out, workers, sleep, ray=None):
    recipe = toy_recipe()
    nodes = plan(recipe, "data", "base")
    print("ready", flush=True)
    data = {"sleep": sleep}
    run(recipe, nodes, data, out, workers=workers, execute="toy_run:execute", ray=ray)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])
