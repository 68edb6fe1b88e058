"""What placed workloads do now, turn by turn: a few small files of each, and their counters where there are any.

Light: one file a process, two with I/O; whoever asks keeps turns a hundred times farther apart than they are long.
What a host, a workload or its group does not tell is left out, never 0; so is everything in the first turn but sizes.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from isolation.cpuset import CpuSet
from isolation.kernelfs import HOST_FILES
from isolation.resctrl_monitor import MonitorReading, read_monitor
from profiler.counters import HARDWARE, STALLS, Count, Counters, Event, hardware_features
from profiler.errors import CountersUnavailable
from profiler.pressure import KINDS, parse_pressure, pressure_features
from profiler.sources import cache_values

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
#: Places of /proc/PID/stat after the command's name: man 5 proc minus 3.
_MAJOR_FAULTS, _USER, _SYSTEM, _THREADS, _RSS = 9, 11, 12, 17, 21

#: What may be told of a workload, and what it means.
METRICS: dict[str, str] = {
    "cpu_cores": "CPU time per time",
    "threads": "Threads now",
    "rss_bytes": "Resident memory now",
    "major_faults_per_second": "Pages read from storage",
    "io_read_bytes_per_second": "Bytes read from storage",
    "io_write_bytes_per_second": "Bytes written to storage",
    "cpu_pressure_ratio": "Share of the time in which somebody of it waited for a CPU (PSI some)",
    "memory_pressure_ratio": "Share of the time in which somebody of it waited for memory (PSI some)",
    "io_pressure_ratio": "Share of the time in which somebody of it waited for storage (PSI some)",
    "ipc": "Instructions per cycle",
    "llc_misses_per_kinstr": "Misses of the last-level cache per thousand instructions",
    "llc_references_per_kinstr": "References of the last-level cache per thousand instructions",
    "stalled_cycles_ratio": "Share of the cycles in which the back end stalled",
    "llc_occupancy_bytes": "Occupancy of the last-level cache now (resctrl)",
    "memory_bytes_per_second": "Memory traffic (resctrl)",
}
_OF_CACHES = {"llc_footprint_bytes": "llc_occupancy_bytes", "memory_bytes_per_s": "memory_bytes_per_second"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Where one workload is found."""

    pids: tuple[int, ...] = ()  #: used where there is no group
    group: Path | None = None  #: folder of a cgroup that holds all of it and nobody else
    unified: bool = False  #: the group is of cgroup v2: it tells pressure and can be counted
    cpus: CpuSet = field(default_factory=CpuSet)
    resctrl: Path | None = None  #: folder of the resctrl group that may hold it


@dataclass(slots=True)
class _Last:
    """Totals of one workload at its last turn."""

    t_s: float
    processes: dict[int, tuple[float, float]] = field(default_factory=dict)  #: CPU seconds, major faults
    io: dict[int, tuple[float, float]] = field(default_factory=dict)  #: bytes read, written
    pressure_us: dict[str, int] = field(default_factory=dict)
    readings: tuple[MonitorReading, ...] = ()
    counters: Counters | None = None
    counted: dict[Event, Count] = field(default_factory=dict)
    watched: Watched | None = None


class Monitor:
    """Remembers totals between turns; close it."""

    def __init__(self) -> None:
        self._last: dict[str, _Last] = {}
        self.refusal: str | None = None  #: why there are no counters; None = not tried, or they count

    def turn(self, workloads: Mapping[str, Watched]) -> dict[str, dict[str, float]]:
        """Read every workload once: metric -> value, by name. Those no longer named are forgotten."""
        for name in self._last.keys() - workloads.keys():
            self._forget(name)
        return {name: self._read(name, watched) for name, watched in workloads.items()}

    def close(self) -> None:
        """Close all counters."""
        for name in list(self._last):
            self._forget(name)

    def _forget(self, name: str) -> None:
        counters = self._last.pop(name).counters
        if counters is not None:
            counters.close()

    def _read(self, name: str, watched: Watched) -> dict[str, float]:
        before = self._last.get(name)
        if before is not None and before.watched != watched:  # moved: totals of another group mean nothing here
            self._forget(name)
            before = None
        now = _Last(time.monotonic(), watched=watched)
        found = self._processes(watched, before, now)
        if watched.group is not None and watched.unified:
            self._pressure(watched.group, before, now, found)
            self._count(watched.group, watched.cpus, before, now, found)
        if watched.resctrl is not None:
            self._cache(watched.resctrl, before, now, found)
        self._last[name] = now
        return found

    def _processes(self, watched: Watched, before: _Last | None, now: _Last) -> dict[str, float]:
        pids = watched.pids if watched.group is None else processes_of(str(watched.group))
        threads = rss_pages = 0
        for pid in pids:
            text = _text(f"/proc/{pid}/stat")
            if text is None:  # it ended
                continue
            fields = text[text.rindex(")") + 2 :].split()
            threads, rss_pages = threads + int(fields[_THREADS]), rss_pages + int(fields[_RSS])
            used_s = (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS_PER_S
            now.processes[pid] = (used_s, float(fields[_MAJOR_FAULTS]))
            if (moved := _io(pid)) is not None:
                now.io[pid] = moved
        if not now.processes:
            return {}
        found = {"threads": float(threads), "rss_bytes": float(rss_pages * _PAGE_BYTES)}
        if before is not None and (elapsed_s := now.t_s - before.t_s) > 0:
            used_s, faults = _grown(before.processes, now.processes)
            found["cpu_cores"], found["major_faults_per_second"] = used_s / elapsed_s, faults / elapsed_s
            if now.io.keys() == now.processes.keys():
                read, written = _grown(before.io, now.io)
                found["io_read_bytes_per_second"] = read / elapsed_s
                found["io_write_bytes_per_second"] = written / elapsed_s
        return found

    @staticmethod
    def _pressure(group: Path, before: _Last | None, now: _Last, found: dict[str, float]) -> None:
        told = {kind: parse_pressure(_text(f"{group}/{kind}.pressure")) for kind in KINDS}
        now.pressure_us = {kind: total_us for kind, total_us in told.items() if total_us is not None}
        if before is not None:
            ratios = pressure_features(before.pressure_us, now.pressure_us, now.t_s - before.t_s)
            found.update({one.name: one.value for one in ratios})

    def _count(self, group: Path, cpus: CpuSet, before: _Last | None, now: _Last, found: dict[str, float]) -> None:
        if self.refusal is not None:
            return
        if before is None or before.counters is None:
            try:
                now.counters = Counters.of_cgroup(group, cpus, HARDWARE, also=STALLS)
            except CountersUnavailable as error:
                if group.is_dir():  # or else it only ended
                    self.refusal = str(error)
            return
        now.counters = before.counters
        now.counted = now.counters.read()
        grown = {
            event: Count(count.value - before.counted[event].value, count.running_ratio)
            for event, count in now.counted.items()
            if event in before.counted and count.value >= before.counted[event].value
        }
        found.update({one.name: one.value for one in hardware_features(grown, now.t_s - before.t_s)})

    @staticmethod
    def _cache(group: Path, before: _Last | None, now: _Last, found: dict[str, float]) -> None:
        tasks = _text(f"{group}/tasks")
        if tasks is None or len(tasks.split()) != found.get("threads"):
            return  # not there, or not alone in it: what was measured is of others, too
        now.readings = read_monitor(group)
        earlier, elapsed_s = ((), 0.0) if before is None else (before.readings, now.t_s - before.t_s)
        for name, value in cache_values(earlier, now.readings, elapsed_s).items():
            found[_OF_CACHES[name]] = value


def _grown(before: Mapping[int, tuple[float, float]], now: Mapping[int, tuple[float, float]]) -> tuple[float, float]:
    """Add up growth since the last turn; who is new counts from the next turn on."""
    first = second = 0.0
    for pid, (one, other) in now.items():
        earlier = before.get(pid, (one, other))
        first, second = first + max(0.0, one - earlier[0]), second + max(0.0, other - earlier[1])
    return first, second


def processes_of(group: str) -> tuple[int, ...]:
    """List the processes of a cgroup's folder and of those below it; none once it is gone."""
    try:
        below = HOST_FILES.folders(group)
    except OSError:  # it ended
        return ()
    own = (_text(f"{group}/cgroup.procs") or "").split()
    inner = (pid for name in below for pid in processes_of(f"{group}/{name}"))
    return (*(int(one) for one in own if one != "0"), *inner)  # 0: of another namespace


def _io(pid: int) -> tuple[float, float] | None:
    text = _text(f"/proc/{pid}/io")
    if text is None:
        return None
    values = dict(line.split(": ", 1) for line in text.splitlines())
    return float(values["read_bytes"]), float(values["write_bytes"])


_ABSENT = frozenset(
    {errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EACCES, errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL}
)


def _text(path: str) -> str | None:
    """Read a kernel file; None = it ended, is not told here, or not to us."""
    try:
        return HOST_FILES.read(path)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
