"""How quiet the host was while the good runs were made: what the record tells of it, as quantiles over runs. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.runs import Run
from benchmarks.slowdown import solo_drift


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNoise:
    """One measure of disturbance; NaN = no run told it."""

    measure: str
    unit: str
    n: int  #: values
    median: float
    p95: float
    largest: float


def host_noise(runs: Sequence[Run]) -> tuple[HostNoise, ...]:
    """Summarise steal, other programs, the two fixed pieces of work, and the drift between windows alone."""
    return (
        _quantiles("steal", "share of all CPU time", [run.steal_ratio for run in runs]),
        _quantiles("other programs", "share of all CPUs", [run.others_ratio for run in runs]),
        *(
            _quantiles(name, "distance from the median of its instance, as a share", _from_median(runs, times_s))
            for name, times_s in (
                ("computation", lambda run: run.cpu_probe_s),
                ("copy", lambda run: run.memory_probe_s),
            )
        ),
        _quantiles(
            "drift alone",
            "factor between the windows before and after, less 1",
            [solo_drift(run.readings, member.workload) - 1 for run in runs for member in run.members],
        ),
    )


def _from_median(runs: Sequence[Run], times_s: Callable[[Run], Sequence[float]]) -> list[float]:
    found: dict[str, list[float]] = {}
    for run in runs:
        found.setdefault(run.instance, []).extend(times_s(run))
    return [abs(one / float(np.median(values)) - 1) for values in found.values() for one in values]


def _quantiles(measure: str, unit: str, values: Sequence[float | None]) -> HostNoise:
    known = [one for one in values if one is not None and math.isfinite(one)]
    median, p95, largest = np.quantile(known, [0.5, 0.95, 1.0]).tolist() if known else (math.nan,) * 3
    return HostNoise(measure=measure, unit=unit, n=len(known), median=median, p95=p95, largest=largest)
