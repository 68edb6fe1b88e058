"""Runs the steps of a design one after the other and records each before the next begins.

A run: every member alone, all together, every member alone again in reverse order, on the same CPUs throughout, so
that what the host does meanwhile hits both sides of the ratio alike.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from benchmarks.colocation import Stage
from benchmarks.crew import Crew
from benchmarks.design import Cell, Design, Isolation, Step
from benchmarks.errors import BenchmarkError, CampaignStuck
from benchmarks.gauges import Gauges
from benchmarks.host_class import Host
from benchmarks.quiet import DRIFT_FACTOR, OTHERS_RATIO, STEAL_RATIO, Probes, disturbance, look
from benchmarks.runs import Outcome, Phase, Reading, Run, RunLog
from benchmarks.seats import infeasible, seats
from benchmarks.slowdown import solo_drift
from isolation.enforcer import Enforcer
from isolation.errors import IsolationError
from isolation.resctrl_info import CacheControl
from isolation.topology import Topology

ATTEMPTS = 3  #: of a run that failed or was disturbed, unless told otherwise
_MOST_FAILURES = 10  #: in a row: then something is wrong that the next run will not mend

#: Told after each run: it, how many of how many are done, seconds left (NaN = unknown).
OnRun = Callable[[Run, int, int, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the runs are done on and with."""

    design: Design
    host: Host
    topology: Topology
    enforcer: Enforcer
    cache: CacheControl | None  #: None = no cache ways to give
    lacking: Mapping[Isolation, str]
    no_agents: str = ""  #: why agents cannot be run here
    gauges: Gauges
    revision: str

    def infeasible(self, cell: Cell) -> str:
        """Say why this host cannot do a cell; empty = it can."""
        if self.no_agents and self.design.agents_of(cell):
            return self.no_agents
        return infeasible(cell, self.topology, self.cache, self.lacking)


@dataclass(slots=True)
class Campaign:
    """Works through steps; may be interrupted at any moment, and resumed."""

    setting: Setting
    log: RunLog
    attempts: int = ATTEMPTS
    probes: Probes = field(default_factory=Probes)

    def run(self, steps: Sequence[Step], on_run: OnRun, *, limit: int | None = None) -> None:
        """Do what is not done yet, at most `limit` runs of it.

        Raises RunsUnwritable, IsolationError, and CampaignStuck when one run after the other fails.
        """
        due = remaining(steps, self.log.runs, self.attempts, self.setting.infeasible)
        if limit is not None:
            due = self._first(due, limit)
        done, costly = 0, [step for step in due if not self.setting.infeasible(step.cell)]
        took_s: list[float] = []
        left, failures = len(costly), 0
        for _, block in groupby(due, key=lambda step: (step.cell.part, step.block)):
            for run in self._block(list(block)):
                self.log.append(run)
                done += 1
                if run.outcome is not Outcome.NOT_APPLICABLE:  # that is no success
                    failures = failures + 1 if run.outcome is Outcome.FAILED else 0
                if failures == _MOST_FAILURES:
                    raise CampaignStuck(f"{failures} runs in a row failed, the last one because: {run.reason}")
                if run.outcome is not Outcome.NOT_APPLICABLE:
                    took_s.append(run.took_s)
                    left = max(0, left - 1)
                mean_s = sum(took_s) / len(took_s) if took_s else math.nan
                on_run(run, done, len(due), left * mean_s)

    def _first(self, due: Sequence[Step], limit: int) -> list[Step]:
        """Cut off after so many that take time."""
        kept: list[Step] = []
        for step in due:
            if not self.setting.infeasible(step.cell):
                if limit == 0:
                    break
                limit -= 1
            kept.append(step)
        return kept

    def _block(self, steps: list[Step]) -> Iterable[Run]:
        """Yield the runs of one block; those that went wrong are tried again at its end."""
        with tempfile.TemporaryDirectory(prefix="cotenant-experiment-") as folder, Stage(Path(folder)) as stage:
            crew = Crew(stage, self.setting.design.workloads, self.setting.gauges, seed=steps[0].block)
            recorded = Counter(run.key for run in self.log.runs)
            tried = _tried(self.log.runs)
            while steps:
                again: list[Step] = []
                for step in steps:
                    tried[step.key] += 1
                    recorded[step.key] += 1
                    run = self._one(crew, step, recorded[step.key])
                    if run.outcome in {Outcome.FAILED, Outcome.DISTURBED} and tried[step.key] < self.attempts:
                        again.append(step)
                    yield run
                steps = again

    def _one(self, crew: Crew, step: Step, attempt: int) -> Run:
        started_unix_s, started_s = time.time(), time.monotonic()
        outcome, reason = Outcome.NOT_APPLICABLE, self.setting.infeasible(step.cell)
        measured = _Measured()
        if not reason:
            try:
                crew.ensure(step.cell)
                started_s = time.monotonic()  # what all runs of the block share is not this one's time
                measured = self._measure(crew, step.cell)
                outcome, reason = judged(measured)
            except (BenchmarkError, IsolationError, OSError) as error:
                outcome, reason = Outcome.FAILED, f"{type(error).__name__}: {error}"
                crew.stage.end_dead()
        return Run(
            part=step.cell.part,
            cell=step.cell.name,
            members=step.cell.members,
            isolation=step.cell.isolation,
            cpus=() if outcome is Outcome.NOT_APPLICABLE else self._cpus(step.cell),
            repetition=step.repetition,
            attempt=attempt,
            block=step.block,
            seed=self.setting.design.seed,
            design=self.setting.design.digest(step.cell),
            revision=self.setting.revision,
            host=self.setting.host.kind.fingerprint,
            instance=self.setting.host.instance,
            started_unix_s=started_unix_s,
            took_s=time.monotonic() - started_s,
            outcome=outcome,
            reason=reason,
            readings=measured.readings,
            steal_ratio=measured.steal_ratio,
            others_ratio=measured.others_ratio,
            cpu_probe_s=measured.cpu_probe_s,
            memory_probe_s=measured.memory_probe_s,
        )

    def _measure(self, crew: Crew, cell: Cell) -> _Measured:
        setting = self.setting
        specs = seats(cell, setting.topology, setting.cache)
        with crew.confined(cell, specs, setting.enforcer):
            probes = [(self.probes.cpu_s(), self.probes.memory_s())]
            first, first_user_s = look(), crew.user_s(cell)
            readings: list[Reading] = []
            for member in cell.members:
                readings += crew.window([member], setting.design.solo_s(member), Phase.BEFORE)
            readings += crew.window(cell.members, setting.design.together_s(cell), Phase.TOGETHER)
            for member in reversed(cell.members):
                readings += crew.window([member], setting.design.solo_s(member), Phase.AFTER)
            last, last_user_s = look(), crew.user_s(cell)
            probes.append((self.probes.cpu_s(), self.probes.memory_s()))
        steal_ratio, others_ratio = disturbance(first, last, last_user_s - first_user_s)
        return _Measured(
            readings=tuple(readings),
            steal_ratio=steal_ratio,
            others_ratio=others_ratio,
            cpu_probe_s=tuple(cpu_s for cpu_s, _ in probes),
            memory_probe_s=tuple(memory_s for _, memory_s in probes),
        )

    def _cpus(self, cell: Cell) -> tuple[str, ...]:
        specs = seats(cell, self.setting.topology, self.setting.cache)
        return tuple(str(specs[member.workload].cpus) for member in cell.members) if specs else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    readings: tuple[Reading, ...] = ()
    steal_ratio: float | None = None
    others_ratio: float | None = None
    cpu_probe_s: tuple[float, ...] = ()
    memory_probe_s: tuple[float, ...] = ()


def judged(measured: _Measured) -> tuple[Outcome, str]:
    """Say whether the host was quiet; only what does not depend on the shared window decides."""
    reasons = []
    if (stolen := measured.steal_ratio or 0.0) > STEAL_RATIO:
        reasons.append(f"{stolen:.1%} of CPU time stolen (limit {STEAL_RATIO:.0%})")
    if (others := measured.others_ratio or 0.0) > OTHERS_RATIO:
        reasons.append(f"other programs used {others:.1%} of all CPUs (limit {OTHERS_RATIO:.0%})")
    for member in dict.fromkeys(one.member for one in measured.readings):
        factor = solo_drift(measured.readings, member)
        if math.isnan(factor):
            reasons.append(f"{member} alone did nothing that could be measured")
        elif factor > DRIFT_FACTOR:
            reasons.append(f"{member} alone: its two windows differ by a factor of {factor:.2f} (limit {DRIFT_FACTOR})")
    return (Outcome.DISTURBED, "; ".join(reasons)) if reasons else (Outcome.OK, "")


def remaining(
    steps: Iterable[Step], runs: Iterable[Run], attempts: int, infeasible_here: Callable[[Cell], str]
) -> list[Step]:
    """Give the steps still to be run: those without a good run that were not tried often enough.

    What was not applicable is recorded once, and done when the host can do it by now.
    """
    known = list(runs)
    good = {run.key for run in known if run.outcome is Outcome.OK}
    skipped = {run.key for run in known if run.outcome is Outcome.NOT_APPLICABLE}
    tried = _tried(known)
    return [
        step
        for step in steps
        if step.key not in good
        and tried[step.key] < attempts
        and not (step.key in skipped and infeasible_here(step.cell))
    ]


def _tried(runs: Iterable[Run]) -> Counter[tuple[str, int]]:
    return Counter(run.key for run in runs if run.outcome is not Outcome.NOT_APPLICABLE)
