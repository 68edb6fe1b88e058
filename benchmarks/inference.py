"""Tests of hypotheses: is a slowdown, or a difference between groups, more than chance? Pure; SciPy computes.

The paired test of a slowdown is the one-sample test of log SF against 0: log T_co - log T_solo is the difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from benchmarks.sample import Alternative, FloatArray, as_sample, constant, flaw, unwarned


@dataclass(frozen=True, slots=True, kw_only=True)
class Significance:
    """One test; NaN = unknown, with the reason."""

    test: str
    alternative: Alternative
    sizes: tuple[int, ...]  #: values used of each group
    statistic: float = math.nan
    degrees: tuple[float, ...] = ()  #: degrees of freedom; empty for tests without
    p: float = math.nan
    reason: str = ""

    @property
    def n(self) -> int:
        """Give the values used in all."""
        return sum(self.sizes)


def paired_t(
    differences: npt.ArrayLike, *, against: float = 0.0, alternative: Alternative = "two-sided"
) -> Significance:
    """Test the mean of paired differences (log ratios) against a value by Student's t."""
    values = as_sample(differences)
    asked = Significance(test="paired t", alternative=alternative, sizes=(values.size,))
    if reason := flaw(values, name="the differences"):
        return replace(asked, reason=reason)
    found = _found(lambda: stats.ttest_1samp(values, against, alternative=alternative))
    return _settled(asked, found, (values.size - 1.0,))


def signed_rank(
    differences: npt.ArrayLike, *, against: float = 0.0, alternative: Alternative = "two-sided"
) -> Significance:
    """Test paired differences against a value by Wilcoxon's signed ranks; differences of 0 are left out, also of n."""
    values = as_sample(differences)
    asked = Significance(test="Wilcoxon signed rank", alternative=alternative, sizes=(values.size,))
    if reason := flaw(values, varied=False, name="the differences"):
        return replace(asked, reason=reason)
    apart = values - against
    apart = apart[apart != 0]
    asked = replace(asked, sizes=(apart.size,))
    if apart.size < 2:
        return replace(asked, reason=f"{apart.size} of the {values.size} differences are not {against:g}, 2 are needed")
    return _settled(asked, _found(lambda: stats.wilcoxon(apart, alternative=alternative)))


def welch(first: npt.ArrayLike, second: npt.ArrayLike, *, alternative: Alternative = "two-sided") -> Significance:
    """Test whether two groups have one mean, their spreads left free; "greater": the first is."""
    groups = as_sample(first), as_sample(second)
    asked = Significance(test="Welch t", alternative=alternative, sizes=(groups[0].size, groups[1].size))
    if reason := group_flaw(groups):
        return replace(asked, reason=reason)
    found = _found(lambda: stats.ttest_ind(*groups, equal_var=False, alternative=alternative))
    return _settled(asked, found, (float(found.df),))


def pooled_t(
    first: npt.ArrayLike, second: npt.ArrayLike, *, strata: int = 1, alternative: Alternative = "two-sided"
) -> Significance:
    """Test whether two groups of one spread have one mean, by Student's t; "greater": the first is.

    strata: of how many strata the mean was taken off both groups before; all but one cost a degree of freedom.
    """
    groups = as_sample(first), as_sample(second)
    asked = Significance(test="pooled t", alternative=alternative, sizes=(groups[0].size, groups[1].size))
    if reason := group_flaw(groups):
        return replace(asked, reason=reason)
    degrees = asked.n - 1 - strata
    if degrees < 1:
        return replace(asked, reason=f"{asked.n} values of {strata} strata leave no noise to test against")
    ours, theirs = groups
    with unwarned():
        error = pooled_deviation(ours, theirs, degrees) * math.sqrt(1 / ours.size + 1 / theirs.size)
        t = float((ours.mean() - theirs.mean()) / np.float64(error))
    tails = {"greater": stats.t.sf(t, degrees), "less": stats.t.cdf(t, degrees)}
    p = tails.get(alternative, 2 * stats.t.sf(abs(t), degrees))
    return _settled(asked, SimpleNamespace(statistic=t, pvalue=p), (float(degrees),))


def pooled_deviation(first: FloatArray, second: FloatArray, degrees: int) -> float:
    """Give the standard deviation within two groups, with that many degrees of freedom."""
    apart = np.concatenate([first - first.mean(), second - second.mean()])
    largest = float(np.abs(apart).max())
    if largest == 0:
        return 0.0
    return largest * math.sqrt(float(((apart / largest) ** 2).sum()) / degrees)  # so that no square vanishes


def mann_whitney(
    first: npt.ArrayLike, second: npt.ArrayLike, *, alternative: Alternative = "two-sided"
) -> Significance:
    """Test by ranks whether values of one group tend to be larger; "greater": those of the first."""
    groups = as_sample(first), as_sample(second)
    asked = Significance(test="Mann-Whitney U", alternative=alternative, sizes=(groups[0].size, groups[1].size))
    if reason := group_flaw(groups, ranks=True):
        return replace(asked, reason=reason)
    return _settled(asked, _found(lambda: stats.mannwhitneyu(*groups, alternative=alternative)))


def kruskal_wallis(groups: Sequence[npt.ArrayLike]) -> Significance:
    """Test by ranks whether groups share one distribution: ANOVA's check that needs no normal residuals."""
    values = tuple(as_sample(one) for one in groups)
    asked = Significance(test="Kruskal-Wallis", alternative="two-sided", sizes=tuple(one.size for one in values))
    if reason := group_flaw(values, ranks=True):
        return replace(asked, reason=reason)
    return _settled(asked, _found(lambda: stats.kruskal(*values)), (len(values) - 1.0,))


def levene(groups: Sequence[npt.ArrayLike]) -> Significance:
    """Test whether groups share one spread, around their medians (Brown and Forsythe)."""
    values = tuple(as_sample(one) for one in groups)
    asked = Significance(test="Levene", alternative="two-sided", sizes=tuple(one.size for one in values))
    if reason := group_flaw(values):
        return replace(asked, reason=reason)
    degrees = (len(values) - 1.0, float(asked.n - len(values)))
    if degrees[1] < 1 or all(constant(np.abs(one - np.median(one))) for one in values):
        return replace(asked, reason="the distances from the medians have no spread within any group")
    return _settled(asked, _found(lambda: stats.levene(*values)), degrees)


def holm(p_values: npt.ArrayLike) -> FloatArray:
    """Adjust p values of one family so that any false alarm among them keeps its rate (Holm).

    Compare the answer with alpha directly. Unknown p (NaN) stay unknown and are no part of the family.
    """
    given = as_sample(p_values)
    adjusted = np.full(given.size, math.nan)
    known = np.flatnonzero(~np.isnan(given))
    if np.any((given[known] < 0) | (given[known] > 1)):
        raise ValueError(f"p values lie between 0 and 1, not {given[known].min():g} to {given[known].max():g}")
    order = known[np.argsort(given[known], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(given[order] * factors))
    return adjusted


def group_flaw(groups: Sequence[FloatArray], *, ranks: bool = False) -> str:
    """Say why groups cannot be compared; empty if they can. Ranks need only that not all values are equal."""
    if len(groups) < 2:
        return f"{len(groups)} group: at least 2 are compared"
    for number, one in enumerate(groups, 1):
        if reason := flaw(one, varied=False, name=f"group {number}"):
            return reason
    if ranks and constant(np.concatenate(groups)):
        return f"no spread: all values of all groups are {groups[0][0]:g}"
    if not ranks and all(constant(one) for one in groups):
        return "no group has any spread"
    return ""


def _found(compute: Callable[[], Any]) -> Any:
    with unwarned():
        return compute()


def _settled(asked: Significance, found: Any, degrees: tuple[float, ...] = ()) -> Significance:
    statistic, p = float(found.statistic), float(found.pvalue)
    if not (math.isfinite(statistic) and math.isfinite(p)):
        return replace(asked, reason="these values are too large or too close together for double precision")
    return replace(asked, statistic=statistic, p=p, degrees=degrees)
