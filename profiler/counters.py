"""Hardware and software counters of threads through perf_event_open.

Counters of one thread form one group, scheduled as a unit, so ratios inside it are honest even when the kernel
multiplexes. Threads born after opening are not counted.
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
from types import TracebackType
from typing import Self

from isolation.perf import SYSCALL_NUMBERS, perf_event_open
from profiler.errors import CountersUnavailable
from profiler.records import PROFILE_FEATURES, Feature, Source

_FORMAT = 1 | 2 | 8  # total time enabled, total time running, group
_ATTR_BYTES = 112  # PERF_ATTR_SIZE_VER5
_DISABLED, _EXCLUDE_KERNEL, _EXCLUDE_HV = 1 << 0, 1 << 5, 1 << 6
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
    errno.ENOSYS: "this kernel is built without perf events",
}


class Event(Enum):
    """Counters by (type, config) of perf_event.h."""

    INSTRUCTIONS = (0, 1)
    CYCLES = (0, 0)
    CACHE_MISSES = (0, 3)  #: "usually" those of the last level; on AMD the core's view, not the L3's
    TASK_CLOCK_NS = (1, 1)
    PAGE_FAULTS = (1, 2)
    CONTEXT_SWITCHES = (1, 3)


#: What a profile is made of; four at most, so that one group fits beside a watchdog.
HARDWARE = (Event.INSTRUCTIONS, Event.CYCLES, Event.CACHE_MISSES)


@dataclass(frozen=True, slots=True)
class Count:
    """One counter over all its threads, scaled up for the time it was not scheduled."""

    value: float
    running_ratio: float  #: time counted / time wanted; below 0.3 do not trust it


class Counters:
    """Counts events of threads between opening and read; use it as a context manager."""

    def __init__(self, thread_ids: Collection[int], events: Sequence[Event]) -> None:
        """Open and start one group per thread; raises CountersUnavailable with the one reason."""
        self._events = tuple(events)
        self._groups: list[list[int]] = []
        try:
            for thread_id in thread_ids:
                group: list[int] = []
                self._groups.append(group)
                for event in self._events:
                    group.append(_open(event, thread_id, group[0] if group else -1))
                _enable(group[0])
        except CountersUnavailable:
            self.close()
            raise

    def read(self) -> dict[Event, Count]:
        """Sum over threads; an event that never ran is left out, which is not zero."""
        totals = dict.fromkeys(self._events, 0.0)
        enabled_ns, running_ns = 0, 0
        for group in self._groups:
            data = os.read(group[0], 8 * (3 + len(group)))
            _count, enabled, running, *values = struct.unpack(f"={3 + len(group)}Q", data)
            enabled_ns, running_ns = enabled_ns + enabled, running_ns + running
            if running:
                for event, value in zip(self._events, values, strict=True):
                    totals[event] += value * enabled / running
        if not running_ns:
            return {}
        return {event: Count(value, running_ns / enabled_ns) for event, value in totals.items()}

    def close(self) -> None:
        """Close all counters; doing so twice is harmless."""
        for group in self._groups:
            for descriptor in group:
                os.close(descriptor)
        self._groups = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(event: Event, thread_id: int, leader: int) -> int:
    if platform.machine() not in SYSCALL_NUMBERS:
        raise CountersUnavailable(f"{event.name}: the system call's number on {platform.machine()} is not known here")
    kind, config = event.value
    flags = (_DISABLED if leader < 0 else 0) | _EXCLUDE_HV | (_EXCLUDE_KERNEL if os.geteuid() else 0)
    head = struct.pack("=IIQQQQQ", kind, _ATTR_BYTES, config, 0, 0, _FORMAT, flags)
    try:
        return perf_event_open(head.ljust(_ATTR_BYTES, b"\0"), thread_id=thread_id, leader=leader)
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror)
        raise CountersUnavailable(f"{event.name} of thread {thread_id}: {reason}") from error


def _enable(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ioctl(ctypes.c_int(descriptor), ctypes.c_ulong(_IOC_ENABLE), ctypes.c_ulong(_IOC_GROUP)) < 0:
        raise CountersUnavailable(f"cannot start counting: {os.strerror(ctypes.get_errno())}")


def hardware_features(counts: Mapping[Event, Count], window_s: float) -> tuple[Feature, ...]:
    """Give instructions per cycle and misses per thousand instructions; nothing where too little was counted."""
    if any(event not in counts or counts[event].running_ratio < _LEAST_RUNNING for event in HARDWARE):
        return ()
    instructions = counts[Event.INSTRUCTIONS].value
    cycles = counts[Event.CYCLES].value
    if instructions <= 0 or cycles <= 0:
        return ()
    values = {
        "ipc": instructions / cycles,
        "llc_misses_per_kinstr": counts[Event.CACHE_MISSES].value / instructions * 1000,
    }
    return tuple(
        Feature(name=name, value=value, spread=None, source=Source.PERF, window_s=window_s, samples=1)
        for name, value in values.items()
        if PROFILE_FEATURES[name][0] <= value <= PROFILE_FEATURES[name][1]
    )
