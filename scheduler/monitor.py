"""Watches what placed workloads do, for whoever scrapes the daemon's metrics. Changes nothing on the host."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from isolation.cgroup import find_hierarchy
from isolation.cpuset import CpuSet
from isolation.resctrl_info import find_resctrl
from isolation.undo import Mechanism
from profiler.monitoring import METRICS, Monitor, Watched
from scheduler.held import Held
from scheduler.placement import LIVE
from scheduler.view import Viewer

_log = logging.getLogger("cotenant.monitor")
_IDLE_RATIO = 100.0  # turns are so many times farther apart than they take CPU time: at most 1 % of one core


class WorkloadMonitor(Collector):
    """Reads all live placements once a turn; asked for metrics, it tells what the last turn found."""

    def __init__(self, held: Mapping[str, Held], viewer: Viewer) -> None:
        self._held = held
        self._viewer = viewer
        self._monitor = Monitor()
        self._found: dict[str, dict[str, float]] = {}
        self._refusal: str | None = None
        hierarchy = find_hierarchy()
        self._mount = None if hierarchy is None else hierarchy.mount
        self._unified = hierarchy is not None and hierarchy.version == 2

    def turn(self) -> float:
        """Read once; gives the least seconds until the next turn."""
        started_s = time.thread_time()
        resctrl = find_resctrl()
        placements = self._viewer.current().placements
        workloads = {
            name: self._watched(held, placements[name].decision.cpus, None if resctrl is None else resctrl.path)
            for name, held in dict(self._held).items()
            if name in placements and placements[name].state in LIVE
        }
        self._found = self._monitor.turn(workloads)
        if self._monitor.refusal != self._refusal:
            self._refusal = self._monitor.refusal
            _log.info("placed workloads are watched without hardware counters: %s", self._refusal)
        return _IDLE_RATIO * (time.thread_time() - started_s)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give one gauge a metric, with the workloads of which it is known."""
        found = self._found
        for metric, meaning in METRICS.items():
            gauge = GaugeMetricFamily(f"cotenant_workload_{metric}", meaning, labels=("workload",))
            for name, values in found.items():
                if metric in values:
                    gauge.add_metric((name,), values[metric])
            yield gauge

    def close(self) -> None:
        """Close all counters."""
        self._monitor.close()

    def _watched(self, held: Held, cpus: CpuSet, resctrl: Path | None) -> Watched:
        undo = held.undo
        group = undo.group if held.target.cgroup_path is None else held.target.cgroup_path
        if undo.mechanism is Mechanism.AFFINITY or group is None or self._mount is None:
            pids = {one.pid for one in held.target.processes} | {one.pid for one in held.born}
            folder = None
        else:
            pids, folder = set(), Path(f"{self._mount}{group}")
        return Watched(
            pids=tuple(sorted(pids)),
            group=folder,
            unified=self._unified,
            cpus=cpus,
            resctrl=None if resctrl is None or undo.resctrl is None else resctrl / undo.resctrl.group,
        )
