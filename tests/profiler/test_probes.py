"""Probes on real processes: an idle workload neither presses nor suffers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from isolation.cpuset import CpuSet
from isolation.topology import read_topology
from profiler.command import PinnedCommand
from profiler.errors import WorkloadFailed
from profiler.probes import Probe, main, measure

CPUS = list(read_topology().usable)
SMALL_LLC = 4 * 2**20


def test_a_workload_that_sleeps_does_not_press_and_stays_running(tmp_path: Path) -> None:
    if len(CPUS) < 2:
        pytest.skip("probes need a second CPU")
    workload = [sys.executable, str(Path(__file__).with_name("workload.py")), "steady"]
    shares: list[float] = []
    with PinnedCommand(workload, CpuSet.of(CPUS[:1]), tmp_path) as running:
        result = measure(
            running,
            cpus=CpuSet.of(CPUS[:1]),
            probe_cpu=CPUS[1],
            llc_bytes=SMALL_LLC,
            folder=tmp_path,
            slice_s=0.1,
            on_progress=shares.append,
        )

        assert running.poll(), "it goes on after the probes"

    assert shares == sorted(shares)
    assert shares[0] == 0
    found = {one.name: one.value for one in result.features}
    assert 0.7 < found["cache_sensitivity_sf"] < 1.5
    assert found.get("cache_pressure_ratio", 0.0) <= 2.0
    assert ("cache_pressure_ratio" in found) != any("cache pressure unknown" in note for note in result.notes)


def test_a_probe_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(WorkloadFailed, match=r"the reporter probe did not start: .*--llc-bytes is 1, must be"):
        Probe("reporter", CPUS[0], 1, tmp_path / "probe")


@pytest.mark.parametrize(
    "arguments", [[], ["else"], ["reporter", "--llc-bytes", "nan"], ["pressure", "--llc-bytes", "0"]]
)
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
