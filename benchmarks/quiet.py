"""Whether the host was quiet during a run: stolen time, programs that are no part of it, two fixed pieces of work."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.environment import CpuTimes, parse_cpu_times
from profiler.procfs import PROC

STEAL_RATIO = 0.02
OTHERS_RATIO = 0.05
DRIFT_FACTOR = 1.3  #: how far a member's two solo windows may differ

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_DIGEST = bytes(1 << 20)
_DIGESTS = 4
_COPY_BYTES = 32 << 20
_TRIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The host's clocks at one moment."""

    t_s: float
    times: CpuTimes
    user_s: float  #: of all processes on all CPUs
    own_s: float  #: of this process, in user mode


def look() -> Moment:
    """Read the clocks."""
    text = (PROC / "stat").read_text()
    user, nice = map(int, text.split(maxsplit=3)[1:3])
    return Moment(
        t_s=time.monotonic(), times=parse_cpu_times(text), user_s=(user + nice) / _TICKS_PER_S, own_s=os.times().user
    )


def disturbance(first: Moment, last: Moment, members_user_s: float) -> tuple[float, float]:
    """Give the share of CPU time stolen, and that which programs other than ours and the members used in user mode.

    Kernel threads and interrupts are left out: they work for the members, too.
    """
    ratios = last.times.ratios_since(first.times)
    cpus = os.cpu_count() or 1
    others_s = (last.user_s - first.user_s) - (last.own_s - first.own_s) - members_user_s
    return ratios[1] if ratios else 0.0, max(0.0, others_s / (last.t_s - first.t_s) / cpus)


class Probes:
    """Two fixed pieces of work, timed while all members stand still."""

    def __init__(self) -> None:
        self._source = np.ones(_COPY_BYTES, dtype=np.uint8)
        self._target = np.zeros_like(self._source)

    def cpu_s(self) -> float:
        """Time a computation in the first-level cache, the best of two; about ten milliseconds."""
        return _best(lambda: [hashlib.sha256(_DIGEST).digest() for _ in range(_DIGESTS)])

    def memory_s(self) -> float:
        """Time a copy of 32 MiB, the best of two; about ten milliseconds."""
        return _best(lambda: np.copyto(self._target, self._source))


def _best(work: Callable[[], object]) -> float:
    found = []
    for _ in range(_TRIES):
        start_s = time.perf_counter()
        work()
        found.append(time.perf_counter() - start_s)
    return min(found)
