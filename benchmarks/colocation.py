"""Running workloads side by side and measuring each one's rate in windows bracketed by windows of its own alone.

Workloads are started once; a window pauses those that do not take part (SIGSTOP) and lets the others run, so a solo
window lies within seconds of the shared one it is compared with and nobody pays start-up or warm-up again.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Self

from benchmarks.errors import WorkloadSilent
from benchmarks.workloads import Workload
from isolation.cpuset import CpuSet
from profiler.procfs import cpu_times_s, is_running
from profiler.progress import ENVIRONMENT, ProgressLog
from profiler.tokens import between_tokens_s

_SETTLE_S = 0.25  # caches refill and the kernel balances after somebody starts or stops
_LEAST_INTERVALS = 3
_END_S = 3.0
_PARK_S = 3.0
_TETHER = Path(__file__).with_name("tether.py")


@dataclass(slots=True)
class Running:
    """One started workload."""

    workload: Workload
    process: subprocess.Popen[bytes]
    log: ProgressLog
    errors: Path

    def pin(self, cpus: CpuSet) -> None:
        """Confine every thread; threads born later inherit it."""
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                os.sched_setaffinity(int(task.name), set(cpus))
            except ProcessLookupError:  # a thread that ended
                continue


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One factor per round; NaN for a round that could not be measured, so that rounds stay comparable by number."""

    rounds: tuple[float, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """Give the rounds that could be measured."""
        return tuple(value for value in self.rounds if math.isfinite(value))

    @property
    def slowdown(self) -> float:
        """Give the median; NaN when no window counted."""
        return median(self.values) if self.values else math.nan

    @property
    def spread_log(self) -> float | None:
        """Give the standard deviation of log SF; None below two windows."""
        return stdev(map(math.log, self.values)) if len(self.values) > 1 else None

    def __str__(self) -> str:
        if not self.values:
            return "unknown"
        return f"{self.slowdown:.2f} ({min(self.values):.2f}-{max(self.values):.2f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What was measured in one window; times are CLOCK_MONOTONIC."""

    begun_s: float  #: when those that ran were let go
    start_s: float
    end_s: float
    seen_s: float  #: when those that ran were paused again; until then their lines were read
    rates: dict[str, float]  #: by workload, per second; NaN = could not be measured
    cpu_s: dict[str, float]  #: by workload, CPU time between start and end


@dataclass(slots=True)
class Stage:
    """Started workloads, all paused between windows; leaving ends them."""

    folder: Path
    members: dict[str, Running] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for one in self.members.values():
            one.process.terminate()  # pending until it is let go, so that it does no more work
            one.process.send_signal(signal.SIGCONT)
        for one in self.members.values():
            try:
                one.process.wait(timeout=_END_S)
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()

    def end_dead(self) -> None:
        """Forget members that ended by themselves, so that they can be started anew; the others stand still."""
        for name, running in list(self.members.items()):
            if running.process.poll() is not None:
                del self.members[name]
            else:
                running.process.send_signal(signal.SIGSTOP)

    def start(self, workload: Workload, *, limit_s: float = 120.0) -> None:
        """Start one, wait until it reports work, pause it; raises WorkloadSilent with what it said."""
        progress = self.folder / f"{workload.name}.progress"
        progress.unlink(missing_ok=True)  # of one of this name that ended: its lines are not this one's
        errors = self.folder / f"{workload.name}.stderr"
        with errors.open("wb") as sink:
            process = subprocess.Popen(
                (sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), *workload.argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=sink,
                env={**os.environ, ENVIRONMENT: str(progress)},
                start_new_session=True,  # Ctrl-C reaches us, and we end it
            )
        running = Running(workload, process, ProgressLog(progress), errors)
        self.members[workload.name] = running
        started_s = time.monotonic()
        while running.log.covered_s is None:
            self._check(running)
            if time.monotonic() - started_s > limit_s:
                process.kill()
                process.wait()
                raise WorkloadSilent(f"{workload.name!r} reported no work within {limit_s:g} s of its start")
            time.sleep(0.05)
            running.log.poll()
        _pause([running])

    def window(self, active: Sequence[str], seconds: float) -> Window:
        """Let these run for a while, the others pause; measures work per second, of agents the decoding speed.

        Which of the two is decided by the workload's unit, so that windows can be compared.
        """
        pids = {name: self.members[name].process.pid for name in active}
        begun_s = time.monotonic()
        for name in active:
            self.members[name].process.send_signal(signal.SIGCONT)
        time.sleep(_SETTLE_S)
        start_s = time.monotonic()
        used_s = {name: sum(cpu_times_s(pid)) for name, pid in pids.items()}
        time.sleep(seconds)
        end_s = time.monotonic()
        used_s = {name: sum(cpu_times_s(pid)) - used_s[name] for name, pid in pids.items()}
        waiting = set(active)
        late_s = max(self.members[name].workload.late_s for name in active)
        while waiting and time.monotonic() < end_s + late_s:
            time.sleep(0.02)
            waiting = {name for name in waiting if not self._covers(name, end_s)}
        seen_s = time.monotonic()
        _pause([self.members[name] for name in active])
        rates = {}
        for name in active:
            running = self.members[name]
            running.log.poll()
            self._check(running)
            measure = decoding_speed if running.workload.unit == "tokens" else work_rate
            rates[name] = measure(running.log, start_s, end_s, seen_s)
        return Window(begun_s=begun_s, start_s=start_s, end_s=end_s, seen_s=seen_s, rates=rates, cpu_s=used_s)

    def _covers(self, name: str, end_s: float) -> bool:
        log = self.members[name].log
        log.poll()
        return log.covered_s is not None and log.covered_s[1] >= end_s

    @staticmethod
    def _check(running: Running) -> None:
        if (code := running.process.poll()) is not None:
            said = running.errors.read_text(errors="replace").strip().splitlines()[-3:]
            raise WorkloadSilent(
                f"{running.workload.name!r} ended with code {code}" + (f": {' / '.join(said)}" if said else "")
            )


def _pause(members: Sequence[Running]) -> None:
    """Let all stand still; those that replay finish their step first, alone."""
    replaying = [one for one in members if one.workload.replays]
    for one in members:
        one.process.send_signal(signal.SIGTSTP if one.workload.replays else signal.SIGSTOP)
    deadline_s = time.monotonic() + _PARK_S
    while time.monotonic() < deadline_s and any(is_running(one.process.pid) for one in replaying):
        time.sleep(0.005)
    for one in replaying:  # whoever could not: a stop in the middle of its step is no error
        one.process.send_signal(signal.SIGSTOP)


def decoding_speed(log: ProgressLog, start_s: float, end_s: float, seen_s: float) -> float:
    """Give 1 / mean time between tokens, stalls included; NaN when the agent did other things most of the time.

    Pauses of an agent (tools, turns, prefill) are the agent's own, so tokens are counted between them.
    """
    between_s = between_tokens_s(log.events, start_s, end_s, seen_s)
    enough = len(between_s) >= _LEAST_INTERVALS or sum(between_s) > (end_s - start_s) / 2
    return 1 / fmean(between_s) if enough and sum(between_s) > 0 else math.nan


def work_rate(log: ProgressLog, start_s: float, end_s: float, seen_s: float) -> float:
    """Give work per second of the window; NaN when no line came in it.

    Who wrote no line past the window's end, long as we waited, stood still since its last one.
    """
    covered = log.covered_s
    if covered is None or covered[1] <= start_s:
        return math.nan
    if covered[1] >= end_s:
        return log.rate_per_s(start_s, end_s)
    return (log.work_at(covered[1]) - log.work_at(start_s)) / (seen_s - start_s)


def slowdowns(
    stage: Stage,
    names: Sequence[str],
    settings: Mapping[str, Callable[[], None]],
    *,
    rounds: int,
    seconds: float,
    on_round: Callable[[int], None] = lambda _number: None,
    on_window: Callable[[str, Window], None] = lambda _setting, _window: None,
) -> dict[str, dict[str, Ratio]]:
    """Measure some members together under one or more settings in turn, solo windows around every round.

    SF = rate alone (mean of the windows before and after the round) / rate together, one value per round and setting.
    `settings` maps a name to what brings the setting about; `on_window` learns of each shared window. All settings of a
    round share its solo windows, so what the machine does meanwhile hits them alike.
    """
    values: dict[str, dict[str, list[float]]] = {setting: {name: [] for name in names} for setting in settings}
    before = {name: stage.window([name], seconds).rates[name] for name in names}
    order = list(settings)
    for number in range(rounds):
        together = {}
        for setting in order if number % 2 == 0 else reversed(order):  # nobody is always first
            settings[setting]()
            window = stage.window(names, seconds)
            together[setting] = window.rates
            on_window(setting, window)
        after = {name: stage.window([name], seconds).rates[name] for name in names}
        for setting, rates in together.items():
            for name in names:
                ratio = (before[name] + after[name]) / 2 / rates[name] if rates[name] > 0 else math.nan
                values[setting][name].append(ratio if ratio > 0 else math.nan)
        before = after
        on_round(number + 1)
    return {
        setting: {name: Ratio(rounds=tuple(found)) for name, found in per.items()} for setting, per in values.items()
    }
