"""The analytic prior: hand-computed cases, and laws over all profiles."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation.topology import read_topology
from profiler.calibration import Calibration, Estimate
from profiler.host import host_traits
from profiler.prior import prior
from profiler.records import HostTraits, Relation, WorkloadProfile
from tests.fakes.profiles import APART, HOST, SAME_CPU, SAME_LLC, SMT_SIBLINGS, profile_of

HOG = profile_of("hog", cpu_utilisation_ratio=1.0)
RATIOS = {
    "cpu_utilisation_ratio": (0.0, 1.05),
    "cache_pressure_ratio": (0.0, 2.0),
    "cache_sensitivity_sf": (0.2, 5.0),
    "llc_footprint_bytes": (0.0, 1e8),
    "memory_bytes_per_s": (0.0, 1e11),
}


@st.composite
def profiles(draw: st.DrawFn) -> WorkloadProfile:
    known = draw(st.sets(st.sampled_from(sorted(RATIOS))))
    return profile_of("any", **{name: draw(st.floats(*RATIOS[name])) for name in known})


@st.composite
def relations(draw: st.DrawFn) -> Relation:
    shares = sorted(draw(st.lists(st.floats(0, 1), min_size=4, max_size=4)))
    return Relation(shares[0], shares[1], shares[2], shares[3], 1.0, 1.0)


HOSTS = st.builds(
    HostTraits,
    fingerprint=st.just("h"),
    llc_bytes=st.one_of(st.just(math.nan), st.floats(0, 1e9)),
    memory_bytes_per_s=st.one_of(st.just(math.nan), st.floats(0, 1e12)),
    smt_cost_sf=st.floats(0.5, 2),
)


def test_two_hogs_on_one_cpu_take_twice_as_long() -> None:
    assert prior(HOG, HOG, SAME_CPU, HOST).slowdown == 2.0
    assert prior(None, None, SAME_CPU, HOST).slowdown == 2.0


def test_workloads_that_fit_one_cpu_together_do_not_slow_each_other() -> None:
    assert (
        prior(profile_of(cpu_utilisation_ratio=0.4), profile_of(cpu_utilisation_ratio=0.6), SAME_CPU, HOST).slowdown
        == 1
    )


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [(1.0, 0.25, 1 / 0.75), (0.9, 0.3, 0.9 / 0.7), (0.6, 1.0, 0.6 / 0.5), (0.4, 1.0, 1.0), (1.05, 1.05, 2.0)],
)
def test_time_sharing_leaves_half_a_cpu_or_the_rest(own: float, other: float, expected: float) -> None:
    parts = prior(profile_of(cpu_utilisation_ratio=own), profile_of(cpu_utilisation_ratio=other), SAME_CPU, HOST)

    assert parts.time_sharing == pytest.approx(expected)


def test_only_the_shared_cpus_lose_time() -> None:
    assert prior(HOG, HOG, Relation(0.5, 0.5, 0.5, 0.5, 1, 1), HOST).time_sharing == 1.5


def test_smt_siblings_cost_what_the_host_says() -> None:
    parts = prior(HOG, HOG, SMT_SIBLINGS, HOST)

    assert (parts.time_sharing, parts.smt) == (1.0, 1.6)


def test_cache_costs_sensitivity_times_pressure_but_only_at_the_same_time() -> None:
    victim = profile_of(cache_sensitivity_sf=3.0, cpu_utilisation_ratio=1.0)
    aggressor = profile_of(cache_pressure_ratio=0.5, cpu_utilisation_ratio=1.0)

    assert prior(victim, aggressor, SAME_LLC, HOST).slowdown == 2.0
    assert prior(victim, aggressor, SAME_CPU, HOST).cache == 1.0


def test_nobody_presses_harder_than_the_probe_at_full_pressure() -> None:
    victim = profile_of(cache_sensitivity_sf=3.0)

    assert prior(victim, profile_of(cache_pressure_ratio=1.4), SAME_LLC, HOST).cache == 3.0
    assert prior(victim, profile_of(), SAME_LLC, HOST).cache == 1.0, "unknown is not full"


@pytest.mark.parametrize(("spread", "expected"), [(0.0, 3.0), (2.0, 2.0), (200.0, 1.0)])
def test_what_a_probe_measured_counts_as_far_as_it_stands_out_of_its_spread(spread: float, expected: float) -> None:
    profile = profile_of(cache_sensitivity_sf=3.0)
    noisy = replace(profile, features=tuple(replace(one, spread=spread) for one in profile.features))

    found = prior(noisy, profile_of(cache_pressure_ratio=1.0), SAME_LLC, HOST).cache

    assert found == pytest.approx(expected, abs=0.001)


def test_footprints_stand_in_for_missing_probes() -> None:
    whole_cache = profile_of(llc_footprint_bytes=32e6)

    assert prior(whole_cache, whole_cache, SAME_LLC, HOST).cache == 1.5
    assert prior(profile_of(llc_footprint_bytes=1e6), whole_cache, SAME_LLC, HOST).cache == pytest.approx(1 + 1 / 33)


def test_bandwidth_costs_only_when_the_memory_is_saturated() -> None:
    host = replace(HOST, memory_bytes_per_s=10e9)
    quarter, most = profile_of(memory_bytes_per_s=2.5e9), profile_of(memory_bytes_per_s=8e9)

    assert prior(quarter, quarter, SAME_LLC, host).bandwidth == 1.0
    assert prior(most, most, SAME_LLC, host).bandwidth == pytest.approx(1.6)
    assert prior(most, most, SAME_LLC, HOST).bandwidth == 1.0, "an unknown peak costs nothing"


def test_probes_already_hold_the_bandwidth() -> None:
    host = replace(HOST, memory_bytes_per_s=10e9)
    both = profile_of(memory_bytes_per_s=10e9, cache_sensitivity_sf=2.0, cache_pressure_ratio=1.0)

    assert prior(both, both, SAME_LLC, host).slowdown == 2.0


@given(profiles(), profiles(), HOSTS)
def test_nothing_shared_costs_nothing(victim: WorkloadProfile, aggressor: WorkloadProfile, host: HostTraits) -> None:
    assert prior(victim, aggressor, APART, host).slowdown == 1.0


@given(profiles(), profiles(), relations(), HOSTS)
def test_every_factor_is_finite_and_at_least_one(
    victim: WorkloadProfile, aggressor: WorkloadProfile, relation: Relation, host: HostTraits
) -> None:
    parts = prior(victim, aggressor, relation, host)

    factors = (parts.time_sharing, parts.smt, parts.cache, parts.bandwidth, parts.slowdown)
    assert all(math.isfinite(factor) and factor >= 1 for factor in factors)


def raised(profile: WorkloadProfile, name: str, amount: float) -> WorkloadProfile:
    values = {feature.name: feature.value for feature in profile.features}
    return profile_of("any", **{**values, name: min(values[name] + amount, RATIOS[name][1])})


@given(profiles(), profiles(), relations(), HOSTS, st.floats(0, 1))
def test_a_greedier_neighbour_never_helps(
    victim: WorkloadProfile, aggressor: WorkloadProfile, relation: Relation, host: HostTraits, amount: float
) -> None:
    before = prior(victim, aggressor, relation, host).slowdown
    for feature in aggressor.features:
        scale = RATIOS[feature.name][1]
        after = prior(victim, raised(aggressor, feature.name, amount * scale), relation, host).slowdown

        assert after >= before - 1e-9, feature.name


@given(profiles(), profiles(), relations(), HOSTS, st.floats(0, 1))
def test_sharing_more_of_a_core_or_cache_never_helps(
    victim: WorkloadProfile, aggressor: WorkloadProfile, relation: Relation, host: HostTraits, share: float
) -> None:
    before = prior(victim, aggressor, relation, host).slowdown
    more_llc = replace(relation, same_llc=max(relation.same_llc, share))
    more_core = replace(relation, same_core=relation.same_l2)

    assert prior(victim, aggressor, more_llc, host).slowdown >= before
    assert prior(victim, aggressor, more_core, host).slowdown >= before


@given(profiles(), relations(), HOSTS)
def test_twins_slow_each_other_alike(twin: WorkloadProfile, relation: Relation, host: HostTraits) -> None:
    assert prior(twin, replace(twin, name="other"), relation, host) == prior(
        replace(twin, name="other"), twin, relation, host
    )


def test_who_writes_to_the_disk_waits_for_a_busy_cpu_at_each_wake_up() -> None:
    written = {"io_write_bytes_per_s": 5e8}
    disk = profile_of("disk", cpu_utilisation_ratio=0.2, voluntary_switches_per_s=7800.0, **written)
    hog = profile_of("hog", cpu_utilisation_ratio=1.0, voluntary_switches_per_s=0.0)
    host = replace(HOST, disk_wake_wait_s=0.0009)

    assert prior(disk, hog, SAME_CPU, host).time_sharing == pytest.approx(1 + 7800 * 0.0009)
    assert prior(hog, disk, SAME_CPU, host).time_sharing == pytest.approx(1 / (1 - 0.2 / (1 + 7800 * 0.0009)))
    assert prior(disk, hog, SAME_LLC, host).time_sharing == 1.0, "on another CPU nobody waits"


def test_only_wake_ups_that_writing_can_account_for_wait() -> None:
    hog = profile_of("hog", cpu_utilisation_ratio=1.0)
    server = profile_of("server", cpu_utilisation_ratio=0.35, voluntary_switches_per_s=12500.0)
    logging = replace(server, features=(*server.features, *profile_of("x", io_write_bytes_per_s=40960.0).features))
    host = replace(HOST, disk_wake_wait_s=0.002)

    assert prior(server, hog, SAME_CPU, host).time_sharing == 1.0, "what it writes is unknown: none"
    assert prior(logging, hog, SAME_CPU, host).time_sharing == pytest.approx(1 + 10 * 0.002), "ten blocks of 4 KiB"


def test_a_calibrated_wait_goes_into_the_prior() -> None:
    topology = read_topology()
    wait = Estimate(0.002, 0.001, 0.003)
    measured = Calibration(
        host_fingerprint=topology.fingerprint,
        created_unix_s=1.0,
        duration_s=60.0,
        disk_wake_wait_s=wait,
        foreign_ratio=0.0,
    )
    disk = profile_of("disk", cpu_utilisation_ratio=0.2, voluntary_switches_per_s=500.0, io_write_bytes_per_s=1e9)
    hog = profile_of("hog", cpu_utilisation_ratio=1.0)

    assumed, calibrated = (
        prior(disk, hog, SAME_CPU, host_traits(topology, one)).time_sharing for one in (None, measured)
    )

    assert assumed == pytest.approx(1 + 500 * 0.0009)
    assert calibrated == pytest.approx(1 + 500 * 0.002)
