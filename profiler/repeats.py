"""Commands that end by themselves: run again and again, their rate is 1 / run time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from profiler.command import PinnedCommand
from profiler.errors import WorkloadFailed
from profiler.findings import Findings
from profiler.procfs import procfs_features
from profiler.records import Quality, Source

_SHORTEST_RUN_S = 0.1
_MOST_RUNS = 50
_TICK_S = 0.05
_SCATTER_RATIO = 0.15

Report = Callable[[float, str], None]


def wait_out(workload: PinnedCommand, window_s: float, report: Report) -> None:
    """Wait until the command ends by itself, at most ten windows."""
    start_s = time.monotonic()
    while workload.poll() and (elapsed_s := time.monotonic() - start_s) < 10 * window_s:
        report(0.3 * elapsed_s / (10 * window_s), "waiting for the command to end")
        workload.wait(_TICK_S)


def repeat(
    first: PinnedCommand,
    again: Callable[[int], PinnedCommand],
    *,
    window_s: float,
    findings: Findings,
    report: Report,
) -> None:
    """Run a command that ends by itself until the window is full; its rate is 1 / run time."""
    runs = [first]
    while True:
        done = runs[-1]
        if done.exit_code != 0:
            raise WorkloadFailed(f"{done.ended_why()}. Run it by hand to see why")
        if done.ended_s - done.started_s < _SHORTEST_RUN_S:
            raise WorkloadFailed(f"{done.ended_why()}: too short to measure, at least {_SHORTEST_RUN_S} s are needed")
        filled_s = sum(run.ended_s - run.started_s for run in runs)
        if filled_s >= window_s or len(runs) >= _MOST_RUNS:
            break
        report(0.3 + 0.7 * filled_s / window_s, f"run {len(runs) + 1}")
        with again(len(runs)) as run:
            wait_out(run, max(window_s, 10 * filled_s), lambda _share, _stage: None)
        runs.append(run)
    _exit_time_features(runs, len(first.cpus), findings)


def _exit_time_features(runs: Sequence[PinnedCommand], cpus: int, findings: Findings) -> None:
    times_s = [run.ended_s - run.started_s for run in runs]
    window_s = sum(times_s)
    usages = [run.usage for run in runs if run.usage is not None]
    user_s, system_s = sum(one.ru_utime for one in usages), sum(one.ru_stime for one in usages)
    findings.notes.append(f"rate is 1 / run time, median of {len(runs)} runs; probes need a command that keeps running")
    rates = [1 / one for one in times_s]
    findings.add("rate_per_s", 1 / statistics.median(times_s), Source.PROGRESS, window_s, rates)
    if len(rates) > 1 and statistics.stdev(rates) > _SCATTER_RATIO * statistics.fmean(rates):
        findings.doubt(Quality.UNSTABLE, f"run times differ: {min(times_s):.3g} to {max(times_s):.3g} s")
    values = {
        "cpu_cores": (user_s + system_s) / window_s,
        "cpu_utilisation_ratio": min(1.0, (user_s + system_s) / window_s / cpus),
        "voluntary_switches_per_s": sum(one.ru_nvcsw for one in usages) / window_s,
        "involuntary_switches_per_s": sum(one.ru_nivcsw for one in usages) / window_s,
        "minor_faults_per_s": sum(one.ru_minflt for one in usages) / window_s,
        "major_faults_per_s": sum(one.ru_majflt for one in usages) / window_s,
        "rss_bytes": max(one.ru_maxrss for one in usages) * 1024.0,
        "io_read_bytes_per_s": sum(one.ru_inblock for one in usages) * 512 / window_s,
        "io_write_bytes_per_s": sum(one.ru_oublock for one in usages) * 512 / window_s,
    }
    if user_s + system_s > 0:
        values["system_time_ratio"] = system_s / (user_s + system_s)
    findings.features.extend(procfs_features(values, window_s))
