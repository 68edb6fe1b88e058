"""Pair predictions without a trained model, and profiles to predict from."""

from __future__ import annotations

from collections.abc import Sequence

from profiler.prior import prior
from profiler.records import PROFILE_FEATURES, Feature, HostTraits, SlowdownEstimate, Source, WorkloadProfile
from scheduler.predictor import Pair

HOST = HostTraits(fingerprint="imaginary", llc_bytes=32e6, memory_bytes_per_s=20e9)


class PriorPairs:
    """Answers with the analytic prior; the upper end lies `width` times the excess above 1."""

    def __init__(self, *, width: float = 1.2) -> None:
        self.width = width
        self.batches: list[int] = []

    def estimate(self, pairs: Sequence[Pair], /) -> list[SlowdownEstimate]:
        self.batches.append(len(pairs))
        return [self._one(pair) for pair in pairs]

    def _one(self, pair: Pair) -> SlowdownEstimate:
        parts = prior(*pair, HOST)
        excess = parts.slowdown - 1.0
        return SlowdownEstimate(
            slowdown=parts.slowdown,
            lower=1.0 + excess / self.width,
            upper=1.0 + excess * self.width,
            prior=parts.slowdown,
            time_sharing=parts.time_sharing,
            smt=parts.smt,
            cache=parts.cache,
            bandwidth=parts.bandwidth,
            learned=1.0,
            far_from_training=False,
        )


def make_profile(name: str, *, created_unix_s: float = 1.0, **features: float) -> WorkloadProfile:
    """Make a profile from feature values; unknown ones stay unknown."""
    assert features.keys() <= PROFILE_FEATURES.keys()
    return WorkloadProfile(
        name=name,
        cpus=1,
        features=tuple(
            Feature(name=key, value=value, spread=None, source=Source.PROCFS, window_s=10.0, samples=1)
            for key, value in features.items()
        ),
        host_fingerprint=HOST.fingerprint,
        created_unix_s=created_unix_s,
    )


def hog(name: str = "hog", **features: float) -> WorkloadProfile:
    """Make one that computes all the time and touches no memory."""
    return make_profile(name, **({"cpu_utilisation_ratio": 1.0, "memory_bytes_per_s": 0.0} | features))


def streamer(name: str = "streamer", **features: float) -> WorkloadProfile:
    """Make one that takes most of the memory bandwidth from a single CPU."""
    return make_profile(name, **({"cpu_utilisation_ratio": 1.0, "memory_bytes_per_s": 16e9} | features))


def idler(name: str = "idler", **features: float) -> WorkloadProfile:
    """Make one that mostly waits."""
    return make_profile(name, **({"cpu_utilisation_ratio": 0.05, "memory_bytes_per_s": 0.0} | features))
