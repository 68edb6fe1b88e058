"""Bootstrap intervals of a median or of any statistic, by value or by cluster. Pure; the same seed, the same interval.

A percentile interval is the default, also for medians: the acceleration that BCa needs comes from a jackknife, and the
jackknife of a median takes two or three values only. BCa is for smooth statistics (means, ratios of means).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

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
    clusters: int | None = None  #: None = values were resampled one by one
    reason: str = ""

    @property
    def width(self) -> float:
        """Give upper less lower."""
        return self.upper - self.lower


def median_interval(
    values: npt.ArrayLike,
    *,
    clusters: npt.ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Give the median with its percentile bootstrap interval."""
    return bootstrap_interval(
        np.median, values, clusters=clusters, confidence=confidence, resamples=resamples, seed=seed
    )


def bootstrap_interval(
    statistic: Statistic,
    first: npt.ArrayLike,
    *others: npt.ArrayLike,
    paired: bool = False,
    clusters: npt.ArrayLike | None = None,
    method: Literal["percentile", "BCa"] = "percentile",
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Give any statistic with its bootstrap interval.

    `paired` resamples the samples by the same indices. `clusters` names the group (host, block) of each value: whole
    groups are resampled, with the samples paired; percentile only. What is resampled must be numerous enough for an
    interval of that confidence to exist at all, see `least_units`.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    drawn = tuple(as_sample(one) for one in (first, *others))
    labels = None if clusters is None else _labels(clusters, drawn)
    if paired or labels is not None:
        for other in drawn[1:]:
            as_pairs(drawn[0], other)
    if labels is not None and method == "BCa":
        raise ValueError("BCa intervals of clusters are not offered; use percentile")
    empty = Interval(
        estimate=math.nan,
        lower=math.nan,
        upper=math.nan,
        confidence=confidence,
        method=f"bootstrap {method}" + ("" if labels is None else " of clusters"),
        n=drawn[0].size if paired or labels is not None else sum(one.size for one in drawn),
        clusters=None if labels is None else int(labels.max(initial=-1)) + 1,
    )
    for one in drawn:
        if reason := flaw(one, least=1, varied=False):
            return replace(empty, reason=reason)
    with unwarned():
        known = replace(empty, estimate=float(statistic(*drawn, axis=-1)))
    if reason := _not_resampled(known, drawn):
        return replace(known, reason=reason)
    if labels is not None:
        return _percentile(known, _clustered(statistic, drawn, labels, resamples, seed))
    with unwarned():
        found = stats.bootstrap(
            drawn,
            statistic,
            n_resamples=resamples,
            batch=max(1, _BATCH_VALUES // sum(one.size for one in drawn)),
            vectorized=True,
            paired=paired,
            confidence_level=confidence,
            method=method,
            rng=np.random.default_rng(seed),
        )
    return _percentile(known, found.bootstrap_distribution) if method == "percentile" else _bca(known, found)


def least_units(confidence: float) -> int:
    """Give how many values (or clusters) an interval of that confidence needs.

    The median lies outside the whole range of n values with a probability of 2 * 0.5^n, so with fewer than 6 no
    interval of a median holds 95 %, however it is computed. The same bound is kept for every statistic.
    """
    return math.ceil(1 + math.log2(1 / (1 - confidence)))


def _labels(clusters: npt.ArrayLike, samples: tuple[FloatArray, ...]) -> npt.NDArray[np.intp]:
    given = np.asarray(clusters)
    if given.shape != samples[0].shape:
        raise ValueError(f"{samples[0].size} values need as many cluster names, not an array of shape {given.shape}")
    return np.unique(given, return_inverse=True)[1]


def _not_resampled(known: Interval, samples: tuple[FloatArray, ...]) -> str:
    least = least_units(known.confidence)
    units = min(one.size for one in samples) if known.clusters is None else known.clusters
    if units < least:
        few = counted(units, "value" if known.clusters is None else "cluster")
        return f"{few} to resample: an interval of {known.confidence:.0%} needs at least {least}"
    if all(constant(one) for one in samples):
        return f"no spread: all values are {samples[0][0]:g}"
    return "" if math.isfinite(known.estimate) else "the statistic of these values is undefined"


def _clustered(
    statistic: Statistic,
    samples: tuple[FloatArray, ...],
    labels: npt.NDArray[np.intp],
    resamples: int,
    seed: int,
) -> FloatArray:
    """Give the statistic of [resamples] draws of whole clusters."""
    sizes = np.bincount(labels)
    members = np.full((sizes.size, int(sizes.max())), -1, dtype=np.intp)
    for cluster, size in enumerate(sizes):
        members[cluster, :size] = np.flatnonzero(labels == cluster)
    draws = np.random.default_rng(seed).integers(sizes.size, size=(resamples, sizes.size))
    totals = sizes[draws].sum(axis=1)
    found = np.empty(resamples)
    # Draws of one total size make a rectangle, so that the statistic is called once for all of them.
    for total in np.unique(totals):
        alike = np.flatnonzero(totals == total)
        for rows in np.array_split(alike, math.ceil(alike.size * total / _BATCH_VALUES)):
            indices = members[draws[rows]].reshape(rows.size, -1)
            indices = indices[indices >= 0].reshape(rows.size, int(total))
            with unwarned():
                found[rows] = statistic(*(one[indices] for one in samples), axis=-1)
    return found


def _bca(known: Interval, found: Any) -> Interval:
    lower, upper = (float(end) for end in found.confidence_interval)
    if not (math.isfinite(lower) and math.isfinite(upper)):
        return replace(known, reason="BCa is undefined: leaving out one value at a time changes nothing")
    return replace(known, lower=lower, upper=upper)


def _percentile(known: Interval, distribution: FloatArray) -> Interval:
    defined = distribution[np.isfinite(distribution)]
    undefined_ratio = 1 - defined.size / distribution.size
    if undefined_ratio > _UNDEFINED_RATIO:
        return replace(known, reason=f"the statistic is undefined in {undefined_ratio:.0%} of the resamples")
    outside = (1 - known.confidence) / 2
    lower, upper = np.quantile(defined, [outside, 1 - outside])
    return replace(known, lower=float(lower), upper=float(upper))
