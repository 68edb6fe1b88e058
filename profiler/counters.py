"""Hardware and software counters of threads, or of a cgroup on some CPUs, through perf_event_open.

Counters of one thread (of one CPU, for a cgroup) form one group, scheduled as a unit, so ratios inside it are honest
even when the kernel multiplexes. Threads and processes born of counted ones are counted, too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self

from isolation.cpuset import CpuSet
from isolation.perf import SYSCALL_NUMBERS, perf_event_open
from profiler.errors import CountersUnavailable
from profiler.records import Feature, Source, measured

_FORMAT = 1 | 2  # total time enabled, total time running; the kernel reads no whole groups of inherited counters
_ATTR_BYTES = 112  # PERF_ATTR_SIZE_VER5
_DISABLED, _INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HV = 1 << 0, 1 << 1, 1 << 5, 1 << 6
_IOC_ENABLE, _IOC_GROUP = 0x2400, 1
_LEAST_RUNNING = 0.3  # share of time counted below which scaling up is guessing
_REASONS = {
    errno.ENOENT: "this CPU, or this virtual machine, has no such counter",
    errno.ENODEV: "this CPU, or this virtual machine, has no such counter",
    errno.EOPNOTSUPP: "this CPU, or this virtual machine, has no such counter",
    errno.EACCES: "not permitted: lower kernel.perf_event_paranoid or grant CAP_PERFMON",
    errno.EPERM: "not permitted: lower kernel.perf_event_paranoid or grant CAP_PERFMON",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    errno.EBUSY: "another program uses the counters exclusively",
    errno.ESRCH: "the thread ended",
    errno.ENFILE: "too many open files on this host: raise fs.file-max",
    errno.EINVAL: "the kernel does not count this so: too many events in one group, or no counting by cgroup",
    errno.EBADF: "not the folder of a cgroup that perf events know",
    errno.E2BIG: "the kernel is older than this way to ask",
    errno.ENOSPC: "no counter is left",
    errno.ENOMEM: "no memory for counters",
    errno.EINTR: "the counter was busy: try again",
    errno.ENOSYS: "this kernel is built without perf events",
}


class Event(Enum):
    """Counters by (type, config) of perf_event.h."""

    INSTRUCTIONS = (0, 1)
    CYCLES = (0, 0)
    CACHE_REFERENCES = (0, 2)
    CACHE_MISSES = (0, 3)  #: "usually" those of the last level; on AMD the core's view, not the L3's
    STALLED_CYCLES = (0, 8)  #: in the back end: waiting for memory or for results; many CPUs do not tell
    TASK_CLOCK_NS = (1, 1)
    PAGE_FAULTS = (1, 2)
    CONTEXT_SWITCHES = (1, 3)


#: What a profile is made of; four at most, so that one group fits beside a watchdog.
HARDWARE = (Event.INSTRUCTIONS, Event.CYCLES, Event.CACHE_REFERENCES, Event.CACHE_MISSES)
#: A group of its own beside those, for many CPUs cannot count it.
STALLS = (Event.STALLED_CYCLES,)


@dataclass(frozen=True, slots=True)
class Count:
    """One counter over all its threads, scaled up for the time it was not scheduled."""

    value: float
    running_ratio: float  #: time counted / time wanted; below 0.3 do not trust it


@dataclass(frozen=True, slots=True)
class _Target:
    """What one group counts."""

    number: int  #: thread id, or descriptor of a cgroup's folder
    cpu: int
    cgroup: bool
    what: str


class Counters:
    """Counts events between opening and read; use it as a context manager."""

    def __init__(self, thread_ids: Collection[int], events: Sequence[Event], *, also: Sequence[Event] = ()) -> None:
        """Count threads and what is born of them; raises CountersUnavailable with the one reason.

        also: a second group, left out in silence where it cannot be counted.
        """
        self._events = tuple(events)
        self._also = tuple(also)
        self._groups: list[tuple[tuple[Event, ...], list[int]]] = []
        self._start([_Target(one, -1, False, f"thread {one}") for one in thread_ids])

    @classmethod
    def of_cgroup(cls, folder: Path, cpus: CpuSet, events: Sequence[Event], *, also: Sequence[Event] = ()) -> Self:
        """Count whoever is in a cgroup, while it runs on these CPUs; raises CountersUnavailable with the one reason.

        The folder lies in cgroup v2, or in the perf_event hierarchy of v1; one open file for each event and CPU.
        """
        found = cls((), events, also=also)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise CountersUnavailable(f"cgroup {str(folder)!r}: {error.strerror}") from error
        try:
            found._start([_Target(descriptor, cpu, True, f"cgroup {str(folder)!r} on CPU {cpu}") for cpu in cpus])
        finally:
            os.close(descriptor)
        return found

    def _start(self, targets: Sequence[_Target]) -> None:
        try:
            for target in targets:
                self._open_group(self._events, target)
                if self._also:
                    try:
                        self._open_group(self._also, target)
                    except CountersUnavailable:
                        self._close(self._groups.pop()[1])
                        self._also = ()
        except CountersUnavailable:
            self.close()
            raise

    def _open_group(self, events: tuple[Event, ...], target: _Target) -> None:
        group: list[int] = []
        self._groups.append((events, group))
        for event in events:
            group.append(_open(event, target, group[0] if group else -1))
        _enable(group[0])

    def read(self) -> dict[Event, Count]:
        """Sum over all groups; an event that never ran is left out, which is not zero."""
        totals: dict[Event, list[float]] = {}
        for events, group in self._groups:
            for event, descriptor in zip(events, group, strict=True):
                value, enabled, running = struct.unpack("=3Q", os.read(descriptor, 24))
                if running:
                    total = totals.setdefault(event, [0.0, 0.0, 0.0])
                    for place, part in enumerate((value * enabled / running, enabled, running)):
                        total[place] += part
                elif enabled:
                    totals.setdefault(event, [0.0, 0.0, 0.0])[1] += enabled
        return {
            event: Count(value, running / enabled) for event, (value, enabled, running) in totals.items() if running
        }

    def close(self) -> None:
        """Close all counters; doing so twice is harmless."""
        for _events, group in self._groups:
            self._close(group)
        self._groups = []

    @staticmethod
    def _close(group: Sequence[int]) -> None:
        for descriptor in group:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(event: Event, target: _Target, leader: int) -> int:
    if platform.machine() not in SYSCALL_NUMBERS:
        raise CountersUnavailable(f"{event.name}: the system call's number on {platform.machine()} is not known here")
    kind, config = event.value
    flags = (_DISABLED if leader < 0 else 0) | _EXCLUDE_HV | (_EXCLUDE_KERNEL if os.geteuid() else 0)
    flags |= 0 if target.cgroup else _INHERIT
    head = struct.pack("=IIQQQQQ", kind, _ATTR_BYTES, config, 0, 0, _FORMAT, flags)
    try:
        return perf_event_open(
            head.ljust(_ATTR_BYTES, b"\0"),
            thread_id=target.number,
            cpu=target.cpu,
            leader=leader,
            cgroup=target.cgroup,
        )
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror)
        raise CountersUnavailable(f"{event.name} of {target.what}: {reason}") from error


def _enable(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ioctl(ctypes.c_int(descriptor), ctypes.c_ulong(_IOC_ENABLE), ctypes.c_ulong(_IOC_GROUP)) < 0:
        raise CountersUnavailable(f"cannot start counting: {os.strerror(ctypes.get_errno())}")


def hardware_features(counts: Mapping[Event, Count], window_s: float) -> tuple[Feature, ...]:
    """Give ratios of what was counted; nothing where too little was, for each ratio by itself."""
    known = {event: count.value for event, count in counts.items() if count.running_ratio >= _LEAST_RUNNING}
    instructions, cycles = known.get(Event.INSTRUCTIONS, 0.0), known.get(Event.CYCLES, 0.0)
    values: dict[str, float] = {}
    if instructions > 0:
        if cycles > 0:
            values["ipc"] = instructions / cycles
        for name, event in (
            ("llc_misses_per_kinstr", Event.CACHE_MISSES),
            ("llc_references_per_kinstr", Event.CACHE_REFERENCES),
        ):
            if event in known:
                values[name] = known[event] / instructions * 1000
    if cycles > 0 and Event.STALLED_CYCLES in known:
        values["stalled_cycles_ratio"] = known[Event.STALLED_CYCLES] / cycles
    return tuple(one for name, value in values.items() for one in measured(name, value, Source.PERF, window_s))
