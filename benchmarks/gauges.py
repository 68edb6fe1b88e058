"""What the hardware tells of each member in a window: counters of the CPU, occupancy and bandwidth of the cache.

Each is optional: what a host does not offer is left out, and `missing` says why.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from benchmarks.errors import MemberUnconfined
from isolation.errors import IsolationError, OutOfRmids
from isolation.kernelfs import HOST_FILES
from isolation.monitoring_groups import MonitoringGroups
from isolation.process import ThreadId, threads
from isolation.resctrl_info import find_resctrl
from isolation.resctrl_lock import HOST_LOCKS
from profiler.counters import HARDWARE, Counters, Event
from profiler.errors import CountersUnavailable
from profiler.procfs import members as family
from profiler.sources import cache_features

#: Of each member, by the field of a Reading.
Told = Mapping[str, Mapping[str, float]]
_FIELDS = {"llc_footprint_bytes": "llc_occupancy_bytes", "memory_bytes_per_s": "memory_bytes_per_s"}
_LEAST_RUNNING = 0.3  #: as the profiler: below, scaling up is guessing


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """Which of them this host has."""

    has_counters: bool
    cache: MonitoringGroups | None
    missing: tuple[str, ...]  #: sentences

    @classmethod
    def for_host(cls, prefix: str) -> Gauges:
        """Try each once; monitoring groups that a killed campaign left are removed."""
        missing = []
        has_counters = True
        try:
            Counters([0], HARDWARE).close()  # 0 = this thread
        except CountersUnavailable as error:
            has_counters = False
            missing.append(f"no hardware counters (IPC, cache misses): {error}")
        mount = find_resctrl()
        cache = None
        if mount is None or not (mount.path / "mon_groups").is_dir():
            missing.append(
                "no cache monitoring (occupancy, memory bandwidth): resctrl is not mounted or cannot monitor"
            )
        else:
            cache = MonitoringGroups(str(mount.path), files=HOST_FILES, locks=HOST_LOCKS, prefix=prefix)
            try:
                for name in cache.names():
                    cache.unwatch(name)
                with _watched(cache, {"probe": [os.getpid()]}):
                    pass
            except IsolationError as error:
                cache = None
                missing.append(f"no cache monitoring (occupancy, memory bandwidth): {error}")
        return cls(has_counters=has_counters, cache=cache, missing=tuple(missing))

    @contextmanager
    def watching(self, members: Mapping[str, Sequence[int]]) -> Iterator[Callable[[float], Told]]:
        """Watch the processes of each member and their descendants; ask at the end, with the seconds they were let run.

        Where the cache's monitoring ids are all in use for now, it is not told. Raises MemberUnconfined when a member
        cannot be watched otherwise on a host that can.
        """
        with ExitStack() as cleanup:
            counters = {}
            try:
                if self.has_counters:
                    for name, pids in members.items():
                        tids = [one.tid for one in _threads(pids)]
                        counters[name] = cleanup.enter_context(Counters(tids, HARDWARE))
                occupied = cleanup.enter_context(_watched_if_free(self.cache, members)) if self.cache else _nothing
            except (CountersUnavailable, IsolationError) as error:
                raise MemberUnconfined(f"{error}; the host could be measured when the campaign began") from error
            yield lambda elapsed_s: {
                name: (_counted(counters[name], elapsed_s) if name in counters else {}) | occupied(name, elapsed_s)
                for name in members
            }


@contextmanager
def _watched(
    cache: MonitoringGroups, members: Mapping[str, Sequence[int]]
) -> Iterator[Callable[[str, float], dict[str, float]]]:
    """Put each member into a monitoring group; gives what tells occupancy and bandwidth of one."""
    with ExitStack() as cleanup:
        for name, pids in members.items():
            cleanup.callback(cache.unwatch, name)
            cache.watch(name, partial(_threads, pids))
        first = {name: cache.readings(name) for name in members}

        def told(name: str, elapsed_s: float) -> dict[str, float]:
            features = cache_features(first[name], cache.readings(name), elapsed_s)
            return {_FIELDS[one.name]: one.value for one in features}

        yield told


@contextmanager
def _watched_if_free(
    cache: MonitoringGroups, members: Mapping[str, Sequence[int]]
) -> Iterator[Callable[[str, float], dict[str, float]]]:
    """Watch, or tell nothing where ids are short: the kernel gives one back only when its lines have left the cache."""
    with ExitStack() as cleanup:
        try:
            told = cleanup.enter_context(_watched(cache, members))
        except OutOfRmids:
            told = _nothing
        yield told


def _nothing(_name: str, _elapsed_s: float) -> dict[str, float]:
    return {}


def _counted(counters: Counters, elapsed_s: float) -> dict[str, float]:
    known = {event: one.value for event, one in counters.read().items() if one.running_ratio >= _LEAST_RUNNING}
    found = {}
    if known.get(Event.CYCLES) and Event.INSTRUCTIONS in known:
        found["ipc"] = known[Event.INSTRUCTIONS] / known[Event.CYCLES]
    if Event.CACHE_MISSES in known:
        found["llc_misses_per_s"] = known[Event.CACHE_MISSES] / elapsed_s
    return found


def _threads(pids: Sequence[int]) -> tuple[ThreadId, ...]:
    return tuple(one for pid in sorted(family(set(pids))) for one in threads(pid, files=HOST_FILES))
