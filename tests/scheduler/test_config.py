"""Settings: command line first, then environment, then defaults."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.daemon_process import DaemonProcess
from cotenant.paths import default_state
from scheduler.cli import _as_name
from scheduler.config import Settings


def serve(environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cotenant.main", "serve", "--metrics", "", *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_the_environment_counts_where_the_command_line_is_silent(tmp_path: Path) -> None:
    refused = serve({"COTENANT_MECHANISM": "nonsense"}, "--state", str(tmp_path / "s"))

    assert 1 == refused.returncode
    assert "mechanism" in refused.stderr


def test_an_empty_path_in_the_environment_is_the_default_not_the_working_folder(tmp_path: Path) -> None:
    found = Settings.model_validate({"state": tmp_path, "socket": ""})
    other = Settings.model_validate({"state": "", "metrics_address": ""})

    assert found.socket is None
    assert other.state == default_state()
    assert other.metrics_address == ""


def test_a_socket_path_too_long_for_the_kernel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="longer than 107 bytes"):
        Settings(state=tmp_path / ("x" * 120))


@pytest.mark.parametrize("address", ["9417", "127.0.0.1:99999", "example.org:80", "127.0.0.1:http"])
def test_a_metrics_address_that_is_no_loopback_address_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ValidationError):
        Settings(state=tmp_path, metrics_address=address)


def test_a_taken_metrics_port_is_named_with_the_remedy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = subprocess.run(
            [
                sys.executable,
                "-m",
                "cotenant.main",
                "serve",
                "--state",
                tmp_path / "s",
                "--metrics",
                f"127.0.0.1:{port}",
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    assert 1 == refused.returncode
    assert f"'127.0.0.1:{port}'" in refused.stderr
    assert "--metrics" in refused.stderr


def test_the_socket_of_another_daemon_is_not_taken_away(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path / "first") as first:
        refused = serve({}, "--state", str(tmp_path / "second"), "--socket", str(first.socket))

        assert 1 == refused.returncode
        assert "somebody answers" in refused.stderr
        assert first.socket.exists()


@pytest.mark.parametrize(
    ("command", "name"), [("my-db", "my-db"), ("a+b", "a-b"), ("._x", "x"), ("ÄÖ", "command"), ("X" * 90, "x" * 40)]
)
def test_a_command_makes_a_legal_name(command: str, name: str) -> None:
    assert name == _as_name(command)
