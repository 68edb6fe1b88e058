"""Curves beside direct co-runs: the judgement on simulated factors, the co-runs on real programs."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
import sys
from pathlib import Path

import pytest

from benchmarks.colocation import Stage
from benchmarks.curve_check import Comparison, CoRun, beyond, co_runs
from benchmarks.workloads import Workload
from isolation.cpuset import CpuSet
from isolation.topology import read_topology
from profiler.probes import probe_command
from profiler.records import Feature, Source

ONE_CPU = CpuSet.of(list(read_topology().usable)[-1:])


def comparison(curve: float, direct: list[float], *, spread: float = 0.0, floor: float = 0.02) -> Comparison:
    """Make one out of simulated factors."""
    feature = Feature(name="cache_full_sf", value=curve, spread=spread, source=Source.PROBE, window_s=1.0, samples=2)
    return Comparison(
        workload="simulated", level="simulated", curve=feature, direct=CoRun(factors=tuple(direct), floor=floor)
    )


def test_the_error_is_never_less_than_what_windows_alone_differ_by() -> None:
    """Two slices that agree by luck, four equal co-runs: 2 % over the square roots of 2 and 4."""
    one = comparison(1.5, [1.5] * 4)

    assert one.error == pytest.approx(math.hypot(0.02 / math.sqrt(2), 0.02 / 2))
    assert one.difference == pytest.approx(0.0)


def test_what_differs_by_more_than_noise_is_found_and_noise_is_not() -> None:
    """Simulated: 2 % noise a window, one level of fourteen planted 30 % too high, two hundred times."""
    draw = random.Random(7)  # noqa: S311 - noise

    def noisy(factor: float) -> float:
        return factor * math.exp(draw.gauss(0, 0.02))

    false, missed = 0, 0
    for _ in range(200):
        levels = [
            comparison(statistics.fmean([noisy(1.2), noisy(1.2)]), [noisy(1.2) for _ in range(4)]) for _ in range(13)
        ]
        planted = comparison(noisy(1.2 * 1.3), [noisy(1.2) for _ in range(4)])
        found = beyond([*levels, planted])
        false += any(one is not planted for one in found)
        missed += not any(one is planted for one in found)

    assert missed == 0
    assert false <= 20  # 5 % of 200 are expected, and 20 are twice that


def test_only_a_level_s_own_program_is_judged() -> None:
    other = dataclasses.replace(comparison(1.2, [3.0] * 4), is_judged=False)

    assert beyond([]) == []
    assert beyond([other]) == []
    assert beyond([other, comparison(1.2, [3.0] * 4)]) != []


def test_a_neighbour_on_the_same_cpu_doubles_the_time_and_a_sleeping_one_does_not(tmp_path: Path) -> None:
    python = (sys.executable, "-P", "-m")
    victim, hog = (
        Workload(name=name, argv=(*python, "benchmarks.workloads", "cpu"), unit="bytes", description="")
        for name in ("victim", "hog")
    )
    sleeper = Workload(
        name="sleeper",
        argv=probe_command("reader", 1 << 16, share=0.01),
        unit="units",
        description="",
    )
    with Stage(tmp_path) as stage:
        for one in (victim, hog, sleeper):
            stage.start(one)
            stage.members[one.name].pin(ONE_CPU)
        found = co_runs(stage, "victim", ["hog", "sleeper"], rounds=1)

    assert found["hog"].factors[0] == pytest.approx(2.0, rel=0.25)
    assert found["sleeper"].factors[0] < 1.4
    assert found["hog"].floor == found["sleeper"].floor >= 0
