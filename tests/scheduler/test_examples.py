"""The examples run as printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.daemon_process import DaemonProcess
from cotenant import Client
from cotenant.v1 import profile_pb2
from tests.scheduler.conftest import Victim

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str, argument: str, daemon: DaemonProcess) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, argument],
        env={**os.environ, "COTENANT_SOCKET": str(daemon.socket)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


def test_place_running(daemon: DaemonProcess, victim: Victim) -> None:
    before = victim.state()

    said = example("place_running.py", str(victim.pid), daemon)

    assert "7 threads" in said
    assert said.endswith("released\n")
    assert before == victim.state()


def test_ask_first(daemon: DaemonProcess, client: Client) -> None:
    client.import_profile(profile_pb2.Profile(name="web", schema_version=1, cpus=1))

    assert "fits on CPUs" in example("ask_first.py", "web", daemon)
    assert "PROFILE_UNKNOWN" in example("ask_first.py", "nobody", daemon)
    client.delete_profile("web")
