"""Measures what a workload does alone: runs a command on given CPUs, waits until it is steady, and watches it.

A command is started with $COTENANT_PROGRESS set, warms up, is measured over a window, probed, and ended. A command that
ends by itself is run again until the window is full, and its rate is 1 / run time. Whatever happens, nothing of it is
left running. Processes that run already are watched by profiler/observer.py.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from isolation.cpuset import CpuSet
from isolation.topology import Topology, read_topology
from profiler.command import PinnedCommand
from profiler.comparison import halves_apart
from profiler.driver import Driver, driver_cpus, token_driver
from profiler.errors import HostBusy, RecordInvalid, WorkloadFailed
from profiler.files import name_checked
from profiler.findings import Findings
from profiler.idleness import Solitude
from profiler.metric import Metric, MetricKind, parse_metric
from profiler.output import OutputLog
from profiler.probing import measure
from profiler.procfs import cpu_s, features_over
from profiler.progress import ProgressLog
from profiler.rates import silence, speed, window_rate
from profiler.records import Quality, SteadyWindow, WorkloadProfile
from profiler.repeats import repeat, wait_out
from profiler.scrape import ScrapeLog
from profiler.sources import LiveSources
from profiler.steadiness import SLICE_S, Slice, settled
from profiler.tokens import token_features

_TICK_S = 0.05
_SAMPLES = 12  # of /proc in a window, a second apart at most
_IDLE_CHECK_S = 0.3
_PROBE_LIMIT_S = 38.0  # a profile takes a minute: getting ready, warming up and two windows have the rest
_WINDOWS = 2  # a window that does not agree with itself is measured again, once

Report = Callable[[float, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """One measurement, checked."""

    name: str
    command: tuple[str, ...]
    cpus: CpuSet
    window_s: float
    warmup_s: float
    start_limit_s: float
    metric: Metric
    driver: Driver | None
    topology: Topology
    report: Report


def collect(
    name: str,
    command: Sequence[str],
    *,
    cpus: CpuSet,
    window_s: float = 6.0,
    warmup_s: float = 5.0,
    probes: bool = True,
    curve: bool = True,
    metric: str = "auto",
    driver: Driver | None = None,
    start_limit_s: float = 60.0,
    refuse_busy: bool = False,
    on_progress: Report | None = None,
) -> WorkloadProfile:
    """Run a command alone on these CPUs and describe it; raises WorkloadFailed, with its last words, if that fails.

    metric: see profiler/metric.py; driver: what loads it, from other CPUs, and tells its progress. It has start_limit_s
    to be ready and tell its first progress, then warmup_s to become steady. refuse_busy: raise HostBusy, naming who is,
    unless the CPUs and the cache are free before the start. curve: let the probes try all levels of pressure, not only
    the full one.
    """
    name_checked(name)
    wish = parse_metric(metric)
    if not 0.5 <= window_s <= 3600 or not 0 <= warmup_s <= 3600 or not 0 < start_limit_s <= 3600:
        raise RecordInvalid(
            f"window {window_s} s must be 0.5 to 3600 s, warm-up {warmup_s} s 0 to 3600 s, "
            f"start limit {start_limit_s} s above 0 and up to 3600 s"
        )
    topology = read_topology()
    if not cpus or cpus - topology.usable:
        raise RecordInvalid(f"CPUs {str(cpus) or 'none'!r} cannot be used, usable here are {topology.usable}")
    if driver is None and wish.kind is MetricKind.TOKENS:
        driver = token_driver(wish.url, driver_cpus(topology, cpus))
    report = _forward(on_progress) if on_progress else (lambda _share, _stage: None)
    plan = _Plan(
        name=name,
        command=tuple(command),
        cpus=cpus,
        window_s=window_s,
        warmup_s=warmup_s,
        start_limit_s=start_limit_s,
        metric=wish,
        driver=driver,
        topology=topology,
        report=report,
    )
    findings = Findings()
    with _aside(topology.usable - cpus), tempfile.TemporaryDirectory(prefix="cotenant-") as temporary:
        report(0.0, "checking that the host is idle")
        _check_idle(plan, findings, refuse_busy=refuse_busy)
        _measure(plan, Path(temporary), findings, probes=probes, curve=curve)
    report(1.0, "done")
    return findings.profile(name, len(cpus), topology)


def _measure(plan: _Plan, folder: Path, findings: Findings, *, probes: bool, curve: bool) -> None:
    solitude = Solitude(plan.cpus, plan.topology)
    first = solitude.now()
    with ExitStack() as running:
        workload = running.enter_context(_started(plan, folder))
        if plan.metric.kind is MetricKind.EXIT_TIME:
            wait_out(workload, plan.window_s, plan.report)
            if workload.exit_code is None:
                raise WorkloadFailed(
                    f"the command did not end by itself within {10 * plan.window_s:g} s, ten windows: leave --metric "
                    "out, or give a longer window"
                )
        else:
            _drive(plan, workload, folder, running)
            steady = _warm_up(workload, plan)
            _windows(workload, plan, steady, findings)
        if workload.exit_code is None:
            if probes:
                plan.report(0.6, "probing the cache")
                _probe(workload, plan, findings, curve=curve)
            return
        _require_no_progress_wanted(workload, plan)
        _require_no_family(workload, plan, findings)

    def again(number: int) -> PinnedCommand:
        (folder / f"run-{number}").mkdir()
        return PinnedCommand(plan.command, plan.cpus, folder / f"run-{number}")

    repeat(workload, again, window_s=plan.window_s, findings=findings, report=plan.report)
    company = solitude.company(first, solitude.now(), on_s=findings.used_s)
    if company.is_too_much:
        findings.doubt(Quality.NOISY, f"during the runs {company}")


def _forward(told: Report) -> Report:
    """Tell a share that never falls: a workload may turn out to be still loading, or a window to be measured again."""
    furthest = 0.0

    def report(share: float, stage: str) -> None:
        nonlocal furthest
        furthest = max(furthest, share)
        told(furthest, stage)

    return report


def _started(plan: _Plan, folder: Path) -> PinnedCommand:
    metric = plan.metric
    output = OutputLog(metric) if metric.reads_output and plan.driver is None else None
    workload = PinnedCommand(plan.command, plan.cpus, folder, output=output)
    if metric.kind is MetricKind.PROMETHEUS:
        workload.progress = ScrapeLog(metric)
    return workload


def _drive(plan: _Plan, workload: PinnedCommand, folder: Path, running: ExitStack) -> None:
    """Wait until the workload is ready, and put its load on it, if it has one."""
    if plan.driver is None:
        return
    plan.report(0.02, "waiting until it is ready")
    plan.driver.ready(workload, plan.start_limit_s)
    (folder / "load").mkdir()
    output = OutputLog(plan.metric) if plan.metric.reads_output else None
    driver = PinnedCommand(plan.driver.command, plan.driver.cpus, folder / "load", output=output)
    workload.driven_by(running.enter_context(driver))


def _check_idle(plan: _Plan, findings: Findings, *, refuse_busy: bool) -> None:
    solitude = Solitude(plan.cpus, plan.topology)
    first = solitude.now()
    time.sleep(_IDLE_CHECK_S)
    company = solitude.company(first, solitude.now())
    if not company.is_too_much:
        return
    if refuse_busy:
        raise HostBusy(f"CPUs {plan.cpus} are not alone: {company}. End those, choose other CPUs, or wait")
    findings.doubt(Quality.NOISY, f"before the start {company}")


def _warm_up(workload: PinnedCommand, plan: _Plan) -> str:
    """Wait for slices in a row that agree; say why they do, or empty when the limit came first.

    Of what will tell its progress, warming up begins with the first of it: until then it loads, however steadily it
    computes. Raises WorkloadFailed if that does not come.
    """
    start_s = ready_s = time.monotonic()
    slices: list[Slice] = []
    last = workload.sample()
    while workload.poll():
        now_s = time.monotonic()
        if _is_loading(workload, plan, now_s - start_s):
            plan.report(0.1 * (now_s - start_s) / plan.start_limit_s, "waiting for its first progress")
            ready_s = now_s
        elif now_s - ready_s >= plan.warmup_s:
            return ""
        else:
            plan.report(0.1 + 0.05 * (now_s - ready_s) / plan.warmup_s, "warming up")
        workload.wait(_TICK_S)
        if time.monotonic() - last.t_s < SLICE_S:
            continue
        now = workload.sample()
        cores = cpu_s(last, now) / (now.t_s - last.t_s)
        rate = speed(workload.progress, last.t_s, now.t_s)
        slices.append(Slice(rate_per_s=rate, cpu_cores=cores, rss_bytes=now.rss_bytes))
        last = now
        if why := settled(slices, rate_expected=_is_expected(workload, plan)):
            return why
    return ""


def _is_loading(workload: PinnedCommand, plan: _Plan, elapsed_s: float) -> bool:
    """Tell whether its first progress is still to come."""
    if workload.progress.covered_s is not None or not _is_expected(workload, plan):
        return False
    if elapsed_s <= plan.start_limit_s:
        return True
    if plan.metric.kind is MetricKind.AUTO and plan.driver is None:
        return False  # it opened the file, and never used it
    raise WorkloadFailed(
        f"{silence(workload.progress, plan.metric)} within {plan.start_limit_s:g} s{workload.last_words()}"
    )


def _is_expected(workload: PinnedCommand, plan: _Plan) -> bool:
    """Tell whether progress will come: it was insisted on, or the workload opened the file for it."""
    log = workload.progress
    by_file = isinstance(log, ProgressLog) and log.is_expected
    return plan.metric.tells_while_running or plan.driver is not None or by_file


def _windows(workload: PinnedCommand, plan: _Plan, steady: str, findings: Findings) -> None:
    """Measure the steady window; once more if it does not agree with itself."""
    for _ in range(_WINDOWS):
        found = Findings()
        _window(workload, plan, steady, found)
        if found.quality is not Quality.UNSTABLE or not workload.poll():
            break
        steady = f"the window before it did not agree with itself; {steady or 'no steady start was seen'}"
    findings.take(found)


def _window(workload: PinnedCommand, plan: _Plan, steady: str, findings: Findings) -> None:
    """Measure one window; adds nothing if the command ends inside it."""
    solitude = Solitude(plan.cpus, plan.topology)
    samples = [workload.sample()]
    moments = [solitude.now()]
    driver_first = workload.driver_sample()
    window_s, step_s = plan.window_s, min(1.0, max(0.1, plan.window_s / _SAMPLES))
    start_s = samples[0].t_s
    with LiveSources(samples[0], findings, alone=True) as sources:
        while workload.poll() and (elapsed_s := time.monotonic() - start_s) < window_s:
            plan.report(0.15 + 0.45 * elapsed_s / window_s, "measuring")
            workload.wait(min(_TICK_S, window_s - elapsed_s))
            if time.monotonic() - samples[-1].t_s >= step_s and time.monotonic() < start_s + window_s - step_s / 2:
                samples.append(workload.sample())
        if not workload.poll():
            return
        samples.append(workload.sample())
        findings.features.extend(sources.features(samples[-1].t_s - start_s))
    moments.append(solitude.now())
    driver_last = workload.driver_sample()
    beside_s = cpu_s(driver_first, driver_last) if driver_first and driver_last else 0.0
    ours = samples[0].pids | samples[-1].pids | (driver_last.pids if driver_last else frozenset())
    company = solitude.company(
        moments[0], moments[1], on_s=cpu_s(samples[0], samples[-1]), beside_s=beside_s, ours=ours
    )
    if company.is_too_much:
        findings.doubt(Quality.NOISY, f"during the window {company}")
    findings.features.extend(features_over(samples, len(plan.cpus)))
    findings.features.extend(token_features(workload.progress.events, start_s, samples[-1].t_s))
    told = window_rate(workload.progress, workload.last_words, plan.metric, samples, findings)
    if apart := halves_apart(samples, len(plan.cpus)):
        findings.doubt(Quality.UNSTABLE, apart)
    findings.window = SteadyWindow(
        start_s=start_s - workload.started_s,
        length_s=samples[-1].t_s - start_s,
        decided_by=f"{steady or f'no steady start within {plan.warmup_s:g} s'}; {told}",
    )


def _require_no_progress_wanted(workload: PinnedCommand, plan: _Plan) -> None:
    """Refuse a command that ended though its metric, or its load, needs one that keeps running."""
    if not plan.metric.tells_while_running and plan.driver is None:
        return
    silent = "" if workload.progress.covered_s else f"; {silence(workload.progress, plan.metric)} before that"
    raise WorkloadFailed(f"{workload.ended_why()}, before the window of {plan.window_s:g} s was over{silent}")


def _require_no_family(workload: PinnedCommand, plan: _Plan, findings: Findings) -> None:
    """Refuse a command that went on in the background: its run time would be that of starting."""
    left = workload.family()
    if not left or workload.exit_code != 0:
        return
    who = f"{len(left)} processes, pids {', '.join(map(str, sorted(left)[:5]))}"
    if plan.metric.kind is MetricKind.EXIT_TIME:
        findings.doubt(Quality.UNSTABLE, f"the command left {who} behind, which were ended")
        return
    raise WorkloadFailed(
        f"{plan.command[0]!r} went into the background after {workload.ended_s - workload.started_s:.2f} s: it left "
        f"{who}, which were ended. Start it in the foreground (an option such as --foreground or 'daemon off;'), or "
        "insist on its run time with --metric exit-time"
    )


@contextmanager
def _aside(cpus: CpuSet) -> Iterator[None]:
    """Stay off the workload's CPUs meanwhile, if there are others."""
    before = os.sched_getaffinity(0)
    if cpus:
        os.sched_setaffinity(0, set(cpus))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _probe(workload: PinnedCommand, plan: _Plan, findings: Findings, *, curve: bool) -> None:
    cpus, topology, report = plan.cpus, plan.topology, plan.report
    taken = plan.driver.cpus if plan.driver else CpuSet()
    domain = next((one for one in topology.llc_domains if cpus <= one.cpus), None)
    if domain is None or domain.size_bytes is None:
        findings.notes.append(f"no probes: CPUs {cpus} do not lie within one last-level cache of known size")
        return
    cores = {cpu.core for cpu in topology.cpus if cpu.id in cpus}
    free = (domain.cpus & topology.usable) - cpus - taken  # those of its load generator are taken
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
        pids=workload.family(),
        curve=curve,
        limit_s=_PROBE_LIMIT_S,
        slice_s=SLICE_S if duty > 0.9 else 2 * SLICE_S,
        on_progress=lambda share: report(0.6 + 0.4 * share, "probing the cache"),
    )
    measured = {one.name for one in findings.features}  # by the hardware itself: better than an estimate
    findings.features.extend(one for one in result.features if one.name not in measured)
    findings.notes.extend(result.notes)
