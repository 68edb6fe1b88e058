"""Slowdowns of pairs: prior times what the trees learned, with an interval. Pure, given a loaded model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from profiler.features import FEATURE_NAMES, PROFILE_COLUMNS, pair_rows, profile_digest
from profiler.prior import prior
from profiler.records import HostTraits, Relation, SlowdownEstimate, WorkloadProfile
from profiler.registry import LoadedModel

#: Without a model nothing is calibrated: the truth is taken to lie within this factor of the prior.
PRIOR_INTERVAL_FACTOR = 1.5
#: A value this share of the training width outside the training range still counts as inside.
_RANGE_SLACK = 0.05
#: Share of a side's known features that may lie outside the training range.
_STRANGE_SHARE = 0.2
_SIDE = len(PROFILE_COLUMNS)


class PairModel:
    """Predicts pairs in one batch; without a model it answers with the prior alone and a wide interval."""

    def __init__(self, loaded: LoadedModel | None, host: HostTraits) -> None:
        """Take a model that was checked by the registry."""
        self._forest = loaded.forest if loaded else None
        self._host = host
        self._half_width = self._known_half_width = math.log(PRIOR_INTERVAL_FACTOR)
        self._known: frozenset[str] = frozenset()
        self._low = self._high = np.full(len(FEATURE_NAMES), math.nan)
        self._other_host = False
        self.model_id = ""
        if loaded:
            manifest = loaded.manifest
            self.model_id = manifest.id
            self._other_host = manifest.host_fingerprint != host.fingerprint
            self._half_width = manifest.half_width_log
            self._known_half_width = manifest.known_half_width_log
            self._known = frozenset(manifest.known_profiles)
            low, high = np.array(manifest.training_low, np.float64), np.array(manifest.training_high, np.float64)
            slack = _RANGE_SLACK * (high - low) + 1e-6
            self._low, self._high = low - slack, high + slack

    def estimate(
        self, pairs: Sequence[tuple[WorkloadProfile | None, WorkloadProfile | None, Relation]]
    ) -> list[SlowdownEstimate]:
        """Predict (victim, aggressor, relation) for each pair; None = a workload nothing is known of."""
        if not pairs:
            return []
        parts = [prior(victim, aggressor, relation, self._host) for victim, aggressor, relation in pairs]
        margin = np.log([part.slowdown for part in parts]).astype(np.float32)
        total, far = margin, np.zeros(len(pairs), bool)
        if self._forest is not None:
            rows = pair_rows(pairs, self._host)
            total = self._forest.predict(rows, margin)
            far = self._outside(rows)
        estimates = []
        for pair, part, one_margin, log_slowdown, is_far in zip(pairs, parts, margin, total, far, strict=True):
            slowdown = math.exp(log_slowdown)
            known = not is_far and self._seen(pair[0]) and self._seen(pair[1])
            width = math.exp(self._known_half_width if known else self._half_width)
            estimates.append(
                SlowdownEstimate(
                    slowdown=slowdown,
                    lower=slowdown / width,
                    upper=slowdown * width,
                    prior=part.slowdown,
                    time_sharing=part.time_sharing,
                    smt=part.smt,
                    cache=part.cache,
                    bandwidth=part.bandwidth,
                    learned=math.exp(float(log_slowdown) - float(one_margin)),
                    far_from_training=bool(is_far),
                )
            )
        return estimates

    def _seen(self, profile: WorkloadProfile | None) -> bool:
        """Tell whether training saw exactly this profile, so that its way to react is known from other partners."""
        return bool(self._known) and profile is not None and profile_digest(profile) in self._known

    def _outside(self, rows: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Tell which rows the training data do not speak for.

        That is: a model of another host; a side of which nothing is known; a relation never seen; or more than a
        fifth of a side's known features outside what training saw. One stray feature costs little.
        """
        known = ~np.isnan(rows)
        strange = known & (np.isnan(self._low) | (rows < self._low) | (rows > self._high))
        far: NDArray[np.bool_] = strange[:, 2 * _SIDE :].any(axis=1)
        for side in (slice(0, _SIDE), slice(_SIDE, 2 * _SIDE)):
            count = known[:, side].sum(axis=1)
            far |= (count == 0) | (strange[:, side].sum(axis=1) > _STRANGE_SHARE * count)
        if self._other_host:
            far[:] = True
        return far
