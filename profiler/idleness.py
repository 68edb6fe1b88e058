"""Whether a workload is alone: who else computes on its CPUs, and on those that share its last-level cache."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass

from isolation.cpuset import CpuSet
from isolation.topology import Topology
from profiler.procfs import PROC, ProcessTime, busy_s, process_times

ON_ITS_CPUS_RATIO = 0.1  #: of its CPUs that others may use
BESIDE_IT_CPUS = 0.5  #: CPUs that others may keep busy in the same last-level cache
_NAMED = 3
_LEAST_NAMED_RATIO = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMoment:
    """CPU time so far."""

    t_s: float
    on_s: float  #: of the workload's CPUs
    beside_s: float  #: of the others in its cache
    own_s: float  #: of this process
    processes: dict[int, ProcessTime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """Who else was there, as shares of a span."""

    on_ratio: float  #: of the workload's CPUs
    beside_cpus: float
    who: str  #: the busiest, by name and pid

    @property
    def is_too_much(self) -> bool:
        """Whether the workload was not alone."""
        return self.on_ratio > ON_ITS_CPUS_RATIO or self.beside_cpus > BESIDE_IT_CPUS

    def __str__(self) -> str:
        parts = []
        if self.on_ratio > ON_ITS_CPUS_RATIO:
            parts.append(f"others used {self.on_ratio:.0%} of its CPUs")
        if self.beside_cpus > BESIDE_IT_CPUS:
            parts.append(f"others kept {self.beside_cpus:.1f} CPUs busy that share its last-level cache")
        return f"{' and '.join(parts) or 'nobody else was busy'} ({self.who})"


class Solitude:
    """Compares moments of one host."""

    def __init__(self, cpus: CpuSet, topology: Topology) -> None:
        self._cpus = cpus
        beside = [domain.cpus for domain in topology.llc_domains if domain.cpus & cpus] or [topology.online]
        self._beside = CpuSet.of(cpu for one in beside for cpu in one & topology.online) - cpus

    def now(self) -> HostMoment:
        """Look at the host; a few milliseconds."""
        return HostMoment(
            t_s=time.monotonic(),
            on_s=busy_s(self._cpus),
            beside_s=busy_s(self._beside) if self._beside else 0.0,
            own_s=time.process_time(),
            processes=process_times(PROC),
        )

    def company(
        self,
        first: HostMoment,
        last: HostMoment,
        *,
        on_s: float = 0.0,
        beside_s: float = 0.0,
        ours: Collection[int] = (),
    ) -> Company:
        """Say who else computed between two moments; on_s and beside_s = what our own measurement did there."""
        span_s = max(1e-6, last.t_s - first.t_s)
        own_s = last.own_s - first.own_s  # on whichever CPU
        on = max(0.0, last.on_s - first.on_s - on_s - own_s) / span_s / len(self._cpus)
        beside = max(0.0, last.beside_s - first.beside_s - beside_s - own_s) / span_s
        return Company(on_ratio=on, beside_cpus=beside, who=_busiest(first, last, {*ours, os.getpid()}, span_s))


def _busiest(first: HostMoment, last: HostMoment, ours: Collection[int], span_s: float) -> str:
    """Name the busiest processes that were there at both moments or were born between."""
    used: list[tuple[float, str]] = []
    for pid, now in last.processes.items():
        before = first.processes.get(pid)
        if pid in ours or (before is not None and before.started_ticks != now.started_ticks):
            continue
        share = (now.cpu_s - (before.cpu_s if before else 0.0)) / span_s
        if share > _LEAST_NAMED_RATIO:
            used.append((share, f"{now.name} {pid}: {share:.0%}"))
    named = [text for _, text in sorted(used, reverse=True)[:_NAMED]]
    return ", ".join(named) if named else "nobody for long: short-lived processes, the kernel or stolen time"
