"""Runs as observations for training: what one workload did to another, where both were confined. Pure.

Runs in which members may use the same several CPUs are left out (isolation "none", and "cat", which confines to cache
ways only): where the kernel put whom is not known. So is a victim of several processes, whose own siblings share its
CPUs in its solo windows, too. Several repetitions of a cell on the same CPUs make one observation. Names tell the
workload, never how many processes of it there were: "cpu:4" is four times the aggressor "cpu".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median, stdev

from benchmarks.cells import good_runs
from benchmarks.design import Isolation, Member
from benchmarks.runs import Phase, Run
from benchmarks.slowdown import slowdown
from isolation.cpuset import CpuSet
from isolation.topology import Topology
from profiler.records import Observation
from scheduler.sharing import Sharing

_PREFIX = "experiment."
_SHARED = frozenset({Isolation.NONE, Isolation.CAT})


def profile_name(workload: str) -> str:
    """Name the profile of an experiment's workload, so that nobody's own "memory" is taken for it."""
    return f"{_PREFIX}{workload}"


def observations(runs: Iterable[Run], topology: Topology) -> list[Observation]:
    """Give what the good runs of one class of host say; its topology tells which CPUs share what."""
    cells: dict[tuple[str, tuple[str, ...]], list[Run]] = {}
    for run in good_runs(runs):
        if run.cpus and run.isolation not in _SHARED:
            cells.setdefault((run.cell, run.cpus), []).append(run)
    sharing = Sharing(topology)
    return [
        found
        for repetitions in cells.values()
        for victim in repetitions[0].members
        if victim.instances == 1 and (found := _observation(repetitions, victim, topology, sharing)) is not None
    ]


def _observation(runs: Sequence[Run], victim: Member, topology: Topology, sharing: Sharing) -> Observation | None:
    factors = [factor for run in runs if math.isfinite(factor := slowdown(run, victim.workload))]
    if not factors:
        return None
    first, last = runs[0], max(runs, key=lambda run: run.started_unix_s)
    seats = {member.workload: CpuSet.parse(text) for member, text in zip(first.members, first.cpus, strict=True)}
    others = [member for member in first.members if member != victim for _ in range(member.instances)]
    together = first.reading(victim.workload, Phase.TOGETHER)
    return Observation(
        victim=profile_name(victim.workload),
        aggressors=tuple(profile_name(member.workload) for member in others),
        relations=tuple(sharing.relation(seats[victim.workload], seats[member.workload]) for member in others),
        slowdown=median(factors),
        spread=stdev(map(math.log, factors)) if len(factors) > 1 else None,
        repetitions=len(factors),
        window_s=together.seconds if together else 0.0,
        host_fingerprint=topology.fingerprint,
        created_unix_s=last.started_unix_s,
        isolation=str(first.isolation),
    )
