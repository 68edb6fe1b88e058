"""How bursty each agent workload is alone, against how much it suffers. Pure.

Burstiness index: sigma / mu of the intervals between consecutive tokens of one stream, pauses included, as each window
alone told it; their mean. They are short, so longer pauses than a window are not seen.
Sensitivity: mean over conditions of log median SF. A condition is a part, the neighbours and an isolation; taken are
those conditions that most agents were measured in, and those agents that were measured in all of them, so that every
agent stands beside the same neighbours. One point an agent workload: its repetitions are not independent of each other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.cells import Sample, Side
from benchmarks.correlation import Correlation, pearson, spearman
from benchmarks.runs import Phase, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTrait:
    """One agent workload."""

    workload: str
    burstiness_index: float  #: NaN = no window told it
    windows: int  #: that told it
    sensitivity: float  #: mean log median SF; NaN = not measured in all of the conditions
    conditions: int  #: it was measured in


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstinessEffect:
    """Burstiness against sensitivity."""

    agents: tuple[AgentTrait, ...]
    conditions: tuple[str, ...]  #: that all of the correlated agents were measured in
    pearson: Correlation  #: one-sided: positive
    spearman: Correlation


def burstiness_effect(runs: Iterable[Run], samples: Sequence[Sample], *, seed: int = 0) -> BurstinessEffect:
    """Correlate over agent workloads."""
    agents = [one for one in samples if one.side is Side.AGENT and one.known.size]
    names = sorted({one.member.workload for one in agents})
    told: dict[str, list[float]] = {name: [] for name in names}
    for run in runs:
        for reading in run.readings:
            if reading.phase is not Phase.TOGETHER and reading.member in told and reading.burstiness_index is not None:
                told[reading.member].append(reading.burstiness_index)
    medians = {(one.member.workload, _condition(one)): float(np.median(one.known)) for one in agents}
    counts = Counter(condition for _, condition in medians)
    most = max(counts.values(), default=0)
    shared = [condition for condition, count in counts.items() if count == most]
    traits = tuple(
        AgentTrait(
            workload=name,
            burstiness_index=float(np.mean(told[name])) if told[name] else math.nan,
            windows=len(told[name]),
            sensitivity=_mean_log([medians.get((name, condition), math.nan) for condition in shared]),
            conditions=sum(agent == name for agent, _ in medians),
        )
        for name in names
    )
    pairs = [
        (one.burstiness_index, one.sensitivity)
        for one in traits
        if math.isfinite(one.burstiness_index) and math.isfinite(one.sensitivity)
    ]
    x, y = [one for one, _ in pairs], [one for _, one in pairs]
    return BurstinessEffect(
        agents=traits,
        conditions=tuple(shared),
        pearson=pearson(x, y, alternative="greater"),
        spearman=spearman(x, y, alternative="greater", seed=seed),
    )


def _condition(sample: Sample) -> str:
    return f"{sample.part}/{'+'.join(sorted(map(str, sample.neighbours)))}/{sample.isolation}"


def _mean_log(medians: Sequence[float]) -> float:
    return float(np.mean(np.log(medians))) if medians else math.nan
