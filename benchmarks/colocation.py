"""Running workloads side by side and measuring each one's rate in windows bracketed by windows of its own alone.

Workloads are started once; a window pauses those that do not take part (SIGSTOP) and lets the others run, so a solo
window lies within seconds of the shared one it is compared with and nobody pays start-up or warm-up again.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Self

from benchmarks.errors import WorkloadSilent
from benchmarks.workloads import Workload
from isolation.cpuset import CpuSet
from profiler.progress import ENVIRONMENT, ProgressLog
from profiler.tokens import steady_rate

_SETTLE_S = 0.25  # caches refill and the kernel balances after somebody starts or stops
_END_S = 3.0


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


@dataclass(slots=True)
class Stage:
    """Started workloads, all paused between windows; leaving ends them."""

    folder: Path
    members: dict[str, Running] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for one in self.members.values():
            one.process.send_signal(signal.SIGCONT)
            one.process.terminate()
        for one in self.members.values():
            try:
                one.process.wait(timeout=_END_S)
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()

    def start(self, workload: Workload, *, limit_s: float = 120.0) -> None:
        """Start one, wait until it reports work, pause it; raises WorkloadSilent with what it said."""
        progress = self.folder / f"{workload.name}.progress"
        errors = self.folder / f"{workload.name}.stderr"
        with errors.open("wb") as sink:
            process = subprocess.Popen(
                workload.argv,
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
                raise WorkloadSilent(f"{workload.name!r} reported no work within {limit_s:g} s of its start")
            time.sleep(0.05)
            running.log.poll()
        process.send_signal(signal.SIGSTOP)

    def window(self, active: Sequence[str], seconds: float) -> dict[str, float]:
        """Let these run for a while, the others pause; gives work per second of each, of agents the decoding speed.

        Pauses of an agent (tools, turns, prefill) are the agent's own, so tokens are counted between them.
        """
        for name in active:
            self.members[name].process.send_signal(signal.SIGCONT)
        time.sleep(_SETTLE_S)
        start_s = time.monotonic()
        time.sleep(seconds)
        end_s = time.monotonic()
        time.sleep(0.06)  # one more line of each, so that the window's end is covered
        for name in active:
            self.members[name].process.send_signal(signal.SIGSTOP)
        rates = {}
        for name in active:
            running = self.members[name]
            running.log.poll()
            self._check(running)
            # who waits for its turn on a CPU may report late: take what is covered, if it is most of the window
            covered = running.log.covered_s
            last_s = min(end_s, covered[1]) if covered else start_s
            decoding = steady_rate(running.log.events, start_s, end_s, average=fmean)
            if decoding is not None:
                rates[name] = decoding
            elif last_s - start_s > 0.5 * seconds:
                rates[name] = running.log.rate_per_s(start_s, last_s)
            else:
                rates[name] = math.nan
        return rates

    @staticmethod
    def _check(running: Running) -> None:
        if (code := running.process.poll()) is not None:
            said = running.errors.read_text(errors="replace").strip().splitlines()[-3:]
            raise WorkloadSilent(
                f"{running.workload.name!r} ended with code {code}" + (f": {' / '.join(said)}" if said else "")
            )


def slowdowns(
    stage: Stage,
    names: Sequence[str],
    settings: Mapping[str, Callable[[], None]],
    *,
    rounds: int,
    seconds: float,
    on_round: Callable[[int], None] = lambda _number: None,
    on_window: Callable[[str, float, float], None] = lambda _setting, _start_s, _end_s: None,
) -> dict[str, dict[str, Ratio]]:
    """Measure some members together under one or more settings in turn, solo windows around every round.

    SF = rate alone (mean of the windows before and after the round) / rate together, one value per round and setting.
    `settings` maps a name to what brings the setting about; `on_window` learns of each shared window
    (CLOCK_MONOTONIC). All settings of a round share its solo windows, so what the machine does meanwhile hits them
    alike.
    """
    values: dict[str, dict[str, list[float]]] = {setting: {name: [] for name in names} for setting in settings}
    before = {name: stage.window([name], seconds)[name] for name in names}
    order = list(settings)
    for number in range(rounds):
        together = {}
        for setting in order if number % 2 == 0 else reversed(order):  # nobody is always first
            settings[setting]()
            start_s = time.monotonic()
            together[setting] = stage.window(names, seconds)
            on_window(setting, start_s, time.monotonic())
        after = {name: stage.window([name], seconds)[name] for name in names}
        for setting, rates in together.items():
            for name in names:
                ratio = (before[name] + after[name]) / 2 / rates[name] if rates[name] > 0 else math.nan
                values[setting][name].append(ratio if ratio > 0 else math.nan)
        before = after
        on_round(number + 1)
    return {
        setting: {name: Ratio(rounds=tuple(found)) for name, found in per.items()} for setting, per in values.items()
    }
