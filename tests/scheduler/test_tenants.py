"""What a workload does with a cache: told from its profile alone."""

from __future__ import annotations

import dataclasses

import pytest

from scheduler.ledger import Ledger
from scheduler.tenants import Use, caches_of, tenants_of
from tests.fakes.divided_caches import MIB, PEAK, info, l3, mb, resident, topology_of
from tests.fakes.predictions import make_profile


@pytest.mark.parametrize(
    ("features", "use", "wants_mib"),
    [
        ({"cache_sensitivity_sf": 1.05, "llc_footprint_bytes": 8 * MIB}, Use.HUNGRY, 8),
        ({"cache_sensitivity_sf": 2.0, "llc_footprint_bytes": 80 * MIB}, Use.HUNGRY, 32),
        ({"cache_sensitivity_sf": 2.0, "cache_pressure_ratio": 0.5}, Use.HUNGRY, 16),
        ({"cache_sensitivity_sf": 2.0}, Use.HUNGRY, None),
        ({"llc_footprint_bytes": 63 * MIB}, Use.HUNGRY, 32),
        ({"llc_footprint_bytes": 64 * MIB}, Use.STREAMING, 32),
        ({"llc_footprint_bytes": 0.0}, Use.OTHER, 0),
        ({"cache_pressure_ratio": 1.0}, Use.OTHER, 32),
        ({"cache_sensitivity_sf": 1.04, "cache_pressure_ratio": 0.2}, Use.STREAMING, 6.4),
        ({"cache_sensitivity_sf": 1.04, "cache_pressure_ratio": 0.19}, Use.OTHER, 6.08),
        ({"cache_sensitivity_sf": 1.04, "llc_footprint_bytes": 16 * MIB}, Use.STREAMING, 16),
        ({"cache_sensitivity_sf": 1.04, "llc_footprint_bytes": 15 * MIB}, Use.OTHER, 15),
        ({"cache_sensitivity_sf": 1.04, "memory_bytes_per_s": PEAK / 10}, Use.STREAMING, None),
        ({"cache_sensitivity_sf": 1.04, "memory_bytes_per_s": PEAK / 11}, Use.OTHER, None),
        ({}, Use.OTHER, None),
    ],
)
def test_a_workload_is_hungry_streaming_or_neither(
    features: dict[str, float], use: Use, wants_mib: float | None
) -> None:
    crowd = (resident("a", "0", make_profile("p", **features)),)
    ledger = Ledger(topology_of(), crowd, controls=info(l3()), peak_bytes_per_s=PEAK)

    (found,) = tenants_of(ledger)[0]

    assert (found.use, found.wants_bytes) == (use, None if wants_mib is None else round(wants_mib * MIB))


def test_of_an_unknown_peak_or_cache_size_nothing_follows() -> None:
    topology = topology_of()
    sizeless = dataclasses.replace(topology.llc_domains[0], size_bytes=None)
    profile = make_profile("p", cache_sensitivity_sf=1.0, memory_bytes_per_s=1e12, llc_footprint_bytes=1e11)
    ledger = Ledger(
        dataclasses.replace(topology, llc_domains=(sizeless,)), (resident("a", "0", profile),), controls=info(l3())
    )

    (found,) = tenants_of(ledger)[0]

    assert (found.use, found.wants_bytes) == (Use.OTHER, 100_000_000_000)


def test_caches_whose_ids_the_kernel_gives_twice_are_left_alone() -> None:
    topology = topology_of(2)
    twice = tuple(dataclasses.replace(one, kernel_id=0) for one in topology.llc_domains)

    ledger = Ledger(dataclasses.replace(topology, llc_domains=twice), controls=info(l3(), mb()))

    assert caches_of(ledger) == ()
    assert caches_of(Ledger(topology)) == ()


def test_a_cache_of_which_others_hold_nearly_all_has_no_ways_to_give() -> None:
    held = dataclasses.replace(l3(ways=8, least=3), bit_usage={0: "EEEEEESS"})

    (cache,) = caches_of(Ledger(topology_of(), controls=info(held)))

    assert not cache.run
