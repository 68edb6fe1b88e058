"""Watches processes that run already, by pid or by cgroup; they are neither moved, paused nor probed."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path

from isolation.cpuset import CpuSet
from isolation.topology import Topology, read_topology
from profiler.collector import Report
from profiler.command import PinnedCommand
from profiler.comparison import halves_apart
from profiler.driver import token_driver
from profiler.errors import RecordInvalid, WorkloadFailed
from profiler.files import name_checked
from profiler.findings import Findings
from profiler.metric import Metric, MetricKind, parse_metric
from profiler.monitoring import processes_of
from profiler.procfs import GroupSample, features_over, process_times, sample
from profiler.progress import WorkLog
from profiler.rates import window_rate
from profiler.records import Quality, SteadyWindow, WorkloadProfile
from profiler.scrape import ScrapeLog
from profiler.sources import LiveSources

_TICK_S = 0.25
_SAMPLE_S = 1.0
_SAMPLES = 12

Pids = Callable[[], Collection[int]]


def collect_running(
    name: str,
    pids: Collection[int],
    duration_s: float = 30.0,
    on_progress: Report | None = None,
    metric: str = "auto",
) -> WorkloadProfile:
    """Watch running processes and their descendants; metric may be prometheus:... or tokens:..."""
    wanted = frozenset(pids)
    if not wanted:
        raise RecordInvalid(f"0 pids for {duration_s} s: give at least one pid")
    return _watch(
        name,
        pids=lambda: wanted,
        required=wanted,
        duration_s=duration_s,
        report=on_progress or _silent,
        metric=parse_metric(metric),
    )


def collect_cgroup(
    name: str,
    folder: Path,
    duration_s: float = 30.0,
    on_progress: Report | None = None,
    metric: str = "auto",
) -> WorkloadProfile:
    """Watch all processes of a cgroup and of those below it; raises RecordInvalid if the folder is none."""
    if not (folder / "cgroup.procs").is_file():
        raise RecordInvalid(f"{str(folder)!r} is no cgroup: give the folder below /sys/fs/cgroup that has cgroup.procs")
    if not processes_of(str(folder)):
        raise WorkloadFailed(f"cgroup {str(folder)!r} holds no process")
    return _watch(
        name,
        pids=lambda: processes_of(str(folder)),
        required=frozenset(),
        duration_s=duration_s,
        report=on_progress or _silent,
        metric=parse_metric(metric),
    )


def _silent(_share: float, _stage: str) -> None:
    """Tell nobody."""


def _watch(
    name: str,
    *,
    pids: Pids,
    required: frozenset[int],
    duration_s: float,
    report: Report,
    metric: Metric,
) -> WorkloadProfile:
    name_checked(name)
    if not 0.5 <= duration_s <= 3600:
        raise RecordInvalid(f"duration {duration_s} s must be 0.5 to 3600 s")
    if metric.kind not in {MetricKind.AUTO, MetricKind.PROMETHEUS, MetricKind.TOKENS}:
        raise RecordInvalid(
            f"metric {metric.kind.value!r} needs a command of ours: of running ones only prometheus: and tokens: tell"
        )
    topology = read_topology()
    first = sample(pids())
    if missing := required - first.pids:
        raise WorkloadFailed(f"no such process: {', '.join(map(str, sorted(missing)))}. Give pids that are running")
    findings = Findings(notes=["watched while running: not alone, no probes"])
    with ExitStack() as running:
        log, driver = _metric_log(metric, first, topology, running, findings)
        samples = _samples(pids, first, duration_s, poll=lambda: _poll(log, driver), report=report, findings=findings)
        cpus = _usable_at_once(samples[-1], topology)
        findings.features.extend(features_over(samples, cpus))
        told = "it tells no rate"
        if metric.kind is not MetricKind.AUTO:
            told = window_rate(log, driver.last_words if driver else str, metric, samples, findings)
        if apart := halves_apart(samples, cpus):
            findings.doubt(Quality.UNSTABLE, apart)
    length_s = samples[-1].t_s - first.t_s
    findings.window = SteadyWindow(start_s=0.0, length_s=length_s, decided_by=f"as it ran: no start was seen; {told}")
    report(1.0, "done")
    return findings.profile(name, cpus, topology)


def _metric_log(
    metric: Metric, group: GroupSample, topology: Topology, running: ExitStack, findings: Findings
) -> tuple[WorkLog, PinnedCommand | None]:
    if metric.kind is MetricKind.PROMETHEUS:
        log = ScrapeLog(metric)
        log.poll()
        if log.failure:
            raise WorkloadFailed(log.failure)
        return log, None
    if metric.kind is MetricKind.TOKENS:
        cpus = topology.usable - _allowed(group)
        if not cpus:
            cpus = topology.usable
            findings.notes.append("whoever asks the endpoint may use the same CPUs")
        wish = token_driver(metric.url, cpus)
        folder = running.enter_context(tempfile.TemporaryDirectory(prefix="cotenant-"))
        driver = running.enter_context(PinnedCommand(wish.command, wish.cpus, Path(folder)))
        return driver.progress, driver
    return WorkLog(), None


def _poll(log: WorkLog, driver: PinnedCommand | None) -> None:
    log.poll()
    if driver is not None and not driver.poll():
        raise WorkloadFailed(f"asking the endpoint failed: {driver.ended_why()}")


def _samples(
    pids: Pids,
    first: GroupSample,
    duration_s: float,
    *,
    poll: Callable[[], None],
    report: Report,
    findings: Findings,
) -> list[GroupSample]:
    """Watch until the time is over; raises WorkloadFailed if all of them end, and doubts the profile if some do."""
    born = process_times()
    started = {pid: born[pid].started_ticks for pid in first.pids if pid in born}
    samples = [first]
    step_s = min(_SAMPLE_S, max(0.1, duration_s / _SAMPLES))
    with LiveSources(first, findings) as sources:
        while (elapsed_s := time.monotonic() - first.t_s) < duration_s:
            report(elapsed_s / duration_s, f"watching {len(samples[-1].pids)} processes")
            time.sleep(min(_TICK_S, step_s, duration_s - elapsed_s + 0.001))
            poll()
            if time.monotonic() - samples[-1].t_s >= step_s or time.monotonic() - first.t_s >= duration_s:
                samples.append(sample(pids()))
                if not samples[-1].pids:
                    raise WorkloadFailed(
                        f"all processes of {sorted(first.pids)[:5]} ended after {elapsed_s:.1f} s of {duration_s:g} s"
                    )
        findings.features.extend(sources.features(samples[-1].t_s - first.t_s))
    now = process_times()
    reused = {pid for pid, ticks in started.items() if pid not in now or now[pid].started_ticks != ticks}
    gone = sorted(first.pids - samples[-1].pids | reused)
    if gone:
        findings.doubt(Quality.UNSTABLE, f"{len(gone)} of {len(first.pids)} processes ended meanwhile: pids {gone[:5]}")
    return samples


def _usable_at_once(group: GroupSample, topology: Topology) -> int:
    """Give how many CPUs a running group can use at once: those it may run on, but no more than it has threads."""
    return max(1, min(len(_allowed(group)) or len(topology.online), group.threads))


def _allowed(group: GroupSample) -> CpuSet:
    """Give the CPUs that first threads of the group may run on."""
    allowed: set[int] = set()
    for pid in group.pids:
        try:
            allowed |= os.sched_getaffinity(pid)
        except ProcessLookupError:
            continue  # it ended
    return CpuSet.of(allowed)
