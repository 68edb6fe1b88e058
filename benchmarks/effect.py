"""How large a difference is in units of its spread: Cohen's d, and two groups of cells compared. Pure.

Intervals of d turn the noncentral t distribution round: they hold the d under which the t that was seen is not rare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from benchmarks.inference import Significance, group_flaw, mann_whitney, pooled_deviation, welch
from benchmarks.interval import Interval
from benchmarks.sample import Alternative, FloatArray, as_sample, flaw, unwarned

_IMPRECISE = "these values are too large or too close together for double precision"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Cohen's d with its interval; NaN = unknown, with the reason."""

    kind: str  #: "d_z" of paired differences, "d" of two groups by their pooled spread
    sizes: tuple[int, ...]
    d: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    confidence: float
    method: str = "noncentral t"
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two groups, first against second; each part carries its own reason where it is unknown."""

    difference: Interval  #: mean of the first less mean of the second, by Welch's t
    effect: Effect
    welch: Significance
    mann_whitney: Significance


def paired_d(differences: npt.ArrayLike, *, against: float = 0.0, confidence: float = 0.95) -> Effect:
    """Give d_z: the mean of paired differences (log SF) over their own standard deviation."""
    values = as_sample(differences)
    asked = Effect(kind="d_z", sizes=(values.size,), confidence=confidence)
    if reason := flaw(values, name="the differences"):
        return replace(asked, reason=reason)
    with unwarned():
        d = float((values.mean() - against) / values.std(ddof=1))
    return _with_interval(asked, d, degrees=values.size - 1, scale=1 / math.sqrt(values.size))


def independent_d(first: npt.ArrayLike, second: npt.ArrayLike, *, strata: int = 1, confidence: float = 0.95) -> Effect:
    """Give d: mean of the first less mean of the second, over the standard deviation pooled from both.

    strata: as in benchmarks.inference.pooled_t, whose t this d belongs to.
    """
    ours, theirs = as_sample(first), as_sample(second)
    asked = Effect(kind="d", sizes=(ours.size, theirs.size), confidence=confidence)
    if reason := group_flaw((ours, theirs)):
        return replace(asked, reason=reason)
    degrees = ours.size + theirs.size - 1 - strata
    if degrees < 1:
        return replace(asked, reason=f"{ours.size + theirs.size} values of {strata} strata leave no spread to see")
    with unwarned():
        d = float((ours.mean() - theirs.mean()) / np.float64(pooled_deviation(ours, theirs, degrees)))
    return _with_interval(asked, d, degrees=degrees, scale=math.sqrt(1 / ours.size + 1 / theirs.size))


def compare_groups(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    alternative: Alternative = "two-sided",
    confidence: float = 0.95,
) -> Comparison:
    """Compare two groups of cells; "greater": the first is. Intervals are two-sided whatever the alternative."""
    ours, theirs = as_sample(first), as_sample(second)
    return Comparison(
        difference=_difference(ours, theirs, confidence),
        effect=independent_d(ours, theirs, confidence=confidence),
        welch=welch(ours, theirs, alternative=alternative),
        mann_whitney=mann_whitney(ours, theirs, alternative=alternative),
    )


def _difference(first: FloatArray, second: FloatArray, confidence: float) -> Interval:
    reason = group_flaw((first, second))
    lower = upper = estimate = math.nan
    if not reason:
        with unwarned():
            estimate = float(first.mean() - second.mean())
            found = stats.ttest_ind(first, second, equal_var=False).confidence_interval(confidence)
        lower, upper = float(found.low), float(found.high)
        if not (math.isfinite(lower) and math.isfinite(upper)):
            lower, upper, reason = math.nan, math.nan, _IMPRECISE
    return Interval(
        estimate=estimate,
        lower=lower,
        upper=upper,
        confidence=confidence,
        method="Welch t",
        n=first.size + second.size,
        reason=reason,
    )


def _with_interval(asked: Effect, d: float, *, degrees: int, scale: float) -> Effect:
    """Complete an effect whose t is d / scale."""
    if not math.isfinite(d):
        return replace(asked, reason=_IMPRECISE)
    # Of -t the noncentralities are those of t with their signs turned, and the distribution is exact on that side only.
    t, outside = abs(d) / scale, (1 - asked.confidence) / 2
    ends = sorted(math.copysign(1, d) * scale * _noncentrality(t, degrees, share) for share in (outside, 1 - outside))
    reason = "" if all(map(math.isfinite, ends)) else f"the noncentral t distribution has no numbers for t = {t:g}"
    lower, upper = (math.nan, math.nan) if reason else ends
    return replace(asked, d=d, lower=lower, upper=upper, reason=reason)


def _noncentrality(t: float, degrees: int, share: float) -> float:
    """Give the noncentrality under which t or less has that probability; NaN if SciPy cannot tell."""

    def above(noncentrality: float) -> float:
        return float(stats.nct.cdf(t, degrees, noncentrality)) - share

    step = 4 * math.sqrt(1 + t * t / (2 * degrees))  # four standard errors: nearly always wide enough at once
    low, high = t - step, t + step
    with unwarned():
        for _ in range(10):
            if above(low) < 0:
                low -= step
            elif above(high) > 0:
                high += step
            else:
                break
            step *= 2
        if not above(low) >= 0 >= above(high):
            return math.nan
        try:
            return float(optimize.brentq(above, low, high))
        except ValueError:  # a NaN in between
            return math.nan
