"""Measures what a workload does alone: runs a command on given CPUs, or watches running processes.

A command is started in its own session with $COTENANT_PROGRESS set, warms up, is measured over a window, probed, and
ended. A command that ends by itself is run again until the window is full, and its rate is 1 / run time. Whatever
happens, nothing of it is left running.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from isolation.cpuset import CpuSet
from isolation.topology import Topology, read_topology
from profiler.command import PinnedCommand
from profiler.counters import HARDWARE, Counters, hardware_features
from profiler.errors import CountersUnavailable, RecordInvalid, WorkloadFailed
from profiler.files import name_checked
from profiler.findings import Findings
from profiler.probes import measure
from profiler.procfs import GroupSample, busy_s, cpu_s, features_between, sample
from profiler.records import Quality, Source, WorkloadProfile
from profiler.repeats import repeat, wait_out
from profiler.tokens import token_features

_SLICE_S = 0.5
_TICK_S = 0.05
_STEADY_RATIO = 0.1  # slices that differ by less count as steady
_STEADY_SLICES = 3
_HALVES_RATIO = 0.15  # both halves of the window must agree that well
_FOREIGN_RATIO = 0.1  # share of the CPUs that others may use before a profile is called noisy
_IDLE_CHECK_S = 0.3

Report = Callable[[float, str], None]


def collect(
    name: str,
    command: Sequence[str],
    *,
    cpus: CpuSet,
    window_s: float = 6.0,
    warmup_s: float = 5.0,
    probes: bool = True,
    metric: str = "auto",
    on_progress: Report | None = None,
) -> WorkloadProfile:
    """Run a command alone on these CPUs and describe it; raises WorkloadFailed, with its last words, if that fails.

    metric: "auto" takes progress lines, or run time if the command ends by itself; "progress" and "exit-time" insist.
    """
    name_checked(name)
    if metric not in ("auto", "progress", "exit-time"):
        raise RecordInvalid(f"metric {metric!r} is not one of auto, progress, exit-time")
    if not 0.5 <= window_s <= 3600 or not 0 <= warmup_s <= 3600:
        raise RecordInvalid(f"window {window_s} s must be 0.5 to 3600 s and warm-up {warmup_s} s 0 to 3600 s")
    topology = read_topology()
    if not cpus or cpus - topology.usable:
        raise RecordInvalid(f"CPUs {str(cpus) or 'none'!r} cannot be used, usable here are {topology.usable}")
    report = on_progress or (lambda _share, _stage: None)
    findings = Findings()
    report(0.0, "checking that the host is idle")
    _check_idle(cpus, findings)
    with tempfile.TemporaryDirectory(prefix="cotenant-") as temporary:
        folder = Path(temporary)
        with PinnedCommand(command, cpus, folder) as workload:
            if metric == "exit-time":
                wait_out(workload, window_s, report)
            else:
                _warm_up(workload, warmup_s, report)
                _window(workload, cpus, window_s, findings, report)
            ended = workload.exit_code is not None
            if not ended:
                _require_progress(workload, metric)
                if probes:
                    report(0.6, "probing the cache")
                    _probe(workload, cpus, topology, findings, report)
            elif metric == "progress":
                raise WorkloadFailed(f"{workload.ended_why()}, before the window of {window_s:g} s was over")
        if ended:

            def again(number: int) -> PinnedCommand:
                (folder / f"run-{number}").mkdir()
                return PinnedCommand(command, cpus, folder / f"run-{number}")

            repeat(workload, again, window_s=window_s, findings=findings, report=report)
    report(1.0, "done")
    return findings.profile(name, len(cpus), topology)


def collect_running(
    name: str, pids: Collection[int], duration_s: float = 30.0, on_progress: Report | None = None
) -> WorkloadProfile:
    """Watch running processes and their descendants; they are neither moved, paused nor probed."""
    name_checked(name)
    if not pids or not 0.5 <= duration_s <= 3600:
        raise RecordInvalid(f"{len(pids)} pids for {duration_s} s: give at least one pid and 0.5 to 3600 s")
    report = on_progress or (lambda _share, _stage: None)
    topology = read_topology()
    first = sample(pids)
    if missing := set(pids) - first.pids:
        raise WorkloadFailed(f"no such process: {', '.join(map(str, sorted(missing)))}. Give pids that are running")
    findings = Findings(notes=["watched while running: not alone, no probes"])
    last = first
    with _hardware(first, findings) as counters:
        while (elapsed_s := last.t_s - first.t_s) < duration_s:
            report(elapsed_s / duration_s, f"watching {len(last.pids)} processes")
            time.sleep(min(_SLICE_S, duration_s - elapsed_s + 0.001))
            last = sample(pids)
            if not last.pids:
                raise WorkloadFailed(
                    f"all processes of {sorted(pids)} ended after {elapsed_s:.1f} s of {duration_s:g} s"
                )
        findings.features.extend(hardware_features(counters.read(), last.t_s - first.t_s))
    cpus = _usable_at_once(last, topology)
    findings.features.extend(features_between(first, last, cpus))
    report(1.0, "done")
    return findings.profile(name, cpus, topology)


def _check_idle(cpus: CpuSet, findings: Findings) -> None:
    before_s, own_before_s = busy_s(cpus), time.process_time()
    time.sleep(_IDLE_CHECK_S)
    # a progress bar of ours may draw meanwhile, on whichever CPU
    share = (busy_s(cpus) - before_s - time.process_time() + own_before_s) / _IDLE_CHECK_S / len(cpus)
    if share > _FOREIGN_RATIO:
        findings.doubt(Quality.NOISY, f"CPUs {cpus} were {share:.0%} busy before the start")


def _warm_up(workload: PinnedCommand, limit_s: float, report: Report) -> None:
    """Wait for three slices in a row of equal progress (of equal CPU time, without progress lines), or the limit."""
    start_s = time.monotonic()
    rates: list[float] = []
    last = sample({workload.pid})
    while workload.poll() and (elapsed_s := time.monotonic() - start_s) < limit_s:
        report(0.15 * elapsed_s / limit_s, "warming up")
        if workload.wait(_SLICE_S):
            return
        now = sample({workload.pid})
        workload.poll()
        rate = _covered_rate(workload, last.t_s, now.t_s)
        rates.append(cpu_s(last, now) / (now.t_s - last.t_s) if rate is None else rate)
        last = now
        recent = rates[-_STEADY_SLICES:]
        if len(recent) == _STEADY_SLICES and max(recent) - min(recent) <= _STEADY_RATIO * statistics.fmean(recent):
            return


def _window(workload: PinnedCommand, cpus: CpuSet, window_s: float, findings: Findings, report: Report) -> None:
    """Measure the steady window; adds nothing if the command ends inside it."""
    first = sample({workload.pid})
    busy_first_s = busy_s(cpus)
    marks_s = [first.t_s]
    with _hardware(first, findings) as counters:
        while workload.poll() and (elapsed_s := time.monotonic() - first.t_s) < window_s:
            report(0.15 + 0.45 * elapsed_s / window_s, "measuring")
            workload.wait(min(_TICK_S, window_s - elapsed_s))
            if time.monotonic() - marks_s[-1] >= _SLICE_S:
                marks_s.append(time.monotonic())
        if not workload.poll():
            return
        last = sample({workload.pid})
        findings.features.extend(hardware_features(counters.read(), last.t_s - first.t_s))
    foreign = (busy_s(cpus) - busy_first_s - cpu_s(first, last)) / (last.t_s - first.t_s) / len(cpus)
    if foreign > _FOREIGN_RATIO:
        findings.doubt(Quality.NOISY, f"others used {foreign:.0%} of CPUs {cpus} during the window")
    findings.features.extend(features_between(first, last, len(cpus)))
    findings.features.extend(token_features(workload.progress.events, first.t_s, last.t_s))
    _rate(workload, first.t_s, last.t_s, marks_s, findings)


def _rate(workload: PinnedCommand, start_s: float, end_s: float, marks_s: Sequence[float], findings: Findings) -> None:
    rate = _covered_rate(workload, start_s, end_s)
    if rate is None:
        findings.notes.append("no rate: the command wrote no progress lines and did not end")
        return
    slices = [_covered_rate(workload, a, b) for a, b in itertools.pairwise(marks_s)]
    known = [one for one in slices if one is not None]
    findings.add("rate_per_s", rate, Source.PROGRESS, end_s - start_s, known)
    middle_s = (start_s + end_s) / 2
    halves = [_covered_rate(workload, start_s, middle_s) or 0.0, _covered_rate(workload, middle_s, end_s) or 0.0]
    if abs(halves[0] - halves[1]) > _HALVES_RATIO * rate:
        findings.doubt(
            Quality.UNSTABLE, f"the rate still moved: {halves[0]:.4g} then {halves[1]:.4g} per s in the window's halves"
        )


def _covered_rate(workload: PinnedCommand, start_s: float, end_s: float) -> float | None:
    """Give work per second over the part of a span that progress lines cover; None = less than half of it."""
    covered = workload.progress.covered_s
    if covered is None:
        return None
    start, end = max(start_s, covered[0]), min(end_s, covered[1])
    if end - start < (end_s - start_s) / 2:
        return None
    return workload.progress.rate_per_s(start, end)


def _require_progress(workload: PinnedCommand, metric: str) -> None:
    if metric == "progress" and workload.progress.covered_s is None:
        raise WorkloadFailed(
            f"the command wrote no progress lines to $COTENANT_PROGRESS "
            f"({workload.progress.malformed_lines} malformed ones); see profiler/progress.py for the format, "
            f"or leave --metric out"
        )
    if metric == "exit-time":
        raise WorkloadFailed(
            "the command did not end by itself within ten windows: leave --metric out, or give a longer window"
        )


def _probe(workload: PinnedCommand, cpus: CpuSet, topology: Topology, findings: Findings, report: Report) -> None:
    domain = next((one for one in topology.llc_domains if cpus <= one.cpus), None)
    if domain is None or domain.size_bytes is None:
        findings.notes.append(f"no probes: CPUs {cpus} do not lie within one last-level cache of known size")
        return
    cores = {cpu.core for cpu in topology.cpus if cpu.id in cpus}
    free = (domain.cpus & topology.usable) - cpus
    siblings = CpuSet.of(cpu.id for cpu in topology.cpus if cpu.core in cores)
    # a probe on the sibling thread would measure the shared core, not the shared cache
    choice = list(free - siblings)
    if not choice:
        findings.notes.append("no probes: they need a CPU of another core that shares the cache, and all are in use")
        return
    # a workload with pauses needs longer slices, or some would hold nothing but pause
    duty = next((one.value for one in findings.features if one.name == "duty_cycle_ratio"), 1.0)
    result = measure(
        workload,
        cpus=cpus,
        probe_cpu=choice[-1],
        llc_bytes=domain.size_bytes,
        folder=workload.folder,
        slice_s=_SLICE_S if duty > 0.9 else 2 * _SLICE_S,
        on_progress=lambda share: report(0.6 + 0.4 * share, "probing the cache"),
    )
    findings.features.extend(result.features)
    findings.notes.extend(result.notes)


def _hardware(group: GroupSample, findings: Findings) -> Counters:
    """Count on all threads of the group; where that is impossible nothing is counted and a note says why."""
    try:
        return Counters(group.voluntary, HARDWARE)
    except CountersUnavailable as error:
        findings.notes.append(f"no hardware counters: {error}")
        return Counters((), HARDWARE)


def _usable_at_once(group: GroupSample, topology: Topology) -> int:
    """Give how many CPUs a running group can use at once: those it may run on, but no more than it has threads."""
    allowed: set[int] = set()
    for pid in group.pids:
        try:
            allowed |= os.sched_getaffinity(pid)
        except ProcessLookupError:
            continue  # it ended
    return max(1, min(len(allowed) or len(topology.online), group.threads))
