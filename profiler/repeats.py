"""Commands that end by themselves: run again and again, their rate is 1 / run time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from resource import struct_rusage

from profiler.command import PinnedCommand
from profiler.errors import WorkloadFailed
from profiler.findings import Findings
from profiler.procfs import procfs_features
from profiler.records import Quality, Source, SteadyWindow

_SHORTEST_RUN_S = 0.1
_MOST_RUNS = 50
_TICK_S = 0.05
_SCATTER_RATIO = 0.15
_SETTLED_RUNS = 3
_WARM_RATIO = 0.1

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
    findings.used_s = sum(one.usage.ru_utime + one.usage.ru_stime for one in runs if one.usage is not None)
    start_s = runs[0].started_s
    runs, steady = _without_warm_up(runs)
    times_s = [run.ended_s - run.started_s for run in runs]
    window_s = sum(times_s)
    findings.window = SteadyWindow(start_s=runs[0].started_s - start_s, length_s=window_s, decided_by=steady)
    findings.notes.append(f"rate is 1 / run time, median of {len(runs)} runs; probes need a command that keeps running")
    rates = [1 / one for one in times_s]
    findings.add("rate_per_s", 1 / statistics.median(times_s), Source.PROGRESS, window_s, rates)
    if len(rates) > 1 and statistics.stdev(rates) > _SCATTER_RATIO * statistics.fmean(rates):
        findings.doubt(Quality.UNSTABLE, f"run times differ: {min(times_s):.3g} to {max(times_s):.3g} s")
    known = [(one.usage, one.ended_s - one.started_s) for one in runs if one.usage is not None]
    if not known:
        findings.notes.append("no use of resources is known: the runs were cut off")
        return
    slices = [_usage_values([usage], span_s, cpus) for usage, span_s in known]
    whole = _usage_values([usage for usage, _ in known], sum(span_s for _, span_s in known), cpus)
    findings.features.extend(procfs_features(whole, window_s, slices if len(slices) > 1 else ()))


def _without_warm_up(runs: Sequence[PinnedCommand]) -> tuple[Sequence[PinnedCommand], str]:
    """Leave the first run out if the later ones agree that it was slow: files and caches were cold."""
    times_s = [run.ended_s - run.started_s for run in runs]
    if len(runs) > _SETTLED_RUNS and times_s[0] > (1 + _WARM_RATIO) * max(times_s[1:]):
        return runs[1:], f"the first of {len(runs)} runs was over {_WARM_RATIO:.0%} slower than all others and left out"
    if len(runs) <= _SETTLED_RUNS:
        return runs, f"{len(runs)} runs, too few to tell whether the first was a warm-up"
    return runs, f"{len(runs)} runs, the first as fast as the others"


def _usage_values(usages: Sequence[struct_rusage], span_s: float, cpus: int) -> dict[str, float]:
    user_s, system_s = sum(one.ru_utime for one in usages), sum(one.ru_stime for one in usages)
    values = {
        "cpu_cores": (user_s + system_s) / span_s,
        "cpu_utilisation_ratio": min(1.0, (user_s + system_s) / span_s / cpus),
        "voluntary_switches_per_s": sum(one.ru_nvcsw for one in usages) / span_s,
        "involuntary_switches_per_s": sum(one.ru_nivcsw for one in usages) / span_s,
        "minor_faults_per_s": sum(one.ru_minflt for one in usages) / span_s,
        "major_faults_per_s": sum(one.ru_majflt for one in usages) / span_s,
        "rss_bytes": max(one.ru_maxrss for one in usages) * 1024.0,
        "io_read_bytes_per_s": sum(one.ru_inblock for one in usages) * 512 / span_s,
        "io_write_bytes_per_s": sum(one.ru_oublock for one in usages) * 512 / span_s,
    }
    if user_s + system_s > 0:
        values["system_time_ratio"] = system_s / (user_s + system_s)
    return values
