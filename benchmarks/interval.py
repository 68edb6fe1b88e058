"""Bootstrap intervals of a median or of any statistic. Pure; the same seed, the same interval.

Percentile intervals, not BCa: its acceleration comes from a jackknife, and that of a median takes two or three values
only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from benchmarks.sample import FloatArray, as_pairs, as_sample, constant, counted, flaw, unwarned

RESAMPLES = 4000

#: statistic(*samples, axis=-1): of [..., n] samples to [...] values
Statistic = Callable[..., npt.NDArray[np.float64]]

_BATCH_VALUES = 2_000_000  # resampled values held at once: 16 MB
_UNDEFINED_RATIO = 0.01  # of the resamples may have no statistic (a correlation among equal values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and where the true value lies; NaN = unknown, with the reason."""

    estimate: float
    lower: float
    upper: float
    confidence: float
    method: str
    n: int  #: values
    clusters: int | None = None  #: None = values were resampled one by one, else whole groups of them
    reason: str = ""


def median_interval(
    values: npt.ArrayLike, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Give the median with its percentile bootstrap interval."""
    return bootstrap_interval(np.median, values, confidence=confidence, resamples=resamples, seed=seed)


def bootstrap_interval(
    statistic: Statistic,
    first: npt.ArrayLike,
    *others: npt.ArrayLike,
    paired: bool = False,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Give any statistic with its bootstrap interval.

    `paired` resamples the samples by the same indices. Values must be numerous enough for an interval of that
    confidence to exist at all, see `least_units`.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    drawn = tuple(as_sample(one) for one in (first, *others))
    if paired:
        for other in drawn[1:]:
            as_pairs(drawn[0], other)
    empty = Interval(
        estimate=math.nan,
        lower=math.nan,
        upper=math.nan,
        confidence=confidence,
        method="bootstrap percentile",
        n=drawn[0].size if paired else sum(one.size for one in drawn),
    )
    for one in drawn:
        if reason := flaw(one, least=1, varied=False):
            return replace(empty, reason=reason)
    with unwarned():
        known = replace(empty, estimate=float(statistic(*drawn, axis=-1)))
    if reason := _not_resampled(known, drawn):
        return replace(known, reason=reason)
    with unwarned():
        found = stats.bootstrap(
            drawn,
            statistic,
            n_resamples=resamples,
            batch=max(1, _BATCH_VALUES // sum(one.size for one in drawn)),
            vectorized=True,
            paired=paired,
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    return _percentile(known, found.bootstrap_distribution)


def least_units(confidence: float) -> int:
    """Give how many values an interval of that confidence needs.

    The median lies outside the whole range of n values with a probability of 2 * 0.5^n, so with fewer than 6 no
    interval of a median holds 95 %, however it is computed. The same bound is kept for every statistic.
    """
    return math.ceil(1 + math.log2(1 / (1 - confidence)))


def _not_resampled(known: Interval, samples: tuple[FloatArray, ...]) -> str:
    least, units = least_units(known.confidence), min(one.size for one in samples)
    if units < least:
        return f"{counted(units)} to resample: an interval of {known.confidence:.0%} needs at least {least}"
    if all(constant(one) for one in samples):
        return f"no spread: all values are {samples[0][0]:g}"
    return "" if math.isfinite(known.estimate) else "the statistic of these values is undefined"


def _percentile(known: Interval, distribution: FloatArray) -> Interval:
    defined = distribution[np.isfinite(distribution)]
    undefined_ratio = 1 - defined.size / distribution.size
    if undefined_ratio > _UNDEFINED_RATIO:
        return replace(known, reason=f"the statistic is undefined in {undefined_ratio:.0%} of the resamples")
    outside = (1 - known.confidence) / 2
    lower, upper = np.quantile(defined, [outside, 1 - outside])
    return replace(known, lower=float(lower), upper=float(upper))
