"""The daemon tells what placed workloads do, takes up a calibration, and stops telling of who was released."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path

import pytest

from benchmarks.daemon_process import DaemonProcess
from cotenant import Client
from isolation.topology import read_topology
from profiler.calibration import Calibration, save_calibration
from tests.scheduler.conftest import Victim

_LIMIT_S = 30.0


def scrape(daemon: DaemonProcess) -> str:
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    port = next(line["metrics"] for line in lines if line["message"] == "serving")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def test_a_placed_workload_is_told_until_it_is_released(tmp_path: Path, victim: Victim) -> None:
    threads, rate = 'cotenant_workload_threads{workload="v"} 7.0', 'cotenant_workload_cpu_cores{workload="v"}'
    with DaemonProcess(tmp_path / "s", "--metrics", "127.0.0.1:0") as daemon, Client(daemon.socket) as client:
        assert "workload=" not in scrape(daemon)
        client.place("v", pids=[victim.pid], cpus=1)
        limit_s = time.monotonic() + _LIMIT_S
        while threads not in (text := scrape(daemon)) or rate not in text:
            assert time.monotonic() < limit_s, text
            time.sleep(0.2)
        client.release("v")
        while 'workload="v"' in (text := scrape(daemon)):
            assert time.monotonic() < limit_s + _LIMIT_S, text
            time.sleep(0.2)


@pytest.mark.parametrize(
    ("fingerprint", "foreign", "told"),
    [(None, 0.0, ""), ("other", 0.0, "of another host"), (None, 0.9, "busy host")],
)
def test_a_calibration_that_cannot_be_used_is_told(
    tmp_path: Path, fingerprint: str | None, foreign: float, told: str
) -> None:
    state = tmp_path / "s"
    state.mkdir(mode=0o700)
    found = Calibration(
        host_fingerprint=fingerprint or read_topology().fingerprint,
        created_unix_s=0.0,
        duration_s=1.0,
        foreign_ratio=foreign,
    )
    save_calibration(state, found)
    with DaemonProcess(state) as daemon:
        warnings = [line for line in daemon.log.read_text().splitlines() if "the calibration in" in line]

    assert bool(told) == bool(warnings)
    assert all(told in line for line in warnings)


def test_a_damaged_calibration_is_told_and_serves_without(tmp_path: Path) -> None:
    state = tmp_path / "s"
    state.mkdir(mode=0o700)
    (state / "calibration.json").write_text("{")
    with DaemonProcess(state) as daemon:
        assert "Run `cotenant calibrate` again" in daemon.log.read_text()
