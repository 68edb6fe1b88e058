"""Profiles and hosts with chosen numbers, for tests of pure decisions."""

from __future__ import annotations

import math

from profiler.records import Feature, HostTraits, Relation, Source, WorkloadProfile

HOST = HostTraits(fingerprint="test-host", llc_bytes=32e6, memory_bytes_per_s=math.nan)
APART = Relation(0, 0, 0, 0, 0, 0)
SAME_CPU = Relation(1, 1, 1, 1, 1, 1)
SMT_SIBLINGS = Relation(0, 1, 1, 1, 1, 1)
SAME_LLC = Relation(0, 0, 0, 1, 1, 1)


def profile_of(name: str = "workload", **values: float) -> WorkloadProfile:
    """Build a profile that knows just these features."""
    features = tuple(
        Feature(name=key, value=value, spread=None, source=Source.PROBE, window_s=1.0, samples=1)
        for key, value in values.items()
    )
    return WorkloadProfile(name=name, cpus=1, features=features, host_fingerprint=HOST.fingerprint, created_unix_s=0.0)
