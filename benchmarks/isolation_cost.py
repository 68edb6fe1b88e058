"""What an isolation does to the time itself, with and without it: its own price, and what it gains in all. Pure.

SF compares a member with itself alone under the same isolation, so what isolation takes away (CPUs, cache) is not in
it. Here two runs of the same members, repetition and host instance are compared, one with the isolation, one under
none: they share the hour, the data and the agents' turns, though not the seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.design import Isolation, Member, Part
from benchmarks.runs import Phase, Run
from benchmarks.sample import FloatArray
from benchmarks.slowdown import work_ratio

_ALONE = (Phase.BEFORE, Phase.AFTER)
_TOGETHER = (Phase.TOGETHER,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimeRatios:
    """One member of two cells that differ in isolation only: time for the same work, with / without, [n] each."""

    alone: FloatArray  #: the price of the isolation; above 1 = slower with it
    together: FloatArray  #: what is left of its gain when that is paid; below 1 = faster with it


def time_ratios(good: Iterable[Run], isolation: Isolation) -> Mapping[tuple[tuple[Member, ...], str], TimeRatios]:
    """Give them by members of the cell and workload, for part factorial; what a window did not tell is left out."""
    runs: dict[Isolation, dict[tuple[tuple[Member, ...], int, str], Run]] = {isolation: {}, Isolation.NONE: {}}
    for run in good:
        if run.part is Part.FACTORIAL and run.isolation in runs:
            runs[run.isolation][run.members, run.repetition, run.instance] = run
    pairs: dict[tuple[Member, ...], list[tuple[Run, Run]]] = {}
    for key, run in sorted(runs[isolation].items(), key=lambda one: one[0][1]):
        if (without := runs[Isolation.NONE].get(key)) is not None:
            pairs.setdefault(run.members, []).append((run, without))
    return {
        (members, member.workload): TimeRatios(
            alone=_known(work_ratio(*pair, member.workload, _ALONE) for pair in found),
            together=_known(work_ratio(*pair, member.workload, _TOGETHER) for pair in found),
        )
        for members, found in pairs.items()
        for member in members
    }


def _known(ratios: Iterable[float]) -> FloatArray:
    values = np.array(list(ratios), dtype=np.float64)
    return values[np.isfinite(values)]
