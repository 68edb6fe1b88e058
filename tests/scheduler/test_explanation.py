"""What is said about a decision: summary, causes, fallback, memory and engine advice."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import replace

import pytest

from isolation.cpuset import CpuSet, NodeSet
from isolation.topology import NumaNode
from profiler.prediction import PairModel
from profiler.records import SlowdownEstimate
from scheduler.errors import NotEnoughMemory
from scheduler.ledger import Ledger
from scheduler.placement import EngineAdvice, WorkloadRequest
from scheduler.planner import plan
from scheduler.predictor import Pair, Predictor
from tests.fakes.crowds import TWO_CPUS, TWO_PACKAGES, of, put, seat
from tests.fakes.machines import make_topology
from tests.fakes.predictions import HOST, PriorPairs, hog, idler, streamer


def test_the_summary_tells_place_prediction_cause_worst_hit_and_rule() -> None:
    ledger = seat(seat(TWO_CPUS, "mem", "0", streamer("mem")), "cpu", "1", hog("cpu"))

    summary = put(ledger, hog()).explanation.summary

    assert re.fullmatch(
        r"new goes to CPU 0: there it is predicted to take 2\.00x \(1\.83-2\.20\) as long as alone, most of it "
        r"time_sharing with mem; hit worst is mem, from 1\.00x to 2\.00x; best of 2 CPU sets by lowest CPU numbers\.",
        summary,
    ), summary


def test_contributions_multiply_to_the_newcomers_slowdown_beside_one_neighbour() -> None:
    sibling_only = make_topology(cores_per_llc=1, threads_per_core=2, usable=CpuSet.parse("1"))

    decision = put(seat(Ledger(sibling_only), "a", "0", streamer("a")), streamer("b"))

    assert {one.cause for one in decision.explanation.contributions} == {"smt", "bandwidth"}
    assert {one.aggressor for one in decision.explanation.contributions} == {"a"}
    assert math.prod(one.factor for one in decision.explanation.contributions) == pytest.approx(
        of(decision, "new").slowdown
    )


def test_every_resident_that_shares_something_is_predicted_and_nobody_else() -> None:
    ledger = TWO_PACKAGES
    for number in range(3):
        ledger = seat(ledger, f"here{number}", "0-1", idler())
    ledger = seat(ledger, "far", "2-3", hog())

    decision = put(ledger, idler("n"), cpus=2)

    assert str(decision.cpus) == "0-1"
    assert [one.workload for one in decision.predictions] == ["new", "here0", "here1", "here2"]


def test_an_unknown_workload_is_placed_like_a_hog_and_labelled() -> None:
    ledger = seat(TWO_CPUS, "busy", "0", hog())

    decision = put(ledger, None)

    assert str(decision.cpus) == "1"
    assert "no profile" in decision.fallback
    assert put(ledger, hog()).fallback == ""


class _Unsure(PriorPairs):
    """Knows nothing of streamers."""

    def _one(self, pair: Pair) -> SlowdownEstimate:
        return replace(super()._one(pair), far_from_training=streamer() in pair)


def test_neighbours_beside_whom_the_prior_stood_in_are_labelled() -> None:
    ledger = seat(seat(TWO_CPUS, "busy", "0", hog()), "stream", "1", streamer())
    unsure = Predictor(_Unsure(), "m1", "", HOST.fingerprint)

    decision = plan(WorkloadRequest(name="new", cpus=1), idler(), ledger, unsure, allow_best_effort=False)

    assert "; beside 1 of 2 kinds of neighbours the prior speaks for the model" in decision.explanation.summary
    assert decision.fallback == ""


def test_without_a_model_the_placement_is_the_same_each_time_and_labelled() -> None:
    request = WorkloadRequest(name="new", cpus=1)
    ledger = seat(TWO_CPUS, "busy", "0", hog())

    decisions = [
        plan(request, hog(), ledger, Predictor(PriorPairs(), "", "no model", HOST.fingerprint), allow_best_effort=False)
        for _ in range(3)
    ]

    assert decisions[0] == decisions[1] == decisions[2]
    assert decisions[0].fallback == "no model"
    assert decisions[0].explanation.model_id == ""


def test_the_real_pair_model_without_training_places_by_prior() -> None:
    ledger = seat(TWO_PACKAGES, "stream", "0", streamer())
    untrained = Predictor(PairModel(None, HOST), "", "no model trained yet", HOST.fingerprint)

    decision = plan(WorkloadRequest(name="new", cpus=1), streamer("b"), ledger, untrained, allow_best_effort=False)

    assert str(decision.cpus) == "2"
    assert decision.fallback == "no model trained yet"


def test_all_predictions_of_a_decision_are_one_batch_beside_the_residents_own() -> None:
    model = PriorPairs()
    ledger = seat(seat(TWO_PACKAGES, "a", "0", hog("a")), "b", "1-2", streamer("b"))
    asks = Predictor(model, "m", "", HOST.fingerprint)
    request = WorkloadRequest(name="new", cpus=2)

    plan(request, idler(), ledger, asks, allow_best_effort=False)
    after_first = len(model.batches)
    plan(request, idler(), ledger, asks, allow_best_effort=False)

    assert after_first == 2  # residents among themselves, then all candidates in both directions
    assert len(model.batches) == after_first


def test_a_profile_taken_on_another_number_of_cpus_is_marked() -> None:
    wide = dataclasses.replace(hog("wide"), cpus=4)

    assert "profile 'wide' was taken on 4 CPUs, not 2: its demand per CPU is taken as measured" in (
        put(TWO_CPUS, wide, cpus=2).explanation.summary
    )
    assert "profile 'hog' was taken on 1 CPU, not 2" in put(TWO_CPUS, hog(), cpus=2).explanation.summary
    assert "was taken on" not in put(TWO_CPUS, hog()).explanation.summary


def test_a_host_with_one_node_leaves_memory_alone() -> None:
    decision = put(TWO_CPUS, hog())

    assert decision.mems is None
    assert decision.engine_advice == EngineAdvice(decode_threads=1, prefill_threads=1, numa="")


def test_memory_comes_from_the_nodes_of_the_cpus() -> None:
    host = Ledger(make_topology(packages=2, cores_per_llc=2, threads_per_core=2))

    inside = put(seat(host, "a", "0-1,4-5", hog()), hog("b"), cpus=4)
    across = put(host, hog(), cpus=8)

    assert (str(inside.cpus), inside.mems) == ("2-3,6-7", NodeSet.parse("1"))
    assert inside.engine_advice == EngineAdvice(decode_threads=2, prefill_threads=4, numa="isolate")
    assert across.mems == NodeSet.parse("0-1")
    assert across.engine_advice == EngineAdvice(decode_threads=4, prefill_threads=8, numa="distribute")


def test_memory_larger_than_its_node_takes_the_nearest_node_too() -> None:
    host = Ledger(make_topology(packages=2, nodes_per_package=2, cores_per_llc=1, node_memory_bytes=2**30))

    assert put(host, hog(), memory_bytes=2**29).mems == NodeSet.parse("0")
    assert put(host, hog(), memory_bytes=2**30 + 1).mems == NodeSet.parse("0-1")


def test_more_memory_than_all_nodes_have_is_refused_unless_a_size_is_unknown() -> None:
    topology = make_topology(packages=2, cores_per_llc=1, node_memory_bytes=2**30)
    unknown = dataclasses.replace(topology.nodes[1], memory_bytes=None)

    assert put(Ledger(topology), hog(), memory_bytes=2**31).mems == NodeSet.parse("0-1")
    with pytest.raises(NotEnoughMemory, match=f"{2**31 + 1} bytes .* 'new', .* have {2**31}; ask for less"):
        put(Ledger(topology), hog(), memory_bytes=2**31 + 1)
    assert put(
        Ledger(dataclasses.replace(topology, nodes=(topology.nodes[0], unknown))), hog(), memory_bytes=2**40
    ).mems == NodeSet.parse("0-1")


def test_a_node_without_cpus_is_used_only_when_the_others_do_not_suffice() -> None:
    topology = make_topology(cores_per_llc=2, node_memory_bytes=2**30)
    far = NumaNode(id=1, memory_bytes=2**34, cpus=CpuSet(), distances=(30, 10))
    near = dataclasses.replace(topology.nodes[0], distances=(10, 30))
    host = Ledger(dataclasses.replace(topology, nodes=(near, far)))

    assert put(host, hog()).mems == NodeSet.parse("0")
    assert put(host, hog(), memory_bytes=2**33).mems == NodeSet.parse("0-1")


def test_cpus_whose_node_has_no_memory_come_last_and_use_the_nearest_memory() -> None:
    topology = make_topology(packages=2, cores_per_llc=1)
    bare = dataclasses.replace(topology.nodes[0], memory_bytes=0)
    host = Ledger(dataclasses.replace(topology, nodes=(bare, topology.nodes[1])))

    free = put(host, hog())
    pushed = put(seat(host, "a", "1", hog("a")), hog())

    assert (str(free.cpus), free.mems) == ("1", NodeSet.parse("1"))
    assert (str(pushed.cpus), pushed.mems) == ("0", NodeSet.parse("1"))
