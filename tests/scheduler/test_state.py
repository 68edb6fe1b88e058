"""The state folder: refused when others could tamper with it, locked by one daemon."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.errors import AlreadyRunning, StateRefused
from scheduler.state import check_socket, group_prefix, lock_state, open_state


def test_a_fresh_folder_is_private(tmp_path: Path) -> None:
    state = open_state(tmp_path / "deep" / "state")

    assert state.stat().st_mode & 0o777 == 0o700
    assert list(state.iterdir()) == []


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    with pytest.raises(StateRefused, match="link or a file"):
        open_state(tmp_path / "link")


def test_a_folder_others_can_write_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)

    with pytest.raises(StateRefused, match="chmod 700"):
        open_state(tmp_path / "open")


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)

    with pytest.raises(StateRefused, match="uid 12345"):
        open_state(tmp_path / "theirs")


def test_a_folder_that_cannot_be_written_is_refused() -> None:
    # /proc takes no new folders from anybody, root included
    with pytest.raises(StateRefused, match="--state"):
        open_state(Path("/proc/cotenant-state"))


TAKE = "import os, sys; from pathlib import Path; from scheduler.state import lock_state; lock_state(Path(sys.argv[1]))"


def test_a_second_daemon_learns_the_pid_of_the_first(tmp_path: Path) -> None:
    held = lock_state(tmp_path)

    second = subprocess.run([sys.executable, "-c", TAKE, tmp_path], capture_output=True, text=True, check=False)

    os.close(held)
    assert second.returncode != 0
    assert AlreadyRunning.__name__ in second.stderr
    assert f"pid {os.getpid()}" in second.stderr


def test_a_lock_left_by_a_crash_is_free(tmp_path: Path) -> None:
    crashed = subprocess.run([sys.executable, "-c", f"{TAKE}; os._exit(9)", tmp_path], check=False)

    assert crashed.returncode == 9
    os.close(lock_state(tmp_path))


def test_each_folder_has_groups_of_its_own(tmp_path: Path) -> None:
    assert group_prefix(tmp_path / "a") != group_prefix(tmp_path / "b")


def test_a_socket_somebody_answers_on_is_refused_and_a_stale_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    check_socket(path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        with pytest.raises(StateRefused, match="somebody answers"):
            check_socket(path)
    check_socket(path)


def test_a_file_where_the_socket_should_be_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.sock").write_text("precious")

    with pytest.raises(StateRefused, match="another kind of file"):
        check_socket(tmp_path / "a.sock")

    assert "precious" == (tmp_path / "a.sock").read_text()
