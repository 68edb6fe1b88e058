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

ALPHA = 0.05

_CHOICES = {  # terms over combinations of workloads
    "traditional": "which ordinary workload runs",
    "agent": "which agent runs",
    "traditional:agent": "how the two are combined",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutScore:
    """How well a model predicts workloads that it has not seen: median |predicted / measured - 1|; NaN = unknown."""

    model: str
    observations: int
    workloads: int
    error_ratio: float  #: leave one workload out
    prior_error_ratio: float  #: of the analytic prior alone, same observations
    constant_error_ratio: float  #: of always the same
    noise_ratio: float  #: what repetitions differ by
    nearest_error_ratio: float = math.nan  #: of what the most similar observation measured
    families_error_ratio: float = math.nan  #: of the model, all workloads of one program left out together


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
    if score is None or not math.isfinite(score.error_ratio):
        return _open("prediction", asked, reason or "the model has no score on workloads held out")
    others = {
        "the prior alone": score.prior_error_ratio,
        "a constant": score.constant_error_ratio,
        "the most similar observation": score.nearest_error_ratio,
    }
    known = {name: value for name, value in others.items() if math.isfinite(value)}
    beaten = [name for name, value in known.items() if score.error_ratio < value]
    all_of_them = "all of these" if len(beaten) == len(known) else ", ".join(beaten) or "none of these"
    compared = ", ".join(f"{name} by {value:.1%}" for name, value in known.items()) or "nothing to compare with"
    strict = score.families_error_ratio
    held = (
        f" With all variants of a program held out together it errs by {strict:.1%}." if math.isfinite(strict) else ""
    )
    return Question(
        name="prediction",
        question=asked,
        answered=True,
        answer=f"Workloads held out whole are predicted with a median error of {score.error_ratio:.1%} by model "
        f"{score.model} ({score.observations} observations of {score.workloads} workloads). Beside it err: "
        f"{compared}; a single repetition differs by {score.noise_ratio:.1%}. The model beats {all_of_them}.{held}",
        numbers={
            "held-out error": score.error_ratio,
            "prior": score.prior_error_ratio,
            "constant": score.constant_error_ratio,
            "nearest": score.nearest_error_ratio,
            "held-out error, programs": score.families_error_ratio,
            "noise": score.noise_ratio,
        },
    )


def _open(name: str, question: str, reason: str) -> Question:
    return Question(name=name, question=question, answered=False, answer=f"Not answered yet, because {reason}.")


def _finite(values: Sequence[float]) -> list[float]:
    return [one for one in values if math.isfinite(one)]
