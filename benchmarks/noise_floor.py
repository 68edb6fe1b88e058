"""How far repetitions of one and the same cell differ: what no effect can be told below. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from benchmarks.sample import as_sample, flaw, unwarned

#: A median of n normal values spreads sqrt(pi / 2) times as far as their mean.
_MEDIAN_OVER_MEAN = math.sqrt(math.pi / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseFloor:
    """Spread of repetitions as shares of their median; NaN = unknown, with the reason."""

    n: int
    median: float = math.nan
    robust_cv_ratio: float = math.nan  #: 1.4826 * MAD / median: the coefficient of variation, blind to outliers
    half_width_ratio: float = math.nan  #: half the interval of a median of n such values
    confidence: float
    reason: str = ""


def noise_floor(repetitions: npt.ArrayLike, *, confidence: float = 0.95) -> NoiseFloor:
    """Measure the noise of one cell by its repetitions (SF, above 0)."""
    values = as_sample(repetitions)
    empty = NoiseFloor(n=values.size, confidence=confidence)
    if reason := flaw(values, least=3, name="the cell"):  # 3: of two values the MAD is half their distance, always
        return replace(empty, reason=reason)
    if values.min() <= 0:
        return replace(empty, reason=f"a ratio to the median needs values above 0, the least is {values.min():g}")
    with unwarned():
        median = float(np.median(values))
        spread = float(stats.median_abs_deviation(values, scale="normal"))
    if not math.isfinite(median):
        return replace(empty, reason="these values are too large for double precision")
    if spread == 0:
        return replace(
            empty,
            median=median,
            reason=f"more than half of the {values.size} values equal the median: no spread to see",
        )
    cv = spread / median
    return replace(
        empty,
        median=median,
        robust_cv_ratio=cv,
        half_width_ratio=median_half_width_ratio(cv, values.size, confidence=confidence),
    )


def median_half_width_ratio(cv_ratio: float, n: int, *, confidence: float = 0.95) -> float:
    """Give half the interval of a median of n values with that coefficient of variation, as a share of the median.

    Rests on normal noise and many values; too wide by about 20 % for n = 1, 5 % for n = 5.
    """
    if n < 1:
        raise ValueError(f"a median of {n} values does not exist")
    return float(stats.norm.isf((1 - confidence) / 2)) * _MEDIAN_OVER_MEAN * cv_ratio / math.sqrt(n)
