"""The journal keeps what it promised, bounded, and refuses files it does not understand."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.errors import JournalFailed, StateRefused
from scheduler.journal import Entry, Journal


def entry(name: str = "web", *, state: str = "APPLYING", request_id: str = "r1") -> Entry:
    return Entry(name=name, state=state, record=b"\x00\xff", target="{}", undo="{}", boot_id="b", request_id=request_id)


def test_an_intent_survives_without_close(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    journal.intend(entry(), b"digest")

    again = Journal(tmp_path / "j.db")

    assert (entry(),) == again.entries()
    assert again.answered("r1") == (b"digest", None)


def test_settling_answers_the_request_and_tells_an_event(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    journal.intend(entry(), b"digest")
    journal.settle(entry(state="ACTIVE"), b"answer", (1.5, "placed", "on 0"))

    assert [one.state for one in journal.entries()] == ["ACTIVE"]
    assert journal.answered("r1") == (b"digest", b"answer")
    assert [(one.kind, one.workload, one.detail, one.time_unix_s) for one in journal.events(0, 10)] == [
        ("placed", "web", "on 0", 1.5)
    ]


def test_forgetting_an_intent_lets_the_request_run_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    journal.intend(entry(), b"digest")
    journal.forget("web", "r1", (1.0, "refused", "kernel said no"))

    assert journal.entries() == ()
    assert journal.answered("r1") is None


def test_events_and_requests_are_bounded(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    with sqlite3.connect(tmp_path / "j.db") as other:
        other.executemany(
            "INSERT INTO events (time_unix_s, kind, workload, detail) VALUES (0, 'k', 'w', ?)",
            [(str(i),) for i in range(12_000)],
        )
    other.close()
    journal.event("w", 0.0, "k", "last")

    found = journal.events(0, 100_000)
    assert len(found) == 10_000
    assert found[-1].detail == "last"


def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    path.write_bytes(b"not a database" * 100)

    with pytest.raises(StateRefused, match="Move the file aside"):
        Journal(path)

    assert path.read_bytes() == b"not a database" * 100


def test_a_zero_length_journal_is_not_a_fresh_install(tmp_path: Path) -> None:
    (tmp_path / "j.db").touch()

    with pytest.raises(StateRefused, match="schema version 0"):
        Journal(tmp_path / "j.db")


def test_a_first_start_that_was_cut_short_is_no_obstacle_to_the_next(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "j.db.new") as half:
        half.execute("CREATE TABLE meta (key TEXT)")
    half.close()

    journal = Journal(tmp_path / "j.db")

    assert journal.bind("machine_id", "here") == "here"
    journal.close()
    assert not (tmp_path / "j.db.new").exists()


def test_a_journal_that_was_moved_aside_is_not_replayed_into_the_new_one(tmp_path: Path) -> None:
    """After kill -9 SQLite leaves its log behind; the advice is to move the journal aside, and nobody thinks of it."""
    killed = Journal(tmp_path / "j.db")
    killed.intend(entry("old"), b"d")
    (tmp_path / "left").mkdir()
    shutil.copy(tmp_path / "j.db-wal", tmp_path / "left" / "j.db-wal")
    assert (tmp_path / "left" / "j.db-wal").stat().st_size > 0

    fresh = Journal(tmp_path / "left" / "j.db")

    assert fresh.entries() == ()
    fresh.close()
    assert Journal(tmp_path / "left" / "j.db").entries() == ()


def test_a_full_disk_at_the_first_start_leaves_no_half_of_a_journal(tmp_path: Path) -> None:
    """A file may grow to one page here, as on a disk that is full."""
    program = (
        "import resource, signal, sys; from pathlib import Path; from scheduler.journal import Journal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "Journal(Path(sys.argv[1]))"
    )

    refused = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "j.db")], capture_output=True, text=True, check=False
    )

    assert "StateRefused" in refused.stderr
    assert not (tmp_path / "j.db").exists()
    Journal(tmp_path / "j.db").close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path / "j.db").close()
    with sqlite3.connect(tmp_path / "j.db") as other:
        other.execute("PRAGMA user_version=2")
    other.close()

    with pytest.raises(StateRefused, match="schema version 2"):
        Journal(tmp_path / "j.db")


def test_a_failed_save_is_an_error_and_saves_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    journal.intend(entry("before"), b"d")
    other = sqlite3.connect(tmp_path / "j.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # a stranger holds the write lock: SQLITE_BUSY after sqlite's own waiting
    journal._db.execute("PRAGMA busy_timeout=50")

    with pytest.raises(JournalFailed, match="'web'"):
        journal.intend(entry(), b"digest")

    other.execute("ROLLBACK")
    other.close()
    assert [one.name for one in journal.entries()] == ["before"]


def test_the_journal_is_private(tmp_path: Path) -> None:
    Journal(tmp_path / "j.db")

    assert (tmp_path / "j.db").stat().st_mode & 0o777 == 0o600


def test_a_fact_keeps_its_first_value(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")

    assert journal.bind("machine_id", "one") == "one"
    assert journal.bind("machine_id", "two") == "one"


def test_a_request_is_answered_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    journal.intend(entry(), b"digest")
    journal.settle(entry(state="ACTIVE"), b"placed", (1.0, "placed", ""))
    journal.settle(entry(state="RELEASED"), b"gone", (2.0, "gone", ""))

    assert journal.answered("r1") == (b"digest", b"placed")


def test_an_abandoned_request_may_run_again_while_its_placement_stays(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    journal.intend(entry(), b"digest")
    journal.abandon(entry(state="RELEASING", request_id=""), "r1", (1.0, "refused", "cannot be undone yet"))

    assert journal.answered("r1") is None
    assert [(one.state, one.request_id) for one in journal.entries()] == [("RELEASING", "")]


def test_answers_are_bounded_without_any_event(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    journal.intend(entry("running", request_id="running"), b"d")
    with sqlite3.connect(tmp_path / "j.db") as other:
        other.executemany(
            "INSERT INTO requests (request_id, digest, answer) VALUES (?, x'00', ?)",
            [(f"old{i}", None if i % 2 else b"a") for i in range(10_500)],
        )
    other.close()
    journal.answer("new", b"d", b"a")

    with sqlite3.connect(tmp_path / "j.db") as other:
        (kept,) = other.execute("SELECT COUNT(*) FROM requests").fetchone()
    other.close()
    assert kept == 10_001  # the newest, and the one whose placement is still under way
    assert journal.answered("running") == (b"d", None)
    assert journal.answered("old1") is None


def test_dropped_placements_are_gone(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    for name in ("a", "b", "c"):
        journal.update(entry(name))
    journal.drop(["a", "c"])

    assert [one.name for one in journal.entries()] == ["b"]
