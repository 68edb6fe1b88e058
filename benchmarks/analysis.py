"""The whole analysis of a record of runs: everything that tables and the report show. Pure; same runs, same numbers.

Which runs count is said in cells.py, each method in the module of its noun; nothing is computed elsewhere.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np

from benchmarks.burstiness import BurstinessEffect, burstiness_effect
from benchmarks.cell_effects import WANTED_D, CellEffect, cell_effects
from benchmarks.cells import Sample, Side, Tally, good_runs, not_applicable, samples, tallies
from benchmarks.composition_rules import CompositionEffect, composition_effect
from benchmarks.design import Isolation, Part
from benchmarks.factor_effects import FactorEffects, factor_effects
from benchmarks.host_noise import HostNoise, host_noise
from benchmarks.hypotheses import burstiness_and_sensitivity, cache_partitioning, memory_beside_agents
from benchmarks.matrix import Entry, sensitivity_matrix
from benchmarks.placed_predictions import PlacedPrediction, PlacedScore, placed_scores
from benchmarks.questions import HeldOutScore, Question, differing, predicting, quantified, relieving
from benchmarks.relief import Relief, ReliefSummary, reliefs, summarised
from benchmarks.runs import Run
from benchmarks.statistical_power import Power, least_detectable, power_of
from benchmarks.verdict import Hypothesis

SCHEMA = 1
_RELIEVING = (Isolation.PINNING, Isolation.CAT, Isolation.COMBINED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Achieved:
    """What the median number of good runs of a cell of one part is worth."""

    part: Part
    cells: int
    least_n: int
    median_n: int
    within: Power  #: of one cell against no slowdown, d_z = 0.8
    between: Power  #: of two cells against each other, d = 0.8
    least_within: Power  #: its d is found with power 0.8
    least_between: Power


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """All results; NaN = unknown, with a reason beside it."""

    runs: int
    good_runs: int
    hosts: tuple[str, ...]  #: fingerprints of host classes
    instances: tuple[tuple[str, int], ...]  #: of hosts, with good runs
    revisions: tuple[tuple[str, int], ...]  #: of the source, with good runs
    seed: int  #: of the bootstrap
    tallies: tuple[Tally, ...]
    effects: tuple[CellEffect, ...]
    factors: tuple[FactorEffects, ...]  #: one for each side
    reliefs: tuple[Relief, ...]
    relief_summaries: tuple[ReliefSummary, ...]
    not_relieving: tuple[str, ...]  #: isolations without any pair of cells, and why
    power: tuple[Achieved, ...]
    burstiness: BurstinessEffect
    composition: CompositionEffect
    noise: tuple[HostNoise, ...]  #: of the good runs
    questions: tuple[Question, ...]
    hypotheses: tuple[Hypothesis, ...]
    matrix: tuple[Entry, ...]
    placed: tuple[PlacedPrediction, ...]  #: what the scheduler tells of the cells measured
    placed_scores: tuple[PlacedScore, ...]
    not_placed: str  #: why there is none


def analyse(
    runs: Sequence[Run],
    *,
    score: HeldOutScore | None = None,
    no_score: str = "",
    placed: Sequence[PlacedPrediction] = (),
    not_placed: str = "",
    seed: int = 0,
) -> Analysis:
    """Analyse a record; `no_score` says why there is no score of a model, `not_placed` why no prediction of cells."""
    good = good_runs(runs)
    table = samples(good)
    effects = cell_effects(table, seed=seed)
    factors = tuple(factor_effects(runs, table, side) for side in Side)
    relieved = tuple(one for isolation in _RELIEVING for one in reliefs(good, table, isolation, seed=seed))
    noise = host_noise(good)
    summaries = summarised(table, relieved, seed=seed)
    burstiness = burstiness_effect(good, table, seed=seed)
    return Analysis(
        runs=len(runs),
        good_runs=len(good),
        hosts=tuple(sorted({run.host for run in runs})),
        instances=tuple(sorted(Counter(run.instance for run in good).items())),
        revisions=tuple(sorted(Counter(run.revision for run in good).items())),
        seed=seed,
        tallies=tallies(runs),
        effects=effects,
        factors=factors,
        reliefs=relieved,
        relief_summaries=summaries,
        not_relieving=_not_relieving(runs, relieved),
        power=_power(table),
        burstiness=burstiness,
        composition=composition_effect(good, table, seed=seed),
        noise=noise,
        questions=(
            quantified(effects, noise),
            differing(factors),
            relieving(summaries),
            predicting(score, no_score or "no model was given"),
        ),
        hypotheses=(
            memory_beside_agents(table),
            cache_partitioning(runs, table, seed=seed),
            burstiness_and_sensitivity(burstiness),
        ),
        matrix=sensitivity_matrix(table),
        placed=tuple(placed),
        placed_scores=placed_scores(placed),
        not_placed=""
        if placed
        else f"Predictions as the scheduler composes them are not told here: {not_placed or 'no model was given'}.",
    )


def plain(value: Any) -> Any:
    """Give any of these results as plain data for JSON; NaN and infinities become None, their reasons stand beside."""
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):  # NumPy's too
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return value


def _not_relieving(runs: Sequence[Run], found: Sequence[Relief]) -> tuple[str, ...]:
    lacking = []
    for isolation in _RELIEVING:
        if not any(one.isolation is isolation for one in found):
            why = not_applicable(runs, isolation) or "no good run beside one of the same members under none"
            lacking.append(f"{isolation}: not testable here: {why}")
    return tuple(lacking)


def _power(table: Sequence[Sample]) -> tuple[Achieved, ...]:
    found = []
    for part in Part:
        sizes = [one.known.size for one in table if one.part is part and one.known.size]
        if sizes:
            n = int(np.median(sizes))
            found.append(
                Achieved(
                    part=part,
                    cells=len({one.cell for one in table if one.part is part and one.known.size}),
                    least_n=min(sizes),
                    median_n=n,
                    within=power_of(WANTED_D, n),
                    between=power_of(WANTED_D, n, n),
                    least_within=least_detectable(n),
                    least_between=least_detectable(n, n),
                )
            )
    return tuple(found)
