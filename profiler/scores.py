"""How good a model is, as numbers that stand beside each other. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """How far predictions of held-out observations are off, as shares of what was measured."""

    median: float  #: of |predicted / measured - 1|
    mean: float  #: exp(mean |log(predicted / measured)|) - 1: what is far off counts, too


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The errors of a model and of what it must beat; None = not computable."""

    lowo: Errors | None = None  #: leave one workload out
    families: Errors | None = None  #: leave all workloads of one program out; None also where no two share one
    families_prior: Errors | None = None  #: prior alone, on the observations of `families`
    pairs: Errors | None = None  #: leave one pair out: both seen, but not together in that relation
    prior: Errors | None = None  #: prior alone, same observations
    constant: Errors | None = None  #: always the median of the training observations
    nearest: Errors | None = None  #: what the most similar training observation measured
    ridge: Errors | None = None  #: a linear model in the place of the trees
    random_forest: Errors | None = None  #: a random forest in the place of the trees
    noise_floor: float | None = None  #: median by which repetitions of one observation differ, same unit
