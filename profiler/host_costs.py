"""What sharing costs on this host: a CPU, a core, a busy CPU at wake-up, the memory behind a cache; and the noise."""

from __future__ import annotations

import fcntl
import itertools
import math
import mmap
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isolation.cpuset import CpuSet
from profiler.calibration import Estimate
from profiler.command import PinnedCommand
from profiler.memory_kernels import RandomReads, Streaming, unit_times_s

_SPIN = (sys.executable, "-S", "-c", "while True: pass")
_PAIRS = 4
_SETTLE_S = 0.05
_BLOCK_BYTES = 4096
_BUSY_RATIO = 0.5  # waiting on an idle CPU is a small part of that on a busy one
_SHORT_WAIT_S = 1e-4  # or next to nothing on both
_BIN_S = 0.002
_LEAST_BINS = 20
_HIGH_QUANTILE, _WIDE_QUANTILE = 0.95, 0.99  # of the bins: what is left out are moments in which somebody interrupted


@contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Keep this thread on one CPU; where it may run is as before afterwards."""
    earlier = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, earlier)


@contextmanager
def _spinning(cpu: int) -> Iterator[PinnedCommand]:
    with (
        tempfile.TemporaryDirectory(prefix="cotenant-spin-") as folder,
        PinnedCommand(_SPIN, CpuSet.of([cpu]), Path(folder)) as hog,
    ):
        yield hog


def typical(times_s: Sequence[float]) -> Estimate:
    """Give the lower quartile of times: what it is undisturbed; with the 5th and 75th percentile as its ends."""
    low, value, high = np.quantile(times_s, [0.05, 0.25, 0.75])
    return Estimate(float(value), float(low), float(high))


def spread(values: Sequence[float]) -> Estimate:
    """Give the median of some values with their quartiles."""
    low, value, high = np.quantile(values, [0.25, 0.5, 0.75])
    return Estimate(float(value), float(low), float(high))


def _alternating(hog: PinnedCommand, measure: Callable[[], float]) -> list[float]:
    """Measure alone and beside the hog in turns, beginning and ending alone."""
    found = []
    for number in range(2 * _PAIRS + 1):
        (hog.resume if number % 2 else hog.pause)()
        time.sleep(_SETTLE_S)
        found.append(measure())
    return found


def bracketed(found: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Give each value at an odd place with the mean of the two around it: a drift of the host cancels."""
    for before, during, after in zip(found[0:-1:2], found[1::2], found[2::2], strict=True):
        yield during, (before + after) / 2


def _cost(
    cpu: int, hog_cpu: int, l2_bytes: int, seconds: float, average: Callable[[Sequence[float]], float]
) -> Estimate:
    """Compare work in the second-level cache beside a spinning process and alone."""
    with pinned(cpu), _spinning(hog_cpu) as hog:
        kernel = RandomReads(max(1 << 16, l2_bytes // 2))
        slice_s = seconds / (2 * _PAIRS + 1)
        found = _alternating(hog, lambda: average(unit_times_s(kernel, slice_s)))
    return spread([during / around for during, around in bracketed(found)])


def time_share_cost(cpu: int, l2_bytes: int, seconds: float) -> Estimate:
    """Compare the CPU time of work in the second-level cache beside a spinning process on this CPU and alone.

    Half a CPU each is no cost of sharing; what switching and cold caches add to that is.
    """
    return _cost(cpu, cpu, l2_bytes, seconds, statistics.fmean)


def smt_cost(cpu: int, sibling: int, l2_bytes: int, seconds: float) -> Estimate:
    """Compare work in the second-level cache beside a spinning process on the sibling thread and alone."""
    return _cost(cpu, sibling, l2_bytes, seconds, statistics.median)


def disk_wake_wait(cpu: int, folder: Path, seconds: float) -> Estimate | str:
    """Tell how long who forces writes to the disk waits at a wake-up for a CPU where a process spins; or why not.

    How a thread is woken decides. Measured on Linux 6.18 (EEVDF, tick of 4 ms), one beside a spinning process: woken by
    a timer, a pipe, the network or a plain direct read it ran within 30 us, whatever the slices; after a forced write
    (fdatasync) it stood in the queue until the next tick, 3.7 ms. So this writes, forces and reads back, as the io
    workload does, and asks the kernel how long that thread was ready and did not run.
    """
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file, pinned(cpu), _spinning(cpu) as hog:
            waits = _alternating(hog, lambda: _mean_wait_s(file.fileno(), seconds / (2 * _PAIRS + 1)))
    except OSError as error:
        return f"a scratch file in {str(folder)!r} failed: {error}"
    if not all(map(math.isfinite, waits)):
        return (
            f"forcing writes to the disk of {str(folder)!r} lets nobody wait (memory, or a kernel without schedstats)"
        )
    return above_alone(waits)


def above_alone(waits: Sequence[float]) -> Estimate | str:
    """Take what is waited alone, at even places, from what is waited beside a spinning process, at odd ones."""
    alone = statistics.median(waits[::2])
    if alone > max(_SHORT_WAIT_S, _BUSY_RATIO * statistics.median(waits[1::2])):
        return f"somebody else kept the CPU busy: {alone * 1e3:.2f} ms were waited alone"
    return spread([max(0.0, during - around) for during, around in bracketed(waits)])


def _mean_wait_s(handle: int, seconds: float) -> float:
    """Write, force and read back one block for so long; gives run-queue wait per wake-up, NaN if none is accounted."""
    block = mmap.mmap(-1, _BLOCK_BYTES)  # page-aligned, as O_DIRECT wants
    with suppress(OSError):  # a file system that cannot read around its cache: the writes are forced all the same
        fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) | os.O_DIRECT)
    first_s, first = _waited()
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        os.pwritev(handle, [block], 0)
        os.fdatasync(handle)
        os.preadv(handle, [block], 0)
    last_s, last = _waited()
    return (last_s - first_s) / (last - first) if last > first and last_s > 0 else math.nan


def _waited() -> tuple[float, int]:
    """Give seconds that this thread was ready and did not run (/proc/thread-self/schedstat), and its wake-ups."""
    try:
        wait_ns = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    except FileNotFoundError:
        wait_ns = 0
    return wait_ns / 1e9, resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def noise(cpu: int, llc_bytes: int, seconds: float) -> Estimate:
    """Give how far the rate of the same run differs from one slice to the next, by wall time as measurements see it."""
    count = 12
    with pinned(cpu):
        kernel = RandomReads(max(1 << 16, llc_bytes // 4))
        rates = []
        for _ in range(count):
            started_s, units = time.monotonic(), 0
            while time.monotonic() - started_s < seconds / count:
                units += kernel.step()
            rates.append(units / (time.monotonic() - started_s))
    return spread([abs(after / before - 1) for before, after in itertools.pairwise(rates)])


def peak_bandwidth(cpus: Collection[int], llc_bytes: int, seconds: float) -> Estimate | str:
    """Stream from all these CPUs at once, from memory each touched first; gives read bytes per second, or why not.

    The sum is taken in bins of two milliseconds, and a high quantile of those: whoever interrupts one of the threads
    takes from a bin, never adds to it.
    """
    chosen = sorted(cpus)
    each_bytes = max(4 * llc_bytes // len(chosen), 32 << 20)
    logs: dict[int, list[tuple[float, int]]] = {}
    failures: list[str] = []
    ready = threading.Barrier(len(chosen))
    stop = threading.Event()

    def stream(cpu: int) -> None:
        try:
            os.sched_setaffinity(0, {cpu})  # of this thread alone
            kernel = Streaming(each_bytes)
            done, log = 0, []
            ready.wait()
            while not stop.is_set():
                done += kernel.step()
                log.append((time.monotonic(), done))
            logs[cpu] = log
        except (OSError, MemoryError, threading.BrokenBarrierError) as error:
            failures.append(f"CPU {cpu}: {error}")
            ready.abort()

    threads = [threading.Thread(target=stream, args=(cpu,), name=f"stream-{cpu}") for cpu in chosen]
    for thread in threads:
        thread.start()
    try:
        time.sleep(seconds)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failures:
        return failures[0]
    return _quantiles([np.array(log) for log in logs.values() if len(log) > 1], len(chosen))


def _quantiles(logs: Sequence[NDArray[np.float64]], expected: int) -> Estimate | str:
    """Add up what all threads did in each bin; a log is [n, 2]: monotonic seconds, bytes done so far."""
    if len(logs) < expected:
        return "not every thread got to run"
    start, end = max(log[0, 0] for log in logs), min(log[-1, 0] for log in logs)
    edges = np.arange(start, end, _BIN_S)
    if len(edges) <= _LEAST_BINS:
        return "the threads did not run at the same time for long enough"
    total = sum(np.diff(np.interp(edges, log[:, 0], log[:, 1])) for log in logs) / _BIN_S
    low, value, high = np.quantile(total, [0.5, _HIGH_QUANTILE, _WIDE_QUANTILE])
    return Estimate(float(value), float(low), float(high))
