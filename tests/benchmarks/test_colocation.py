"""Windows of co-located workloads: paired ratios of what really ran."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import pytest

from benchmarks.colocation import Ratio, Stage, Window, decoding_speed, slowdowns, work_rate
from benchmarks.errors import WorkloadSilent
from benchmarks.workloads import Workload, catalogue
from isolation.cpuset import CpuSet
from isolation.topology import read_topology
from profiler.procfs import is_running
from profiler.progress import ProgressLog


def spinning(name: str) -> Workload:
    argv = next(one for one in catalogue() if one.name == "cpu").argv
    return Workload(name=name, argv=argv, unit="bytes", description="")


def test_two_hogs_on_one_cpu_take_twice_as_long(tmp_path: Path) -> None:
    first = CpuSet.of([next(iter(read_topology().usable))])
    with Stage(tmp_path) as stage:
        for name in ("a", "b"):
            stage.start(spinning(name))
            stage.members[name].pin(first)
        seen: list[tuple[str, Window]] = []
        found = slowdowns(
            stage,
            ["a", "b"],
            {"": lambda: None},
            rounds=2,
            seconds=0.5,
            on_window=lambda setting, window: seen.append((setting, window)),
        )[""]
        pids = [one.process.pid for one in stage.members.values()]

    assert [2, 2] == [len(one.values) for one in found.values()]
    # 2 on a quiet machine; beside a stranger's hog on that CPU 3/2
    assert all(1.2 < one.slowdown < 3.5 for one in found.values()), found
    assert [""] * 2 == [setting for setting, _ in seen]
    assert all(0.5 <= window.end_s - window.start_s <= window.seen_s - window.start_s for _, window in seen)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids), "leaving ends and reaps them"


def test_one_started_again_after_its_end_is_not_taken_for_the_first(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        stage.start(spinning("a"))
        stage.start(spinning("b"))
        stage.members["a"].process.kill()
        stage.members["a"].process.wait()
        stage.end_dead()
        again_s = time.monotonic()

        assert list(stage.members) == ["b"]
        stage.start(spinning("a"))
        covered = stage.members["a"].log.covered_s
        assert covered is not None
        assert covered[0] > again_s
        assert not any(is_running(one.process.pid) for one in stage.members.values())


def test_a_workload_that_ends_tells_its_last_words(tmp_path: Path) -> None:
    ends = Workload(
        name="ends", argv=(sys.executable, "-c", "raise SystemExit('no disk')"), unit="bytes", description=""
    )
    with Stage(tmp_path) as stage, pytest.raises(WorkloadSilent, match="code 1: no disk"):
        stage.start(ends)


def test_a_round_that_could_not_be_measured_is_not_a_number_and_does_not_count() -> None:
    ratio = Ratio(rounds=(2.0, math.nan, 4.0))

    assert (2.0, 4.0) == ratio.values
    assert 3.0 == ratio.slowdown
    assert "3.00 (2.00-4.00)" == str(ratio)
    assert "unknown" == str(Ratio(rounds=(math.nan,)))
    assert math.isnan(Ratio(rounds=()).slowdown)
    assert Ratio(rounds=(2.0, math.nan)).spread_log is None


def log_of(folder: Path, lines: list[dict[str, float | str]]) -> ProgressLog:
    path = folder / "progress"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    log = ProgressLog(path)
    log.poll()
    return log


def test_work_that_stops_before_the_window_ends_is_counted_over_all_of_it(tmp_path: Path) -> None:
    log = log_of(tmp_path, [{"t": t / 10, "work": 10.0 * t} for t in range(17)])

    assert 100.0 == pytest.approx(work_rate(log, 1.0, 1.5, 1.55))
    assert 30.0 == pytest.approx(work_rate(log, 1.0, 2.9, 3.0)), "60 of work in 2 s, not in the first 0.6 s of them"
    assert math.isnan(work_rate(log, 2.0, 3.0, 3.1))


def test_a_stall_at_the_end_of_a_window_slows_decoding(tmp_path: Path) -> None:
    log = log_of(tmp_path, [{"t": t / 10, "event": "token"} for t in range(16)])

    assert 10.0 == pytest.approx(decoding_speed(log, 0.0, 1.0, 1.05))
    assert 5 / 2.0 == pytest.approx(decoding_speed(log, 1.1, 3.0, 3.1))
    assert 1 / 1.1 == pytest.approx(decoding_speed(log, 2.0, 3.0, 3.1)), "no token at all is the worst stall"


def test_an_agent_that_hardly_decodes_in_a_window_is_not_measured_by_something_else(tmp_path: Path) -> None:
    log = log_of(tmp_path, [{"t": 1.0, "event": "token"}, {"t": 1.1, "event": "token"}, {"t": 1.9, "event": "tool"}])

    assert math.isnan(decoding_speed(log, 0.0, 2.0, 2.0))
