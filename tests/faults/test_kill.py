"""kill -9 at any moment: nothing is half-written, nothing is done twice, results are the same."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from peftlab.core.seeds import stream
from peftlab.io.store import Store

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))

from toy_run import completions  # noqa: E402

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kill -9 is a POSIX matter")


def start(out, workers):
    return subprocess.Popen(
        [sys.executable, str(TESTS / "toy_run.py"), str(out), str(workers), "0.005"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def content(out):
    """Return everything that must be equal: node files and results without cost and time."""
    files = {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((out / "nodes").rglob("*"))
        if path.is_file()
    }
    results = json.loads((out / "results.json").read_text())
    results.pop("created")
    for cell in results["cells"]:
        cell.pop("cost")
    return files, json.dumps(results)


@pytest.mark.parametrize("kills", [8, pytest.param(20, marks=pytest.mark.full)])
def test_kills_change_nothing(kills, tmp_path):
    calm = start(tmp_path / "calm", 1)
    assert calm.wait(60) == 0, calm.stderr.read()

    out, rng = tmp_path / "killed", stream(0, "tests/kill")
    landed = 0
    for _ in range(kills):
        process = start(out, int(rng.choice([1, 1, 2])))
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.1))
        landed += process.poll() is None
        if rng.random() < 0.5:
            with suppress(ProcessLookupError):  # it was done already
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()  # workers are left behind and must end by themselves
        process.communicate(timeout=30)
    assert landed >= 0.7 * kills

    last = start(out, 1)
    _, errors = last.communicate(timeout=60)
    assert last.returncode == 0, errors.decode()
    assert content(out) == content(tmp_path / "calm")
    assert set(completions(out).values()) == {1}
    if kills == 20:  # fewer may all miss
        with Store(out / "runs.db") as store:  # some kills did hit work in progress
            assert "planned again" in [what for _, what in store.events()]
    assert completions(out).keys() == completions(tmp_path / "calm").keys()
    assert not list(out.rglob(".*"))


def test_sigterm_leaves_a_run_that_goes_on(tmp_path):
    process = start(tmp_path / "run", 2)
    process.stdout.readline()
    time.sleep(0.6)
    process.terminate()
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in errors
    again = start(tmp_path / "run", 1)
    assert again.wait(60) == 0, again.stderr.read()
    assert set(completions(tmp_path / "run").values()) == {1}
