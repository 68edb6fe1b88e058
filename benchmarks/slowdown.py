"""Slowdown of each member of a run, as paired ratios of what it did together and alone. Pure.

SF = T_together / T_alone for the same work; T_alone = mean of the windows before and after. Ordinary work: T is the
time for one unit of it, 1 / rate. Agents begin the same turns anew in each window, so their same work is the first n
tokens, n = as many as came in all three windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.runs import Phase, Reading, Run


def slowdown(run: Run, member: str) -> float:
    """Give SF of one member; NaN when a window did not tell."""
    before_s, together_s, after_s = _work_s(run.readings, member, tuple(Phase))
    return together_s / ((before_s + after_s) / 2)


def solo_drift(readings: Sequence[Reading], member: str) -> float:
    """Give by what factor the two windows in which a member was alone differ, at least 1; NaN = one did not tell."""
    before_s, after_s = _work_s(readings, member, (Phase.BEFORE, Phase.AFTER))
    return max(before_s, after_s) / min(before_s, after_s)


def work_ratio(run: Run, other: Run, member: str, phases: Sequence[Phase]) -> float:
    """Give the time for the same work in these windows of one run (their mean) / in those of another; NaN = unknown."""
    windows = [one.reading(member, phase) for one in (run, other) for phase in phases]
    known = [one for one in windows if one is not None]
    if len(known) < len(windows):
        return math.nan
    times_s = _same_work_s(known)
    return sum(times_s[: len(phases)]) / sum(times_s[len(phases) :])


def tail_sensitivity(run: Run, member: str) -> float:
    """Give TLS of one member: (P99 together - P99 alone) / P99 alone of the time between tokens; NaN = unknown."""
    found = [run.reading(member, phase) for phase in (Phase.BEFORE, Phase.TOGETHER, Phase.AFTER)]
    p99_s = [math.nan if one is None or one.tbt_p99_s is None else one.tbt_p99_s for one in found]
    alone_s = (p99_s[0] + p99_s[2]) / 2
    return (p99_s[1] - alone_s) / alone_s if alone_s > 0 else math.nan


def _work_s(readings: Sequence[Reading], member: str, phases: Sequence[Phase]) -> tuple[float, ...]:
    """Give the time that the same work took in these windows, NaN for all if one did not tell."""
    found = {one.phase: one for one in readings if one.member == member and one.phase in phases}
    if len(found) < len(phases):
        return (math.nan,) * len(phases)
    return _same_work_s([found[phase] for phase in phases])


def _same_work_s(windows: Sequence[Reading]) -> tuple[float, ...]:
    """Give the time that the same work took in each window, NaN for all if one did not tell."""
    if any(one.token_times_s for one in windows):
        count = min(len(one.token_times_s) for one in windows)
        times_s = [one.token_times_s[count - 1] if count else math.nan for one in windows]
    else:
        times_s = [1 / one.rate_per_s if one.rate_per_s else math.nan for one in windows]
    return tuple(times_s) if all(one > 0 for one in times_s) else (math.nan,) * len(windows)
