"""What a model is fitted on: the observations that can be used, as arrays. Pure.

Usable are pairs of this class of host whose workloads both have a profile; those of one pair, relation, isolation and
origin count as one. Several aggressors are composition's business; with cache ways of their own workloads do less to
each other than the same row of features without, and the features tell nothing of ways, so such observations are left
out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from profiler.errors import TrainingImpossible
from profiler.features import pair_rows, profile_digest
from profiler.prior import prior
from profiler.records import HostTraits, Observation, WorkloadProfile

LEAST_OBSERVATIONS = 4
LEAST_WORKLOADS = 2
#: A single repetition is trusted as if it had this spread of log SF (cache tests on cloud machines: CV 14 %).
_ASSUMED_SPREAD = 0.15
_LEAST_SPREAD = 0.02  # spreads measured smaller are luck, and make no observation weigh more
_PARTITIONED = frozenset({"cat", "combined"})  #: isolations with cache ways, of which the features tell nothing


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """Columns of the usable observations, [n] each; rows [n, n_features]."""

    rows: NDArray[np.float32]
    margin: NDArray[np.float32]  #: log prior
    target: NDArray[np.float32]  #: log SF
    weight: NDArray[np.float32]
    observations: tuple[Observation, ...]
    digests: dict[str, str]  #: profile_digest of every workload
    families: Mapping[str, str]  #: workload -> the program it is a variant of; others are their own

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Give victim and aggressor of each."""
        return [(one.victim, one.aggressors[0]) for one in self.observations]

    def workloads(self) -> list[str]:
        """Name all, victims and aggressors."""
        return sorted({name for pair in self.pairs for name in pair})

    def without(self, workloads: Collection[str]) -> NDArray[np.bool_]:
        """Tell which observations none of the workloads has a part in."""
        return np.array([not any(name in workloads for name in pair) for pair in self.pairs], dtype=bool)

    def folds(self, most: int) -> list[NDArray[np.bool_]]:
        """Deal the cells (what one pair shares, both directions) into folds; each says what it holds out.

        Shares differ between the directions where the two have different numbers of CPUs; what is shared does not.
        """
        cells: dict[tuple[frozenset[str], tuple[bool, ...]], int] = {}
        keys = [
            (frozenset((one.victim, *one.aggressors)), tuple(share > 0 for share in astuple(one.relations[0])))
            for one in self.observations
        ]
        numbers = np.array([cells.setdefault(key, len(cells)) for key in keys])
        return [numbers % most == fold for fold in range(min(most, len(cells)))]

    def kinds(self) -> list[set[str]]:
        """Gather the workloads that are variants of one program."""
        found: dict[str, set[str]] = {}
        for workload in self.workloads():
            found.setdefault(self.families.get(workload, workload), set()).add(workload)
        return list(found.values())

    def spreads(self) -> NDArray[np.float64]:
        """Give the standard deviation of log SF over repetitions as measured; NaN = one repetition."""
        return _spreads(self.observations)

    def digest(self) -> str:
        """Name all numbers that a fit depends on."""
        digest = hashlib.sha256()
        for part in (self.rows, self.margin, self.target, self.weight):
            digest.update(np.nan_to_num(part, nan=-1e30).tobytes())
        return digest.hexdigest()


def training_data(
    observations: Sequence[Observation],
    profiles: Mapping[str, WorkloadProfile],
    host: HostTraits,
    families: Mapping[str, str] | None = None,
) -> TrainingData:
    """Take what can be used; raises TrainingImpossible saying how much of what is missing."""
    here = [one for one in observations if one.host_fingerprint == host.fingerprint]
    single = [one for one in here if len(one.aggressors) == 1 and one.isolation not in _PARTITIONED]
    known = [one for one in single if one.victim in profiles and one.aggressors[0] in profiles]
    usable = merged(known)
    workloads = {name for one in usable for name in (one.victim, *one.aggressors)}
    if len(usable) < LEAST_OBSERVATIONS or len(workloads) < LEAST_WORKLOADS:
        raise TrainingImpossible(
            f"{len(usable)} usable observations of {len(workloads)} workloads; at least {LEAST_OBSERVATIONS} of "
            f"{LEAST_WORKLOADS} are needed. Of {len(observations)} stored, {len(single)} are pairs of this class "
            f"of host ({host.fingerprint}) without cache ways of their own, and {len(single) - len(known)} of those "
            "name a workload without profile. Profile the workloads (`cotenant profile`) and measure pairs, or report "
            "observations"
        )
    pairs = [(profiles[one.victim], profiles[one.aggressors[0]], one.relations[0]) for one in usable]
    parts = [prior(*pair, host) for pair in pairs]
    spread = np.maximum(_spreads(usable), _LEAST_SPREAD)
    variance = np.where(np.isnan(spread), _ASSUMED_SPREAD**2, spread**2 / [max(1, one.repetitions) for one in usable])
    # what the features cannot explain is never smaller than this, so no single cell may dominate
    weight = 1.0 / (variance + _ASSUMED_SPREAD**2)
    return TrainingData(
        rows=pair_rows(pairs, parts, host),
        margin=np.log([part.slowdown for part in parts]).astype(np.float32),
        target=np.log([one.slowdown for one in usable]).astype(np.float32),
        weight=(weight / weight.mean()).astype(np.float32),
        observations=tuple(usable),
        digests={name: profile_digest(profiles[name]) for name in sorted(workloads)},
        families=families or {},
    )


def merged(observations: Sequence[Observation]) -> list[Observation]:
    """Make one of those that tell the same pair in the same relation, so that none counts for being reported often.

    Its slowdown is their geometric mean by repetitions, its spread that of log SF within and between them.
    """
    cells: dict[tuple[object, ...], list[Observation]] = {}
    for one in observations:
        key = (one.victim, one.aggressors, one.relations, one.isolation, one.origin)
        cells.setdefault(key, []).append(one)
    return [same[0] if len(same) == 1 else _as_one(same) for same in cells.values()]


def _as_one(same: Sequence[Observation]) -> Observation:
    counts = np.array([max(1, one.repetitions) for one in same], dtype=np.float64)
    logs = np.log([one.slowdown for one in same])
    within = np.array([one.spread or 0.0 for one in same])
    mean = float(np.average(logs, weights=counts))
    squares = float(((counts - 1) * within**2 + counts * (logs - mean) ** 2).sum())
    return replace(
        same[0],
        slowdown=math.exp(mean),
        spread=math.sqrt(squares / (counts.sum() - 1)),
        repetitions=int(counts.sum()),
        window_s=float(np.median([one.window_s for one in same])),
        created_unix_s=max(one.created_unix_s for one in same),
    )


def _spreads(observations: Sequence[Observation]) -> NDArray[np.float64]:
    return np.array([math.nan if one.spread is None else one.spread for one in observations], dtype=np.float64)
