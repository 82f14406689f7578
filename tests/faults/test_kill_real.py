"""kill -9 during real training, fitting and scoring: the resumed run is the undisturbed one."""

import multiprocessing
import os
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from cli_tools import write_task
from peftlab.core.seeds import stream
from peftlab.io.store import Store
from tiny_models import make_tiny
from toy_run import completions

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kill -9 is a POSIX matter")


TESTS = str(Path(__file__).parents[1])


@pytest.fixture(scope="module")
def server():
    """Return a context whose processes start with torch and transformers already loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["real_run"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", TESTS, prepend=os.pathsep)
        yield context


@pytest.fixture(scope="module", params=["tiny", "encoder"])
def start(request, server, tmp_path_factory):
    """Return what starts a run: on a tiny base, and in the full proof on the built-in one."""
    place = tmp_path_factory.mktemp("start")
    data = write_task(place / "data", train=120, dev=60, test=40)
    tiny = request.param == "tiny"
    base = make_tiny("bert", place / "base") if tiny else "builtin:encoder"

    def begin(out, workers=1):
        from real_run import go

        process = server.Process(target=go, args=(str(out), str(base), str(data), workers))
        process.start()
        return process

    return begin


@pytest.fixture(scope="module")
def calm(start, tmp_path_factory):
    """An undisturbed run: its folder, and the seconds that the work took."""
    out = tmp_path_factory.mktemp("calm") / "run"
    process = start(out)
    while not (out / "runs.db").exists():
        assert process.is_alive()
        time.sleep(0.01)
    began = time.monotonic()
    process.join(300)
    assert process.exitcode == 0
    return out, time.monotonic() - began


def kill_and_go_on(start, calm, out, kills, workers=(1,)):
    from real_run import content

    before, seconds = calm
    rng = stream(kills, "tests/kill-real")
    landed = 0
    for _ in range(kills):
        process = start(out, int(rng.choice(workers)))
        deadline = time.monotonic() + 60
        while not (out / "runs.db").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.join(rng.uniform(0.2, 1) * max(2 * seconds / kills, 0.3))
        landed += process.is_alive()
        process.kill()
        process.join()
    last = start(out)
    last.join(300)
    assert last.exitcode == 0
    assert content(out) == content(before)
    assert set(completions(out).values()) == {1}
    assert completions(out).keys() == completions(before).keys()
    assert not list(out.rglob(".peftlab-part-*"))
    with Store(out / "runs.db") as store:
        again = [what for _, what in store.events()].count("planned again")
    return landed, again


@pytest.mark.full
def test_a_few_kills_change_nothing(start, calm, tmp_path):
    landed, again = kill_and_go_on(start, calm, tmp_path / "run", 3)
    assert landed >= 1
    assert again >= 1, "no kill hit work in progress"


@pytest.mark.full
def test_twenty_kills_change_nothing(start, calm, tmp_path):
    landed, again = kill_and_go_on(start, calm, tmp_path / "run", 20, workers=(1, 1, 1, 2))
    assert landed >= 10
    assert again >= 5


@pytest.mark.full
def test_the_number_of_workers_changes_nothing(start, calm, tmp_path):
    from real_run import content

    process = start(tmp_path / "run", 2)
    process.join(300)
    assert process.exitcode == 0
    assert content(tmp_path / "run") == content(calm[0])
