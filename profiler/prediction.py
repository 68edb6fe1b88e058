"""Slowdowns of pairs: prior times what the trees learned, with an interval. Pure, given a loaded model.

Where the training data do not speak for a pair, the prior stands alone: trees know nothing of what they never saw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from profiler.features import pair_rows, profile_digest
from profiler.prior import PRIOR_HALF_WIDTH_LOG, prior
from profiler.records import HostTraits, Relation, SlowdownEstimate, WorkloadProfile
from profiler.registry import LoadedModel
from profiler.training_range import TrainingRange

_MOST_LOG_SF = math.log(1000.0)  #: what a model says beyond is no slowdown: then the prior stands alone


class PairModel:
    """Predicts pairs in one batch; without a model it answers with the prior alone and a wide interval."""

    def __init__(self, loaded: LoadedModel | None, host: HostTraits) -> None:
        """Take a model that was checked by the registry."""
        self._forest = loaded.forest if loaded else None
        self._host = host
        self._half_width = self._known_half_width = PRIOR_HALF_WIDTH_LOG
        self._known: frozenset[str] = frozenset()
        self._range = TrainingRange((), ())
        self._other_host = False
        self.model_id = ""
        if loaded:
            manifest = loaded.manifest
            self.model_id = manifest.id
            self._other_host = manifest.host_fingerprint != host.fingerprint
            if not self._other_host:
                self._host = manifest.host  # what the trees learned is left over from this prior, not from a newer one
            self._half_width = manifest.half_width_log
            self._known_half_width = manifest.known_half_width_log
            self._known = frozenset(manifest.known_profiles)
            self._range = TrainingRange(manifest.training_low, manifest.training_high)

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
            rows = pair_rows(pairs, parts, self._host)
            learned = self._forest.predict(rows, margin)
            insane = ~(np.abs(learned) <= _MOST_LOG_SF)
            far = self._range.outside(rows) | self._other_host | insane
            total = np.where(far, margin, learned)
        seen = {id(one): self._seen(one) for pair in pairs for one in pair[:2]} if self._known else {}
        estimates = []
        for pair, part, one_margin, log_slowdown, is_far in zip(pairs, parts, margin, total, far, strict=True):
            slowdown = math.exp(log_slowdown)
            known = bool(seen) and not is_far and seen[id(pair[0])] and seen[id(pair[1])]
            half_width = self._known_half_width if known else self._half_width
            width = math.exp(max(half_width, PRIOR_HALF_WIDTH_LOG) if is_far else half_width)
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
        return profile is not None and profile_digest(profile) in self._known
