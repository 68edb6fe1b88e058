"""Simulated records of the experiment: nothing in them was measured. Effects are planted, to be looked for.

Traditional work tells its rate, agents tell token times, as the runner records them. Solo windows are steady but for
the noise; the window together is slower by the planted factor.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import product

from benchmarks.design import Cell, Isolation, Member, Part
from benchmarks.runs import Outcome, Phase, Reading, Run
from profiler.tokens import burstiness

#: (cell, member) -> true SF
Truth = Callable[[Cell, Member], float]
#: agent workload -> seconds between its tokens, drawn by a random generator
Rhythm = Callable[[str, random.Random], float]

AGENTS = frozenset({"single", "multi-2", "multi-4", "simple-1", "simple-2", "simple-4", "plan-1", "plan-2", "plan-4"})
NOT_HERE = "no cache ways can be given: simulated"


def factorial_cells(
    *,
    traditional: Sequence[str] = ("cpu", "memory", "io"),
    agents: Sequence[str] = ("single", "multi-2", "multi-4"),
    isolation: Sequence[Isolation] = (Isolation.NONE, Isolation.PINNING),
    concurrency: Sequence[int] = (1, 4, 16),
) -> list[Cell]:
    return [
        Cell(
            part=Part.FACTORIAL, members=(Member(workload=one, instances=count), Member(workload=agent)), isolation=kind
        )
        for one, agent, kind, count in product(traditional, agents, isolation, concurrency)
    ]


def breadth_cells(left: Sequence[str], right: Sequence[str], isolation: Sequence[Isolation]) -> list[Cell]:
    return [
        Cell(part=Part.BREADTH, members=(Member(workload=one), Member(workload=other)), isolation=kind)
        for one, other, kind in product(left, right, isolation)
    ]


def no_effect(cell: Cell, member: Member) -> float:
    """Slow nobody down."""
    return 1.0


def even(agent: str, draw: random.Random) -> float:
    """Make tokens every 20 ms or so."""
    return 0.02 * draw.uniform(0.9, 1.1)


def simulated_runs(
    cells: Sequence[Cell],
    *,
    repetitions: int = 26,
    truth: Truth = no_effect,
    rhythm: Rhythm = even,
    noise: float = 0.05,
    tokens: int = 30,
    seed: int = 1,
    instances: Sequence[str] = ("simulated",),
    counters: bool = False,
) -> list[Run]:
    """Simulate good runs; isolations cat and combined are not applicable unless there are counters."""
    found = []
    for number, (cell, repetition) in enumerate(product(cells, range(repetitions))):
        draw = random.Random(f"{seed}/{cell}/{repetition}")  # noqa: S311 - a simulation
        readings = tuple(
            _readings(cell, draw, truth=truth, rhythm=rhythm, noise=noise, tokens=tokens, counters=counters)
        )
        here = counters or cell.isolation not in {Isolation.CAT, Isolation.COMBINED}
        found.append(
            Run(
                part=cell.part,
                cell=cell.name,
                members=cell.members,
                isolation=cell.isolation,
                repetition=repetition,
                attempt=1,
                block=repetition,
                seed=seed,
                revision="simulated",
                host="simulated",
                instance=instances[repetition % len(instances)],
                started_unix_s=float(number),
                took_s=5.0,
                outcome=Outcome.OK if here else Outcome.NOT_APPLICABLE,
                reason="" if here else NOT_HERE,
                readings=readings if here else (),
            )
        )
    return found


def _readings(
    cell: Cell, draw: random.Random, *, truth: Truth, rhythm: Rhythm, noise: float, tokens: int, counters: bool
) -> Iterator[Reading]:
    for member in cell.members:
        gaps_s = [rhythm(member.workload, draw) for _ in range(tokens)]
        for phase in Phase:
            slower = (truth(cell, member) if phase is Phase.TOGETHER else 1.0) * draw.lognormvariate(0, noise)
            is_agent = member.workload in AGENTS
            yield Reading(
                member=member.workload,
                phase=phase,
                seconds=1.0,
                rate_per_s=(50.0 if is_agent else 1e6) / slower,
                cpu_s=1.0,
                token_times_s=tuple(slower * sum(gaps_s[: count + 1]) for count in range(tokens)) if is_agent else (),
                ttft_s=0.1 * slower if is_agent else None,
                ttlt_s=0.5 * slower if is_agent else None,
                tbt_s=0.02 * slower if is_agent else None,
                tbt_p99_s=0.04 * slower**2 if is_agent else None,
                burstiness_index=burstiness(gaps_s) if is_agent else None,
                ipc=2.0 / slower if counters else None,
                llc_misses_per_s=1e5 * slower if counters else None,
            )
