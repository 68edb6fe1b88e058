"""What is told of a group of threads while it is measured: counters of the CPU, monitoring of the cache, pressure.

Each is optional: what cannot be had is noted with its reason and left out. Nothing of ours is left on the host.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from isolation.errors import IsolationError
from isolation.kernelfs import HOST_FILES
from isolation.monitoring_groups import MonitoringGroups
from isolation.process import ThreadId, threads
from isolation.resctrl_info import find_resctrl
from isolation.resctrl_lock import HOST_LOCKS
from isolation.resctrl_monitor import MonitorReading, counted_between
from profiler.counters import HARDWARE, STALLS, Counters, hardware_features
from profiler.errors import CountersUnavailable
from profiler.findings import Findings
from profiler.pressure import group_pressure, host_pressure, pressure_features, read_pressure
from profiler.procfs import GroupSample
from profiler.records import Feature, Source, measured

_PREFIX = "cotenant-profile"


class LiveSources:
    """Counts and watches from its making to leaving."""

    def __init__(self, group: GroupSample, findings: Findings, *, alone: bool = False) -> None:
        """Start with the threads of this moment; those born of them later are counted, too.

        alone: nobody else works here, so that the pressure of the whole host is that of the group.
        """
        try:
            self._counters = Counters(group.voluntary, HARDWARE, also=STALLS)
        except CountersUnavailable as error:
            findings.notes.append(f"no hardware counters: {error}")
            self._counters = Counters((), HARDWARE)
        self._cache = _watch_cache(group, findings)
        self._first = () if self._cache is None else self._cache.readings(_name())
        self._pressed = group_pressure(group.pids) or (host_pressure() if alone else {})
        self._waited_us = read_pressure(self._pressed)
        self._started_s = time.monotonic()

    def features(self, window_s: float) -> tuple[Feature, ...]:
        """Give what was found until now."""
        elapsed_s = time.monotonic() - self._started_s
        found = hardware_features(self._counters.read(), window_s)
        found += pressure_features(self._waited_us, read_pressure(self._pressed), elapsed_s)
        if self._cache is None:
            return found
        return found + cache_features(self._first, self._cache.readings(_name()), elapsed_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._counters.close()
        if self._cache is not None:
            self._cache.unwatch(_name())


def cache_features(
    first: tuple[MonitorReading, ...], last: tuple[MonitorReading, ...], elapsed_s: float
) -> tuple[Feature, ...]:
    """Turn two readings into footprint and bandwidth."""
    values = cache_values(first, last, elapsed_s)
    return tuple(one for name, value in values.items() for one in measured(name, value, Source.RESCTRL, elapsed_s))


def cache_values(
    first: tuple[MonitorReading, ...], last: tuple[MonitorReading, ...], elapsed_s: float
) -> dict[str, float]:
    """Give footprint and bandwidth by feature, from two readings; what one cache does not tell is not known of all."""
    before = {(one.resource, one.domain): one for one in first}
    values: dict[str, float] = {}
    sizes = [one.llc_occupancy_bytes for one in last if one.resource == "L3"]
    known = [size for size in sizes if size is not None]
    if known and len(known) == len(sizes):
        values["llc_footprint_bytes"] = float(sum(known))
    moved = [
        counted_between(before[one.resource, one.domain].mbm_total_bytes, one.mbm_total_bytes)
        for one in last
        if one.resource == "L3" and (one.resource, one.domain) in before
    ]
    counted = [one for one in moved if one is not None]
    if counted and len(counted) == len(sizes) and elapsed_s > 0:
        values["memory_bytes_per_s"] = sum(counted) / elapsed_s
    return values


def _watch_cache(group: GroupSample, findings: Findings) -> MonitoringGroups | None:
    """Put the group into a monitoring group of ours; None where that cannot be, which is only noted if it should."""
    mount = find_resctrl()
    if mount is None or not (mount.path / "mon_groups").is_dir():
        return None
    groups = MonitoringGroups(str(mount.path), files=HOST_FILES, locks=HOST_LOCKS, prefix=_PREFIX)
    try:
        for name in groups.names():
            if not Path(f"/proc/{name.removeprefix('p')}").exists():  # whoever made it was killed
                groups.unwatch(name)
        watch = groups.watch(_name(), _threads_of(group))
    except (IsolationError, OSError) as error:
        findings.notes.append(f"no cache monitoring: {error}")
        return None
    if watch.foreign or watch.missed:
        groups.unwatch(_name())
        findings.notes.append(
            f"no cache monitoring: {len(watch.foreign)} threads are monitored by another tool, {len(watch.missed)} were"
            " born faster than they could be moved"
        )
        return None
    return groups


def _threads_of(group: GroupSample) -> Callable[[], tuple[ThreadId, ...]]:
    return lambda: tuple(one for pid in sorted(group.pids) for one in threads(pid, files=HOST_FILES))


def _name() -> str:
    return f"p{os.getpid()}"
