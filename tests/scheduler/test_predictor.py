"""The memory of pair predictions, and composing them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.records import Relation
from scheduler.predictor import ALONE, Composed, Predictor, together
from tests.fakes.predictions import HOST, PriorPairs, hog, idler, make_profile

BESIDE = Relation(0, 0, 0, 1, 1, 1)
SAME_CPU = Relation(1, 1, 1, 1, 1, 1)

ESTIMATES = st.builds(
    lambda slowdown, below, above: Composed(slowdown, slowdown / below, slowdown * above, slowdown, False),
    st.floats(min_value=1.0, max_value=8.0),
    st.floats(min_value=1.0, max_value=2.0),
    st.floats(min_value=1.0, max_value=2.0),
)


def test_new_pairs_go_to_the_model_in_one_batch_and_known_ones_not_at_all() -> None:
    model = PriorPairs()
    predictor = Predictor(model, "m1", "", HOST.fingerprint)
    pairs = [(hog(), idler(), SAME_CPU), (idler(), hog(), SAME_CPU), (hog(), idler(), SAME_CPU)]

    first = predictor.estimate_many(pairs)
    again = predictor.estimate_many([*pairs, (hog(), hog(), SAME_CPU)])

    assert first == again[:3]
    assert first[0] == first[2]
    assert model.batches == [2, 1]


def test_each_direction_and_each_relation_is_predicted_by_itself() -> None:
    predictor = Predictor(PriorPairs(), "m1", "", HOST.fingerprint)

    victim, aggressor, apart = predictor.estimate_many(
        [(idler(), hog(), SAME_CPU), (hog(), idler(), SAME_CPU), (hog(), hog(), BESIDE)]
    )

    assert victim.slowdown == pytest.approx(1.0)
    assert aggressor.slowdown > 1.0
    assert apart.time_sharing == pytest.approx(1.0)


def test_another_profile_under_the_same_label_is_not_mistaken_for_the_first() -> None:
    predictor = Predictor(PriorPairs(), "m1", "", HOST.fingerprint)
    greedy = make_profile("web", cpu_utilisation_ratio=1.0)
    modest = make_profile("web", cpu_utilisation_ratio=0.1)

    beside_greedy, beside_modest = predictor.estimate_many([(hog(), greedy, SAME_CPU), (hog(), modest, SAME_CPU)])

    assert predictor.key(greedy) == predictor.key(make_profile("web", cpu_utilisation_ratio=1.0))
    assert predictor.key(greedy) != predictor.key(modest)
    assert beside_greedy.slowdown > beside_modest.slowdown


def test_the_memory_stays_bounded_and_right_when_it_overflows() -> None:
    predictor = Predictor(PriorPairs(), "m1", "", HOST.fingerprint)
    first = make_profile("p", cpu_utilisation_ratio=1.0)
    before = predictor.estimate_many([(first, first, SAME_CPU)])

    for number in range(5000):
        predictor.key(make_profile(f"p{number}", cpu_utilisation_ratio=0.5))

    assert len(predictor._by_object) <= 4096
    assert predictor.estimate_many([(first, first, SAME_CPU)]) == before


def test_a_workload_without_profile_is_predicted_as_a_hog_and_labelled() -> None:
    predictor = Predictor(PriorPairs(), "m1", "", HOST.fingerprint)

    found = predictor.estimate_many([(hog(), None, SAME_CPU)])

    assert found[0].slowdown == pytest.approx(2.0)
    assert predictor.fallback_for(hog()) == ""
    assert "no profile" in predictor.fallback_for(None)


def test_a_missing_model_is_named_in_every_label() -> None:
    predictor = Predictor(PriorPairs(), "", "no model trained yet", HOST.fingerprint)

    assert predictor.fallback_for(hog()) == "no model trained yet"
    assert predictor.fallback_for(None).endswith("no model trained yet")


def test_a_profile_of_another_class_of_host_is_labelled() -> None:
    predictor = Predictor(PriorPairs(), "m1", "", HOST.fingerprint)
    moved = replace(hog("moved"), host_fingerprint="elsewhere")

    assert "profile 'moved' was taken on another class of host (elsewhere" in predictor.fallback_for(moved)
    assert predictor.fallback_for(moved) == predictor.fallback_for(hog(), moved)


def test_nobody_beside_it_is_no_slowdown() -> None:
    assert together([]) == ALONE


def test_slowdowns_add_their_excess_and_half_widths_their_squares() -> None:
    felt = together([(Composed(1.5, 1.2, 1.8, 1.5, False), 1), (Composed(2.0, 1.5, 2.4, 1.9, True), 1)])

    assert felt.slowdown == pytest.approx(2.5)
    assert felt.lower == pytest.approx(1.7)
    assert felt.upper == pytest.approx(2.5 + 0.5)
    assert felt.prior == pytest.approx(2.4)
    assert felt.far_from_training


@given(st.lists(ESTIMATES, min_size=1, max_size=6), ESTIMATES)
def test_composing_in_two_steps_gives_the_same_and_another_neighbour_never_helps(
    present: list[Composed], newcomer: Composed
) -> None:
    before = together((one, 1) for one in present)

    in_steps = together([(before, 1), (newcomer, 1)])
    at_once = together((one, 1) for one in [*present, newcomer])

    assert in_steps[:4] == pytest.approx(at_once[:4])
    assert in_steps.slowdown >= before.slowdown - 1e-9
    assert in_steps.upper >= before.upper - 1e-9
    assert in_steps.lower <= in_steps.slowdown + 1e-9 <= in_steps.upper + 2e-9


@given(ESTIMATES, st.integers(min_value=1, max_value=70))
def test_a_count_stands_for_that_many_neighbours(estimate: Composed, count: int) -> None:
    assert together([(estimate, count)])[:4] == pytest.approx(together([(estimate, 1)] * count)[:4])


def test_many_harmless_neighbours_do_not_make_the_interval_useless() -> None:
    harmless = Composed(1.0, 0.7, 1.5, 1.0, False)

    felt = together([(harmless, 64)])

    assert felt.slowdown == pytest.approx(1.0)
    assert felt.upper == pytest.approx(1.0 + 0.5 * math.sqrt(64))
