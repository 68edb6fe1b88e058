"""Where the members of a cell are put, and what a host cannot do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.design import Cell, Isolation, Member, Part
from benchmarks.seats import infeasible, lacking, seats
from isolation.cpuset import CpuSet
from tests.fakes.divided_caches import l3
from tests.fakes.machines import make_topology


def cell(isolation: Isolation, members: int = 2) -> Cell:
    return Cell(
        part=Part.COMPOSITION,
        members=tuple(Member(workload=f"w{number}") for number in range(members)),
        isolation=isolation,
    )


def test_nothing_is_done_where_nothing_is_to_be_done() -> None:
    assert seats(cell(Isolation.NONE), make_topology(), None) == {}


def test_without_isolation_all_stay_in_the_cache_that_the_other_isolations_use() -> None:
    machine = make_topology(packages=2, cores_per_llc=4)
    found = seats(cell(Isolation.NONE), machine, None)

    assert {str(spec.cpus) for spec in found.values()} == {"0-3"}
    assert not any(spec.cache_ways for spec in found.values())


def test_pinned_members_get_whole_cores_of_their_own_in_one_cache() -> None:
    machine = make_topology(packages=2, cores_per_llc=4, threads_per_core=2)
    found = seats(cell(Isolation.PINNING), machine, None)

    assert {name: str(spec.cpus) for name, spec in found.items()} == {"w0": "0,2,8,10", "w1": "1,3,9,11"}
    assert all(not spec.cache_ways for spec in found.values())


def test_stacked_members_share_one_cpu() -> None:
    found = seats(cell(Isolation.STACKED, 3), make_topology(cores_per_llc=4), None)

    assert {str(spec.cpus) for spec in found.values()} == {"0"}
    assert len(found) == 3


@given(st.integers(2, 4), st.integers(8, 20), st.sampled_from([Isolation.CAT, Isolation.COMBINED]))
def test_ways_are_split_among_all_and_overlap_nowhere(members: int, ways: int, isolation: Isolation) -> None:
    machine = make_topology(cores_per_llc=4, llc_ways=ways)
    found = seats(cell(isolation, members), machine, l3(ways=ways))
    masks = [spec.cache_ways[0].mask for spec in found.values()]

    assert sum(map(len, masks)) == ways == len({way for mask in masks for way in mask})
    assert all(mask.contiguous for mask in masks)
    assert max(map(len, masks)) - min(map(len, masks)) < members


def test_ways_alone_leave_the_cpus_to_all() -> None:
    machine = make_topology(cores_per_llc=4)
    found = seats(cell(Isolation.CAT), machine, l3())

    assert {spec.cpus for spec in found.values()} == {CpuSet.parse("0-3")}


@pytest.mark.parametrize(
    ("isolation", "cores", "free_ways", "named"),
    [
        (Isolation.NONE, 1, None, ""),
        (Isolation.PINNING, 1, None, "one core"),
        (Isolation.PINNING, 2, None, ""),
        (Isolation.CAT, 2, None, "no RDT"),
        (Isolation.COMBINED, 2, 16, ""),
        (Isolation.CAT, 2, 3, "3 cache ways are free, 2 members need 4"),
    ],
)
def test_a_cell_that_the_host_cannot_do_says_why(
    isolation: Isolation, cores: int, free_ways: int | None, named: str
) -> None:
    machine = make_topology(cores_per_llc=cores)
    cache = None if free_ways is None else l3(ways=free_ways, least=2)
    reason = infeasible(cell(isolation), machine, cache, lacking(cache, "no RDT"))

    assert named in reason
    assert bool(named) == bool(reason)
