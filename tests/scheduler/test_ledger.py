"""Residents as a value, and the relation of any two CPU sets."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from isolation.cpuset import CpuSet
from isolation.resctrl_info import ResctrlInfo
from isolation.topology import Topology
from profiler.records import Relation
from scheduler.ledger import Ledger
from scheduler.placement import Resident, Slo
from tests.fakes.machines import make_topology
from tests.fakes.predictions import hog, make_profile

SMT_HOST = make_topology(packages=2, nodes_per_package=2, llcs_per_node=2, cores_per_llc=2, threads_per_core=2)
SETS = st.integers(min_value=1, max_value=(1 << len(SMT_HOST.usable)) - 1).map(CpuSet)


def resident(name: str, cpus: str, **changes: object) -> Resident:
    plain = Resident(name=name, cpus=CpuSet.parse(cpus), profile=hog(), slo=Slo())
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def without_caches(topology: Topology) -> Topology:
    cpus = tuple(dataclasses.replace(cpu, l2=None, llc=None) for cpu in topology.cpus)
    return dataclasses.replace(topology, cpus=cpus, llc_domains=())


def test_relation_counts_the_victims_cpus_on_each_level() -> None:
    # 32 CPUs: cores 0-15, siblings 16-31; caches of 2 cores, nodes of 2 caches, packages of 2 nodes.
    ledger = Ledger(SMT_HOST)

    found = ledger.relation(CpuSet.parse("0,1,3,8"), CpuSet.parse("0,17"))

    assert found == Relation(same_cpu=0.25, same_core=0.5, same_l2=0.5, same_llc=0.5, same_node=0.75, same_package=0.75)


def test_relation_depends_on_who_is_the_victim() -> None:
    ledger = Ledger(SMT_HOST)

    assert ledger.relation(CpuSet.parse("0"), CpuSet.parse("0,8")).same_cpu == 1.0
    assert ledger.relation(CpuSet.parse("0,8"), CpuSet.parse("0")).same_cpu == 0.5


@given(SETS, SETS)
def test_relation_shares_rise_from_cpu_to_cache_and_from_node_to_package(victim: CpuSet, aggressor: CpuSet) -> None:
    found = Ledger(SMT_HOST).relation(victim, aggressor)

    shares = [found.same_cpu, found.same_core, found.same_l2, found.same_llc, found.same_node, found.same_package]
    assert shares == sorted(shares)
    assert all(0.0 <= share <= 1.0 for share in shares)
    assert found.same_cpu == len(victim & aggressor) / len(victim)


@given(SETS, SETS)
def test_sharing_nothing_is_mutual(one: CpuSet, other: CpuSet) -> None:
    sharing = Ledger(SMT_HOST).sharing

    assert (sharing.code(one.mask, other.mask) == 0) == (sharing.code(other.mask, one.mask) == 0)


def test_unknown_caches_count_as_core_and_package() -> None:
    ledger = Ledger(without_caches(SMT_HOST))

    sibling = ledger.relation(CpuSet.parse("0"), CpuSet.parse("16"))
    neighbour = ledger.relation(CpuSet.parse("0"), CpuSet.parse("1"))
    far = ledger.relation(CpuSet.parse("0"), CpuSet.parse("8"))

    assert (sibling.same_core, sibling.same_l2) == (1.0, 1.0)
    assert (neighbour.same_l2, neighbour.same_llc) == (0.0, 1.0)
    assert (far.same_llc, far.same_package) == (0.0, 0.0)


def test_fault_57_cpus_that_went_offline_share_with_nobody_but_themselves() -> None:
    ledger = Ledger(make_topology(cores_per_llc=2))

    assert ledger.relation(CpuSet.parse("7"), CpuSet.parse("0-1")) == Relation(0, 0, 0, 0, 0, 0)
    assert ledger.relation(CpuSet.parse("1,7"), CpuSet.parse("1")).same_llc == 0.5
    assert ledger.relation(CpuSet.parse("1,7"), CpuSet.parse("7")) == Relation(0.5, 0.5, 0.5, 0.5, 0.5, 0.5)
    assert ledger.with_resident(resident("a", "1,7")).occupancy == (0, 1)


def test_a_change_gives_a_new_ledger_and_leaves_the_old_one() -> None:
    empty = Ledger(make_topology())

    one = empty.with_resident(resident("a", "0"))
    moved = one.with_resident(resident("b", "1")).with_resident(resident("a", "1"))

    assert empty.residents == ()
    assert [(each.name, str(each.cpus)) for each in moved.residents] == [("a", "1"), ("b", "1")]
    assert moved.occupants(1) == ("a", "b")
    assert moved.without("a").without("b") == empty
    assert one.without("nobody") == one


def test_what_the_host_offers_is_kept_through_changes_and_parts_ledgers() -> None:
    bare = Ledger(make_topology(), (resident("a", "0"),))
    controls = ResctrlInfo(caches=(), bandwidths=(), monitoring=())
    offered = dataclasses.replace(bare, controls=controls, peak_bytes_per_s=2e10)

    changed = offered.with_resident(resident("b", "1")).with_resident(resident("a", "1")).without("b")

    assert (changed.controls, changed.peak_bytes_per_s) == (controls, 2e10)
    assert offered != bare
    assert offered.sharing is bare.sharing
    assert hash(dataclasses.replace(offered, peak_bytes_per_s=None)) == hash(bare)  # equal but for what is not hashed


def test_what_was_derived_before_resctrl_came_is_not_given_after() -> None:
    bare = Ledger(make_topology())
    assert bare.derive("answer", lambda: 1) == 1

    offered = dataclasses.replace(bare, controls=ResctrlInfo(caches=(), bandwidths=(), monitoring=()))

    assert offered.derive("answer", lambda: 2) == 2


def test_equal_residents_form_one_group_and_any_difference_parts_them() -> None:
    ledger = Ledger(
        make_topology(),
        (
            resident("a", "0"),
            resident("b", "0", profile=hog()),  # an equal profile, another object
            resident("c", "1"),
            resident("d", "0", weight=2.0),
            resident("e", "0", slo=Slo(max_slowdown=2.0)),
            resident("f", "0", profile=None),
            resident("g", "0", profile=make_profile("hog", cpu_utilisation_ratio=0.5)),  # same label, other numbers
        ),
    )

    assert [group.members for group in ledger.groups] == [("a", "b"), ("c",), ("d",), ("e",), ("f",), ("g",)]
    assert ledger.occupancy == (6, 1)
