"""What neighbours on the same CPUs cost beyond what their pairs add up to: a CPU that is full. Pure.

Pairs cannot see it: of ten workloads that want 45 % of a CPU each no two fill it, yet together they want 4.5 CPUs. The
kernel shares a CPU by max-min fairness: who wants less than an even share has all it wants, the others split the rest.
The excess is SF by that rule for all at once less 1 + sum of (SF - 1) by the same rule for each pair, so that for hogs
it is 0, and what the model says of pairs stands. Who forces writes to the disk waits at each wake-up beside a full CPU,
so it asks for less then (profiler/prior.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from profiler.prior import disk_wakes_per_s, fair_share_factor, utilisation
from profiler.records import DISK_WAKE_WAIT_S, WorkloadProfile


class Demand(NamedTuple):
    """What a workload wants of each of its CPUs."""

    utilisation: float  #: 0 to 1
    waiting: float  #: time for the same work beside a full CPU / beside an idle one, for waiting at wake-ups alone


def demand_of(profile: WorkloadProfile | None) -> Demand:
    """Take it from a profile; a workload we know nothing of counts as a hog."""
    return Demand(utilisation(profile), 1.0 + disk_wakes_per_s(profile) * DISK_WAKE_WAIT_S)


def crowd_excess(victim: Demand, others: Sequence[tuple[Demand, int]]) -> float:
    """Give the excess of a victim beside neighbours that use all of its CPUs, each with how many there are of it."""
    total = victim.utilisation + sum(one.utilisation * count for one, count in others)
    if total <= 1.0 or sum(count for _, count in others) < 2:
        return 0.0
    wanted: list[float] = []
    pairs = 1.0
    for one, count in others:
        demand = one.utilisation / (1.0 + (one.waiting - 1.0) * min(1.0, total - one.utilisation))
        wanted += [demand] * count
        pairs += count * (fair_share_factor(victim.utilisation, demand) - 1.0)
    return max(0.0, _fair(victim.utilisation, wanted) - pairs)


def _fair(demand: float, others: Sequence[float]) -> float:
    """Give SF of a demand by max-min fairness among others on one CPU."""
    left, wanted = 1.0, sorted((demand, *others))
    for served, one in enumerate(wanted):
        even = left / (len(wanted) - served)
        if one > even:
            return max(1.0, demand / even)
        left -= one
    return 1.0
