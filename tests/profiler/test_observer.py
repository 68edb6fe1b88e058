"""Running processes and cgroups, watched and left alone."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from profiler.errors import RecordInvalid, WorkloadFailed
from profiler.monitoring import processes_of
from profiler.observer import collect_cgroup, collect_running
from profiler.records import Quality
from tests.profiler.test_scrape import serving

BUSY = [sys.executable, "-c", "while True: pass"]


def test_one_of_several_that_ends_meanwhile_is_told() -> None:
    with subprocess.Popen(["sleep", "0.5"]) as short, subprocess.Popen(["sleep", "100"]) as long:
        try:
            found = collect_running("x", [short.pid, long.pid], duration_s=1.5)
        finally:
            long.kill()

    assert found.quality is Quality.UNSTABLE
    assert f"1 of 2 processes ended meanwhile: pids [{short.pid}]" in found.note


def test_a_cgroup_is_its_processes_and_those_below_it(tmp_path: Path) -> None:
    with subprocess.Popen(BUSY) as one, subprocess.Popen(["sleep", "100"]) as other:
        try:
            (tmp_path / "below").mkdir()
            (tmp_path / "cgroup.procs").write_text(f"{one.pid}\n0\n")  # 0: one of another namespace
            (tmp_path / "below" / "cgroup.procs").write_text(f"{other.pid}\n")
            pids = set(processes_of(str(tmp_path)))
            found = collect_cgroup("x", tmp_path, duration_s=1.0)
        finally:
            one.kill()
            other.kill()

    assert pids == {one.pid, other.pid}
    assert found.value("threads") == 2
    assert found.value("cpu_cores") > 0


def test_a_cgroup_that_is_none_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordInvalid, match="is no cgroup"):
        collect_cgroup("x", tmp_path, duration_s=1.0)
    (tmp_path / "cgroup.procs").write_text("")
    with pytest.raises(WorkloadFailed, match="holds no process"):
        collect_cgroup("x", tmp_path, duration_s=1.0)


def test_a_metric_that_needs_our_own_command_is_refused() -> None:
    with pytest.raises(RecordInvalid, match="'regex' needs a command of ours"):
        collect_running("x", [1], duration_s=1.0, metric="regex:([0-9]+)")


def test_the_rate_of_a_running_service_comes_from_its_metrics_page() -> None:
    start_s = time.monotonic()
    page = "# TYPE x_total counter\nx_total {}\n"
    with (
        serving(lambda: page.format(100 * (time.monotonic() - start_s))) as url,
        subprocess.Popen(["sleep", "100"]) as one,
    ):
        try:
            found = collect_running("x", [one.pid], duration_s=2.0, metric=f"prometheus:{url}#x_total")
        finally:
            one.kill()

    assert 90 < found.value("rate_per_s") < 110


def test_an_address_that_fails_in_the_middle_ends_the_measurement() -> None:
    end_s = time.monotonic() + 0.6
    page = "# TYPE x gauge\nx 1\n"
    with serving(lambda: page if time.monotonic() < end_s else "") as url, subprocess.Popen(["sleep", "100"]) as one:
        try:
            with pytest.raises(WorkloadFailed, match=r"progress stopped: .* has no series 'x'"):
                collect_running("x", [one.pid], duration_s=2.5, metric=f"prometheus:{url}#x")
        finally:
            one.kill()
