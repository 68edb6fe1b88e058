"""The four research questions, answered from what was measured or left open with the reason. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.cell_effects import CellEffect
from benchmarks.cells import told_term
from benchmarks.factor_effects import FactorEffects
from benchmarks.host_noise import HostNoise
from benchmarks.relief import ReliefSummary
from benchmarks.verdict import told_p
from profiler.scores import Errors, Scores

ALPHA = 0.05

_CHOICES = {  # terms over combinations of workloads
    "traditional": "which ordinary workload runs",
    "agent": "which agent runs",
    "traditional:agent": "how the two are combined",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutScore:
    """How well a model predicts workloads that it has not seen; profiler.scores says what the errors are."""

    model: str
    observations: int
    workloads: int
    scores: Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A research question."""

    name: str
    question: str
    answered: bool
    answer: str  #: one or two sentences with the numbers, or why there is none
    numbers: Mapping[str, float] = field(default_factory=dict)


def quantified(effects: Sequence[CellEffect], host: Sequence[HostNoise]) -> Question:
    """Answer how interference can be quantified."""
    asked = "How can the interference between ordinary work and agents be quantified?"
    known = [one for one in effects if one.n]
    noise = _finite([one.noise.robust_cv_ratio for one in known])
    widths = _finite([one.noise.half_width_ratio for one in known])
    tested = [one for one in known if math.isfinite(one.t_p_holm)]
    if not (noise and tested):
        return _open("quantify", asked, "no cell has the three good runs that a noise floor needs")
    slower = [one for one in tested if one.t_p_holm < ALPHA and one.effect.d > 0]
    medians = [one.slowdown.estimate for one in known]
    numbers = {
        "members of cells": float(len(known)),
        "tested": float(len(tested)),
        "slowed (Holm, alpha 0.05)": float(len(slower)),
        "median robust CV": float(np.median(noise)),
        "median half width of a median": float(np.median(widths)),
        **{f"{one.measure}, median": one.median for one in host},
        "least median SF": min(medians),
        "largest median SF": max(medians),
    }
    return Question(
        name="quantify",
        question=asked,
        answered=True,
        answer=f"By the paired ratio SF of each member to itself alone: one run repeats within a robust CV of "
        f"{np.median(noise):.1%}, so the median of a cell is known to about {np.median(widths):.1%}. "
        f"{len(slower)} of {len(tested)} members of cells are slowed beyond chance; medians range from "
        f"{min(medians):.2f} to {max(medians):.2f}.",
        numbers=numbers,
    )


def differing(tables: Sequence[FactorEffects]) -> Question:
    """Answer whether combinations of workloads differ."""
    asked = "Do combinations of ordinary work and agents differ in how they interfere?"
    found = {one.side: one for one in tables}
    numbers: dict[str, float] = {}
    told = []
    for side, one in found.items():
        moved = []
        numbers[f"{side}: Kruskal-Wallis p over combinations"] = one.combinations.p
        for term in one.table.terms:
            if term.name in _CHOICES:
                numbers[f"{side}: {term.name} partial eta squared"] = term.partial_eta_squared
                numbers[f"{side}: {term.name} p (Holm)"] = one.p_holm[term.name]
                significant = one.p_holm[term.name] < ALPHA
                moved.append(
                    f"it {'matters' if significant else 'is not seen to matter'} {_CHOICES[term.name]} "
                    f"({told_p(one.p_holm[term.name])}, partial eta squared {term.partial_eta_squared:.2g})"
                )
        if moved:
            told.append(f"On the {told_term(side)} side {', '.join(moved)}")
    if not told:
        reasons = "; ".join(f"{told_term(one.side)} side: {one.table.reason}" for one in tables)
        return _open("combinations", asked, f"no analysis of variance over ordinary work and agents ({reasons})")
    return Question(name="combinations", question=asked, answered=True, answer=". ".join(told) + ".", numbers=numbers)


def relieving(reliefs: Sequence[ReliefSummary]) -> Question:
    """Answer how much isolation relieves."""
    asked = "How much of the interference does isolation relieve?"
    if not reliefs:
        return _open("relief", asked, "no two cells with good runs that differ in isolation only")
    numbers: dict[str, float] = {}
    told = []
    for one in reliefs:
        key, relief, side = f"{one.isolation}, {one.side}", one.relief, told_term(one.side)
        numbers |= {
            f"{key}: pairs": one.pairs,
            f"{key}: slowed": one.slowed,
            f"{key}: tested": one.tested,
            f"{key}: better (Holm)": one.better,
            f"{key}: worse (95 % interval of the ratio above 1)": one.worse,
            f"{key}: median relief": relief.estimate,
            f"{key}: median relief lower": relief.lower,
            f"{key}: median relief upper": relief.upper,
            f"{key}: time alone, with / without": one.price.estimate,
            f"{key}: time together, with / without": one.net.estimate,
            f"{key}: time together, lower": one.net.lower,
            f"{key}: time together, upper": one.net.upper,
        }
        if one.slowed:
            ends = "" if relief.reason else f" (95 % interval {relief.lower:.0%} to {relief.upper:.0%})"
            told.append(
                f"{one.isolation} takes {relief.estimate:.0%} of the {side} side's slowdown away{ends}, at the "
                f"median of the {one.slowed} pairs of cells that were slowed; better beyond chance in {one.better} of "
                f"{one.tested} tested"
            )
        else:
            told.append(f"{one.isolation} has nothing to relieve on the {side} side in {one.pairs} pairs of cells")
        if math.isfinite(one.net.estimate):
            told.append(
                f"its own price counted in, the same work beside the others takes {one.net.estimate:.2f} times as long "
                f"as without it (alone {one.price.estimate:.2f} times; faster in {one.faster}, slower in {one.slower} "
                f"of {one.pairs})"
            )
    return Question(name="relief", question=asked, answered=True, answer="; ".join(told) + ".", numbers=numbers)


def predicting(score: HeldOutScore | None, reason: str) -> Question:
    """Answer whether what is measured alone predicts the slowdown; `reason` says why there is no score."""
    asked = "Can what is measured of a workload alone predict its slowdown?"
    if score is None or score.scores.lowo is None:
        return _open("prediction", asked, reason or "the model has no score on workloads held out")
    found, own = score.scores, score.scores.lowo
    others = {
        "the prior alone": found.prior,
        "a constant": found.constant,
        "a linear model in its place": found.ridge,
        "a random forest in its place": found.random_forest,
        "the most similar observation": found.nearest,
    }
    known = {name: one for name, one in others.items() if one is not None}
    by_median = [name for name, one in known.items() if own.median < one.median]
    by_mean = [name for name, one in known.items() if own.mean < one.mean]
    compared = ", ".join(f"{name} by {_both(one)}" for name, one in known.items()) or "nothing to compare with"
    noise = "" if found.noise_floor is None else f"; a single repetition differs by {found.noise_floor:.1%}"
    held = (
        f" With all variants of a program held out together it errs by {_both(found.families)}."
        if found.families
        else ""
    )
    return Question(
        name="prediction",
        question=asked,
        answered=True,
        answer=f"Workloads held out whole are predicted with an error of {_both(own)} by model {score.model} "
        f"({score.observations} observations of {score.workloads} workloads). Beside it err: {compared}{noise}. "
        f"By the median the model beats {_these(by_median, known)}, by the mean {_these(by_mean, known)}.{held}",
        numbers={
            f"{name}, {kind}": value
            for name, one in {
                "held-out error": own,
                "prior": found.prior,
                "constant": found.constant,
                "ridge": found.ridge,
                "random forest": found.random_forest,
                "nearest": found.nearest,
                "held-out error, programs": found.families,
            }.items()
            for kind, value in (
                ("median", math.nan if one is None else one.median),
                ("mean", math.nan if one is None else one.mean),
            )
        }
        | {"noise": math.nan if found.noise_floor is None else found.noise_floor},
    )


def _both(one: Errors) -> str:
    return f"{one.median:.1%} (median; mean {one.mean:.1%})"


def _these(beaten: Sequence[str], among: Mapping[str, Errors]) -> str:
    return "all of these" if len(beaten) == len(among) else ", ".join(beaten) or "none of these"


def _open(name: str, question: str, reason: str) -> Question:
    return Question(name=name, question=question, answered=False, answer=f"Not answered yet, because {reason}.")


def _finite(values: Sequence[float]) -> list[float]:
    return [one for one in values if math.isfinite(one)]
