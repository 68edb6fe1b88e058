"""The processes of a block of runs: started when first needed, paused unless measured, confined by the enforcer."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.colocation import Stage, Window
from benchmarks.design import Cell, CommandLine, Member
from benchmarks.errors import MemberUnconfined
from benchmarks.gauges import Gauges
from benchmarks.runs import Phase, Reading
from benchmarks.workloads import LATE_S, Workload
from isolation.enforcer import Enforcer, Target, Undo
from isolation.process import identify
from isolation.spec import IsolationSpec
from profiler.procfs import cpu_times_s
from profiler.procfs import members as family
from profiler.tokens import token_features

_SERVICE_LATE_S = 1.25  # load generators write a line a second
_TOKEN_FEATURES = ("ttft_s", "ttlt_s", "tbt_s", "tbt_p99_s", "burstiness_index")


@dataclass(frozen=True, slots=True)
class Crew:
    """Started workloads by name; instances of one workload are told apart by number."""

    stage: Stage
    workloads: Mapping[str, CommandLine]
    gauges: Gauges
    seed: int  #: of what the workloads draw: their data, the agents' turns

    def ensure(self, cell: Cell) -> None:
        """Start what the cell needs and is not there; raises WorkloadSilent."""
        for member in cell.members:
            for name in names(member):
                if name not in self.stage.members:
                    self.stage.start(self._workload(name, self.workloads[member.workload]))

    def pids(self, member: Member) -> tuple[int, ...]:
        """Give the processes of a member."""
        return tuple(self.stage.members[name].process.pid for name in names(member))

    def user_s(self, cell: Cell) -> float:
        """Give the time all processes of a cell, and their descendants, have spent in user mode."""
        everybody = family({pid for member in cell.members for pid in self.pids(member)})
        known = [cpu_times_s(pid)[0] for pid in everybody]
        return sum(user_s for user_s in known if math.isfinite(user_s))  # who ended meanwhile is left out

    @contextmanager
    def confined(self, cell: Cell, specs: Mapping[str, IsolationSpec], enforcer: Enforcer) -> Iterator[None]:
        """Confine the members; on leaving see that they still are, and restore what was.

        Raises IsolationError, MemberUnconfined.
        """
        with ExitStack() as cleanup:
            checks = []
            for member in cell.members:
                if (spec := specs.get(member.workload)) is not None:
                    target = Target(processes=tuple(identify(pid, allowed_uids=None) for pid in self.pids(member)))
                    undo = enforcer.snapshot(member.workload, target)
                    cleanup.callback(_release, enforcer, member, undo)
                    applied = enforcer.apply(member.workload, target, spec, undo)
                    if applied.class_refused:
                        raise MemberUnconfined(f"{member.workload!r} got no cache ways: {applied.class_refused}")
                    if not applied.complete:
                        raise MemberUnconfined(f"{member.workload!r}: threads were born faster than they were moved")
                    checks.append((member, target, spec, undo))
            yield
            for member, target, spec, undo in checks:
                if drifts := enforcer.verify(target, spec, undo):
                    raise MemberUnconfined(f"{member.workload!r} was moved away during the run: {drifts[0]}")

    def window(self, members: Sequence[Member], seconds: float, phase: Phase) -> list[Reading]:
        """Let these members run for a while and measure each; raises WorkloadSilent."""
        with self.gauges.watching({member.workload: self.pids(member) for member in members}) as told:
            window = self.stage.window([name for member in members for name in names(member)], seconds)
            values = told(window.seen_s - window.begun_s)
        return [self._reading(member, window, phase, values[member.workload]) for member in members]

    def _reading(self, member: Member, window: Window, phase: Phase, told: Mapping[str, float]) -> Reading:
        own = names(member)
        features: dict[str, float] = {}
        times_s: tuple[float, ...] = ()
        line = self.workloads[member.workload]
        if line.is_agent:
            (name,) = own
            events = self.stage.members[name].log.events
            events = [event for event in events if window.begun_s <= event.t_s <= window.end_s]
            features = {one.name: one.value for one in token_features(events, window.begun_s, window.end_s)}
            begun_s = next((event.t_s for event in events if event.kind == "turn"), math.nan)
            times_s = tuple(
                round(event.t_s - begun_s, 4) for event in events if event.kind == "token" and event.t_s >= begun_s
            )
        return Reading(
            member=member.workload,
            phase=phase,
            seconds=window.end_s - window.start_s,
            rate_per_s=_known(sum(window.rates[name] for name in own)),
            cpu_s=None if line.is_service else _known(sum(window.cpu_s[name] for name in own)),
            token_times_s=times_s,
            **{name: features.get(name) for name in _TOKEN_FEATURES},
            **told,
        )

    def _workload(self, name: str, line: CommandLine) -> Workload:
        python = (sys.executable, "-P", "-m")  # -P: no module from wherever we are called
        argv = (*python, line.module, *line.arguments, "--seed", str(self.seed))
        return Workload(
            name=name,
            argv=argv,
            unit=line.unit,
            description=line.about,
            replays=line.is_agent or line.is_service,
            late_s=_SERVICE_LATE_S if line.is_service else LATE_S,
        )


def _release(enforcer: Enforcer, member: Member, undo: Undo) -> None:
    released = enforcer.release(undo)
    if released.left_over:
        raise MemberUnconfined(f"{member.workload!r} could not be released whole: {'; '.join(released.left_over)}")


def names(member: Member) -> list[str]:
    """Name the instances of a member."""
    return [f"{member.workload}:{number}" for number in range(member.instances)]


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
