"""The commands against a real daemon, as typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from benchmarks.daemon_process import DaemonProcess
from cotenant import Client
from cotenant.v1 import placement_pb2
from tests.scheduler.conftest import Victim

RELEASED = placement_pb2.PLACEMENT_STATE_RELEASED
SHOW = (
    "import os, threading; t = threading.Thread(target=lambda: print(sorted(os.sched_getaffinity(0)))); "
    "t.start(); t.join()"
)


def cotenant(daemon: DaemonProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cotenant.main", *arguments],
        env={**os.environ, "COTENANT_SOCKET": str(daemon.socket), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_a_round_trip_by_hand(daemon: DaemonProcess, victim: Victim) -> None:
    before = victim.state()

    planned = json.loads(cotenant(daemon, "preview", "--name", "web", "--json").stdout)
    placed = json.loads(cotenant(daemon, "place", str(victim.pid), "--name", "web", "--json").stdout)
    listed = cotenant(daemon, "list").stdout
    explained = cotenant(daemon, "explain", "web").stdout
    released = cotenant(daemon, "release", "web")
    events = json.loads(cotenant(daemon, "events", "--json", "--limit", "1000").stdout)

    assert "PLACEMENT_STATE_PLANNED" == planned["state"]
    assert "PLACEMENT_STATE_ACTIVE" == placed["state"]
    assert "web" in listed
    assert "ACTIVE" in listed
    assert "decided by" in explained
    assert "web: released\n" == released.stdout
    assert ["placed", "released"] == [one["kind"] for one in events if one["workload"] == "web"]
    assert before == victim.state()


def test_run_starts_the_command_in_place_and_passes_its_exit_code_on(daemon: DaemonProcess, client: Client) -> None:
    done = cotenant(daemon, "run", "--name", "job", "--", sys.executable, "-c", f"{SHOW}; raise SystemExit(7)")

    assert 7 == done.returncode, done.stderr
    assert [int(client.get("job").cpus)] == json.loads(done.stdout)
    assert RELEASED == client.get("job").state


def test_run_passes_ctrl_c_on_and_releases(daemon: DaemonProcess, client: Client) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "cotenant.main", "run", "--name", "long", "--", "sleep", "60"],
        env={**os.environ, "COTENANT_SOCKET": str(daemon.socket)},
        stderr=subprocess.PIPE,
    ) as running:
        for _ in range(200):
            if "long" in [one.name for one in client.placements()]:
                break
            time.sleep(0.05)
        time.sleep(0.3)  # let the command begin
        running.terminate()
        running.communicate(timeout=20)

    assert 128 + 15 == running.returncode
    assert RELEASED == client.get("long").state


def test_run_says_when_there_is_no_such_command(daemon: DaemonProcess) -> None:
    done = cotenant(daemon, "run", "--name", "none", "--", "no-such-command")

    assert 127 == done.returncode
    assert "'no-such-command' cannot be started" in done.stderr


def test_run_starts_nothing_that_is_refused(daemon: DaemonProcess) -> None:
    done = cotenant(daemon, "run", "--name", "Bad Name", "--", sys.executable, "-c", "print('ran')")

    assert 1 == done.returncode
    assert "workload.name" in done.stderr
    assert "" == done.stdout


def test_a_promise_that_is_not_understood_shows_the_forms(daemon: DaemonProcess) -> None:
    done = cotenant(daemon, "preview", "--name", "web", "--slo", "fast")

    assert 1 == done.returncode
    assert "tbt-p99=120ms" in done.stderr
