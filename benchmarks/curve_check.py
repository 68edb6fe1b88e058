"""Does the sensitivity curve tell what neighbours cost? Measured by the probes' short slices, and by direct co-runs.

    python -m benchmarks.curve_check [--rounds N]

Two workloads: random reads over half of the last-level cache, and a llama.cpp agent that decodes. Each is probed, then
run for seconds beside each level's program. A co-run's factor is its rate in the windows alone before and after / in
the window together. The built-in `memory` stands beside full pressure for comparison, not judged: it copies more at a
time, and presses harder on some hosts.

A level is beyond noise if the logarithms of the two factors differ by more than their errors allow at a chance of 5 %
over all levels of both workloads (Bonferroni). The error of a factor is its spread over the square root of its
samples; no spread counts as less than that of windows alone. Ends with 1 if a level is beyond noise.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.colocation import Stage
from benchmarks.probe_check import probed, shared_cache
from benchmarks.workloads import Workload, catalogue
from isolation.cpuset import CpuSet
from profiler.probes import probe_command
from profiler.records import Feature
from profiler.sensitivity import SENSITIVITY

_WORKLOADS = ("latency", "agent")
_MEMORY = "memory"  #: the built-in beside which full pressure is tried once more
_FULL = "cache_sensitivity_sf"
_WINDOW_S = 1.0
_CHANCE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class CoRun:
    """Factors of one workload beside one neighbour, and how far windows alone differ: standard deviation of logs."""

    factors: tuple[float, ...]
    floor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One level of one curve beside the same measured directly."""

    workload: str
    level: str
    curve: Feature
    direct: CoRun
    is_judged: bool = True  #: False = the neighbour was not the level's own program

    @property
    def difference(self) -> float:
        """Give log(curve / direct)."""
        return math.log(self.curve.value / statistics.median(self.direct.factors))

    @property
    def error(self) -> float:
        """Give the standard error of the difference."""
        curve = (self.curve.spread or 0.0) / self.curve.value
        direct = statistics.stdev(map(math.log, self.direct.factors))
        return math.hypot(
            max(curve, self.direct.floor) / math.sqrt(self.curve.samples),
            max(direct, self.direct.floor) / math.sqrt(len(self.direct.factors)),
        )


def beyond(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Keep those that differ by more than noise, at a chance of 5 % for one of them all."""
    judged = [one for one in comparisons if one.is_judged]
    if not judged:
        return []
    limit = statistics.NormalDist().inv_cdf(1 - _CHANCE / 2 / len(judged))
    return [one for one in judged if abs(one.difference) > limit * one.error]


def co_runs(stage: Stage, victim: str, neighbours: Sequence[str], rounds: int) -> Mapping[str, CoRun]:
    """Run a started workload beside each started neighbour in turn, alone between them."""
    factors: dict[str, list[float]] = {name: [] for name in neighbours}
    drifts = []
    before = stage.window([victim], _WINDOW_S).rates[victim]
    for number in range(rounds):
        for name in neighbours if number % 2 == 0 else reversed(neighbours):
            during = stage.window([victim, name], _WINDOW_S).rates[victim]
            after = stage.window([victim], _WINDOW_S).rates[victim]
            if min(before, during, after) > 0:  # NaN compares false
                factors[name].append((before + after) / 2 / during)
                drifts.append(math.log(after / before))
            before = after
    # a factor's alone part is the mean of two windows, its other part one: as noisy as sqrt(3/2) of a window each
    floor = statistics.stdev(drifts) / math.sqrt(2) * math.sqrt(1.5) if len(drifts) > 1 else math.nan
    return {name: CoRun(factors=tuple(found), floor=floor) for name, found in factors.items()}


def _compared(workload: Workload, cpus: tuple[int, int], llc_bytes: int, rounds: int) -> list[Comparison]:
    """Probe a workload, run it beside the same programs for seconds, and put both side by side."""
    own, other = cpus
    found = {one.name: one for one in probed(workload.argv, own, other, llc_bytes).features}
    memory = next(one for one in catalogue() if one.name == _MEMORY)
    neighbours = {str(level): (name, _pressing(str(level), name, llc_bytes)) for name, level in SENSITIVITY.items()}
    neighbours[f"beside `{_MEMORY}`"] = (_FULL, memory)
    with tempfile.TemporaryDirectory(prefix="cotenant-curve-") as folder, Stage(Path(folder)) as stage:
        stage.start(workload)
        stage.members[workload.name].pin(CpuSet.of([own]))
        for _, one in neighbours.values():
            stage.start(one)
            stage.members[one.name].pin(CpuSet.of([other]))
        direct = co_runs(stage, workload.name, [one.name for _, one in neighbours.values()], rounds)
    return [
        Comparison(
            workload=workload.name,
            level=level,
            curve=found[name],
            direct=direct[one.name],
            is_judged=one is not memory,
        )
        for level, (name, one) in neighbours.items()
        if name in found and len(direct[one.name].factors) > 1
    ]


def _pressing(about: str, name: str, llc_bytes: int) -> Workload:
    """Give the program that presses at one level as a workload of its own."""
    level = SENSITIVITY[name]
    command = probe_command(level.kind, level.size_bytes(llc_bytes), share=level.time_ratio)
    return Workload(name=name, argv=command, unit="units", description=about)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and say by the exit code how it went."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.curve_check", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--rounds", type=int, default=4)
    chosen = parser.parse_args(arguments)
    cache = shared_cache()
    if cache is None:
        sys.stderr.write(
            "curve_check: nothing compared, it needs two CPUs that share a last-level cache of known size\n"
        )
        return 0
    first, last, llc_bytes = cache
    known = {one.name: one for one in catalogue()}
    found = [one for name in _WORKLOADS for one in _compared(known[name], (first, last), llc_bytes, chosen.rounds)]
    too_far = beyond(found)
    _print(found, too_far)
    return 1 if too_far or not found else 0


def _print(found: Sequence[Comparison], too_far: Sequence[Comparison]) -> None:
    console = Console(width=120)
    table = Table("workload", "pressure", "curve", "direct co-run", "curve / direct", "error", "verdict")
    for one in found:
        table.add_row(
            one.workload,
            one.level,
            f"{one.curve.value:.2f} ±{one.curve.spread or 0:.2f}",
            f"{statistics.median(one.direct.factors):.2f} ({min(one.direct.factors):.2f} to "
            f"{max(one.direct.factors):.2f})",
            f"{math.exp(one.difference):.2f}",
            f"{one.error:.1%}",
            "beyond noise" if one in too_far else "within noise" if one.is_judged else "another program",
        )
    console.print(table)
    if judged := [one for one in found if one.is_judged]:
        ratios = [math.exp(one.difference) for one in judged]
        console.print(
            f"{len(judged) - len(too_far)} of {len(judged)} levels within noise; curve / direct: median "
            f"{statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
