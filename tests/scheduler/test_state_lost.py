"""The state folder goes away under a running daemon: real daemons, real processes, real kernel."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import grpc
import pytest

from benchmarks.daemon_process import DaemonProcess
from cotenant import Client, CotenantError
from cotenant.v1 import placement_pb2
from isolation.enforcer import Enforcer, Mechanism
from isolation.topology import read_topology
from scheduler.errors import StateLost
from scheduler.state import StateFiles, group_prefix
from tests.scheduler.conftest import Victim
from tests.scheduler.test_daemon import until

ACTIVE = placement_pb2.PLACEMENT_STATE_ACTIVE
RELEASED = placement_pb2.PLACEMENT_STATE_RELEASED


def told(daemon: DaemonProcess, level: str) -> list[str]:
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    return [line["message"] for line in lines if line["level"] == level]


def groups_of(state: Path, mechanism: str) -> frozenset[str]:
    return frozenset(
        Enforcer.for_host(read_topology(), mechanism=Mechanism(mechanism), prefix=group_prefix(state)).groups()
    )


def test_a_deleted_folder_is_told_once_refuses_changes_and_the_stop_gives_all_back(
    tmp_path: Path, victim: Victim, mechanism: str
) -> None:
    before = victim.state()
    daemon = DaemonProcess(tmp_path / "s", "--mechanism", mechanism)
    with daemon, Client(daemon.socket) as client:
        placed = client.place("v", pids=[victim.pid], cpus=1)
        shutil.rmtree(daemon.state)

        with pytest.raises(CotenantError, match="'lock' in it was deleted") as caught:
            client.place("w", pids=[victim.pid], cpus=1)
        assert until(lambda: bool(told(daemon, "error")))
        assert (grpc.StatusCode.FAILED_PRECONDITION, "STATE_LOST") == (caught.value.code, caught.value.reason)
        assert (ACTIVE, placed.cpus) == (client.get("v").state, client.get("v").cpus)
        assert {placed.cpus} == victim.cpus()
        assert 0 == daemon.stop()

    assert before == victim.state()
    assert frozenset() == groups_of(daemon.state, mechanism)
    assert [True] == ["stop the daemon" in one for one in told(daemon, "error")]
    assert "all that was placed was released" in told(daemon, "warning")[-1]
    assert not daemon.state.exists()


def test_without_its_folder_a_daemon_still_releases_and_watches(tmp_path: Path, victim: Victim) -> None:
    before, short = victim.state(), Victim()
    with DaemonProcess(tmp_path / "s") as daemon, Client(daemon.socket) as client:
        client.place("v", pids=[victim.pid], cpus=1)
        client.place("short", pids=[short.pid], cpus=1)
        shutil.rmtree(daemon.state)
        assert until(lambda: bool(told(daemon, "error")))
        short.end()

        assert until(lambda: client.get("short").state == RELEASED)
        assert 1 == len(told(daemon, "error"))  # turns later
        assert RELEASED == client.release("v").state
        assert before == victim.state()


def test_a_folder_that_comes_back_is_used_again_and_the_stop_leaves_placements(
    tmp_path: Path, victim: Victim, mechanism: str
) -> None:
    before, other = victim.state(), Victim()
    daemon = DaemonProcess(tmp_path / "s", "--mechanism", mechanism)
    with daemon, Client(daemon.socket) as client:
        placed = client.place("v", pids=[victim.pid], cpus=1)
        daemon.state.rename(tmp_path / "aside")
        assert until(lambda: bool(told(daemon, "error")))
        (tmp_path / "aside").rename(daemon.state)
        assert until(lambda: any("is back" in one for one in told(daemon, "warning")))
        client.place("other", pids=[other.pid], cpus=1)
    assert {placed.cpus} == victim.cpus()

    with daemon, Client(daemon.socket) as client:
        assert ["other", "v"] == sorted(one.name for one in client.placements())
        client.release("other")
        client.release("v")
    other.end()
    assert before == victim.state()


def test_a_file_in_the_place_of_the_journal_is_not_the_journal(tmp_path: Path) -> None:
    lock, journal = tmp_path / "lock", tmp_path / "journal.db"
    lock.touch()
    with journal.open("w"):  # kept open, so that its inode is nobody else's
        files = StateFiles(lock, journal)
        assert files.loss() is None
        journal.unlink()
        journal.touch()

        assert isinstance(files.loss(), StateLost)
        assert "'journal.db'" in str(files.loss())
