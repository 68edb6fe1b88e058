"""A full CPU, which no pair of workloads fills."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.composition import compose
from profiler.crowding import Demand, crowd_excess, demand_of, running_share
from profiler.prior import prior
from profiler.records import Relation
from tests.fakes.predictions import HOST, make_profile

SAME_CPU = Relation(1, 1, 1, 1, 1, 1)
SHARES = st.floats(0.0, 1.0)


def wants(utilisation: float) -> Demand:
    return Demand(utilisation, 1.0)


def test_ten_that_want_45_percent_each_get_a_tenth() -> None:
    assert crowd_excess(wants(0.45), [(wants(0.45), 9)]) == pytest.approx(4.5 - 1)


def test_who_wants_less_than_an_even_share_has_all_of_it() -> None:
    assert crowd_excess(wants(0.1), [(wants(1.0), 3)]) == 0.0
    assert crowd_excess(wants(0.3), [(wants(0.3), 1), (wants(0.4), 1)]) == 0.0, "the CPU is just full"


@given(st.integers(2, 20))
def test_hogs_cost_what_their_pairs_add_up_to(count: int) -> None:
    assert crowd_excess(wants(1.0), [(wants(1.0), count)]) == pytest.approx(0.0)


@given(SHARES, SHARES)
def test_a_pair_is_no_crowd(victim: float, other: float) -> None:
    assert crowd_excess(wants(victim), [(wants(other), 1)]) == 0.0


@given(SHARES, st.lists(SHARES, min_size=2, max_size=8))
def test_pairs_and_excess_together_are_max_min_fairness(victim: float, others: list[float]) -> None:
    """Against shares computed by raising one level of water until the CPU is full."""
    pairs = [
        prior(
            make_profile("v", cpu_utilisation_ratio=victim),
            make_profile("a", cpu_utilisation_ratio=one),
            SAME_CPU,
            HOST,
        ).slowdown
        for one in others
    ]
    low, high = 0.0, 1.0
    for _ in range(60):
        level = (low + high) / 2
        if sum(min(one, level) for one in (victim, *others)) > 1:
            high = level
        else:
            low = level
    fair = max(1.0, victim / high) if victim + sum(others) > 1 else 1.0

    found = compose(pairs) + crowd_excess(wants(victim), [(wants(one), 1) for one in others])

    assert found >= fair - 1e-6
    if compose(pairs) <= fair:
        assert found == pytest.approx(fair, rel=1e-6)


def test_who_forces_writes_waits_in_a_crowd_and_takes_little() -> None:
    """Measured: beside a hog and direct IO on one CPU a hog took 2.1 times as long, which is what the pairs say."""
    disk = make_profile("disk", cpu_utilisation_ratio=0.25, voluntary_switches_per_s=7800.0, io_write_bytes_per_s=1e9)

    excess = crowd_excess(wants(1.0), [(wants(1.0), 1), (demand_of(disk), 1)])

    assert excess < 0.05 < crowd_excess(wants(1.0), [(wants(1.0), 1), (wants(0.25), 1)])


def test_a_workload_nothing_is_known_of_is_a_hog() -> None:
    assert demand_of(None) == Demand(1.0, 1.0, is_known=False)


def test_what_the_model_knows_of_the_pairs_is_not_counted_twice() -> None:
    """Ten of 45 % whose pairs were measured at 1.08: in all 4.5 times as long, not 5.2."""
    told = 1 + 9 * 0.08

    assert told + crowd_excess(wants(0.45), [(wants(0.45), 9)], told) == pytest.approx(4.5)


@given(st.integers(1, 8), st.floats(0.0, 64.0))
def test_nobody_gets_more_than_asked_for_nor_all_more_than_there_is(cpus: int, wanted: float) -> None:
    share = running_share(cpus, wanted)

    assert 0.0 < share <= 1.0
    assert share * wanted <= cpus * (1 + 1e-9)
