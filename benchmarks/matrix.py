"""The 1-to-5 sensitivity matrix: what agents suffer from, computed by a stated rule. Pure.

An entry takes the pair cells (any part) of its agents beside its neighbours under one isolation, and grades the median
over these cells of the cell's median SF of the agent, so that a cell counts once however often it was repeated. Under
pinning the agent has CPUs of its own, and what it suffers is memory, cache and disk; under none it shares CPUs besides.
Grades: GRADE_ENDS_SF (below 1.05 is 1, from 2.0 on is 5).
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.cells import Sample, Side
from benchmarks.design import Isolation
from benchmarks.sensitivity_scale import grade

#: row -> the agent workloads it pools
AGENTS: Mapping[str, tuple[str, ...]] = {"reasoning": ("single",), "multi-agent": ("multi-2", "multi-4")}
#: column -> patterns of the neighbours that stand for it
NEIGHBOURS: Mapping[str, tuple[str, ...]] = {
    "bandwidth saturation": ("memory",),
    "cache contention": ("latency", "chase-*"),
    "latency jitter": ("io",),
}
ISOLATIONS = (Isolation.PINNING, Isolation.NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One field of the matrix."""

    row: str
    column: str
    isolation: Isolation
    grade: int | None  #: 1 (insensitive) to 5; None = not measured
    median_slowdown: float
    median_tail_sensitivity: float  #: of the same cells, beside the grade: jitter shows in the tail first
    cells: tuple[str, ...]
    runs: int
    reason: str = ""


def sensitivity_matrix(samples: Sequence[Sample]) -> tuple[Entry, ...]:
    """Grade each row and column; below the two rows of AGENTS, one row for each agent workload that was measured."""
    single = [one for one in samples if one.side is Side.AGENT and len(one.members) == 2 and one.known.size]
    rows = {**AGENTS, **{name: (name,) for name in dict.fromkeys(one.member.workload for one in single)}}
    return tuple(
        _entry(single, row, agents, column, isolation)
        for isolation in ISOLATIONS
        for row, agents in rows.items()
        for column in NEIGHBOURS
    )


def _entry(samples: Sequence[Sample], row: str, agents: tuple[str, ...], column: str, isolation: Isolation) -> Entry:
    patterns = NEIGHBOURS[column]
    chosen = [
        one
        for one in samples
        if one.isolation is isolation
        and one.member.workload in agents
        and any(fnmatch.fnmatchcase(one.neighbours[0].workload, pattern) for pattern in patterns)
    ]
    median = float(np.median([np.median(one.known) for one in chosen])) if chosen else math.nan
    tails = [one.tail_sensitivity[np.isfinite(one.tail_sensitivity)] for one in chosen]
    tails = [one for one in tails if one.size]
    missing = f"not measured: no good run of {' or '.join(agents)} beside {' or '.join(patterns)} under {isolation}"
    return Entry(
        row=row,
        column=column,
        isolation=isolation,
        grade=grade(median),
        median_slowdown=median,
        median_tail_sensitivity=float(np.median([np.median(one) for one in tails])) if tails else math.nan,
        cells=tuple(one.cell for one in chosen),
        runs=sum(one.known.size for one in chosen),
        reason="" if chosen else missing,
    )
