"""CPU sets worth scoring."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isolation.cpuset import CpuSet
from isolation.topology import Topology
from scheduler.candidates import MOST, candidates
from scheduler.errors import NotEnoughCpus
from scheduler.ledger import Ledger
from scheduler.placement import Resident, Slo
from tests.fakes.machines import make_topology
from tests.fakes.predictions import hog, idler

MACHINES = st.builds(
    make_topology,
    packages=st.integers(1, 2),
    nodes_per_package=st.integers(1, 2),
    llcs_per_node=st.integers(1, 2),
    cores_per_llc=st.integers(1, 4),
    threads_per_core=st.integers(1, 2),
)


@st.composite
def ledgers(draw: st.DrawFn) -> Ledger:
    topology = draw(MACHINES)
    masks = st.integers(1, topology.usable.mask)
    residents = draw(st.lists(st.tuples(masks, st.sampled_from([hog(), idler(), None])), max_size=5))
    return Ledger(
        topology,
        tuple(
            Resident(name=f"r{number}", cpus=CpuSet(mask), profile=profile, slo=Slo())
            for number, (mask, profile) in enumerate(residents)
        ),
    )


def core_of(topology: Topology, cpu: int) -> CpuSet:
    core = next(one.core for one in topology.cpus if one.id == cpu)
    return CpuSet.of(one.id for one in topology.cpus if one.core == core)


def sets(ledger: Ledger, cpus: int, *, whole_cores: bool = False) -> list[str]:
    return [str(choice.cpus) for choice in candidates(ledger, cpus, whole_cores=whole_cores)]


@settings(max_examples=60, deadline=None)
@given(ledgers(), st.data())
def test_sets_have_the_size_asked_for_lie_inside_the_usable_cpus_and_are_few(
    ledger: Ledger, data: st.DataObject
) -> None:
    wanted = data.draw(st.integers(1, len(ledger.topology.usable)))

    found = candidates(ledger, wanted, whole_cores=False)

    assert 1 <= len(found) <= MOST
    assert len({choice.cpus for choice in found}) == len(found)
    for choice in found:
        assert len(choice.cpus) == wanted
        assert choice.cpus <= ledger.topology.usable


@settings(max_examples=40, deadline=None)
@given(ledgers(), st.data())
def test_whole_cores_are_whole_and_no_more_than_needed(ledger: Ledger, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(1, len(ledger.topology.usable)))

    for choice in candidates(ledger, wanted, whole_cores=True):
        cores = {core_of(ledger.topology, cpu) for cpu in choice.cpus}
        assert all(core <= choice.cpus for core in cores)
        assert len(choice.cpus) >= wanted > len(choice.cpus) - min(len(core) for core in cores)


@settings(max_examples=30, deadline=None)
@given(ledgers(), st.data())
def test_the_same_ledger_gives_the_same_sets_in_the_same_order(ledger: Ledger, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(1, len(ledger.topology.usable)))

    fresh = Ledger(ledger.topology, ledger.residents)

    assert candidates(fresh, wanted, whole_cores=False) == candidates(ledger, wanted, whole_cores=False)


@settings(max_examples=30, deadline=None)
@given(ledgers(), st.data())
def test_on_a_small_host_every_set_has_a_like_one_among_the_candidates(ledger: Ledger, data: st.DataObject) -> None:
    usable = list(ledger.topology.usable)[:8]
    small = Ledger(dataclasses.replace(ledger.topology, usable=CpuSet.of(usable)), ledger.residents)
    wanted = data.draw(st.integers(1, len(usable)))

    def relations(cpus: CpuSet) -> tuple[object, ...]:
        return tuple((small.relation(cpus, one.cpus), small.relation(one.cpus, cpus)) for one in small.residents)

    listed = {relations(choice.cpus) for choice in candidates(small, wanted, whole_cores=False)}

    assert {relations(CpuSet.of(chosen)) for chosen in itertools.combinations(usable, wanted)} == listed


def test_all_cpus_can_be_had_in_one_way_only() -> None:
    ledger = Ledger(make_topology(packages=2, cores_per_llc=4, threads_per_core=2))

    assert sets(ledger, 16) == ["0-15"]


def test_sets_that_nothing_tells_apart_are_merged_into_the_one_of_lowest_ids() -> None:
    ledger = Ledger(make_topology(packages=2, llcs_per_node=2, cores_per_llc=2))

    # one CPU is like any other; two are in one cache, in two, or in two packages
    assert sets(ledger, 1) == ["0"]
    assert sets(ledger, 2) == ["0-1", "0,2", "0,4"]


def test_occupied_cpus_are_candidates_too() -> None:
    ledger = Ledger(make_topology(cores_per_llc=2)).with_resident(
        Resident(name="a", cpus=CpuSet.parse("0"), profile=hog(), slo=Slo())
    )

    assert sorted(sets(ledger, 1)) == ["0", "1"]


def test_a_256_cpu_host_stays_bounded_and_offers_quiet_spread_filled_and_shared_sets() -> None:
    topology = make_topology(packages=2, nodes_per_package=2, llcs_per_node=4, cores_per_llc=8, threads_per_core=2)
    residents = tuple(
        Resident(name=f"r{number}", cpus=CpuSet.of(range(number, number + 4)), profile=hog(), slo=Slo())
        for number in range(0, 120, 2)
    )
    ledger = Ledger(topology, residents)

    found = candidates(ledger, 8, whole_cores=False)
    occupied = CpuSet.of(range(122))

    assert len(found) <= MOST
    assert any(choice.cores == 8 and choice.caches == 1 for choice in found)
    assert any(choice.cores == 4 for choice in found)
    assert any(choice.caches > 4 for choice in found)
    assert any(not choice.cpus & occupied for choice in found)
    assert any(choice.cpus <= occupied for choice in found)


def test_cpus_isolated_from_the_kernels_balancing_are_left_alone_while_others_suffice() -> None:
    topology = dataclasses.replace(make_topology(cores_per_llc=4), isolated=CpuSet.parse("0-1"))

    assert sets(Ledger(topology), 2) == ["2-3"]
    assert sets(Ledger(topology), 4) == ["0-3"]


def test_too_many_cpus_are_refused_with_what_there_is() -> None:
    ledger = Ledger(make_topology(cores_per_llc=4, usable=CpuSet.parse("0-1,3")))

    with pytest.raises(NotEnoughCpus, match=r"4 CPUs were asked for, 3 are usable here \(0-1,3\): ask for at most 3"):
        candidates(ledger, 4, whole_cores=False)


def test_too_few_whole_cores_are_refused_with_how_many_would_be_needed() -> None:
    # CPUs 0-3 and siblings 4-7; without CPU 7, core 3 is not whole
    ledger = Ledger(make_topology(cores_per_llc=4, threads_per_core=2, usable=CpuSet.parse("0-6")))

    assert sets(ledger, 5, whole_cores=True) == ["0-2,4-6"]
    with pytest.raises(NotEnoughCpus, match=r"7 CPUs on whole cores need 4 cores of 2 CPUs; this host has 3 whole"):
        candidates(ledger, 7, whole_cores=True)
