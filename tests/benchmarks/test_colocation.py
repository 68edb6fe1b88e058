"""Windows of co-located workloads: paired ratios of what really ran."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from benchmarks.colocation import Ratio, Stage, slowdowns
from benchmarks.errors import WorkloadSilent
from benchmarks.workloads import Workload, catalogue
from isolation.cpuset import CpuSet
from isolation.topology import read_topology


def spinning(name: str) -> Workload:
    argv = next(one for one in catalogue() if one.name == "cpu").argv
    return Workload(name=name, argv=argv, unit="bytes", description="")


def test_two_hogs_on_one_cpu_take_twice_as_long(tmp_path: Path) -> None:
    first = CpuSet.of([next(iter(read_topology().usable))])
    with Stage(tmp_path) as stage:
        for name in ("a", "b"):
            stage.start(spinning(name))
            stage.members[name].pin(first)
        seen: list[tuple[str, float]] = []
        found = slowdowns(
            stage,
            ["a", "b"],
            {"": lambda: None},
            rounds=2,
            seconds=0.5,
            on_window=lambda setting, start_s, end_s: seen.append((setting, end_s - start_s)),
        )[""]
        pids = [one.process.pid for one in stage.members.values()]

    assert [2, 2] == [len(one.values) for one in found.values()]
    assert all(1.5 < one.slowdown < 2.8 for one in found.values()), found
    assert [""] * 2 == [setting for setting, _ in seen]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids), "leaving ends and reaps them"


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
