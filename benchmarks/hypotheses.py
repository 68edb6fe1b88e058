"""The three hypotheses of the experiment, judged by the rule of benchmarks/verdict.py. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.burstiness import BurstinessEffect
from benchmarks.cells import Sample, Side, not_applicable
from benchmarks.design import Isolation, Part
from benchmarks.effect import independent_d
from benchmarks.inference import paired_t, pooled_t
from benchmarks.interval import least_units, median_interval
from benchmarks.relief import CONFIDENCE, SLOWED, over_pairs, relieved_share
from benchmarks.runs import Run
from benchmarks.sample import FloatArray
from benchmarks.verdict import Hypothesis, Verdict, judged, told_p

WANTED_D = 0.8
WANTED_RELIEF = 0.3
WANTED_CIS_DROP = 0.4
CACHE_ALPHA = 0.001
WANTED_R = 0.6
ALPHA = 0.05

_Stratum = tuple[str, str, int]  # agent, isolation, concurrency


def memory_beside_agents(samples: Sequence[Sample]) -> Hypothesis:
    """Judge: agents beside memory-bound work suffer more than beside CPU-bound work, d > 0.8."""
    claim = "An agent beside memory-bound work is slowed more than beside CPU-bound work: d > 0.8"
    rule = (
        "log SF of the agent in part factorial; d = difference of means over pooled standard deviation, after the mean "
        "of each agent x isolation x concurrency was taken off (half-way between its two cells), which costs a degree "
        "of freedom each but one; t test, one-sided. "
        "Beside it: paired t over repetitions (means over all pairs of cells), as runs of one block share the hour"
    )
    strata: dict[_Stratum, dict[str, Sample]] = {}
    for one in samples:
        if one.part is Part.FACTORIAL and one.side is Side.AGENT and one.known.size:
            traditional, agent, isolation, concurrency = one.factors
            strata.setdefault((agent, isolation, concurrency), {})[traditional] = one
    pairs = {key: cells for key, cells in strata.items() if {"memory", "cpu"} <= set(cells)}
    both = {key: {name: one.log_slowdown for name, one in cells.items()} for key, cells in pairs.items()}
    if not both:
        missing = "no pair of factorial cells with good runs that differ in memory against cpu only"
        return Hypothesis(name="memory and AI", claim=claim, rule=rule, verdict=Verdict.NOT_TESTABLE, reason=missing)
    memory, cpu = _centred(list(both.values()), "memory", "cpu")
    effect = independent_d(memory, cpu, strata=len(both))
    test = pooled_t(memory, cpu, strata=len(both), alternative="greater")
    verdict, reason = judged(
        effect.d, effect.lower, effect.upper, test.p, threshold=WANTED_D, alpha=ALPHA, what="Cohen's d"
    )
    by_isolation = {}
    for isolation in sorted({key[1] for key in both}):
        apart = [cells for key, cells in both.items() if key[1] == isolation]
        by_isolation[f"d under {isolation}"] = independent_d(*_centred(apart, "memory", "cpu"), strata=len(apart)).d
    return Hypothesis(
        name="memory and AI",
        claim=claim,
        rule=rule,
        verdict=verdict,
        reason=f"{reason}; {len(both)} pairs of cells" + _because(effect.reason or test.reason),
        numbers={
            "d": effect.d,
            "d lower": effect.lower,
            "d upper": effect.upper,
            "p": test.p,
            "ratio of geometric mean SF": math.exp(memory.mean() - cpu.mean()),
            "p over repetitions": _over_repetitions(list(pairs.values())),
            "pairs of cells": len(both),
            "runs": len(memory) + len(cpu),
            **by_isolation,
        },
    )


def cache_partitioning(runs: Sequence[Run], samples: Sequence[Sample], *, seed: int = 0) -> Hypothesis:
    """Judge: cache partitioning relieves more than 30 % with CIS down by more than 40 %, p < 0.001."""
    claim = "Cache partitioning takes away more than 30 % of the slowdown, with CIS down by more than 40 %, p < 0.001"
    rule = (
        "part factorial, isolation cat against none, agents; relief = 1 - (SF with - 1) / (SF without - 1) where SF "
        f"without is above {SLOWED} beyond chance, and 1 - CIS with / CIS without where CIS without is above 0 beyond "
        "chance, of medians, and of these the median over the pairs of cells; t test of log SF, and of CIS, over these "
        "pairs, the mean of each taken off, one-sided"
    )
    asked = Hypothesis(name="cache partitioning", claim=claim, rule=rule, verdict=Verdict.NOT_TESTABLE, reason="")
    chosen = [one for one in samples if one.part is Part.FACTORIAL and one.side is Side.AGENT and one.known.size]
    before = {one.members: one for one in chosen if one.isolation is Isolation.NONE}
    after = {one.members: one for one in chosen if one.isolation is Isolation.CAT}
    both = [(before[one], after[one]) for one in before if one in after]
    if not both:
        reasons = not_applicable(runs, Isolation.CAT)
        return replace(asked, reason=f"no good run under cat beside one under none{_because(reasons)}")
    slowed = [pair for pair in both if median_interval(pair[0].known, seed=seed).lower > SLOWED]
    if not slowed:
        return replace(
            asked,
            reason=f"no agent is known to be slowed above {SLOWED} under none, in {len(both)} pairs of cells (a cell "
            f"needs {least_units(CONFIDENCE)} good runs to tell)",
        )
    relief = over_pairs(relieved_share, [one.known for one, _ in slowed], [one.known for _, one in slowed], seed=seed)
    p = _lower_with_it([(one.log_slowdown, other.log_slowdown) for one, other in slowed])
    numbers = {"relief": relief.estimate, "relief lower": relief.lower, "relief upper": relief.upper, "p": p}
    misses = [(_finite(one.cache_interference), _finite(other.cache_interference)) for one, other in both]
    raised = [pair for pair in misses if pair[1].size and median_interval(pair[0], seed=seed).lower > 0]
    if not raised:
        told = (
            f"relief {relief.estimate:.3g}, {told_p(p)}, but CIS without ways is in no cell known to be above 0 (the "
            "limits say where there are no hardware counters)"
        )
        return replace(asked, reason=told, numbers=numbers)
    drop, drop_p = over_pairs(_drop, *zip(*raised, strict=True), seed=seed), _lower_with_it(raised)
    numbers |= {"CIS drop": drop.estimate, "CIS drop lower": drop.lower, "CIS drop upper": drop.upper, "CIS p": drop_p}
    parts = [
        judged(one.estimate, one.lower, one.upper, own_p, threshold=threshold, alpha=CACHE_ALPHA, what=what)
        for one, own_p, threshold, what in (
            (relief, p, WANTED_RELIEF, "relief"),
            (drop, drop_p, WANTED_CIS_DROP, "drop of CIS"),
        )
    ]
    verdicts = {verdict for verdict, _ in parts}
    return replace(
        asked,
        verdict=next(
            one for one in (Verdict.NOT_TESTABLE, Verdict.NOT_SUPPORTED, Verdict.SUPPORTED) if one in verdicts
        ),
        reason="; ".join(reason for _, reason in parts) + _because(relief.reason or drop.reason),
        numbers=numbers,
    )


def burstiness_and_sensitivity(effect: BurstinessEffect) -> Hypothesis:
    """Judge: the burstier an agent alone, the more it suffers, r > 0.6."""
    found = effect.pearson
    verdict, reason = judged(
        found.r, found.lower, found.upper, found.p, threshold=WANTED_R, alpha=ALPHA, what="Pearson's r"
    )
    beside = f"; {found.n} agent workloads in the same {len(effect.conditions)} conditions"
    return Hypothesis(
        name="burstiness and sensitivity",
        claim="The burstiness of an agent alone correlates with its sensitivity: r > 0.6",
        rule="Pearson over agent workloads, one-sided, Fisher's interval. Burstiness: sigma / mu of the time between "
        "tokens, mean of the windows alone; sensitivity: mean log median SF over the conditions (part, neighbours, "
        "isolation) that most agents share. Agents of one kind resemble each other, so the interval is rather narrow",
        verdict=verdict,
        reason=reason + beside + _because(found.reason),
        numbers={
            "r": found.r,
            "r lower": found.lower,
            "r upper": found.upper,
            "p": found.p,
            "agents": found.n,
            "Spearman": effect.spearman.r,
            "Spearman p": effect.spearman.p,
        },
    )


def _because(reason: str) -> str:
    return f"; {reason}" if reason else ""


def _centred(strata: Sequence[dict[str, FloatArray]], first: str, second: str) -> tuple[FloatArray, FloatArray]:
    middles = [(cells[first].mean() + cells[second].mean()) / 2 for cells in strata]
    return (
        np.concatenate([cells[first] - middle for cells, middle in zip(strata, middles, strict=True)]),
        np.concatenate([cells[second] - middle for cells, middle in zip(strata, middles, strict=True)]),
    )


def _over_repetitions(pairs: Sequence[dict[str, Sample]]) -> float:
    """Give p of the paired t of memory less cpu, one value a repetition: runs of one block are not independent."""
    differences: dict[int, list[float]] = {}
    for cells in pairs:
        memory, cpu = (
            dict(zip(cells[name].repetitions, np.log(cells[name].slowdown).tolist(), strict=True))
            for name in ("memory", "cpu")
        )
        for repetition in sorted(memory.keys() & cpu.keys()):
            difference = memory[repetition] - cpu[repetition]
            if math.isfinite(difference):
                differences.setdefault(repetition, []).append(difference)
    return paired_t([float(np.mean(one)) for one in differences.values()], alternative="greater").p


def _lower_with_it(pairs: Sequence[tuple[FloatArray, FloatArray]]) -> float:
    """Give p of the t test that values (without, with) are lower with it, over all pairs together."""
    strata = [{"without": without, "with": with_it} for without, with_it in pairs]
    return pooled_t(*_centred(strata, "without", "with"), strata=len(pairs), alternative="greater").p


def _finite(values: FloatArray) -> FloatArray:
    return values[np.isfinite(values)]


def _drop(without: FloatArray, with_it: FloatArray, axis: int = -1) -> FloatArray:
    return np.asarray(1 - np.median(with_it, axis=axis) / np.median(without, axis=axis))
