"""The three hypotheses of the experiment, judged by the rule of benchmarks/verdict.py. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.burstiness import BurstinessEffect
from benchmarks.cells import Sample, Side, not_applicable
from benchmarks.design import Isolation, Part
from benchmarks.effect import compare_groups
from benchmarks.inference import paired_t, welch
from benchmarks.relief import over_pairs, relieved_share
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
        "of each agent x isolation x concurrency was taken off (half-way between its two cells); Welch t, one-sided. "
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
    found = compare_groups(memory, cpu, alternative="greater")
    effect, test = found.effect, found.welch
    verdict, reason = judged(
        effect.d, effect.lower, effect.upper, test.p, threshold=WANTED_D, alpha=ALPHA, what="Cohen's d"
    )
    by_isolation = {}
    for isolation in sorted({key[1] for key in both}):
        apart = compare_groups(
            *_centred([cells for key, cells in both.items() if key[1] == isolation], "memory", "cpu")
        )
        by_isolation[f"d under {isolation}"] = apart.effect.d
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
            "ratio of geometric mean SF": math.exp(found.difference.estimate),
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
        "part factorial, isolation cat against none, agents; relief = 1 - (SF with - 1) / (SF without - 1) and "
        "1 - CIS with / CIS without (where misses rose), of medians, and of these the median over the pairs of cells; "
        "Welch t of log SF, centred by pair, one-sided"
    )
    asked = Hypothesis(name="cache partitioning", claim=claim, rule=rule, verdict=Verdict.NOT_TESTABLE, reason="")
    chosen = [one for one in samples if one.part is Part.FACTORIAL and one.side is Side.AGENT and one.known.size]
    before = {one.members: one for one in chosen if one.isolation is Isolation.NONE}
    after = {one.members: one for one in chosen if one.isolation is Isolation.CAT}
    members = [one for one in before if one in after]
    if not members:
        reasons = not_applicable(runs, Isolation.CAT)
        return replace(asked, reason=f"no good run under cat beside one under none{_because(reasons)}")
    relief = over_pairs(
        relieved_share, [before[one].known for one in members], [after[one].known for one in members], seed=seed
    )
    logs = [{"without": before[one].log_slowdown, "with": after[one].log_slowdown} for one in members]
    p = welch(*_centred(logs, "without", "with"), alternative="greater").p
    numbers = {"relief": relief.estimate, "relief lower": relief.lower, "relief upper": relief.upper, "p": p}
    misses = [[_finite(cells[one].cache_interference) for one in members] for cells in (before, after)]
    counted = [one for one in zip(*misses, strict=True) if all(side.size for side in one) and np.median(one[0]) > 0]
    if not counted:
        told = (
            f"relief {relief.estimate:.3g}, {told_p(p)}, but CIS is not available here: no hardware counters (no PMU), "
            "or no cell whose misses rose"
        )
        return replace(asked, reason=told, numbers=numbers)
    drop = over_pairs(_drop, [one for one, _ in counted], [one for _, one in counted], seed=seed)
    numbers |= {"CIS drop": drop.estimate, "CIS drop lower": drop.lower, "CIS drop upper": drop.upper}
    parts = [
        judged(one.estimate, one.lower, one.upper, p, threshold=threshold, alpha=CACHE_ALPHA, what=what)
        for one, threshold, what in ((relief, WANTED_RELIEF, "relief"), (drop, WANTED_CIS_DROP, "drop of CIS"))
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
        rule="Pearson over agent workloads, one-sided, Fisher's interval; burstiness and sensitivity as in "
        "benchmarks/burstiness.py",
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


def _finite(values: FloatArray) -> FloatArray:
    return values[np.isfinite(values)]


def _drop(without: FloatArray, with_it: FloatArray, axis: int = -1) -> FloatArray:
    return np.asarray(1 - np.median(with_it, axis=axis) / np.median(without, axis=axis))
