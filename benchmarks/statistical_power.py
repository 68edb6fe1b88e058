"""What a number of repetitions can find: power of t tests and the least effect they detect. Pure.

The plan's 26 repetitions are the least that give two groups a power of 0.8 for d = 0.8 at alpha 0.05, two-sided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scipy import optimize, stats

from benchmarks.sample import Alternative, unwarned

ALPHA = 0.05
WANTED_POWER = 0.8

_LARGEST_D = 1e3  # an effect beyond that is no question of power


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """The probability to find an effect of that size; NaN = unknown, with the reason."""

    d: float
    sizes: tuple[int, ...]  #: one: paired differences; two: independent groups
    alpha: float
    alternative: Alternative
    power: float = math.nan
    reason: str = ""


def power_of(d: float, *sizes: int, alpha: float = ALPHA, alternative: Alternative = "two-sided") -> Power:
    """Give the power of a t test for the true effect d: one size for paired differences, two for groups.

    Of a d that was itself estimated from the data this tells nothing that p did not tell; give the d of the question.
    """
    _expect(sizes, alpha)
    asked = Power(d=d, sizes=sizes, alpha=alpha, alternative=alternative)
    if reason := _flaw(d, sizes):
        return replace(asked, reason=reason)
    power = _power(d, sizes, alpha, alternative)
    reason = "" if math.isfinite(power) else f"the noncentral t distribution has no number for d = {d:g}"
    return replace(asked, power=power, reason=reason)


def least_detectable(
    *sizes: int, power: float = WANTED_POWER, alpha: float = ALPHA, alternative: Alternative = "two-sided"
) -> Power:
    """Give the smallest d (in size) that is found with that power."""
    _expect(sizes, alpha)
    if not alpha < power < 1:
        raise ValueError(f"power {power} is not between alpha {alpha} and 1")
    asked = Power(d=math.nan, sizes=sizes, alpha=alpha, alternative=alternative, power=power)
    if reason := _flaw(0.0, sizes):
        return replace(asked, power=math.nan, reason=reason)
    sign = -1.0 if alternative == "less" else 1.0

    def lacking(d: float) -> float:
        return _power(sign * d, sizes, alpha, alternative) - power

    high = 1.0
    while lacking(high) < 0 and high < _LARGEST_D:
        high *= 2
    if not lacking(high) >= 0:
        return replace(asked, power=math.nan, reason=f"no d below {_LARGEST_D:g} reaches a power of {power:g}")
    return replace(asked, d=sign * float(optimize.brentq(lacking, 0.0, high)))


def _power(d: float, sizes: tuple[int, ...], alpha: float, alternative: Alternative) -> float:
    degrees = sum(sizes) - len(sizes)
    noncentrality = d / math.sqrt(sum(1 / size for size in sizes))
    limit = float(stats.t.isf(alpha / 2 if alternative == "two-sided" else alpha, degrees))
    with unwarned():
        above = float(stats.nct.sf(limit, degrees, noncentrality))
        # the lower tail as the upper one of the mirrored distribution, which SciPy knows better
        below = float(stats.nct.sf(limit, degrees, -noncentrality))
    return {"two-sided": above + below, "greater": above, "less": below}[alternative]


def _expect(sizes: tuple[int, ...], alpha: float) -> None:
    if len(sizes) not in {1, 2}:
        raise ValueError(f"power is of 1 sample of differences or of 2 groups, not of {len(sizes)}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha {alpha} is not between 0 and 1")


def _flaw(d: float, sizes: tuple[int, ...]) -> str:
    if min(sizes) < 2:
        return f"sizes {sizes}: at least 2 values of each are needed"
    return "" if math.isfinite(d) else "d is unknown"
