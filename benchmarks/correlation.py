"""Correlation of two measures with its interval, by values (Pearson) or by ranks (Spearman). Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from benchmarks.interval import RESAMPLES, bootstrap_interval
from benchmarks.sample import Alternative, FloatArray, as_pairs, flaw, unwarned

_LINE = 1e-12  # that close to 1, all points lie on one line but for rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """A coefficient with p against 0 and its two-sided interval; NaN = unknown, with the reason."""

    kind: str  #: "Pearson" or "Spearman"
    n: int  #: pairs
    r: float = math.nan
    p: float = math.nan
    alternative: Alternative
    lower: float = math.nan
    upper: float = math.nan
    confidence: float
    method: str  #: of the interval
    reason: str = ""


def pearson(
    x: npt.ArrayLike, y: npt.ArrayLike, *, alternative: Alternative = "two-sided", confidence: float = 0.95
) -> Correlation:
    """Give Pearson's r with Fisher's interval.

    Pairs must be independent: correlate the medians of cells, not their repetitions.
    """
    ours, theirs = as_pairs(x, y)
    asked = Correlation(kind="Pearson", n=ours.size, alternative=alternative, confidence=confidence, method="Fisher z")
    if reason := _pairs_flaw(ours, theirs):
        return replace(asked, reason=reason)
    with unwarned():
        found = stats.pearsonr(ours, theirs, alternative=alternative)
        # r of another alternative would bring a one-sided interval
        ends = stats.pearsonr(ours, theirs).confidence_interval(confidence)
    known = replace(asked, r=float(found.statistic), p=float(found.pvalue))
    if not math.isfinite(known.r):
        return replace(asked, reason="these values are too large or too close together for double precision")
    if reason := _no_interval(known):
        return replace(known, reason=reason)
    return replace(known, lower=float(ends.low), upper=float(ends.high))


def spearman(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    alternative: Alternative = "two-sided",
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Correlation:
    """Give Spearman's rho with a bootstrap interval over the pairs."""
    ours, theirs = as_pairs(x, y)
    asked = Correlation(
        kind="Spearman", n=ours.size, alternative=alternative, confidence=confidence, method="bootstrap percentile"
    )
    if reason := _pairs_flaw(ours, theirs):
        return replace(asked, reason=reason)
    with unwarned():
        found = stats.spearmanr(ours, theirs, alternative=alternative)
    known = replace(asked, r=float(found.statistic), p=float(found.pvalue))
    if reason := _no_interval(known):
        return replace(known, reason=reason)
    interval = bootstrap_interval(
        rank_coefficient, ours, theirs, paired=True, confidence=confidence, resamples=resamples, seed=seed
    )
    return replace(known, lower=interval.lower, upper=interval.upper, reason=interval.reason)


def coefficient(x: FloatArray, y: FloatArray, axis: int = -1) -> FloatArray:
    """Give Pearson's r of many pairs of samples at once; NaN where one has no spread."""
    ours, theirs = (one - one.mean(axis=axis, keepdims=True) for one in (x, y))
    spread = np.sqrt((ours**2).sum(axis=axis) * (theirs**2).sum(axis=axis))
    return np.asarray((ours * theirs).sum(axis=axis) / spread)


def rank_coefficient(x: FloatArray, y: FloatArray, axis: int = -1) -> FloatArray:
    """Give Spearman's rho of many pairs of samples at once; NaN where one has no spread."""
    return coefficient(stats.rankdata(x, axis=axis), stats.rankdata(y, axis=axis), axis=axis)


def _pairs_flaw(x: FloatArray, y: FloatArray) -> str:
    # 3: two points always lie on a line
    return flaw(x, least=3, name="the first of the two") or flaw(y, least=3, name="the second of the two")


def _no_interval(known: Correlation) -> str:
    if known.n < 4:
        return f"{known.n} pairs give no interval, at least 4 do"
    return "all pairs lie on one line: no spread to tell an interval by" if 1 - abs(known.r) < _LINE else ""
