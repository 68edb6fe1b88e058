"""A daemon of one's own: where it listens, and that nothing of it outlives a failed or interrupted start."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from benchmarks.daemon_process import DaemonProcess
from benchmarks.errors import DaemonSilent
from cotenant import Client


def test_it_listens_in_its_state_folder_whatever_the_user_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs.sock"
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(theirs))
        before = theirs.stat()
        monkeypatch.setenv("COTENANT_SOCKET", str(theirs))
        monkeypatch.setenv("cotenant_state", str(tmp_path / "their-state"))
        monkeypatch.setenv("COTENANT_ALLOW_ANY_UID", "true")
        monkeypatch.setenv("COTENANT_MECHANISM", "nonsense")
        stranger = tmp_path / "folder"
        stranger.mkdir()
        (stranger / "scheduler.py").write_text("raise SystemExit('a stranger ran')")
        monkeypatch.chdir(stranger)

        with DaemonProcess(tmp_path / "s") as daemon, Client(daemon.socket) as client:
            placements = list(client.placements())
            environment = Path(f"/proc/{daemon.pid}/environ").read_bytes().upper()

        after = theirs.stat()

    assert [] == placements
    assert b"COTENANT_ALLOW" not in environment
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert not (tmp_path / "their-state").exists()


def test_the_reconciler_s_period_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTENANT_RECONCILE_S", "nonsense")

    with pytest.raises(DaemonSilent, match="reconcile_s"):
        DaemonProcess(tmp_path / "s").start()


def test_ctrl_c_while_it_starts_ends_it(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path / "s", program=("-c", "import time; time.sleep(600)"))
    ctrl_c = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    ctrl_c.start()

    with pytest.raises(KeyboardInterrupt):
        daemon.start()

    assert not Path(f"/proc/{daemon.pid}").exists()
