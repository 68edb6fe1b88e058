"""Two programs of known behaviour that tell what a workload does to a cache and what a busy cache does to it.

    python -m profiler.probes pressure --llc-bytes N     streams over four times the last-level cache, taking all it can
    python -m profiler.probes reporter --llc-bytes N     random reads over half of it, slowed by whoever takes cache

Each runs on another CPU of the workload's LLC. Alone and together alternate, A B A B A, by stopping one side; each B is
compared with the A before and after it, so slow drift of the host cancels. These are estimates, not counters.
    cache_pressure_ratio    loss of the reporter beside the workload / its loss beside the streamer, 0 to 2
    cache_sensitivity_sf    rate of the workload alone / rate beside the streamer
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isolation.cpuset import CpuSet
from profiler.command import PinnedCommand
from profiler.errors import WorkloadFailed
from profiler.progress import ProgressLog, ProgressWriter
from profiler.records import Feature, Source
from profiler.tokens import steady_rate

_PAIRS = 3
_SETTLE_S = 0.1  # after stopping or continuing one side: refilling a cache takes a few milliseconds
_START_LIMIT_S = 20.0
_LEAST_FULL_LOSS = 0.03  # if the streamer costs the reporter less, there is nothing here to measure with
_LINE_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What was found, and in notes why something was not."""

    features: tuple[Feature, ...]
    notes: tuple[str, ...]


class Probe(PinnedCommand):
    """One probe program, running on one CPU."""

    def __init__(self, kind: str, cpu: int, llc_bytes: int, folder: Path) -> None:
        """Start it and wait until it works; raises WorkloadFailed if it does not."""
        folder.mkdir()
        command = [sys.executable, "-P", "-m", "profiler.probes", kind, "--llc-bytes", str(llc_bytes)]
        super().__init__(command, CpuSet.of([cpu]), folder)
        try:
            deadline_s = time.monotonic() + _START_LIMIT_S
            while self.progress.covered_s is None:
                if not self.poll() or time.monotonic() > deadline_s:
                    raise WorkloadFailed(f"the {kind} probe did not start: {self.ended_why()}")
                time.sleep(0.01)
        except BaseException:
            self.close()
            raise


def measure(
    workload: PinnedCommand,
    *,
    cpus: CpuSet,
    probe_cpu: int,
    llc_bytes: int,
    folder: Path,
    slice_s: float = 0.5,
    on_progress: Callable[[float], None] | None = None,
) -> ProbeResult:
    """Probe a running workload of ours from another CPU of its LLC; it is paused now and then and left running."""
    features: list[Feature] = []
    notes: list[str] = []
    slices_done = 0

    def rest() -> None:
        nonlocal slices_done
        if on_progress is not None:
            on_progress(slices_done / (3 * (2 * _PAIRS + 1)))
        slices_done += 1
        time.sleep(slice_s)

    with Probe("reporter", probe_cpu, llc_bytes, folder / "reporter") as reporter:
        workload.pause()
        with Probe("pressure", next(iter(cpus)), llc_bytes, folder / "full") as streamer:
            full = _alternate(reporter.progress, streamer.pause, streamer.resume, rest)
        beside = _alternate(reporter.progress, workload.pause, workload.resume, rest)
        workload.resume()
    _pressure(beside, full, slice_s, features, notes)
    if workload.poll() and workload.progress.covered_s is not None:
        with Probe("pressure", probe_cpu, llc_bytes, folder / "pressure") as streamer:
            slowdowns = _alternate(workload.progress, streamer.pause, streamer.resume, rest)
        _sensitivity(slowdowns, slice_s, features, notes)
    else:
        notes.append("cache sensitivity unknown: the workload reports no progress while it runs")
    return ProbeResult(features=tuple(features), notes=tuple(notes))


def _alternate(
    log: ProgressLog, alone: Callable[[], None], together: Callable[[], None], rest: Callable[[], None]
) -> list[float]:
    """Give slowdown factors of whoever writes the log: rate alone (mean of the slices around) / rate together."""
    rates: list[float | None] = []
    for number in range(2 * _PAIRS + 1):
        (together if number % 2 else alone)()
        time.sleep(_SETTLE_S)
        start_s = time.monotonic()
        rest()
        rates.append(_rate(log, start_s, time.monotonic()))
    alone()
    found: list[float] = []
    for before, during, after in zip(rates[0:-1:2], rates[1::2], rates[2::2], strict=True):
        if before and during and after:
            found.append((before + after) / 2 / during)
    return found


def _rate(log: ProgressLog, start_s: float, end_s: float) -> float | None:
    """Give work per second over the part of the slice that progress lines cover; None = too little to say."""
    log.poll()
    if (decoding := steady_rate(log.events, start_s, end_s)) is not None:
        return decoding
    if log.covered_s is None:
        return None
    end_s = min(end_s, log.covered_s[1])
    if end_s < start_s + 0.05:
        return None
    rate = log.rate_per_s(start_s, end_s)
    return rate if rate > 0 else None  # NaN compares false


def _pressure(
    beside: Sequence[float], full: Sequence[float], slice_s: float, features: list[Feature], notes: list[str]
) -> None:
    if len(beside) < 2 or len(full) < 2:
        notes.append("cache pressure unknown: the reporter did not run steadily")
        return
    full_loss = 1 - 1 / statistics.median(full)
    if full_loss < _LEAST_FULL_LOSS:
        notes.append(f"cache pressure unknown: even full pressure costs the reporter only {full_loss:.1%} on this host")
        return
    losses = [min(2.0, max(0.0, (1 - 1 / slowdown) / full_loss)) for slowdown in beside]
    features.append(
        Feature(
            name="cache_pressure_ratio",
            value=statistics.median(losses),
            spread=statistics.stdev(losses),
            source=Source.PROBE,
            window_s=slice_s * len(losses),
            samples=len(losses),
        )
    )


def _sensitivity(slowdowns: Sequence[float], slice_s: float, features: list[Feature], notes: list[str]) -> None:
    if len(slowdowns) < 2:
        notes.append("cache sensitivity unknown: the workload made too little progress in the probe's slices")
        return
    features.append(
        Feature(
            name="cache_sensitivity_sf",
            value=min(100.0, max(0.2, statistics.median(slowdowns))),
            spread=statistics.stdev(slowdowns),
            source=Source.PROBE,
            window_s=slice_s * len(slowdowns),
            samples=len(slowdowns),
        )
    )


def run_pressure(llc_bytes: int, writer: ProgressWriter) -> None:
    """Copy between two arrays of twice the cache each, for ever; work is bytes copied."""
    source = np.ones(2 * llc_bytes // 8)
    target = np.zeros_like(source)
    step = len(source) // 8  # an eighth between progress lines
    while True:
        for start in range(0, len(source) - step + 1, step):
            np.copyto(target[start : start + step], source[start : start + step])
            writer.add(8.0 * step)


def run_reporter(llc_bytes: int, writer: ProgressWriter) -> None:
    """Read one word of every line of half the cache in random order, for ever; work is lines read."""
    lines = max(1, llc_bytes // 2 // _LINE_BYTES)
    words_per_line = _LINE_BYTES // 8
    data = np.ones(lines * words_per_line)
    order = np.random.default_rng(1).permutation(lines) * words_per_line
    chunks = np.array_split(order, max(1, lines // 65_536))
    out = np.empty(max(len(chunk) for chunk in chunks))
    while True:
        for chunk in chunks:
            # mode="clip" writes straight into out; the default checks bounds through a buffer
            np.take(data, chunk, out=out[: len(chunk)], mode="clip")
            writer.add(float(len(chunk)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one probe program until it is killed."""
    parser = argparse.ArgumentParser(prog="python -m profiler.probes")
    parser.add_argument("kind", choices=["pressure", "reporter"])
    parser.add_argument("--llc-bytes", type=int, required=True)
    chosen = parser.parse_args(arguments)
    if not 2**16 <= chosen.llc_bytes <= 2**34:
        parser.error(f"--llc-bytes is {chosen.llc_bytes}, must be 65536 to 17179869184")
    program = run_pressure if chosen.kind == "pressure" else run_reporter
    program(chosen.llc_bytes, ProgressWriter.from_environment())


if __name__ == "__main__":
    main()
