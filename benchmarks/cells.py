"""The record as samples: for each member of each cell, what every good run tells of it. Pure.

Only runs with outcome ok are used, and of one cell and repetition only the first that is. What a window did not tell is
NaN in the sample, so that all columns of a sample have the same rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from benchmarks.design import Isolation, Member, Part
from benchmarks.runs import Outcome, Phase, Reading, Run
from benchmarks.sample import FloatArray
from benchmarks.slowdown import slowdown, tail_sensitivity


class Side(StrEnum):
    """Which kind of work a member does."""

    TRADITIONAL = "traditional"
    AGENT = "agent"


def told_term(key: str) -> str:
    """Write a side, a factor or a term of factors as readers know it: the data's "traditional" is "ordinary"."""
    return key.replace(Side.TRADITIONAL, "ordinary")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One member of one cell; columns are [n] float64, one value a good run, NaN = that run did not tell."""

    part: Part
    cell: str  #: Cell.name
    members: tuple[Member, ...]  #: all of the cell
    member: Member
    side: Side
    isolation: Isolation
    repetitions: tuple[int, ...]
    instances: tuple[str, ...]  #: of the host
    slowdown: FloatArray  #: SF
    tail_sensitivity: FloatArray  #: TLS, of agents
    ttft_ratio: FloatArray  #: together / alone, of agents
    ttlt_ratio: FloatArray
    tbt_ratio: FloatArray
    interference_factor: FloatArray  #: IF
    cache_interference: FloatArray  #: CIS, per unit of work

    @property
    def neighbours(self) -> tuple[Member, ...]:
        """Give the other members of the cell."""
        return tuple(one for one in self.members if one != self.member)

    @property
    def factors(self) -> tuple[str, str, str, int]:
        """Give traditional, agent, isolation, concurrency; of part "factorial" only."""
        traditional, agent = self.members
        return traditional.workload, agent.workload, str(self.isolation), traditional.instances

    @property
    def known(self) -> FloatArray:
        """Give the slowdown factors without the unknown ones."""
        return self.slowdown[np.isfinite(self.slowdown)]

    @property
    def log_slowdown(self) -> FloatArray:
        """Give the natural logarithms of `known`."""
        return np.log(self.known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How the runs of one part and isolation ended."""

    part: Part
    isolation: Isolation
    outcomes: Mapping[str, int]  #: all attempts, by Outcome
    cells: int
    cells_without_good_run: int
    surplus: int  #: good runs of a repetition that has an earlier good run; not analysed
    reasons: Mapping[str, int]  #: of the runs that are not applicable or failed


def good_runs(runs: Iterable[Run]) -> list[Run]:
    """Keep one good run of each cell and repetition, the first; ordered by cell, whatever the order of the record."""
    found: dict[tuple[str, int], Run] = {}
    for run in sorted(runs, key=lambda one: (one.started_unix_s, one.attempt)):
        if run.outcome is Outcome.OK:
            found.setdefault(run.key, run)
    return sorted(found.values(), key=_order)


def tallies(runs: Iterable[Run]) -> tuple[Tally, ...]:
    """Count every run by how it ended."""
    groups: dict[tuple[Part, Isolation], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.part, run.isolation), []).append(run)
    parts, isolations = list(Part), list(Isolation)
    return tuple(
        _tally(part, isolation, group)
        for (part, isolation), group in sorted(
            groups.items(), key=lambda one: (parts.index(one[0][0]), isolations.index(one[0][1]))
        )
    )


def samples(runs: Iterable[Run]) -> list[Sample]:
    """Arrange good runs as samples, ordered by cell, members in the order of the cell."""
    cells: dict[str, list[Run]] = {}
    agents: set[str] = set()
    for run in runs:
        cells.setdefault(run.cell, []).append(run)
        agents |= {one.member for one in run.readings if one.token_times_s}
        if run.part is Part.FACTORIAL:
            agents.add(run.factorial[1])
    return [_sample(group, member, agents) for group in cells.values() for member in group[0].members]


def not_applicable(runs: Iterable[Run], isolation: Isolation) -> str:
    """Say why a host could not apply an isolation; empty if nothing of the kind was recorded."""
    found = {run.reason for run in runs if run.isolation is isolation and run.outcome is Outcome.NOT_APPLICABLE}
    return "; ".join(sorted(found - {""}))


def interference_factor(run: Run, member: str) -> float:
    """Give IF of one member: (IPC alone - IPC together) / IPC alone; NaN without counters."""
    return -_change(run, member, lambda one: one.ipc)


def cache_interference(run: Run, member: str) -> float:
    """Give CIS of one member: LLC misses per unit of work, together / alone - 1; NaN without counters.

    Per unit of work is per second times the time that the same work takes, hence times SF.
    """
    return (1 + _change(run, member, lambda one: one.llc_misses_per_s)) * slowdown(run, member) - 1


def _change(run: Run, member: str, value: Callable[[Reading], float | None]) -> float:
    """Give together / alone - 1, alone = mean of the windows before and after; NaN = a window did not tell."""
    found = {one.phase: value(one) for one in run.readings if one.member == member}
    before, together, after = (found.get(phase) for phase in Phase)
    if before is None or together is None or after is None or before + after <= 0:
        return math.nan
    return together / ((before + after) / 2) - 1


def _order(run: Run) -> tuple[int, tuple[Member, ...], int, int]:
    return list(Part).index(run.part), run.members, list(Isolation).index(run.isolation), run.repetition


def _tally(part: Part, isolation: Isolation, runs: list[Run]) -> Tally:
    good = [run for run in runs if run.outcome is Outcome.OK]
    cells = {run.cell for run in runs}
    return Tally(
        part=part,
        isolation=isolation,
        outcomes={str(one): sum(run.outcome is one for run in runs) for one in Outcome},
        cells=len(cells),
        cells_without_good_run=len(cells - {run.cell for run in good}),
        surplus=len(good) - len({run.key for run in good}),
        reasons=dict(
            Counter(
                run.reason for run in runs if run.outcome in {Outcome.NOT_APPLICABLE, Outcome.FAILED} and run.reason
            ).most_common()
        ),
    )


def _sample(runs: list[Run], member: Member, agents: set[str]) -> Sample:
    name = member.workload

    def column(value: Callable[[Run], float]) -> FloatArray:
        return np.array([value(run) for run in runs], dtype=np.float64)

    return Sample(
        part=runs[0].part,
        cell=runs[0].cell,
        members=runs[0].members,
        member=member,
        side=Side.AGENT if name in agents else Side.TRADITIONAL,
        isolation=runs[0].isolation,
        repetitions=tuple(run.repetition for run in runs),
        instances=tuple(run.instance for run in runs),
        slowdown=column(lambda run: slowdown(run, name)),
        tail_sensitivity=column(lambda run: tail_sensitivity(run, name)),
        ttft_ratio=column(lambda run: 1 + _change(run, name, lambda one: one.ttft_s)),
        ttlt_ratio=column(lambda run: 1 + _change(run, name, lambda one: one.ttlt_s)),
        tbt_ratio=column(lambda run: 1 + _change(run, name, lambda one: one.tbt_s)),
        interference_factor=column(lambda run: interference_factor(run, name)),
        cache_interference=column(lambda run: cache_interference(run, name)),
    )
