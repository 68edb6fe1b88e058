"""Pair predictions with a memory: a pair of known workloads in a known relation is a dict lookup. Pure.

The model sees only pairs that were never asked before, all of one decision in a single batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from profiler.composition import compose
from profiler.records import Relation, SlowdownEstimate, WorkloadProfile
from scheduler.bounds import foreign

Pair = tuple[WorkloadProfile | None, WorkloadProfile | None, Relation]

_UNKNOWN = 0  # key of a workload without profile
_MOST_PROFILES = 4096
_MOST_PAIRS = 200_000  # about 60 MB when full


class PairEstimator(Protocol):
    """What predicts pairs: profiler.prediction.PairModel, or a fake."""

    def estimate(self, pairs: Sequence[Pair], /) -> Sequence[SlowdownEstimate]:
        """Predict each (victim, aggressor, relation), in order."""
        ...


class Composed(NamedTuple):
    """What one workload suffers from several neighbours together, in slowdown factors."""

    slowdown: float
    lower: float
    upper: float
    prior: float
    far_from_training: bool


#: Nobody beside it.
ALONE = Composed(1.0, 1.0, 1.0, 1.0, False)


def together(counted: Iterable[tuple[SlowdownEstimate | Composed, float]]) -> Composed:
    """Compose neighbours, each with how many of its kind run at once (profiler.crowding): 0.5 = half of the time.

    In one step or in several, the answer is the same.

    Slowdowns and lower ends follow the rule of profiler.composition. Errors of pairs are taken as independent, so
    upper half-widths add as squares: adding them plainly, sixty-four neighbours of 1.0 (up to 1.5) would be one of 33.
    """
    parts = [(part, count) for part, count in counted if count]
    if len(parts) == 1 and parts[0][1] == 1:
        part = parts[0][0]
        return Composed(part.slowdown, part.lower, part.upper, part.prior, part.far_from_training)
    counts = [count for _, count in parts]
    slowdown = compose([part.slowdown for part, _ in parts], counts)
    return Composed(
        slowdown,
        compose([part.lower for part, _ in parts], counts),
        upper_end(slowdown, parts),
        compose([part.prior for part, _ in parts], counts),
        any(part.far_from_training for part, _ in parts),
    )


def crowded(felt: Composed, excess: float) -> Composed:
    """Add what a full CPU costs beyond the pairs (profiler.crowding) to all that is said of them."""
    if excess <= 0.0:
        return felt
    return Composed(
        max(1.0, felt.slowdown) + excess,
        felt.lower + excess,
        max(1.0, felt.upper) + excess,
        max(1.0, felt.prior) + excess,
        felt.far_from_training,
    )


def upper_end(slowdown: float, parts: Iterable[tuple[SlowdownEstimate | Composed, float]]) -> float:
    """Give the upper end of the interval around a composed slowdown; see `together`."""
    squares = 0.0
    for part, count in parts:
        half_width = part.upper - (max(1.0, part.slowdown))
        if half_width > 0:
            squares += count * half_width * half_width
    return max(slowdown, 1.0) + math.sqrt(squares)


class Predictor:
    """The model of the moment and every answer it gave.

    Safe to share between threads: whoever misses asks the model, and the last answer stays.
    """

    def __init__(self, model: PairEstimator, model_id: str, fallback: str, host_fingerprint: str) -> None:
        """`fallback` says why there is no trained model; empty when there is one."""
        self._model = model
        self.model_id = model_id
        self.fallback = fallback
        self.host_fingerprint = host_fingerprint
        self._keys = itertools.count(1)  # never used twice, so a forgotten profile leaves no wrong answers behind
        self._by_object: dict[int, tuple[WorkloadProfile, int]] = {}
        self._by_label: dict[tuple[str, float, str], tuple[tuple[WorkloadProfile, int], ...]] = {}
        self._memo: dict[tuple[int, int, Relation], SlowdownEstimate] = {}

    def fallback_for(self, *profiles: WorkloadProfile | None) -> str:
        """Say why a prediction from these profiles does not stand on them and the model; empty when it does."""
        unknown = "the workload has no profile: placed by topology and prior as a greedy unknown"
        parts = [unknown if one is None else foreign(one, self.host_fingerprint) for one in profiles]
        return "; ".join(part for part in dict.fromkeys([*parts, self.fallback]) if part)

    def estimate_many(self, pairs: Sequence[Pair]) -> list[SlowdownEstimate]:
        """Predict each (victim, aggressor, relation), in order; new ones in one batch."""
        keys = [(self.key(victim), self.key(aggressor), relation) for victim, aggressor, relation in pairs]
        memo = self._memo
        known = [memo.get(key) for key in keys]
        missing = {key: pair for key, pair, one in zip(keys, pairs, known, strict=True) if one is None}
        fresh = dict(zip(missing, self._model.estimate(list(missing.values())), strict=True)) if missing else {}
        if len(memo) + len(fresh) > _MOST_PAIRS:
            self._memo = memo = {}
        memo.update(fresh)
        return [fresh[key] if one is None else one for key, one in zip(keys, known, strict=True)]

    def key(self, profile: WorkloadProfile | None) -> int:
        """Give a number that equal profiles share; seeing the same object again costs one lookup.

        Name and time of a profile are not enough: a client may send others under the same label.
        """
        if profile is None:
            return _UNKNOWN
        seen = self._by_object.get(id(profile))
        if seen is not None and seen[0] is profile:
            return seen[1]
        if len(self._by_object) >= _MOST_PROFILES:
            self._by_object, self._by_label = {}, {}
        label = (profile.name, profile.created_unix_s, profile.host_fingerprint)
        alike = self._by_label.get(label, ())
        key = next((key for known, key in alike if known == profile), None)
        if key is None:
            key = next(self._keys)
            self._by_label[label] = (*alike, (profile, key))
        self._by_object[id(profile)] = (profile, key)
        return key
