"""Who is held to how much memory bandwidth."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import pytest

from isolation.resctrl_info import BandwidthUnit
from isolation.spec import MemoryBandwidth
from scheduler.ledger import Ledger
from scheduler.placement import Resident
from scheduler.ways import Allotment, apportion
from tests.fakes.crowds import predictor
from tests.fakes.divided_caches import (
    MIB,
    PEAK,
    info,
    mb,
    moving,
    resident,
    shared_out,
    topology_of,
)
from tests.fakes.machines import make_topology


def caps(found: Mapping[str, Allotment]) -> dict[str, tuple[MemoryBandwidth, ...]]:
    return {name: one.memory_bandwidth for name, one in found.items()}


PERCENT = info(mb())


def test_best_effort_is_held_to_what_the_bound_leave() -> None:
    found = shared_out(
        PERCENT,
        resident("bound", "0", moving(12), bound=1.5),
        resident("a", "1", moving(8)),
        resident("b", "2", moving(8)),
        resident("c", "3", "unknown"),
    )

    half = (MemoryBandwidth(cache_id=0, percent=50),)  # 8 of the 16 GB/s that they want are left
    assert caps(found) == {"bound": (), "a": half, "b": half, "c": ()}


def test_percentages_are_rounded_up_to_a_step_and_not_below_the_least() -> None:
    def cap(*, bound: float, wanted: float, least: int = 10) -> int | None:
        found = shared_out(
            info(mb(least=least)), resident("x", "0", moving(bound), bound=2.0), resident("y", "1", moving(wanted))
        )
        return found["y"].memory_bandwidth[0].percent if found["y"].memory_bandwidth else None

    assert cap(bound=14, wanted=20) == 30  # exactly
    assert cap(bound=13.9, wanted=20) == 40
    assert cap(bound=25, wanted=20) == 10
    assert cap(bound=25, wanted=20, least=20) == 20
    assert cap(bound=1, wanted=20) is None  # 95 % are 100 in steps of 10


@pytest.mark.parametrize(
    ("unit", "bytes_per_s"),
    [
        (BandwidthUnit.MIB_PER_S, math.ceil(5.0001e9 / MIB) * MIB),
        (BandwidthUnit.EIGHTH_GB_PER_S, 41 * 125_000_000),
    ],
)
def test_caps_in_bytes_are_rounded_up_to_the_kernels_unit(unit: BandwidthUnit, bytes_per_s: int) -> None:
    control = dataclasses.replace(mb(unit), min_bandwidth=1, bandwidth_gran=1)

    found = shared_out(info(control), resident("x", "0", moving(14.9999), bound=2.0), resident("y", "1", moving(20)))

    assert caps(found) == {"x": (), "y": (MemoryBandwidth(cache_id=0, bytes_per_s=bytes_per_s),)}


@pytest.mark.parametrize(
    ("crowd", "peak", "why"),
    [
        ((resident("a", "0", moving(15)), resident("b", "1", moving(15))), PEAK, "nobody was promised anything"),
        ((resident("a", "0", moving(9), bound=2), resident("b", "1", moving(9))), PEAK, "there is enough"),
        ((resident("a", "0", moving(15), bound=2), resident("b", "1", moving(15))), None, "the peak is unknown"),
        ((resident("a", "0", moving(30), bound=2), resident("b", "1", "calm")), PEAK, "no demand is known"),
        ((resident("a", "0", moving(15), bound=2), resident("b", "4", moving(15))), PEAK, "another memory"),
    ],
)
def test_nobody_is_held_when_that_helps_nobody(crowd: tuple[Resident, ...], peak: float | None, why: str) -> None:
    ledger = Ledger(topology_of(2), crowd, controls=info(mb(caches=2)), peak_bytes_per_s=peak)

    assert set(caps(apportion(ledger, predictor())).values()) == {()}, why


def test_who_spans_caches_asks_each_for_its_share_of_cpus_there() -> None:
    found = shared_out(
        info(mb(caches=2)),
        resident("bound", "0", moving(16), bound=2.0),
        resident("wide", "1,4-6", moving(32)),  # 8 GB/s here, of which 4 are left
        caches=2,
    )

    assert caps(found)["wide"] == (MemoryBandwidth(cache_id=0, percent=50),)


def test_caps_in_bytes_need_a_class_each_and_the_smallest_demands_lose_theirs() -> None:
    control = dataclasses.replace(mb(BandwidthUnit.MIB_PER_S, closids=3), min_bandwidth=1, bandwidth_gran=1)

    found = shared_out(
        info(control),
        resident("bound", "0", moving(16), bound=2.0),
        *(resident(f"r{gb}", str(cpu), moving(gb)) for cpu, gb in ((1, 4), (2, 8), (3, 12))),
    )

    assert {name for name, one in caps(found).items() if one} == {"r8", "r12"}


def test_alike_workloads_capped_in_bytes_count_each_as_a_class() -> None:
    crowd = (
        resident("bound", "0", moving(16), bound=2.0),
        resident("a", "1", moving(8)),
        resident("b", "1", moving(8)),
    )

    def capped(closids: int) -> int:
        control = dataclasses.replace(mb(BandwidthUnit.MIB_PER_S, closids=closids), min_bandwidth=1, bandwidth_gran=1)
        return sum(bool(one) for one in caps(shared_out(info(control), *crowd)).values())

    assert [capped(closids) for closids in (3, 2)] == [2, 0]


def test_percentages_are_not_pushed_up_by_arithmetic() -> None:
    found = shared_out(
        info(mb(least=1, step=1)), resident("x", "0", moving(14.4), bound=2.0), resident("y", "1", moving(20))
    )

    assert 100 * 0.28 > 28
    assert caps(found)["y"] == (MemoryBandwidth(cache_id=0, percent=28),)


def test_who_asks_for_less_than_the_least_cap_is_not_held() -> None:
    control = dataclasses.replace(mb(BandwidthUnit.EIGHTH_GB_PER_S), min_bandwidth=1, bandwidth_gran=1)

    found = shared_out(info(control), resident("x", "0", moving(21), bound=2.0), resident("y", "1", moving(0.1)))

    assert caps(found)["y"] == ()


def test_nobody_on_a_core_of_a_bound_one_is_capped_where_a_core_has_one_throttle() -> None:
    topology = make_topology(cores_per_llc=2, threads_per_core=2)  # 2 and 3 are the siblings of 0 and 1

    def capped(cpu: str, mode: str) -> bool:
        controls = info(dataclasses.replace(mb(), thread_throttle_mode=mode))
        residents = (resident("bound", "0", moving(12), bound=1.5), resident("other", cpu, moving(16)))
        ledger = Ledger(topology, residents, controls=controls, peak_bytes_per_s=PEAK)
        return bool(apportion(ledger, predictor())["other"].memory_bandwidth)

    assert [capped("2", "max"), capped("3", "max")] == [False, True]
    assert [capped("2", "per-thread"), capped("3", "per-thread")] == [True, True]
