"""Moving residents for the good of all."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.ledger import Ledger
from scheduler.placement import Slo, SloClass, WorkloadRequest
from scheduler.planner import rebalance
from scheduler.scoring import total_cost
from tests.fakes.crowds import TWO_CPUS, crowds, predictor, seat
from tests.fakes.predictions import hog, idler


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
