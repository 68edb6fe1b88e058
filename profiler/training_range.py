"""For which pairs the training data speak: the range of every feature that training saw. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiler.features import PRIOR_COLUMNS, PROFILE_COLUMNS

#: A value this share of the training width outside the training range still counts as inside.
_SLACK = 0.05
#: Share of a side's known features that may lie outside the training range.
_STRANGE_SHARE = 0.5
_SIDE = len(PROFILE_COLUMNS)
_RELATION = slice(2 * _SIDE, -len(PRIOR_COLUMNS))


@dataclass(frozen=True, slots=True)
class TrainingRange:
    """The least and the largest of each feature, in the order of FEATURE_NAMES; None = never known."""

    low: tuple[float | None, ...]
    high: tuple[float | None, ...]

    @classmethod
    def of(cls, rows: NDArray[np.float32]) -> TrainingRange:
        """Take it from rows, [n, n_features]."""
        low, high = [], []
        for column in rows.T:
            known = column[~np.isnan(column)]
            low.append(float(known.min()) if known.size else None)
            high.append(float(known.max()) if known.size else None)
        return cls(tuple(low), tuple(high))

    def outside(self, rows: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Tell of rows [k, n_features] which the training data do not speak for: [k].

        That is: a side of which nothing is known; a relation never seen; or more than half of a side's known features
        outside what training saw. A few stray features cost little.
        """
        least, most = _numbers(self.low), _numbers(self.high)
        slack = _SLACK * (most - least) + 1e-6
        known = ~np.isnan(rows)
        strange = known & (np.isnan(least) | (rows < least - slack) | (rows > most + slack))
        far = np.asarray(strange[:, _RELATION].any(axis=1))
        for side in (slice(0, _SIDE), slice(_SIDE, 2 * _SIDE)):
            count = known[:, side].sum(axis=1)
            far |= (count == 0) | (strange[:, side].sum(axis=1) > _STRANGE_SHARE * count)
        return far


def _numbers(ends: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array(ends, dtype=np.float64)  # None becomes NaN
