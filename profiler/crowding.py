"""What a full CPU changes about the sum of pairs: on the same CPUs neighbours cost more, on others less. Pure.

On the same CPUs. Pairs cannot see it: of ten workloads that want 45 % of a CPU each no two fill it, yet together they
want 4.5 CPUs. The kernel shares a CPU by max-min fairness: who wants less than an even share has all it wants, the
others split the rest. The excess is SF by that rule for all at once less 1 + sum of (SF - 1) by the same rule for each
pair, or as the model tells the pairs if that is more; so that for hogs it is 0, and what the model says stands. Who
forces writes to the disk waits at each wake-up beside a full CPU, so it asks for less then (profiler/prior.py).

On other CPUs. There a neighbour takes caches and bandwidth only while it runs, and those who share one CPU do not run
at once: sixteen hogs on one CPU press as one does. Measured with pinning, an agent beside 1, 4 and 16 memory-bound
processes on the other CPU: 1.2 to 1.5, 1.1 to 1.2 and 1.2 times as long (the plain sum says up to 8); beside 1, 4 and
16 that wait for the disk three quarters of the time: 1.0, 1.2 and 1.2. One with whom the victim shares some CPUs
and not others counts in full, as the pair tells it, which is too much where many share those others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from profiler.prior import disk_wakes_per_s, fair_share_factor, utilisation
from profiler.records import DISK_WAKE_WAIT_S, WorkloadProfile


class Demand(NamedTuple):
    """What a workload wants of each of its CPUs."""

    utilisation: float  #: 0 to 1; unknown = 1
    waiting: float  #: time for the same work beside a full CPU / beside an idle one, for waiting at wake-ups alone
    is_known: bool = True  #: the utilisation; who is guessed to be a hog takes no time from others by that guess


def demand_of(profile: WorkloadProfile | None) -> Demand:
    """Take it from a profile; a workload we know nothing of counts as a hog."""
    waiting = 1.0 + disk_wakes_per_s(profile) * DISK_WAKE_WAIT_S
    is_known = profile is not None and not math.isnan(profile.value("cpu_utilisation_ratio"))
    return Demand(utilisation(profile), waiting, is_known)


def running_share(cpus: int, wanted: float) -> float:
    """Give the share of its demand that each of those who want `wanted` of so many CPUs gets, all treated alike."""
    return 1.0 if wanted <= cpus else cpus / wanted


def crowd_excess(victim: Demand, others: Sequence[tuple[Demand, float]], told: float = 1.0) -> float:
    """Give the excess of a victim beside neighbours that use all of its CPUs, each with how many there are of it.

    `told` is the slowdown by these neighbours as the model composes it: what it knows of them is not counted twice.
    """
    total = victim.utilisation + sum([one.utilisation * count for one, count in others])
    if total <= 1.0:
        return 0.0
    heads = sum([count for _, count in others])
    if heads < 2 or told >= victim.utilisation * (1.0 + heads):  # an even share is the least that anybody gets
        return 0.0
    wanted = [
        (one.utilisation / (1.0 + (one.waiting - 1.0) * min(1.0, total - one.utilisation)), count)
        for one, count in others
    ]
    fair = _fair(victim.utilisation, wanted)
    if fair <= told:
        return 0.0
    pairs = 1.0 + sum([count * (fair_share_factor(victim.utilisation, demand) - 1.0) for demand, count in wanted])
    return max(0.0, fair - max(pairs, told))


def _fair(demand: float, others: Sequence[tuple[float, float]]) -> float:
    """Give SF of a demand by max-min fairness on one CPU among others, each with how many there are of it."""
    left, heads = 1.0, 1.0 + sum([count for _, count in others])
    for one, count in sorted(others):
        if one > left / heads:
            break
        left -= one * count
        heads -= count
    return max(1.0, demand * heads / left)
