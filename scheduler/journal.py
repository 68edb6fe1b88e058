"""The daemon's memory on disk: intents, placements, answered requests, events. One SQLite file, one writer.

WAL with synchronous=FULL: what a method returned from has reached the disk.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from scheduler.errors import JournalFailed, StateRefused

SCHEMA_VERSION = 1  # 1: first version
_KEPT_REQUESTS = 10_000
_KEPT_EVENTS = 10_000

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE placements (
    name TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    record BLOB NOT NULL,      -- cotenant.v1.Placement
    target TEXT NOT NULL,      -- identities of the processes, JSON
    undo TEXT NOT NULL,        -- the exact earlier state, JSON of the enforcer
    boot_id TEXT NOT NULL,
    request_id TEXT NOT NULL   -- the request that made it: recovery answers it
) WITHOUT ROWID;
CREATE TABLE requests (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id TEXT NOT NULL UNIQUE,
    digest BLOB NOT NULL,      -- of method and body
    answer BLOB                -- NULL while the request is under way
);
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    time_unix_s REAL NOT NULL,
    kind TEXT NOT NULL,
    workload TEXT NOT NULL,
    detail TEXT NOT NULL
);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One placement as stored."""

    name: str
    state: str
    record: bytes
    target: str
    undo: str
    boot_id: str
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a workload."""

    sequence: int
    time_unix_s: float
    kind: str
    workload: str
    detail: str


class Journal:
    """Durable record; every method is one transaction and raises JournalFailed when it could not be saved."""

    def __init__(self, path: Path) -> None:
        """Open or create; raises StateRefused for a file that is no journal of ours or of a newer version."""
        self._lock = threading.Lock()  # reads come from RPC threads, writes from the one writer
        try:
            if not path.exists():
                _create(path)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            verdict = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        except (sqlite3.Error, OSError) as error:
            raise StateRefused(
                f"journal {str(path)!r} cannot be opened: {error}. Move the file aside and start again: "
                "placements that are still applied will be found as foreign groups and left alone"
            ) from error
        if version != SCHEMA_VERSION or verdict != "ok":
            self._db.close()
            raise StateRefused(
                f"journal {str(path)!r} has schema version {version} (this daemon knows {SCHEMA_VERSION}) "
                f"and integrity {verdict!r}; start the daemon version that wrote it, or move the file aside"
            )

    @contextmanager
    def _transaction(self, what: str) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise JournalFailed(
                    f"{what} could not be saved: {error}. Is the disk of the state folder full or read-only?"
                ) from error
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def bind(self, key: str, value: str) -> str:
        """Store a fact on first use and give back what was stored first (machine id)."""
        with self._transaction(f"fact {key!r}") as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))
            return str(db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])

    def intend(self, entry: Entry, digest: bytes) -> None:
        """Save what is about to be done, together with the request that asked for it."""
        with self._transaction(f"intent for {entry.name!r}") as db:
            self._put(db, entry)
            if entry.request_id:
                db.execute(
                    "INSERT INTO requests (request_id, digest) VALUES (?, ?) ON CONFLICT (request_id) DO NOTHING",
                    (entry.request_id, digest),
                )

    def settle(self, entry: Entry, answer: bytes | None, event: tuple[float, str, str]) -> None:
        """Save an outcome, the answer to the request that caused it, and one event (time, kind, detail).

        A request is answered once: what happens to its placement later does not change what the caller was told.
        """
        with self._transaction(f"outcome for {entry.name!r}") as db:
            self._put(db, entry)
            if answer is not None and entry.request_id:
                db.execute(
                    "UPDATE requests SET answer = ? WHERE request_id = ? AND answer IS NULL",
                    (answer, entry.request_id),
                )
            self._add_event(db, entry.name, *event)

    def abandon(self, entry: Entry, request_id: str, event: tuple[float, str, str]) -> None:
        """Save a placement whose request came to nothing but which is not undone yet; the request may be tried again.

        The entry must not name the request any more, so that finishing it answers nobody.
        """
        with self._transaction(f"failure of {entry.name!r}") as db:
            self._put(db, entry)
            db.execute("DELETE FROM requests WHERE request_id = ? AND answer IS NULL", (request_id,))
            self._add_event(db, entry.name, *event)

    def update(self, entry: Entry, event: tuple[float, str, str] | None = None) -> None:
        """Save a changed placement, and one event if something happened."""
        with self._transaction(f"change of {entry.name!r}") as db:
            self._put(db, entry)
            if event is not None:
                self._add_event(db, entry.name, *event)

    def forget(self, name: str, request_id: str, event: tuple[float, str, str]) -> None:
        """Drop an intent that came to nothing, so that the same request may be tried again."""
        with self._transaction(f"end of {name!r}") as db:
            db.execute("DELETE FROM placements WHERE name = ?", (name,))
            db.execute("DELETE FROM requests WHERE request_id = ? AND answer IS NULL", (request_id,))
            self._add_event(db, name, *event)

    def answer(self, request_id: str, digest: bytes, answer: bytes) -> None:
        """Save the answer of a request that needed no intent."""
        with self._transaction(f"answer to {request_id!r}") as db:
            db.execute(
                "INSERT INTO requests (request_id, digest, answer) VALUES (?, ?, ?) "
                "ON CONFLICT (request_id) DO UPDATE SET answer = excluded.answer",
                (request_id, digest, answer),
            )
            self._trim_requests(db)

    def drop(self, names: Sequence[str]) -> None:
        """Drop placements that are over."""
        with self._transaction(f"end of {len(names)} old placements") as db:
            db.executemany("DELETE FROM placements WHERE name = ?", [(name,) for name in names])

    def answered(self, request_id: str) -> tuple[bytes, bytes | None] | None:
        """Give (digest, answer) of an earlier request, or None."""
        with self._lock:
            row = self._db.execute("SELECT digest, answer FROM requests WHERE request_id = ?", (request_id,)).fetchone()
        return None if row is None else (bytes(row[0]), None if row[1] is None else bytes(row[1]))

    def event(self, workload: str, time_unix_s: float, kind: str, detail: str) -> None:
        """Save one event."""
        with self._transaction(f"event {kind!r}") as db:
            self._add_event(db, workload, time_unix_s, kind, detail)

    def entries(self) -> tuple[Entry, ...]:
        """Give every stored placement, by name."""
        with self._lock:
            rows = self._db.execute(
                "SELECT name, state, record, target, undo, boot_id, request_id FROM placements ORDER BY name"
            ).fetchall()
        return tuple(
            Entry(name=r[0], state=r[1], record=r[2], target=r[3], undo=r[4], boot_id=r[5], request_id=r[6])
            for r in rows
        )

    def events(self, after: int, limit: int) -> tuple[Event, ...]:
        """Give events after a sequence number, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT sequence, time_unix_s, kind, workload, detail FROM events WHERE sequence > ? "
                "ORDER BY sequence LIMIT ?",
                (after, limit),
            ).fetchall()
        return tuple(Event(sequence=r[0], time_unix_s=r[1], kind=r[2], workload=r[3], detail=r[4]) for r in rows)

    def happened_since(self, time_unix_s: float) -> bool:
        """Tell whether anything happened to anybody since then, as far as events are kept."""
        with self._lock:
            row = self._db.execute("SELECT time_unix_s FROM events ORDER BY sequence DESC LIMIT 1").fetchone()
        return row is not None and row[0] > time_unix_s

    def close(self) -> None:
        """Fold the WAL in and close."""
        with self._lock:
            self._db.close()

    @staticmethod
    def _put(db: sqlite3.Connection, entry: Entry) -> None:
        db.execute(
            "INSERT OR REPLACE INTO placements VALUES (?, ?, ?, ?, ?, ?, ?)",
            (entry.name, entry.state, entry.record, entry.target, entry.undo, entry.boot_id, entry.request_id),
        )

    @staticmethod
    def _add_event(db: sqlite3.Connection, workload: str, time_unix_s: float, kind: str, detail: str) -> None:
        db.execute(
            "INSERT INTO events (time_unix_s, kind, workload, detail) VALUES (?, ?, ?, ?)",
            (time_unix_s, kind, workload, detail),
        )
        # bounded: both tables keep their newest rows; trimming by key costs nothing when there is nothing to trim
        db.execute("DELETE FROM events WHERE sequence <= (SELECT MAX(sequence) FROM events) - ?", (_KEPT_EVENTS,))
        Journal._trim_requests(db)

    @staticmethod
    def _trim_requests(db: sqlite3.Connection) -> None:
        """Drop the oldest; one without an answer stays while a placement may still answer it."""
        db.execute(
            "DELETE FROM requests WHERE sequence <= (SELECT MAX(sequence) FROM requests) - ? "
            "AND (answer IS NOT NULL OR request_id NOT IN (SELECT request_id FROM placements))",
            (_KEPT_REQUESTS,),
        )


def _create(path: Path) -> None:
    """Make an empty journal, whole or not at all: one cut short would be refused at every later start."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with closing(sqlite3.connect(draft, isolation_level=None)) as db:
        draft.chmod(0o600)
        db.execute("PRAGMA synchronous=FULL")
        db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
    for suffix in ("-wal", "-shm"):  # of a journal that was moved aside: SQLite would replay them into this one
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
    draft.rename(path)
