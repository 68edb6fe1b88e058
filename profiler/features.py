"""One row of numbers per (victim, aggressor, relation, host): the only door into the model, for training and use alike.

Pure: no files, no clock. Columns are FEATURE_NAMES, in that order; NaN = unknown, which the model treats as missing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from profiler.prior import PRIOR_VERSION, PriorParts
from profiler.records import HostTraits, Relation, WorkloadProfile

#: Profile features the model sees of both sides: name -> taken as log(1 + value) because it spans decades.
PROFILE_COLUMNS: dict[str, bool] = {
    "cpu_utilisation_ratio": False,
    "cpu_cores": True,
    "system_time_ratio": False,
    "voluntary_switches_per_s": True,
    "minor_faults_per_s": True,
    "rss_bytes": True,
    "io_read_bytes_per_s": True,
    "io_write_bytes_per_s": True,
    "ipc": False,
    "llc_misses_per_kinstr": True,
    "llc_footprint_bytes": True,
    "memory_bytes_per_s": True,
    "cache_pressure_ratio": False,
    "cache_sensitivity_sf": False,
    "burstiness_index": False,
    "duty_cycle_ratio": False,
    "tool_time_ratio": False,
    "kv_bytes": True,
}

RELATION_COLUMNS = ("same_cpu", "same_core", "same_l2", "same_llc", "same_node", "same_package")

#: Logarithms of the prior's factors: where a factor is large, so is what is wrong with it.
PRIOR_COLUMNS = ("prior_time_sharing", "prior_smt", "prior_cache", "prior_bandwidth")

FEATURE_NAMES: tuple[str, ...] = (
    *(f"v_{name}" for name in PROFILE_COLUMNS),
    *(f"a_{name}" for name in PROFILE_COLUMNS),
    *RELATION_COLUMNS,
    "llc_bytes",
    *PRIOR_COLUMNS,
)

#: Identity of the columns, their scaling and the prior; a model fitted on others is refused.
SCHEMA_HASH = hashlib.sha256(
    json.dumps([FEATURE_NAMES, sorted(name for name, log in PROFILE_COLUMNS.items() if log), PRIOR_VERSION]).encode()
).hexdigest()[:16]


def profile_columns(profile: WorkloadProfile | None) -> list[float]:
    """Give one workload's scaled columns; all NaN when nothing is known of it.

    They are as profiled, on whatever number of CPUs it runs now. Observations do not say how many CPUs each side had,
    so a demand per CPU that was adjusted in use alone would mean something else than the one training saw.
    """
    if profile is None:
        return [math.nan] * len(PROFILE_COLUMNS)
    known = {feature.name: feature.value for feature in profile.features}
    values = (known.get(name, math.nan) for name in PROFILE_COLUMNS)
    return [math.log1p(value) if log else value for value, log in zip(values, PROFILE_COLUMNS.values(), strict=True)]


def profile_digest(profile: WorkloadProfile) -> str:
    """Name what the model sees of a profile: equal for equal columns, whatever the profile is called."""
    return hashlib.sha256(np.array(profile_columns(profile), dtype=np.float32).tobytes()).hexdigest()[:16]


def pair_rows(
    pairs: Sequence[tuple[WorkloadProfile | None, WorkloadProfile | None, Relation]],
    parts: Sequence[PriorParts],
    host: HostTraits,
) -> NDArray[np.float32]:
    """Give the rows of many pairs, with the prior of each: [n_pairs, n_features] float32; unpacks each profile once."""
    columns: dict[int, list[float]] = {}
    for victim, aggressor, _ in pairs:
        for one in (victim, aggressor):
            if id(one) not in columns:
                columns[id(one)] = profile_columns(one)
    llc = [math.log1p(host.llc_bytes)]
    rows = [
        columns[id(victim)]
        + columns[id(aggressor)]
        + [one.same_cpu, one.same_core, one.same_l2, one.same_llc, one.same_node, one.same_package]
        + llc
        + [math.log(part.time_sharing), math.log(part.smt), math.log(part.cache), math.log(part.bandwidth)]
        for (victim, aggressor, one), part in zip(pairs, parts, strict=True)
    ]
    return np.array(rows, dtype=np.float32).reshape(len(rows), len(FEATURE_NAMES))
