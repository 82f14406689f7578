"""A SQLite file that is opened with care: checked, migrated, durable, errors in plain words."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from peftlab.core.errors import ConfigError, InputRejected, ResourceLimit, RunFailed

BUSY_SECONDS = 10.0  # ours: a commit takes some 10 ms, so a thousand of them fit


def _tables(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
    db.execute(
        "CREATE TABLE planner (only INTEGER PRIMARY KEY CHECK (only = 1),"
        " owner TEXT NOT NULL, heartbeat REAL NOT NULL)"
    )
    db.execute(
        "CREATE TABLE nodes (id TEXT PRIMARY KEY, position INTEGER, kind TEXT NOT NULL,"
        " key TEXT NOT NULL, needs TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'planned'"
        " CHECK (state IN ('planned','leased','done','failed','blocked','quarantined')),"
        " owner TEXT, token INTEGER NOT NULL DEFAULT 0, heartbeat REAL,"
        " attempts INTEGER NOT NULL DEFAULT 0, result TEXT, error TEXT,"
        " started REAL, seconds REAL)"
    )
    db.execute("CREATE INDEX nodes_by_state ON nodes (state, position)")
    db.execute(
        "CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL,"
        " node TEXT NOT NULL, what TEXT NOT NULL, owner TEXT)"
    )


MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = [_tables]
"""One function per schema version, oldest first; never edit one that was released."""


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turn errors of SQLite into ours, by their result code; others pass unchanged."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise ResourceLimit(
                f"no space left to write {path}",
                code="DISK-FULL",
                fix="free some space, then run again: finished work is kept",
            ) from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            raise ConfigError(
                f"cannot write {path}",
                code="PATH-WRITE",
                got=str(error),
                fix="choose another --out",
            ) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise RunFailed(
                f"{path} stayed locked for {BUSY_SECONDS:.0f} s",
                code="STORE-BUSY",
                fix="end the other process that holds it, then run again",
            ) from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise _damaged(path, str(error)) from error
        raise


def _damaged(path: Path, reason: str) -> InputRejected:
    return InputRejected(
        f"{path} is damaged",
        code="STORE-DAMAGED",
        got=reason,
        fix="move the run folder away and run again",
    )


class Database:
    """One connection to the database of a run; use one per thread, as a context manager.

    Args:
        path: the database file; made when absent, its folder must exist.
        durable: sync each commit to disk (off for heartbeats only).

    Raises:
        InputRejected: ``STORE-DAMAGED``.
        ConfigError: ``STORE-VERSION`` (made by a newer peftlab), ``PATH-WRITE``.
        ResourceLimit: ``DISK-FULL``.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self._path = Path(path)
        with database_errors(self._path):
            self._db = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                self._open(durable=durable)
            except BaseException:
                self._db.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def _open(self, *, durable: bool) -> None:
        verdict = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise _damaged(self._path, verdict)
        if self._db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        with self._transaction():
            self._migrate()

    def _migrate(self) -> None:
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS migrations"
            " (version INTEGER PRIMARY KEY, name TEXT NOT NULL)"
        )
        have = self._db.execute("SELECT count(*) FROM migrations").fetchone()[0]
        if have > len(MIGRATIONS):
            raise ConfigError(
                f"{self._path} was made by a newer peftlab",
                code="STORE-VERSION",
                got=f"schema {have}",
                allowed=f"schema 1 to {len(MIGRATIONS)}",
                fix="upgrade peftlab or choose another --out",
            )
        for version, step in enumerate(MIGRATIONS[have:], start=have + 1):
            step(self._db)
            self._db.execute("INSERT INTO migrations VALUES (?, ?)", (version, step.__name__))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with database_errors(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with database_errors(self._path):
            yield
