"""The run store: which nodes of a run are planned, leased, done or failed, in one SQLite file.

    planned --claim--> leased --finish--> done
       ^                 |------fail----> failed          (its dependants: blocked)
       '-- owner lost ---'---- lost twice -> quarantined  (its dependants: blocked)

Each claim hands out a fencing token; a worker that lost its lease cannot finish the node any more.
Transitions are durable (WAL, synchronous=FULL); every one is written to the event log as well.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from peftlab.core.errors import ConfigError, RunFailed
from peftlab.io.database import Database
from peftlab.io.process import domain, is_alive
from peftlab.io.strict_json import dump_json

HEARTBEAT_LIMIT = 60.0  # ours: twelve missed beats of five seconds
LOST_LIMIT = 2  # ours: one retry after a lost worker, then quarantine


@dataclass(frozen=True, slots=True)
class Node:
    """One piece of work.

    Attributes:
        id: content address, 64 hex digits.
        kind: base, victim, guard or cell.
        key: all that its result depends on, JSON-able.
        needs: ids of the nodes whose folders it reads.
    """

    id: str
    kind: str
    key: dict[str, Any]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to finish one node.

    Attributes:
        node: the work.
        token: grows with every claim of that node; only the newest one may finish it.
    """

    node: Node
    token: int


@dataclass(frozen=True, slots=True)
class Row:
    """What the store knows of one node.

    Attributes:
        id, kind, key: as planned.
        state: planned, leased, done, failed, blocked or quarantined.
        result: what the work returned, when done.
        error: type, code, message and trace, when failed, blocked or quarantined.
        seconds: how long the successful attempt took.
    """

    id: str
    kind: str
    key: dict[str, Any]
    state: str
    result: dict[str, Any] | None
    error: dict[str, str] | None
    seconds: float | None


class Store(Database):
    """One connection to ``runs.db``; constructed as its base, see ``io.database.Database``.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with Store(Path(tempfile.mkdtemp()) / "runs.db") as store:
        ...     store.add([Node("a", "base", {}), Node("b", "cell", {}, ("a",))])
        ...     lease = store.claim("me")
        ...     store.finish(lease, {"loss": 0.5})
        ...     store.counts()
        {'done': 1, 'planned': 1}
    """

    def _log(self, node: str, what: str, owner: str | None = None) -> None:
        self._db.execute(
            "INSERT INTO events (at, node, what, owner) VALUES (?, ?, ?, ?)",
            (time.time(), node, what, owner),
        )

    # -- the run as a whole -------------------------------------------------------------------

    def lock(self, owner: str) -> None:
        """Become the one planner of this store; a dead planner's lock is taken over.

        Raises:
            ConfigError: ``RUN-BUSY``.
        """
        with self._transaction():
            row = self._db.execute("SELECT owner, heartbeat FROM planner").fetchone()
            if row is not None:
                alive = is_alive(row[0])
                if alive or (alive is None and time.time() - row[1] < HEARTBEAT_LIMIT):
                    raise ConfigError(
                        f"another process works on {self._path.parent}",
                        code="RUN-BUSY",
                        got=f"process {row[0].split('-')[1] if '-' in row[0] else row[0]}",
                        fix="wait for it, end it, or choose another --out",
                    )
            self._db.execute("REPLACE INTO planner VALUES (1, ?, ?)", (owner, time.time()))

    def unlock(self, owner: str) -> None:
        """Give up the planner's lock, if it is held by ``owner``."""
        with self._transaction():
            self._db.execute("DELETE FROM planner WHERE owner = ?", (owner,))

    def fact(self, name: str) -> Any:
        """Return a stored fact of the run, or None."""
        with self._reading():
            row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def set_fact(self, name: str, value: object) -> None:
        """Store a JSON-able fact of the run, such as its recipe."""
        with self._transaction():
            self._db.execute("REPLACE INTO facts VALUES (?, ?)", (name, dump_json(value)))

    def add(self, nodes: Sequence[Node]) -> None:
        """Make ``nodes`` the plan, in this order; known ones keep their state and result.

        Nodes of an earlier plan that are not in this one stay on record but are not worked on.

        Raises:
            ValueError: a node needs one that is not earlier in the list.
        """
        seen: set[str] = set()
        with self._transaction():
            self._db.execute("UPDATE nodes SET position = NULL")
            for position, node in enumerate(nodes):
                if not seen.issuperset(node.needs):
                    raise ValueError(f"node {node.id} comes before what it needs")
                seen.add(node.id)
                self._db.execute(
                    "INSERT INTO nodes (id, position, kind, key, needs) VALUES (?, ?, ?, ?, ?)"
                    " ON CONFLICT (id) DO UPDATE SET position = excluded.position",
                    (node.id, position, node.kind, dump_json(node.key), dump_json(node.needs)),
                )

    def renew(self) -> None:
        """Plan again what failed, was blocked, or was leased to a process that is gone.

        Called once when a run is started again: an interruption is not held against a node.
        """
        with self._transaction():
            gone = [node for node, _, _ in self._dead_leases()]
            again = self._ids("state IN ('failed', 'blocked', 'quarantined')")
            for node in gone + again:
                self._plan_again(node)
                self._db.execute("UPDATE nodes SET attempts = 0 WHERE id = ?", (node,))

    def forget(self, node: str) -> None:
        """Plan a done node again, because its folder is gone."""
        with self._transaction():
            self._plan_again(node)

    def _plan_again(self, node: str) -> None:
        self._db.execute(
            "UPDATE nodes SET state = 'planned', owner = NULL, heartbeat = NULL, result = NULL,"
            " error = NULL WHERE id = ?",
            (node,),
        )
        self._log(node, "planned again")

    # -- one node -----------------------------------------------------------------------------

    def claim(self, owner: str) -> Lease | None:
        """Lease the first planned node whose needs are all done; None if there is none now."""
        with self._reading():
            if self._ready() is None:  # most polls end here, without a lock
                return None
        with self._transaction():
            node = self._ready()
            if node is None:
                return None
            now = time.time()
            row = self._db.execute(
                "UPDATE nodes SET state = 'leased', owner = ?, token = token + 1, heartbeat = ?,"
                " attempts = attempts + 1, started = ? WHERE id = ?"
                " RETURNING token, kind, key, needs",
                (owner, now, now, node),
            ).fetchone()
            self._log(node, "leased", owner)
            kind, key, needs = row[1], json.loads(row[2]), tuple(json.loads(row[3]))
            return Lease(Node(node, kind, key, needs), row[0])

    def _ready(self) -> str | None:
        row = self._db.execute(
            "SELECT id FROM nodes AS n WHERE state = 'planned' AND position IS NOT NULL"
            " AND NOT EXISTS (SELECT 1 FROM json_each(n.needs) AS need"
            "   JOIN nodes AS m ON m.id = need.value WHERE m.state != 'done')"
            " ORDER BY position LIMIT 1"
        ).fetchone()
        return None if row is None else row[0]

    def heartbeat(self, owner: str) -> None:
        """Say that ``owner`` still works, as planner and on its leases."""
        now = time.time()
        with self._transaction():
            self._db.execute("UPDATE planner SET heartbeat = ? WHERE owner = ?", (now, owner))
            self._db.execute(
                "UPDATE nodes SET heartbeat = ? WHERE owner = ? AND state = 'leased'", (now, owner)
            )

    def finish(
        self,
        lease: Lease,
        result: dict[str, Any],
        publish: Callable[[], object] = lambda: None,
    ) -> None:
        """Record the node's result.

        Args:
            lease: as claimed.
            result: JSON-able.
            publish: renames the node's folder into place; called while the store is locked and
                the lease is known to be good, so that a stale worker never publishes.

        Raises:
            RunFailed: ``LEASE-LOST``, the node was given to another worker.
            ValueError, TypeError: the result is not JSON-able or has a non-finite number.
        """
        text = dump_json(result)
        with self._transaction():
            owner = self._check(lease)
            publish()
            self._db.execute(
                "UPDATE nodes SET state = 'done', owner = NULL, heartbeat = NULL, result = ?,"
                " error = NULL, seconds = ? - started WHERE id = ?",
                (text, time.time(), lease.node.id),
            )
            self._log(lease.node.id, "done", owner)

    def fail(self, lease: Lease, error: dict[str, str]) -> None:
        """Record that the work itself failed; all that depends on it becomes blocked.

        Raises:
            RunFailed: ``LEASE-LOST``.
        """
        with self._transaction():
            self._check(lease)
            self._end_badly(lease.node.id, "failed", error)

    def release(self, owner: str) -> None:
        """Give back all leases of ``owner`` after an interruption, without a mark against them."""
        with self._transaction():
            rows = self._db.execute(
                "SELECT id FROM nodes WHERE state = 'leased' AND owner = ?", (owner,)
            )
            for (node,) in rows.fetchall():
                self._plan_again(node)
                self._db.execute("UPDATE nodes SET attempts = attempts - 1 WHERE id = ?", (node,))

    def reclaim_dead(self) -> list[str]:
        """Take leases from processes that are gone or silent for a minute; return their nodes.

        A node is planned again once; the second loss puts it into quarantine.
        """
        with self._reading():
            if not self._dead_leases():
                return []
        with self._transaction():
            dead = self._dead_leases()
            for node, owner, attempts in dead:
                self._lost(node, owner, attempts)
            return [node for node, _, _ in dead]

    def lose(self, lease: Lease) -> None:
        """Record that what worked on a node is gone; planned again once, then in quarantine.

        For an owner that hands its leases on to workers, and outlives them.

        Raises:
            RunFailed: ``LEASE-LOST``.
        """
        with self._transaction():
            owner = self._check(lease)
            (attempts,) = self._db.execute(
                "SELECT attempts FROM nodes WHERE id = ?", (lease.node.id,)
            ).fetchone()
            self._lost(lease.node.id, owner, attempts)

    def _lost(self, node: str, owner: str, attempts: int) -> None:
        self._log(node, "lost", owner)
        if attempts < LOST_LIMIT:
            self._plan_again(node)
            return
        message = f"the worker was lost {attempts} times (killed, or out of memory?)"
        error = {"type": "RunFailed", "code": "RUN-LOST", "message": message}
        self._end_badly(node, "quarantined", error)

    def _dead_leases(self) -> list[tuple[str, str, int]]:
        limit = time.time() - HEARTBEAT_LIMIT
        rows = self._db.execute(
            "SELECT id, owner, attempts, heartbeat FROM nodes WHERE state = 'leased'"
        )
        return [
            (node, owner, attempts)
            for node, owner, attempts, heartbeat in rows.fetchall()
            if heartbeat < limit or is_alive(owner) is False
        ]

    def _check(self, lease: Lease) -> str:
        row = self._db.execute(
            "SELECT owner FROM nodes WHERE id = ? AND token = ? AND state = 'leased'",
            (lease.node.id, lease.token),
        ).fetchone()
        if row is None:
            raise RunFailed(
                f"node {lease.node.id[:12]} was given to another worker in the meantime",
                code="LEASE-LOST",
            )
        return str(row[0])

    def _end_badly(self, node: str, state: str, error: dict[str, str]) -> None:
        self._db.execute(
            "UPDATE nodes SET state = ?, owner = NULL, heartbeat = NULL, error = ? WHERE id = ?",
            (state, dump_json(error), node),
        )
        self._log(node, state)
        message = f"it needs {node[:12]}, which {state.replace('quarantined', 'was given up')}"
        reason = {"type": "RunFailed", "code": "RUN-BLOCKED", "message": message}
        for other in self._dependants(node):
            self._db.execute(
                "UPDATE nodes SET state = 'blocked', error = ? WHERE id = ? AND state = 'planned'",
                (dump_json(reason), other),
            )
            self._log(other, "blocked")

    def _dependants(self, node: str) -> list[str]:
        rows = self._db.execute(
            "WITH RECURSIVE down (id) AS (SELECT ? UNION"
            " SELECT n.id FROM down, nodes AS n, json_each(n.needs) AS need"
            " WHERE need.value = down.id)"
            " SELECT n.id FROM down JOIN nodes AS n ON n.id = down.id"
            " WHERE n.state = 'planned' ORDER BY n.position",
            (node,),
        )
        return [row[0] for row in rows.fetchall()]

    def _ids(self, where: str) -> list[str]:
        rows = self._db.execute(f"SELECT id FROM nodes WHERE {where} ORDER BY position")  # noqa: S608
        return [row[0] for row in rows.fetchall()]

    # -- questions ----------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Return how many nodes of the plan are in each state."""
        with self._reading():
            rows = self._db.execute(
                "SELECT state, count(*) FROM nodes WHERE position IS NOT NULL"
                " GROUP BY state ORDER BY state"
            ).fetchall()
        return dict(rows)

    def has_claimed(self, pid: int) -> bool:
        """Tell whether a process of this machine has ever leased a node here."""
        with self._reading():
            row = self._db.execute(
                "SELECT 1 FROM events WHERE what = 'leased' AND owner GLOB ? LIMIT 1",
                (f"{domain()}-{pid}-*",),
            ).fetchone()
        return row is not None

    def working(self) -> list[tuple[str, dict[str, Any]]]:
        """Return (kind, key) of the nodes that are leased now, in plan order."""
        with self._reading():
            rows = self._db.execute(
                "SELECT kind, key FROM nodes WHERE state = 'leased' ORDER BY position"
            ).fetchall()
        return [(kind, json.loads(key)) for kind, key in rows]

    def rows(self) -> list[Row]:
        """Return all nodes of the plan, in plan order."""
        with self._reading():
            rows = self._db.execute(
                "SELECT id, kind, key, state, result, error, seconds FROM nodes"
                " WHERE position IS NOT NULL ORDER BY position"
            ).fetchall()
        return [
            Row(
                row[0], row[1], json.loads(row[2]), row[3],
                json.loads(row[4]) if row[4] else None,
                json.loads(row[5]) if row[5] else None,
                row[6],
            )
            for row in rows
        ]  # fmt: skip

    def events(self) -> list[tuple[str, str]]:
        """Return (node, what happened) for all events, oldest first."""
        with self._reading():
            return self._db.execute("SELECT node, what FROM events ORDER BY id").fetchall()
