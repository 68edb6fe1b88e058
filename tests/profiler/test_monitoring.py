"""Turns over real processes: what they do is told, what is not known is left out, who is gone is forgotten."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isolation.cpuset import CpuSet
from profiler.monitoring import METRICS, Monitor, Watched
from tests.fakes.children import real_process


def test_a_busy_process_is_told_from_a_sleeping_one() -> None:
    monitor = Monitor()
    spin = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with real_process(threads=3) as sleeper:
            watched = {"spin": Watched(pids=(spin.pid,)), "sleep": Watched(pids=(sleeper,))}
            first = monitor.turn(watched)
            time.sleep(0.5)
            second = monitor.turn(watched)
    finally:
        spin.kill()
        spin.wait()

    assert "cpu_cores" not in first["spin"], "one look tells no rate"
    assert first["sleep"]["threads"] == 3
    assert first["spin"]["rss_bytes"] > 1e6
    assert second["spin"]["cpu_cores"] > second["sleep"]["cpu_cores"]
    assert second["sleep"]["io_write_bytes_per_second"] == 0
    assert set(second["spin"]) <= set(METRICS)
    monitor.close()


def test_who_is_gone_tells_nothing_and_is_forgotten() -> None:
    monitor = Monitor()
    done = subprocess.Popen(["true"])
    done.wait()

    assert monitor.turn({"gone": Watched(pids=(done.pid, 4194303))}) == {"gone": {}}
    assert monitor.turn({}) == {}
    assert monitor._last == {}


def test_a_resctrl_group_shared_with_others_says_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "mon_data/mon_L3_00"
    folder.mkdir(parents=True)
    for name, text in (("llc_occupancy", "1048576"), ("mbm_total_bytes", "1000"), ("mbm_local_bytes", "Unavailable")):
        (folder / name).write_text(f"{text}\n")
    monitor = Monitor()
    watched = {"web": Watched(pids=(os.getpid(),), resctrl=tmp_path)}
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    (tmp_path / "tasks").write_text("1\n" * (threads + 1))
    assert "llc_occupancy_bytes" not in monitor.turn(watched)["web"]

    (tmp_path / "tasks").write_text("1\n" * threads)
    assert monitor.turn(watched)["web"]["llc_occupancy_bytes"] == 1048576
    (folder / "mbm_total_bytes").write_text("900\n")
    assert "memory_bytes_per_second" not in monitor.turn(watched)["web"], "a counter that fell is missing"
    (folder / "mbm_total_bytes").write_text("5000\n")
    assert monitor.turn(watched)["web"]["memory_bytes_per_second"] > 0
    (folder / "mbm_total_bytes").write_text("Unavailable\n")
    assert "memory_bytes_per_second" not in monitor.turn(watched)["web"]


@pytest.mark.root
def test_a_group_of_cgroup_v2_tells_pressure_and_members_or_why_nothing_is_counted(cgroup2: Path) -> None:
    folder = cgroup2 / f"cotenant-monitoring-{os.getpid()}"
    folder.mkdir()
    monitor = Monitor()
    try:
        with real_process(threads=2) as pid:
            (folder / "cgroup.procs").write_text(str(pid))
            watched = {"web": Watched(group=folder, unified=True, cpus=CpuSet.of(os.sched_getaffinity(0)))}
            monitor.turn(watched)
            time.sleep(0.05)
            found = monitor.turn(watched)["web"]
            (cgroup2 / "cgroup.procs").write_text(str(pid))
    finally:
        monitor.close()
        folder.rmdir()

    assert found["threads"] == 2
    assert ("cpu_pressure_ratio" in found) == Path("/proc/pressure/cpu").exists()
    assert monitor.refusal is None or "has no such counter" in monitor.refusal
