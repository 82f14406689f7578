"""Ray does the same as one process here; lost machines and killed drivers change nothing.

What needs ray is skipped where it is not installed, and the summary of the tests says so: it takes
250 MB, too much to ask of everybody. ``pip install -c constraints.txt -e '.[ray]'`` brings it.
"""

import json
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))

from peftlab.core.errors import BackendMissing, ConfigError, PeftlabError, RunFailed  # noqa: E402
from peftlab.engine import on_ray  # noqa: E402
from peftlab.engine.plan import plan  # noqa: E402
from peftlab.engine.run import run  # noqa: E402
from peftlab.io.store import Store  # noqa: E402
from toy_run import completions, toy_recipe  # noqa: E402

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None,
    reason="ray is not installed: pip install -c constraints.txt -e '.[ray]'",
)
MEMORY = 80 * 2**20  # the least that Ray takes for its object store
SMALL = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}


def content(out):
    """Return all that must be equal: node files, and results without cost and time."""
    files = {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted((out / "nodes").rglob("*"))
        if path.is_file()
    }
    results = json.loads((out / "results.json").read_text())
    results.pop("created")
    for cell in results["cells"]:
        cell.pop("cost")
    return files, json.dumps(results)


def go(out, address, data=None, recipe=None, **options):
    recipe = recipe or toy_recipe()
    nodes = plan(recipe, "data", "base")
    run(recipe, nodes, data or {}, out, execute="toy_run:execute", ray=address, **options)


def events(out):
    with Store(out / "runs.db") as store:
        return [what for _, what in store.events()]


@needs_ray
def test_no_cluster_is_a_clear_error(tmp_path):
    for address in ("ray://127.0.0.1:1", "nonsense", "127.0.0.1:1", "127.0.0.1:99999"):
        with pytest.raises(ConfigError) as caught:
            go(tmp_path / "run", address)
        assert caught.value.code == "RAY-ADDRESS"


@pytest.fixture(scope="module")
def machines():
    """Return a cluster of one machine; tests add others."""
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(TESTS))  # workers must find toy_run
    patch.setenv("OMP_NUM_THREADS", "1")
    patch.setenv("RAY_AUTH_MODE", "disabled")  # a new machine must not ask for the user's token
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # conftest takes this machine's own address for the network
    patch.setattr(on_ray, "_answers", lambda _: True)
    made = Cluster(initialize_head=True, head_node_args=SMALL)
    yield made
    made.shutdown()
    patch.undo()


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    out = tmp_path_factory.mktemp("calm") / "run"
    go(out, None)
    return out


@needs_ray
def test_a_lost_machine_changes_nothing(machines, calm, tmp_path):
    second = machines.add_node(**SMALL)
    out, seen = tmp_path / "run", []

    def watch(settled, total, working):
        seen.append((settled, total))
        if settled >= 10 and working.count(";") == 1 and second in machines.worker_nodes:
            machines.remove_node(second, allow_graceful=False)

    go(out, machines.address, {"sleep": 0.2}, progress=watch)
    assert content(out) == content(calm)
    assert events(out).count("lost") >= 1
    assert set(completions(out).values()) == {1}
    assert seen == sorted(seen)
    assert seen[-1] == (50, 50)
    assert not list(out.rglob(".*"))


@needs_ray
def test_a_killed_driver_changes_nothing(machines, calm, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, TESTS / "toy_run.py", out, "1", "0.1", machines.address]
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        before = finished(out)
        until = time.monotonic() + 60
        while finished(out) < before + 5:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert (b"KeyboardInterrupt" in errors) == (number == signal.SIGTERM)
        if number == signal.SIGTERM:
            with Store(out / "runs.db") as store:
                assert "leased" not in store.counts()
    assert finished(out) < 50
    go(out, None)  # any kind of run goes on
    assert content(out) == content(calm)
    assert set(completions(out).values()) == {1}
    assert not list(out.rglob(".*"))


def finished(out):
    nodes = out / "nodes"
    return sum(not path.name.startswith(".") for path in nodes.iterdir()) if nodes.is_dir() else 0


@needs_ray
def test_a_node_that_kills_its_workers_is_given_up(machines, tmp_path):
    recipe = toy_recipe(seeds=[0], attack="badnets", control=False)
    trouble = {"kind": "guard", "what": "die", "flag": str(tmp_path / "flag")}
    with pytest.raises(RunFailed, match="RUN-NODES"):
        go(tmp_path / "run", machines.address, trouble, recipe)
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [row["state"] for row in found["failures"]] == ["quarantined", "blocked", "blocked"]
    assert [cell["defence"] for cell in found["cells"]] == ["none"]


@needs_ray
@pytest.mark.parametrize(
    ("what", "code"), [("raise", "TOY-FAIL"), ("nan", "RUN-ERROR"), ("full", "DISK-FULL")]
)
def test_errors_of_the_work_are_those_of_a_run_without_ray(machines, tmp_path, what, code):
    recipe = toy_recipe(seeds=[0], attack="badnets", control=False)
    kind = "cell" if what == "nan" else "guard"
    with pytest.raises(PeftlabError):
        go(
            tmp_path / "run", machines.address,
            {"kind": kind, "what": what, "flag": str(tmp_path / "flag")}, recipe,
        )  # fmt: skip
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {row["code"] for row in found["failures"] if row["state"] == "failed"} == {code}
    assert not list((tmp_path / "run").rglob(".*"))


@needs_ray
def test_a_local_cluster_comes_and_goes(calm, tmp_path):
    command = [sys.executable, TESTS / "toy_run.py", tmp_path / "run", "2", "0", "local"]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert content(tmp_path / "run") == content(calm)
    assert not done.stderr


# -- what a machine says of itself, without a cluster --


def test_without_ray_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendMissing) as caught:
        go(tmp_path / "run", "local")
    assert caught.value.code == "RAY-MISSING"
    assert not (tmp_path / "run").exists()


def test_a_machine_that_sees_another_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "SEEN_SECONDS", 0.1)
    found = on_ray.look(tmp_path / "nodes" / "gone", "m", None, tmp_path, on_ray.facts())
    assert found["code"] == "RAY-FOLDER"
    assert str(tmp_path) in found["what"]
    error = on_ray._refusal([found, found])
    assert error.code == "RAY-FOLDER"
    assert "2 machines" in str(error)


def test_a_machine_that_would_compute_otherwise_is_refused(tmp_path):
    mine = on_ray.facts()
    assert on_ray.look(tmp_path, "m", "builtin:encoder", tmp_path, mine) is None
    assert (tmp_path / "m").exists()
    found = on_ray.look(tmp_path, "m", None, tmp_path, {**mine, "torch": "0.1"})
    assert found["code"] == "RAY-DIFFERENT"
    assert "torch" in found["what"]
    found = on_ray.look(tmp_path, "m", "no-such-folder/x/y", tmp_path, mine)
    assert found["code"] == "RAY-DIFFERENT"
    found = on_ray.look(tmp_path, "m", "builtin:encoder", tmp_path, {**mine, "base": "0"})
    assert "base" in found["what"]
