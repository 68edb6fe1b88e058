"""What the scheduler tells of measured cells, on simulated runs whose slowdowns follow a known rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.design import Isolation, Member
from benchmarks.placed_predictions import Neighbours, PlacedPrediction, placed_predictions, placed_scores
from benchmarks.runs import Run
from tests.fakes.campaigns import slowed_run
from tests.fakes.crowds import predictor
from tests.fakes.machines import make_topology
from tests.fakes.predictions import hog, make_profile

MACHINE = make_topology(cores_per_llc=2)
TOUCHY, PRESSER = Member(workload="touchy"), Member(workload="presser")
PROFILES = {
    "experiment.touchy": make_profile(
        "experiment.touchy", cpu_utilisation_ratio=1.0, cache_sensitivity_sf=1.4, cache_pressure_ratio=0.0
    ),
    "experiment.presser": make_profile(
        "experiment.presser", cpu_utilisation_ratio=1.0, cache_sensitivity_sf=1.0, cache_pressure_ratio=1.0
    ),
    "experiment.hog": hog("experiment.hog"),
}


def predicted(*runs: Run) -> dict[str, PlacedPrediction]:
    return {one.member: one for one in placed_predictions(runs, PROFILES, predictor(), MACHINE)}


def test_many_on_another_cpu_are_told_as_the_scheduler_composes_them_and_as_a_plain_sum() -> None:
    many = replace(PRESSER, instances=16)
    runs = [
        slowed_run(TOUCHY, many, cpus=("0", "1"), factor=factor, repetition=at)
        for at, factor in enumerate((1.3, 1.5, 1.4))
    ]

    found = predicted(*runs)

    assert set(found) == {"touchy"}, "of sixteen processes nobody is a victim of its own"
    one = found["touchy"]
    assert (one.neighbours, one.processes, one.n) == (Neighbours.OTHER_CPUS, 16, 3)
    assert (one.measured, one.predicted, one.plain_sum) == pytest.approx((1.4, 1.4, 1 + 16 * 0.4))


def test_those_on_its_own_cpu_count_in_full() -> None:
    third = Member(workload="hog")
    one = predicted(slowed_run(TOUCHY, PRESSER, third, cpus=("0", "0", "0"), factor=3.0, isolation=Isolation.STACKED))[
        "touchy"
    ]

    assert one.neighbours is Neighbours.SAME_CPUS
    assert one.predicted == one.plain_sum == pytest.approx(3.0)


def test_what_was_left_to_the_kernel_or_has_no_profile_is_not_predicted() -> None:
    free = slowed_run(TOUCHY, PRESSER, cpus=(), factor=1.4, isolation=Isolation.NONE)
    strange = slowed_run(TOUCHY, Member(workload="stranger"), cpus=("0", "1"), factor=1.4)

    partitioned = slowed_run(TOUCHY, PRESSER, cpus=("0", "1"), factor=1.1, isolation=Isolation.COMBINED)

    assert predicted(free, strange, partitioned) == {}


def test_scores_tell_error_bias_and_how_much_lies_below_the_upper_end() -> None:
    pair = slowed_run(TOUCHY, PRESSER, cpus=("0", "1"), factor=1.4)
    many = [
        slowed_run(TOUCHY, replace(PRESSER, instances=count), cpus=("0", "1"), factor=factor)
        for count, factor in ((4, 1.4 * 1.1), (16, 1.4 / 1.1))
    ]

    one, several = placed_scores(placed_predictions([pair, *many], PROFILES, predictor(), MACHINE))

    assert (one.neighbours, one.predictions, several.neighbours, several.predictions) == (
        Neighbours.ONE,
        2,
        Neighbours.OTHER_CPUS,
        2,
    )
    assert several.error.mean == pytest.approx(0.1, rel=1e-6)
    assert several.bias == pytest.approx((1 / 1.1 - 1 + 0.1) / 2, abs=0.01)
    assert several.plain_sum.mean > 1.0
    assert several.kept == 0.5, "1.54 lies above 1.48, 1.27 below"
    assert placed_scores(()) == ()
