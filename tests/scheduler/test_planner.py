"""Where a newcomer goes, who is protected, and what is said about it."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isolation.cpuset import CpuSet, NodeSet
from isolation.topology import NumaNode, Topology
from profiler.prediction import PairModel
from profiler.records import WorkloadProfile
from scheduler.errors import NoFeasiblePlacement, NotEnoughCpus
from scheduler.ledger import Ledger
from scheduler.placement import Decision, EngineAdvice, PredictedSlowdown, Resident, Slo, SloClass, WorkloadRequest
from scheduler.planner import RULES, plan, rebalance
from scheduler.predictor import Predictor
from scheduler.scoring import total_cost
from tests.fakes.machines import make_topology
from tests.fakes.predictions import HOST, PriorPairs, hog, idler, make_profile, streamer

PROFILES: dict[str, WorkloadProfile | None] = {
    "hog": hog(),
    "streamer": streamer(),
    "idler": idler(),
    "unknown": None,
}
SLOS = st.builds(
    Slo, slo_class=st.sampled_from(SloClass), max_slowdown=st.none() | st.floats(min_value=1.0, max_value=4.0)
)


@st.composite
def crowds(draw: st.DrawFn) -> Ledger:
    topology = draw(
        st.builds(
            make_topology,
            packages=st.integers(1, 2),
            llcs_per_node=st.integers(1, 2),
            cores_per_llc=st.integers(1, 3),
            threads_per_core=st.integers(1, 2),
        )
    )
    residents = draw(
        st.lists(
            st.tuples(st.integers(1, topology.usable.mask), st.sampled_from(list(PROFILES)), SLOS, st.just(1.0)),
            max_size=5,
        )
    )
    return Ledger(
        topology,
        tuple(
            Resident(name=f"r{number}", cpus=CpuSet(mask), profile=PROFILES[kind], slo=slo, weight=weight)
            for number, (mask, kind, slo, weight) in enumerate(residents)
        ),
    )


def predictor(*, width: float = 1.2) -> Predictor:
    return Predictor(PriorPairs(width=width), "model-1", "")


def seat(ledger: Ledger, name: str, cpus: str, profile: WorkloadProfile | None, **slo: object) -> Ledger:
    promised = Slo(**slo)  # type: ignore[arg-type]
    return ledger.with_resident(Resident(name=name, cpus=CpuSet.parse(cpus), profile=profile, slo=promised))


def put(
    ledger: Ledger,
    profile: WorkloadProfile | None,
    *,
    cpus: int = 1,
    best_effort: bool = False,
    width: float = 1.2,
    whole_cores: bool = False,
    memory_bytes: int | None = None,
    **slo: object,
) -> Decision:
    request = WorkloadRequest(
        name="new",
        cpus=cpus,
        whole_cores=whole_cores,
        memory_bytes=memory_bytes,
        slo=Slo(**slo),  # type: ignore[arg-type]
    )
    return plan(request, profile, ledger, predictor(width=width), allow_best_effort=best_effort)


def of(decision: Decision, workload: str) -> PredictedSlowdown:
    return next(one for one in decision.predictions if one.workload == workload)


TWO_CPUS = Ledger(make_topology(cores_per_llc=2))
TWO_PACKAGES = Ledger(make_topology(packages=2, cores_per_llc=2))


# --- laws ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(crowds(), st.sampled_from(list(PROFILES)), SLOS, st.data())
def test_the_choice_keeps_every_bound_costs_least_and_comes_out_the_same_again(
    ledger: Ledger, kind: str, slo: Slo, data: st.DataObject
) -> None:
    cpus = data.draw(st.integers(1, len(ledger.topology.usable)))
    request = WorkloadRequest(name="new", cpus=cpus, slo=slo)
    try:
        decision = plan(request, PROFILES[kind], ledger, predictor(), allow_best_effort=False)
    except NoFeasiblePlacement:
        return
    again = plan(
        request, PROFILES[kind], Ledger(ledger.topology, ledger.residents), predictor(), allow_best_effort=False
    )

    listed = decision.explanation.candidates
    assert again == decision
    assert listed[0].cpus == decision.cpus
    assert listed[0].feasible
    assert all(one.cost >= listed[0].cost - 1e-8 for one in listed if one.feasible)
    assert all(bool(one.reason) != one.feasible for one in listed)
    assert len(listed) == min(8, decision.explanation.candidates_considered)
    assert set(listed[0].predictions) <= set(decision.predictions)
    assert decision.explanation.decided_by in {name for name, _ in RULES} | {"no other CPU set differs"}


@settings(max_examples=60, deadline=None)
@given(crowds(), st.sampled_from(list(PROFILES)), st.integers(1, 2))
def test_nobody_is_pushed_over_a_bound_even_for_best_effort(ledger: Ledger, kind: str, cpus: int) -> None:
    wanted = min(cpus, len(ledger.topology.usable))
    request = WorkloadRequest(name="new", cpus=wanted, slo=Slo(max_slowdown=1.0))
    try:
        decision = plan(request, PROFILES[kind], ledger, predictor(), allow_best_effort=True)
    except NoFeasiblePlacement:
        return
    after = ledger.with_resident(Resident(name="new", cpus=decision.cpus, profile=PROFILES[kind], slo=request.slo))

    for resident in ledger.residents:
        bound = resident.slo.max_slowdown or math.inf
        before_sf, after_sf = felt(ledger, resident.name), felt(after, resident.name)
        assert after_sf.upper <= bound + 1e-6 or (
            before_sf.upper > bound and after_sf.slowdown <= before_sf.slowdown * 1.0011
        )


def felt(ledger: Ledger, name: str) -> PredictedSlowdown:
    """Predict a resident as if it came now, which must agree with what planning says of it as a neighbour."""
    resident = ledger.resident(name)
    assert resident is not None
    rest = dataclasses.replace(ledger.topology, usable=resident.cpus)
    others = tuple(dataclasses.replace(one, slo=Slo()) for one in ledger.residents if one.name != name)
    request = WorkloadRequest(name=name, cpus=len(resident.cpus))
    decision = plan(request, resident.profile, Ledger(rest, others), predictor(), allow_best_effort=True)
    assert decision.cpus == resident.cpus
    return of(decision, name)


@settings(max_examples=40, deadline=None)
@given(crowds(), st.sampled_from(list(PROFILES)), st.sampled_from(list(PROFILES)), st.data())
def test_another_neighbour_never_lowers_a_prediction(
    ledger: Ledger, kind: str, other: str, data: st.DataObject
) -> None:
    ledger = Ledger(ledger.topology, tuple(dataclasses.replace(one, slo=Slo()) for one in ledger.residents))
    everything = len(ledger.topology.usable)
    mask = data.draw(st.integers(1, ledger.topology.usable.mask))
    more = ledger.with_resident(Resident(name="more", cpus=CpuSet(mask), profile=PROFILES[other], slo=Slo()))

    before = put(ledger, PROFILES[kind], cpus=everything)
    after = put(more, PROFILES[kind], cpus=everything)

    for one in before.predictions:
        assert of(after, one.workload).slowdown >= one.slowdown - 1e-9
        assert of(after, one.workload).upper >= one.upper - 1e-9


@settings(max_examples=30, deadline=None)
@given(crowds(), st.sampled_from(list(PROFILES)))
def test_what_is_predicted_of_residents_agrees_with_the_ledger_after_the_placement(ledger: Ledger, kind: str) -> None:
    ledger = Ledger(ledger.topology, tuple(dataclasses.replace(one, slo=Slo()) for one in ledger.residents))
    decision = put(ledger, PROFILES[kind])
    newcomer = Resident(name="new", cpus=decision.cpus, profile=PROFILES[kind], slo=Slo())
    before, after = (total_cost(each, predictor()) for each in (ledger, ledger.with_resident(newcomer)))

    assert decision.explanation.candidates[0].cost == pytest.approx(after - before, abs=1e-6)


# --- where it goes ------------------------------------------------------------------------


def test_an_empty_host_gives_the_lowest_cpu() -> None:
    decision = put(TWO_CPUS, hog())

    assert str(decision.cpus) == "0"
    assert decision.explanation.summary == (
        "new goes to CPU 0: nobody there shares anything with it; no other CPU set differs."
    )


def test_equal_costs_end_in_the_lowest_cpu_numbers() -> None:
    ledger = seat(seat(TWO_CPUS, "a", "0", hog("a")), "b", "1", hog("b"))

    decision = put(ledger, hog())

    assert str(decision.cpus) == "0"
    assert decision.explanation.decided_by == "lowest CPU numbers"
    assert decision.explanation.candidates_considered == 2


def test_a_busy_cpu_is_left_for_a_free_one() -> None:
    decision = put(seat(TWO_CPUS, "busy", "0", hog()), hog())

    assert str(decision.cpus) == "1"
    assert decision.explanation.decided_by == "lowest cost"
    assert of(decision, "new").slowdown == pytest.approx(1.0)


def test_with_no_cpu_free_it_joins_the_one_that_waits() -> None:
    ledger = seat(seat(TWO_CPUS, "waits", "1", idler()), "busy", "0", hog())

    assert str(put(ledger, hog()).cpus) == "1"


def test_a_streaming_neighbour_is_avoided_while_another_cache_is_free() -> None:
    ledger = seat(TWO_PACKAGES, "stream", "0", streamer())

    decision = put(ledger, streamer("other"))

    assert str(decision.cpus) == "2"
    assert decision.explanation.decided_by == "lowest cost"
    beside = next(one for one in decision.explanation.candidates if str(one.cpus) == "1")
    assert beside.cost > decision.explanation.candidates[0].cost


def test_smt_siblings_of_a_busy_core_are_avoided() -> None:
    ledger = seat(Ledger(make_topology(cores_per_llc=2, threads_per_core=2)), "busy", "0", hog())

    assert str(put(ledger, hog()).cpus) == "1"


def test_on_a_quiet_host_threads_spread_over_cores_of_one_node() -> None:
    host = Ledger(make_topology(packages=2, cores_per_llc=4, threads_per_core=2))

    assert str(put(host, hog(), cpus=4).cpus) == "0-3"
    assert str(put(host, hog(), cpus=8).cpus) == "0-3,8-11"
    assert str(put(host, hog(), cpus=4, whole_cores=True).cpus) == "0-1,8-9"


def renumbered(topology: Topology, ids: list[int]) -> Topology:
    """Give the CPUs other numbers, as firmware does that deals them out in turn: old id -> ids[old id]."""

    def moved(cpus: CpuSet) -> CpuSet:
        return CpuSet.of(ids[cpu] for cpu in cpus)

    cpus = sorted(
        (dataclasses.replace(cpu, id=ids[cpu.id], core=ids[cpu.core], l2=ids[cpu.core]) for cpu in topology.cpus),
        key=lambda cpu: cpu.id,
    )
    return dataclasses.replace(
        topology,
        cpus=tuple(cpus),
        llc_domains=tuple(dataclasses.replace(one, cpus=moved(one.cpus)) for one in topology.llc_domains),
        nodes=tuple(dataclasses.replace(one, cpus=moved(one.cpus)) for one in topology.nodes),
    )


@pytest.mark.parametrize(
    ("topology", "rule"),
    [
        (make_topology(packages=2, cores_per_llc=2), "fewest NUMA nodes"),
        (make_topology(packages=2, nodes_per_package=2, cores_per_llc=1), "fewest packages"),
        (make_topology(cores_per_llc=2, llcs_per_node=2), "fewest last-level caches"),
    ],
)
def test_equal_costs_go_by_nearness_before_numbers(topology: Topology, rule: str) -> None:
    # neighbours get every second number: 0 and 2 belong together, 1 and 3 too
    decision = put(Ledger(renumbered(topology, [0, 2, 1, 3])), hog(), cpus=2)

    assert (str(decision.cpus), decision.explanation.decided_by) == ("0,2", rule)


def test_equal_costs_prefer_cores_of_its_own_to_siblings_with_lower_numbers() -> None:
    siblings_side_by_side = renumbered(make_topology(cores_per_llc=2, threads_per_core=2), [0, 2, 1, 3])

    decision = put(Ledger(siblings_side_by_side), hog(), cpus=2)

    assert (str(decision.cpus), decision.explanation.decided_by) == ("0,2", "most physical cores")


def test_weight_and_class_decide_whose_neighbourhood_is_spared() -> None:
    important = seat(TWO_CPUS, "plain", "1", hog("p"))
    important = seat(important, "urgent", "0", hog("u"), slo_class=SloClass.LATENCY)
    heavy = TWO_CPUS.with_resident(
        Resident(name="heavy", cpus=CpuSet.parse("0"), profile=hog("h"), slo=Slo(), weight=3.0)
    )
    heavy = seat(heavy, "light", "1", hog("l"))

    assert str(put(important, hog()).cpus) == "1"
    assert str(put(heavy, hog()).cpus) == "1"


def test_more_cpus_than_there_are_is_refused() -> None:
    with pytest.raises(NotEnoughCpus, match="3 CPUs were asked for, 2 are usable here"):
        put(TWO_CPUS, hog(), cpus=3)


# --- bounds -------------------------------------------------------------------------------


def test_a_residents_bound_sends_the_newcomer_elsewhere_and_is_named() -> None:
    ledger = seat(TWO_CPUS, "chat", "1", idler("chat", cpu_utilisation_ratio=0.8), max_slowdown=1.1)
    ledger = seat(seat(ledger, "one", "0", hog("a")), "two", "0", hog("b"))

    decision = put(ledger, hog())

    assert str(decision.cpus) == "0"
    assert decision.explanation.decided_by == "bounds kept"
    assert decision.explanation.binding_constraint.startswith("max_slowdown of 'chat': up to 1.72x predicted, 1.10x")
    assert decision.explanation.candidates[1].reason == decision.explanation.binding_constraint


def test_the_upper_end_must_fit_not_the_middle() -> None:
    ledger = seat(TWO_CPUS, "a", "0-1", hog())  # doubles it on every CPU

    assert put(ledger, hog("b"), max_slowdown=2.5, width=1.2).cpus
    with pytest.raises(NoFeasiblePlacement):
        put(ledger, hog("b"), max_slowdown=2.1, width=1.2)


def test_a_refusal_names_bound_owner_prediction_limit_and_nearest_cpus() -> None:
    ledger = seat(seat(TWO_CPUS, "a", "0", hog("a")), "chat", "1", hog("chat", tbt_p99_s=0.1), tbt_ms=120.0)

    with pytest.raises(NoFeasiblePlacement) as refused:
        put(ledger, hog(), max_slowdown=1.9)

    assert str(refused.value) == (
        "no place for 'new' on 1 CPU: every CPU set breaks a bound; nearest is CPU 0, where max_slowdown of 'new': "
        "up to 2.20x predicted, 1.90x allowed; raise the bound, release a neighbour or allow best effort"
    )


def test_a_refusal_for_a_neighbours_sake_speaks_milliseconds_and_offers_no_best_effort() -> None:
    ledger = seat(TWO_CPUS, "chat", "0-1", hog("chat", tbt_p99_s=0.1), tbt_ms=120.0)

    with pytest.raises(NoFeasiblePlacement) as refused:
        put(ledger, hog(), best_effort=True)

    said = str(refused.value)
    assert "tbt_ms of 'chat': up to 160 ms predicted (1.60x of 100 ms alone), 120 ms allowed" in said
    assert "best effort" not in said


def test_best_effort_gives_up_the_newcomers_own_bound_and_says_so() -> None:
    ledger = seat(TWO_CPUS, "a", "0-1", hog())

    decision = put(ledger, hog("b"), max_slowdown=1.5, best_effort=True)

    assert decision.best_effort
    assert decision.explanation.binding_constraint == "max_slowdown of 'new': up to 2.20x predicted, 1.50x allowed"
    assert "best effort, because its bound cannot be kept" in decision.explanation.summary


def test_best_effort_is_not_used_where_a_place_keeps_every_bound() -> None:
    decision = put(seat(TWO_CPUS, "a", "0", hog()), hog("b"), max_slowdown=1.5, best_effort=True)

    assert not decision.best_effort
    assert str(decision.cpus) == "1"


def test_a_resident_over_its_bound_is_not_made_worse_but_bars_nobody_elsewhere() -> None:
    ledger = seat(TWO_CPUS, "sore", "0", hog("sore"), max_slowdown=1.2)
    ledger = seat(ledger, "bully", "0", hog("bully"))
    for name in ("c", "d", "e"):
        ledger = seat(ledger, name, "1", hog(name))

    decision = put(ledger, hog())

    assert str(decision.cpus) == "1"
    assert decision.explanation.candidates[1].cost < decision.explanation.candidates[0].cost
    assert "it is over already and must not get worse" in decision.explanation.binding_constraint


@pytest.mark.parametrize(
    ("quantile", "allowed_ms", "fits"),
    [(0.99, 50.0, True), (0.99, 40.0, False), (0.5, 23.0, True), (0.5, 21.0, False)],
)
def test_a_token_bound_is_judged_on_the_tail_or_the_median_by_its_quantile(
    quantile: float, allowed_ms: float, *, fits: bool
) -> None:
    ledger = seat(TWO_CPUS, "a", "0-1", hog())  # upper end 2.2x: tail 44 ms, median 22 ms
    tokens = make_profile("agent", cpu_utilisation_ratio=1.0, tbt_s=0.010, tbt_p99_s=0.020)

    if fits:
        assert put(ledger, tokens, tbt_ms=allowed_ms, quantile=quantile).cpus
    else:
        with pytest.raises(NoFeasiblePlacement, match="tbt_ms of 'new'"):
            put(ledger, tokens, tbt_ms=allowed_ms, quantile=quantile)


def test_the_tightest_of_several_bounds_counts() -> None:
    ledger = seat(TWO_CPUS, "a", "0-1", hog())
    agent = make_profile("agent", cpu_utilisation_ratio=1.0, ttft_s=1.0, ttlt_s=10.0)

    assert put(ledger, agent, ttft_ms=2300.0, ttlt_ms=23_000.0).cpus
    with pytest.raises(NoFeasiblePlacement, match="ttlt_ms of 'new': up to 22000 ms predicted"):
        put(ledger, agent, ttft_ms=2300.0, ttlt_ms=21_000.0)


def test_a_bound_that_cannot_be_judged_is_reported_not_passed_in_silence() -> None:
    ledger = seat(TWO_CPUS, "mute", "0-1", hog("mute"), ttft_ms=5.0)

    decision = put(ledger, None, tbt_ms=1.0)

    assert "not judged: tbt_ms (there is no profile) of 'new'" in decision.explanation.summary
    assert "ttft_ms (profile 'mute' holds no ttft_s) of 'mute'" in decision.explanation.summary


# --- what is said -------------------------------------------------------------------------


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


def test_without_a_model_the_placement_is_the_same_each_time_and_labelled() -> None:
    request = WorkloadRequest(name="new", cpus=1)
    ledger = seat(TWO_CPUS, "busy", "0", hog())

    decisions = [
        plan(request, hog(), ledger, Predictor(PriorPairs(), "", "no model"), allow_best_effort=False) for _ in range(3)
    ]

    assert decisions[0] == decisions[1] == decisions[2]
    assert decisions[0].fallback == "no model"
    assert decisions[0].explanation.model_id == ""


def test_the_real_pair_model_without_training_places_by_prior() -> None:
    ledger = seat(TWO_PACKAGES, "stream", "0", streamer())
    untrained = Predictor(PairModel(None, HOST), "", "no model trained yet")

    decision = plan(WorkloadRequest(name="new", cpus=1), streamer("b"), ledger, untrained, allow_best_effort=False)

    assert str(decision.cpus) == "2"
    assert decision.fallback == "no model trained yet"


def test_all_predictions_of_a_decision_are_one_batch_beside_the_residents_own() -> None:
    model = PriorPairs()
    ledger = seat(seat(TWO_PACKAGES, "a", "0", hog("a")), "b", "1-2", streamer("b"))
    asks = Predictor(model, "m", "")
    request = WorkloadRequest(name="new", cpus=2)

    plan(request, idler(), ledger, asks, allow_best_effort=False)
    after_first = len(model.batches)
    plan(request, idler(), ledger, asks, allow_best_effort=False)

    assert after_first == 2  # residents among themselves, then all candidates in both directions
    assert len(model.batches) == after_first


# --- memory and advice --------------------------------------------------------------------


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


# --- rebalance ----------------------------------------------------------------------------


def requests(ledger: Ledger) -> dict[str, WorkloadRequest]:
    return {
        one.name: WorkloadRequest(name=one.name, cpus=len(one.cpus), slo=one.slo, weight=one.weight)
        for one in ledger.residents
    }


def test_rebalance_parts_two_that_sit_on_one_cpu() -> None:
    ledger = seat(seat(TWO_CPUS, "a", "0", hog("a")), "b", "0", hog("b"))

    found = rebalance(ledger, requests(ledger), predictor(), max_moves=4, min_gain=0.05)

    assert [(name, str(decision.cpus)) for name, decision in found.moves] == [("a", "1")]
    assert found.cost_before == pytest.approx(2 * math.log(2))
    assert found.cost_after == pytest.approx(0.0)


def test_rebalance_keeps_still_when_the_gain_is_too_small_or_no_move_is_allowed() -> None:
    ledger = seat(seat(seat(TWO_CPUS, "a", "0", hog("a")), "b", "0", hog("b")), "c", "1", idler("c"))
    settled = seat(seat(TWO_CPUS, "a", "0", hog("a")), "b", "1", hog("b"))

    assert rebalance(ledger, requests(ledger), predictor(), max_moves=0, min_gain=0.0).moves == []
    assert rebalance(ledger, requests(ledger), predictor(), max_moves=4, min_gain=0.999).moves == []
    assert rebalance(ledger, {}, predictor(), max_moves=4, min_gain=0.0).moves == []
    assert rebalance(settled, requests(settled), predictor(), max_moves=4, min_gain=0.0).moves == []


@settings(max_examples=25, deadline=None)
@given(crowds(), st.integers(1, 3))
def test_rebalance_moves_each_once_and_reports_the_cost_it_reaches(ledger: Ledger, most: int) -> None:
    found = rebalance(ledger, requests(ledger), predictor(), max_moves=most, min_gain=0.02)
    for name, decision in found.moves:
        resident = ledger.resident(name)
        assert resident is not None
        ledger = ledger.with_resident(dataclasses.replace(resident, cpus=decision.cpus))

    assert len({name for name, _ in found.moves}) == len(found.moves) <= most
    assert found.cost_after == pytest.approx(total_cost(ledger, predictor()))
    assert found.cost_after <= found.cost_before * 0.98 ** len(found.moves) + 1e-9


def test_rebalance_never_breaks_a_bound_that_is_kept() -> None:
    ledger = seat(TWO_CPUS, "chat", "0", idler("chat", cpu_utilisation_ratio=0.9), max_slowdown=1.3)
    for name in ("a", "b", "c"):
        ledger = seat(ledger, name, "1", hog(name))

    assert rebalance(ledger, requests(ledger), predictor(), max_moves=4, min_gain=0.0).moves == []


def test_rebalance_does_not_save_one_neighbour_by_breaking_the_movers_own_bound() -> None:
    ledger = seat(TWO_CPUS, "heavy", "0", hog("a"), slo_class=SloClass.LATENCY, max_slowdown=1.5)
    for name in ("b", "c", "d"):
        ledger = seat(ledger, name, "1", hog(name))
    bounded = seat(ledger, "mover", "0-1", hog("m"), max_slowdown=3.7)
    free = seat(ledger, "mover", "0-1", hog("m"))
    asked = {"mover": WorkloadRequest(name="mover", cpus=1, slo=Slo(max_slowdown=3.7))}
    asked_freely = {"mover": WorkloadRequest(name="mover", cpus=1)}

    kept = rebalance(bounded, asked, predictor(), max_moves=1, min_gain=0.0)
    moved = rebalance(free, asked_freely, predictor(), max_moves=1, min_gain=0.0)

    assert kept.moves == []
    assert [(name, str(decision.cpus)) for name, decision in moved.moves] == [("mover", "1")]
