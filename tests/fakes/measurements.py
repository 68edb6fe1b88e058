"""Observations of a made-up world whose slowdowns are known, to train on."""

from __future__ import annotations

import random

from profiler.prior import prior
from profiler.records import Observation, WorkloadProfile
from tests.fakes.profiles import HOST, SAME_CPU, SAME_LLC, profile_of


def made_up_profiles(count: int = 6) -> dict[str, WorkloadProfile]:
    """Give workloads from calm to greedy."""
    names = [f"w{number}" for number in range(count)]
    return {
        name: profile_of(
            name,
            cpu_utilisation_ratio=0.4 + 0.6 * number / count,
            cache_pressure_ratio=number / count,
            cache_sensitivity_sf=1 + (number * 7 % count) / count,
            rss_bytes=1e6 * (number + 1),
        )
        for number, name in enumerate(names)
    }


def made_up_observations(
    profiles: dict[str, WorkloadProfile], *, beyond_prior: float = 1.3, noise: float = 0.02, seed: int = 1
) -> list[Observation]:
    """Measure every ordered pair in two relations: the truth is the prior times a factor in proportion to pressure."""
    rng = random.Random(seed)  # noqa: S311 - test data
    observations = []
    for victim in profiles.values():
        for aggressor in profiles.values():
            for relation in (SAME_CPU, SAME_LLC):
                truth = prior(victim, aggressor, relation, HOST).slowdown
                truth *= 1 + (beyond_prior - 1) * (0.5 + aggressor.value("cache_pressure_ratio"))
                observations.append(
                    Observation(
                        victim=victim.name,
                        aggressors=(aggressor.name,),
                        relations=(relation,),
                        slowdown=truth * (1 + rng.gauss(0, noise)),
                        spread=noise,
                        repetitions=3,
                        window_s=1.0,
                        host_fingerprint=HOST.fingerprint,
                        created_unix_s=1.0,
                    )
                )
    return observations
