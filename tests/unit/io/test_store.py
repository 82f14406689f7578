"""The run store keeps its promises under any order of claims, losses and late workers."""

import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from peftlab.core.errors import ConfigError, InputRejected, ResourceLimit, RunFailed
from peftlab.io import database, store
from peftlab.io.process import identity
from peftlab.io.store import Node, Store

DIAMOND = [
    Node("a", "base", {"seed": 0}),
    Node("b", "victim", {}, ("a",)),
    Node("c", "guard", {}, ("a",)),
    Node("d", "cell", {}, ("a", "b", "c")),
    Node("e", "base", {}),
    Node("f", "cell", {}, ("e",)),
]
NEEDS = {node.id: node.needs for node in DIAMOND}
ERROR = {"type": "RunFailed", "code": "X", "message": "x", "trace": ""}


def dead_identity():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    who = identity(process.pid)
    process.communicate(b"\n")
    return who


DEAD = dead_identity()


@pytest.fixture
def db(tmp_path):
    with Store(tmp_path / "runs.db") as opened:
        opened.add(DIAMOND)
        yield opened


def states(opened):
    return {row.id: row.state for row in opened.rows()}


class StoreMachine(RuleBasedStateMachine):
    """A model of the store: per node its state, newest token and number of losses."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.db = Store(Path(self.folder.name) / "runs.db", durable=False)
        self.db.add(DIAMOND)
        self.state = dict.fromkeys(NEEDS, "planned")
        self.attempts = dict.fromkeys(NEEDS, 0)
        self.leases, self.stale = [], []

    def teardown(self):
        self.db.close()
        self.folder.cleanup()

    def block(self):
        bad = {"failed", "quarantined", "blocked"}
        for node, needs in NEEDS.items():  # in topological order
            if self.state[node] == "planned" and any(self.state[need] in bad for need in needs):
                self.state[node] = "blocked"

    @rule(dead=st.booleans())
    def claim(self, dead):
        ready = [
            node for node, needs in NEEDS.items()
            if self.state[node] == "planned" and all(self.state[n] == "done" for n in needs)
        ]  # fmt: skip
        lease = self.db.claim(DEAD if dead else identity())
        assert (lease.node.id if lease else None) == (ready[0] if ready else None)
        if lease:
            self.state[lease.node.id] = "leased"
            self.attempts[lease.node.id] += 1
            self.leases.append((lease, dead))

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), works=st.booleans())
    def end(self, data, works):
        lease, _ = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        if works:
            self.db.finish(lease, {"node": lease.node.id})
            self.state[lease.node.id] = "done"
        else:
            self.db.fail(lease, ERROR)
            self.state[lease.node.id] = "failed"
            self.block()
        self.stale.append(lease)

    @precondition(lambda self: self.stale)
    @rule(data=st.data(), what=st.sampled_from(["works", "fails", "lost"]))
    def late_worker_is_refused(self, data, what):
        lease = data.draw(st.sampled_from(self.stale))
        published = []
        with pytest.raises(RunFailed, match="LEASE-LOST"):  # noqa: PT012
            if what == "works":
                self.db.finish(lease, {}, lambda: published.append(1))
            elif what == "fails":
                self.db.fail(lease, ERROR)
            else:
                self.db.lose(lease)
        assert not published

    def lose(self):
        lost = [lease for lease, dead in self.leases if dead]
        self.leases = [(lease, dead) for lease, dead in self.leases if not dead]
        self.stale += lost
        return {lease.node.id for lease in lost}

    def retry_or_give_up(self, node):
        again = self.attempts[node] < store.LOST_LIMIT
        self.state[node] = "planned" if again else "quarantined"
        self.block()

    @rule()
    def reclaim(self):
        lost = self.lose()
        assert set(self.db.reclaim_dead()) == lost
        for node in lost:
            self.retry_or_give_up(node)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def owner_loses_its_worker(self, data):
        lease, _ = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        self.db.lose(lease)
        self.retry_or_give_up(lease.node.id)
        self.stale.append(lease)

    @rule()
    def renew(self):
        self.db.renew()
        again = {n for n, s in self.state.items() if s in ("failed", "blocked", "quarantined")}
        for node in again | self.lose():
            self.state[node], self.attempts[node] = "planned", 0
        self.block()

    @rule()
    def add_again(self):
        self.db.add(DIAMOND)

    @rule()
    def release(self):
        self.db.release(identity())
        for lease, dead in self.leases:
            if not dead:
                self.state[lease.node.id] = "planned"
                self.attempts[lease.node.id] -= 1
                self.stale.append(lease)
        self.leases = [(lease, dead) for lease, dead in self.leases if dead]

    @invariant()
    def agrees(self):
        assert states(self.db) == self.state
        done = [node for node, what in self.db.events() if what == "done"]
        assert len(done) == len(set(done))


StoreMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestStoreMachine = StoreMachine.TestCase


def test_results_and_errors_come_back(db):
    first = db.claim("me")
    assert first.node == DIAMOND[0]
    assert db.working() == [("base", {"seed": 0})]
    db.finish(first, {"x": [1, 2.5, None]})
    rows = {row.id: row for row in db.rows()}
    assert rows["a"].result == {"x": [1, 2.5, None]}
    assert rows["a"].seconds >= 0
    db.fail(db.claim("me"), ERROR)
    rows = {row.id: row for row in db.rows()}
    assert rows["b"].error == ERROR
    assert rows["d"].error["code"] == "RUN-BLOCKED"
    assert db.counts() == {"blocked": 1, "done": 1, "failed": 1, "planned": 3}


def test_a_result_that_is_not_json_keeps_the_lease(db):
    lease = db.claim("me")
    for bad in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises((ValueError, TypeError)):
            db.finish(lease, bad)
    db.finish(lease, {})


def test_a_failed_publication_is_rolled_back(db):
    def publish():
        raise KeyError

    lease = db.claim("me")
    with pytest.raises(KeyError):
        db.finish(lease, {}, publish)
    assert states(db)["a"] == "leased"
    db.finish(lease, {})


def test_a_silent_worker_loses_its_lease(db, monkeypatch):
    lease = db.claim(identity())
    assert db.reclaim_dead() == []
    later = time.time() + 2 * store.HEARTBEAT_LIMIT
    monkeypatch.setattr(time, "time", lambda: later)
    db.heartbeat(identity())
    assert db.reclaim_dead() == []
    later += 2 * store.HEARTBEAT_LIMIT
    assert db.reclaim_dead() == ["a"]
    again = db.claim(identity())
    assert again.token > lease.token


def test_a_new_plan_keeps_what_is_done_and_drops_the_rest(db):
    db.finish(db.claim("me"), {"kept": 1})
    db.add([DIAMOND[4], DIAMOND[0]])
    assert states(db) == {"e": "planned", "a": "done"}
    assert db.claim("me").node.id == "e"
    assert db.claim("me") is None
    with pytest.raises(ValueError, match="before"):
        db.add([DIAMOND[1]])
    assert states(db) == {"e": "leased", "a": "done"}


def test_one_planner_at_a_time(db, tmp_path, monkeypatch):
    db.lock(identity())
    with Store(tmp_path / "runs.db") as other, pytest.raises(ConfigError, match="RUN-BUSY"):
        other.lock(identity())
    db.unlock(identity())
    db.lock(DEAD)
    db.lock("elsewhere-1-1")
    with pytest.raises(ConfigError, match="RUN-BUSY"):
        db.lock(identity())
    later = time.time() + 2 * store.HEARTBEAT_LIMIT
    monkeypatch.setattr(time, "time", lambda: later)
    db.lock(identity())


def test_many_threads_never_share_a_node(tmp_path):
    path, taken = tmp_path / "runs.db", []
    with Store(path, durable=False) as opened:
        opened.add([Node(str(number), "base", {}) for number in range(40)])

    def work(name):
        with Store(path, durable=False) as mine:
            while (lease := mine.claim(name)) is not None:
                taken.append(lease.node.id)
                mine.finish(lease, {})

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken, key=int) == [str(number) for number in range(40)]


def test_facts_and_claims(db):
    assert db.fact("recipe") is None
    db.set_fact("recipe", {"a": 1})
    assert db.fact("recipe") == {"a": 1}
    pid = int(identity().split("-")[1])
    assert not db.has_claimed(pid)
    db.claim(identity())
    assert db.has_claimed(pid)


def test_a_full_disk_is_said_and_loses_nothing(db):
    pages = db._db.execute("PRAGMA page_count").fetchone()[0]
    db._db.execute(f"PRAGMA max_page_count = {pages}")
    lease = db.claim("me")
    with pytest.raises(ResourceLimit, match="DISK-FULL"):
        db.finish(lease, {"text": "x" * 100_000})
    assert states(db)["a"] == "leased"
    db._db.execute(f"PRAGMA max_page_count = {pages + 1000}")
    db.finish(lease, {"text": "x" * 100_000})


def test_damage_is_said(tmp_path):
    path = tmp_path / "runs.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(InputRejected, match="STORE-DAMAGED"):
        Store(path)
    path.unlink()
    with Store(path) as opened:
        opened.add([Node(str(i), "base", {"pad": "x" * 500}) for i in range(200)])
    content = bytearray(path.read_bytes())
    content[4096:-4096] = b"\xff" * (len(content) - 8192)
    path.write_bytes(bytes(content))
    with pytest.raises(InputRejected, match="STORE-DAMAGED"):
        Store(path)


def test_versions(tmp_path, monkeypatch):
    path = tmp_path / "runs.db"
    Store(path).close()

    def add_colour(connection):
        connection.execute("ALTER TABLE nodes ADD COLUMN colour TEXT")

    monkeypatch.setattr(database, "MIGRATIONS", [*database.MIGRATIONS, add_colour])
    Store(path).close()
    Store(path).close()
    with closing(sqlite3.connect(path)) as raw:
        rows = raw.execute("SELECT version, name FROM migrations").fetchall()
    assert rows == [(1, "_tables"), (2, "add_colour")]
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="STORE-VERSION"):
        Store(path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="PATH-WRITE"):
        Store(tmp_path / "none" / "runs.db")
