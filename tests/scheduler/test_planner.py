"""Where a newcomer goes: laws that hold on any host, and the rules one by one."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isolation.cpuset import CpuSet
from isolation.topology import Topology
from scheduler.errors import NoFeasiblePlacement, NotEnoughCpus
from scheduler.ledger import Ledger
from scheduler.placement import PredictedSlowdown, Resident, Slo, SloClass, WorkloadRequest
from scheduler.planner import RULES, plan
from scheduler.scoring import CLASS_FACTOR, total_cost
from tests.fakes.crowds import PROFILES, SLOS, TWO_CPUS, TWO_PACKAGES, crowds, of, predictor, put, seat
from tests.fakes.machines import make_topology
from tests.fakes.predictions import hog, idler, streamer


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


#: So little of a CPU each that no CPU of `crowds` is ever full.
LIGHT = {
    "streamer": streamer(cpu_utilisation_ratio=0.1),
    "half streamer": streamer(cpu_utilisation_ratio=0.1, memory_bytes_per_s=8e9),
    "idler": idler(),
}


@settings(max_examples=40, deadline=None)
@given(crowds(), st.sampled_from(["full", "light"]), st.data())
def test_another_neighbour_never_lowers_a_prediction(ledger: Ledger, load: str, data: st.DataObject) -> None:
    """Unless it takes time from those who press from other CPUs: so either no CPU is full, or all are everybody's."""
    everything = ledger.topology.usable
    full = load == "full"
    kinds = PROFILES if full else LIGHT
    profiles = [kinds[data.draw(st.sampled_from(list(kinds)))] for _ in range(len(ledger.residents) + 2)]
    masks = [one.cpus if not full else everything for one in ledger.residents]
    masks.append(everything if full else CpuSet(data.draw(st.integers(1, everything.mask))))
    *some, last = (
        Resident(name=f"r{number}", cpus=cpus, profile=profile, slo=Slo())
        for number, (cpus, profile) in enumerate(zip(masks, profiles[1:], strict=True))
    )
    ledger = Ledger(ledger.topology, tuple(some))

    before = put(ledger, profiles[0], cpus=len(everything))
    after = put(ledger.with_resident(last), profiles[0], cpus=len(everything))

    for one in before.predictions:
        assert of(after, one.workload).slowdown >= one.slowdown - 1e-9
        assert of(after, one.workload).upper >= one.upper - 1e-9


@settings(max_examples=30, deadline=None)
@given(crowds(), st.sampled_from(["full", "light"]), st.data())
def test_what_is_predicted_of_residents_agrees_with_the_ledger_after_the_placement(
    ledger: Ledger, load: str, data: st.DataObject
) -> None:
    """Where CPUs are full it may turn out better: what a newcomer takes from others relieves third parties."""
    kinds = LIGHT if load == "light" else PROFILES
    profile, *others = (kinds[data.draw(st.sampled_from(list(kinds)))] for _ in range(len(ledger.residents) + 1))
    residents = zip(ledger.residents, others, strict=True)
    ledger = Ledger(ledger.topology, tuple(dataclasses.replace(one, slo=Slo(), profile=own) for one, own in residents))
    decision = put(ledger, profile)
    newcomer = Resident(name="new", cpus=decision.cpus, profile=profile, slo=Slo())
    before, after = (total_cost(each, predictor()) for each in (ledger, ledger.with_resident(newcomer)))

    told = decision.explanation.candidates[0].cost
    assert told >= after - before - 1e-6
    if load == "light":
        assert told == pytest.approx(after - before, abs=1e-6)


def test_residents_alike_count_each_in_the_cost() -> None:
    ledger = seat(seat(TWO_CPUS, "a", "0-1", hog()), "b", "0-1", hog())

    decision = put(ledger, hog(), cpus=2)

    # three hogs on the same CPUs: the newcomer from 1 to 3 times, the two others from 2 to 3 times
    assert decision.explanation.candidates[0].cost == pytest.approx(math.log(3) + 2 * math.log(3 / 2))


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


def test_workloads_that_share_well_are_spread_all_the_same() -> None:
    """No two of them fill a CPU, so by pairs all sets cost nothing: an empty CPU is better than a shared one."""
    ledger = Ledger(make_topology(cores_per_llc=4))
    for number in range(6):
        decision = put(ledger, hog(f"w{number}", cpu_utilisation_ratio=0.45))
        ledger = seat(ledger, f"w{number}", str(decision.cpus), hog(f"w{number}", cpu_utilisation_ratio=0.45))

    assert sorted(str(one.cpus) for one in ledger.residents) == ["0", "0", "1", "1", "2", "3"]


def test_a_full_cpu_is_predicted_and_keeps_its_promises_though_no_pair_fills_it() -> None:
    ledger = Ledger(make_topology(cores_per_llc=1))
    for number in range(3):
        ledger = seat(ledger, f"w{number}", "0", hog(f"w{number}", cpu_utilisation_ratio=0.45))

    decision = put(ledger, hog("w", cpu_utilisation_ratio=0.45))

    assert of(decision, "new").slowdown == pytest.approx(4 * 0.45)
    assert of(decision, "w0").slowdown == pytest.approx(4 * 0.45)
    assert "because its CPUs are full" in decision.explanation.summary
    assert total_cost(ledger, predictor()) == pytest.approx(3 * math.log(3 * 0.45) * CLASS_FACTOR[Slo().slo_class])
    bound = seat(ledger, "w0", "0", hog("w0", cpu_utilisation_ratio=0.45), max_slowdown=1.5)
    with pytest.raises(NoFeasiblePlacement, match="max_slowdown of 'w0'"):
        put(bound, hog("w", cpu_utilisation_ratio=0.45))
