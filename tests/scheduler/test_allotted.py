"""What decisions say of cache ways and bandwidth, and that they change nothing else."""

from __future__ import annotations

import dataclasses

from isolation.cpuset import CpuSet
from isolation.resctrl_info import ResctrlInfo
from isolation.resctrl_mask import WayMask
from isolation.spec import CacheWays, MemoryBandwidth
from scheduler.ledger import Ledger
from scheduler.placement import Resident, Slo, WorkloadRequest
from scheduler.planner import allotted, rebalance
from scheduler.ways import Allotment, Rule, apportion
from tests.fakes.crowds import predictor, put
from tests.fakes.divided_caches import (
    PEAK,
    PROFILES,
    info,
    l3,
    mb,
    moving,
    resident,
    topology_of,
)


def crowded(controls: ResctrlInfo | None) -> Ledger:
    """Two CPUs taken: a hungry workload on 0, a streaming one on 2, next to the free 1 and 3."""
    return Ledger(
        topology_of(),
        (resident("hungry", "0", "small"), resident("streaming", "2", "streaming")),
        controls=controls,
        peak_bytes_per_s=PEAK,
    )


def test_a_decision_holds_what_the_newcomer_gets_and_says_by_which_rule() -> None:
    ledger = crowded(info(l3()))

    decision = put(ledger, PROFILES["large"])

    seated = Resident(name="new", cpus=decision.cpus, profile=PROFILES["large"], slo=Slo())
    assert decision.cache_ways == apportion(ledger.with_resident(seated), predictor())["new"].cache_ways
    assert decision.cache_ways == (CacheWays(cache_id=0, mask=WayMask(0x3FF0)),)
    assert decision.explanation.summary.endswith(
        "; it gets cache ways 4-13 of cache 0, its share by footprint (not in the prediction)."
    )


def test_resctrl_changes_neither_place_nor_prediction() -> None:
    without, with_it = (put(crowded(controls), PROFILES["large"]) for controls in (None, info(l3(), mb())))

    assert (without.cpus, without.predictions) == (with_it.cpus, with_it.predictions)
    assert without.explanation.candidates == with_it.explanation.candidates
    assert without.cache_ways == ()
    assert "it gets" not in without.explanation.summary


def test_a_bandwidth_cap_is_told() -> None:
    ledger = Ledger(
        topology_of(), (resident("bound", "0", moving(16), bound=9.0),), controls=info(mb()), peak_bytes_per_s=PEAK
    )

    decision = put(ledger, moving(8))

    assert decision.memory_bandwidth == (MemoryBandwidth(cache_id=0, percent=50),)
    assert decision.explanation.summary.endswith(
        "; it gets memory bandwidth of cache 0 held to 50 %, what those with a bound leave it (not in the prediction)."
    )


def test_another_allotment_takes_the_place_of_the_first_in_what_is_said() -> None:
    first = put(crowded(info(l3())), PROFILES["large"])
    without = put(crowded(None), PROFILES["large"])

    again = allotted(first, Allotment(cache_ways=(CacheWays(cache_id=0, mask=WayMask(3)),), rules={0: Rule.STREAMING}))

    assert again.explanation.summary.endswith(
        "; it gets cache ways 0-1 of cache 0, the few that streaming workloads share (not in the prediction)."
    )
    assert again.explanation.summary.count("it gets") == 1
    assert allotted(again, Allotment()) == without


def test_moves_carry_what_is_right_once_all_are_made() -> None:
    topology = topology_of(2)
    ledger = Ledger(
        topology,
        tuple(resident(name, "0", kind) for name, kind in (("a", "large"), ("b", "small"), ("c", "streaming"))),
        controls=info(l3(caches=2)),
        peak_bytes_per_s=PEAK,
    )
    requests = {one.name: WorkloadRequest(name=one.name, cpus=1) for one in ledger.residents}

    found = rebalance(ledger, requests, predictor(), max_moves=4, min_gain=0.01)

    after = ledger
    for name, decision in found.moves:
        moved = ledger.resident(name)
        assert moved is not None
        after = after.with_resident(dataclasses.replace(moved, cpus=decision.cpus))
    assert len(found.moves) == 2
    for name, decision in found.moves:
        assert decision.cache_ways == apportion(after, predictor())[name].cache_ways


def test_of_a_shared_class_only_the_caches_where_it_runs_are_told() -> None:
    ledger = Ledger(
        topology_of(2),
        (
            resident("a", "0", "streaming"),
            resident("b", "1", "small"),
            resident("c", "2-3", "calm"),
            resident("d", "4", "streaming"),
        ),
        controls=info(l3(caches=2, closids=3)),
        peak_bytes_per_s=PEAK,
    )

    decision = put(ledger, PROFILES["small"])

    assert decision.cpus <= CpuSet.parse("5-7")
    assert {one.cache_id for one in decision.cache_ways} == {0, 1}
    assert decision.explanation.summary.endswith(
        "; it gets cache ways 0-13 of cache 1, its share by footprint (not in the prediction)."
    )
