"""Neighbours on other CPUs press on caches only while they run, and those on one CPU do not run at once."""

from __future__ import annotations

import dataclasses

import pytest

from isolation.cpuset import CpuSet
from profiler.records import WorkloadProfile
from scheduler.candidates import candidates
from scheduler.ledger import Ledger
from scheduler.placement import Resident, Slo, WorkloadRequest
from scheduler.planner import rebalance
from scheduler.predictor import Composed
from scheduler.scoring import felt_by_newcomer, score, standings
from tests.fakes.crowds import TWO_CPUS, of, predictor, put, seat
from tests.fakes.machines import make_topology
from tests.fakes.predictions import hog, make_profile

TOUCHY = make_profile("touchy", cpu_utilisation_ratio=1.0, cache_sensitivity_sf=1.4, cache_pressure_ratio=0.0)
SIBLINGS = Ledger(make_topology(cores_per_llc=1, threads_per_core=2))


def presser(utilisation: float) -> WorkloadProfile:
    return make_profile(
        "presser", cpu_utilisation_ratio=utilisation, cache_sensitivity_sf=1.0, cache_pressure_ratio=utilisation
    )


def beside(count: int, profile: WorkloadProfile, ledger: Ledger = TWO_CPUS) -> Composed:
    """Say what the touchy one on CPU 0 feels beside so many on CPU 1, as a resident and as a newcomer alike."""
    for number in range(count):
        ledger = seat(ledger, f"b{number}", "1", profile)
    full = seat(ledger, "touchy", "0", TOUCHY)
    (resident,) = (one.present for one in standings(full, predictor()) if one.group.profile == TOUCHY)
    request = WorkloadRequest(name="touchy", cpus=1, slo=Slo())
    choices = [one for one in candidates(ledger, 1, whole_cores=False) if one.cpus == CpuSet.parse("0")]
    (found,) = score(request, TOUCHY, choices, ledger, predictor())
    assert felt_by_newcomer(found)[:4] == pytest.approx(resident[:4])
    return resident


def test_many_hogs_on_one_other_cpu_press_as_one_does() -> None:
    """Measured, memory-bound: 1.2 to 1.5, 1.1 to 1.2 and 1.2 times as long beside 1, 4 and 16."""
    assert [beside(count, presser(1.0)).slowdown for count in (1, 4, 16)] == pytest.approx([1.4] * 3)


def test_those_who_mostly_wait_press_the_more_the_more_there_are_until_the_cpu_is_full() -> None:
    """Measured, waiting for the disk: 1.0, 1.2 and 1.2 times as long beside 1, 4 and 16."""
    assert [beside(count, presser(0.25)).slowdown for count in (1, 2, 4, 16)] == pytest.approx([1.1, 1.2, 1.4, 1.4])


def test_hogs_on_the_sibling_thread_run_one_at_a_time() -> None:
    one, many = (beside(count, hog(), SIBLINGS).slowdown for count in (1, 8))

    assert one > 1.0
    assert many == pytest.approx(one)


def test_the_interval_is_that_of_one_at_a_time() -> None:
    one, many = (beside(count, presser(1.0)) for count in (1, 16))

    assert one.upper == pytest.approx(many.upper)


def test_on_the_same_cpu_every_neighbour_counts() -> None:
    ledger = TWO_CPUS
    for number in range(3):
        ledger = seat(ledger, f"b{number}", "0", hog())
    ledger = seat(ledger, "touchy", "0", TOUCHY)

    (felt,) = (one.present for one in standings(ledger, predictor()) if one.group.profile == TOUCHY)

    assert felt.slowdown == pytest.approx(4.0)


def test_a_hog_may_join_hogs_beside_a_bound_that_their_plain_sum_would_break() -> None:
    ledger = seat(seat(TWO_CPUS, "touchy", "0", TOUCHY, max_slowdown=1.7), "b", "1", presser(1.0))

    decision = put(ledger, presser(1.0))

    assert str(decision.cpus) == "1"
    told = of(decision, "touchy").slowdown
    after = ledger.with_resident(Resident(name="new", cpus=decision.cpus, profile=presser(1.0), slo=Slo()))
    (true,) = (one.present for one in standings(after, predictor()) if one.group.profile == TOUCHY)
    assert told == pytest.approx(1.6), "the newcomer's half; that the other one presses half as much is told afterwards"
    assert true.slowdown == pytest.approx(1.4)


def test_a_neighbour_nothing_is_known_of_takes_no_time_from_those_who_press() -> None:
    ledger = seat(seat(seat(TWO_CPUS, "touchy", "0", TOUCHY), "b", "1", presser(1.0)), "who", "1", None)

    (felt,) = (one.present for one in standings(ledger, predictor()) if one.group.profile == TOUCHY)

    assert felt.slowdown >= 1.4


def test_nobody_is_moved_away_from_a_presser_whom_it_keeps_from_breaking_a_bound() -> None:
    """H and P share CPU 1, so P presses half of the time; H would be better off on CPU 2, whom Z never meets."""
    two_caches = Ledger(make_topology(llcs_per_node=2, cores_per_llc=2))
    ledger = seat(two_caches, "z", "0", TOUCHY, max_slowdown=1.3)
    ledger = seat(seat(ledger, "p", "1", presser(1.0)), "h", "1", hog())
    movable = {"h": WorkloadRequest(name="h", cpus=1, slo=Slo())}

    kept = rebalance(ledger, movable, predictor(), max_moves=2, min_gain=0.01)
    free = ledger.with_resident(Resident(name="z", cpus=CpuSet.parse("0"), profile=TOUCHY, slo=Slo()))
    moved = rebalance(free, movable, predictor(), max_moves=2, min_gain=0.01)

    assert kept.moves == []
    assert [name for name, _ in moved.moves] == ["h"], "without the bound it is worth the move"


def test_contributions_count_as_often_as_their_neighbour_runs() -> None:
    ledger = seat(seat(TWO_CPUS, "b0", "1", presser(1.0)), "b1", "1", presser(1.0))
    ledger = Ledger(dataclasses.replace(ledger.topology, usable=CpuSet.parse("0")), ledger.residents)

    decision = put(ledger, TOUCHY)

    assert {(one.aggressor, one.cause) for one in decision.explanation.contributions} == {
        ("b0", "cache"),
        ("b1", "cache"),
    }
    assert [one.factor for one in decision.explanation.contributions] == pytest.approx([1.2, 1.2])
