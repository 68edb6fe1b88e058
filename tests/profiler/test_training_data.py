"""What is trained on and what is held out: no leak between them, and no observation that the features do not tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from profiler.errors import TrainingImpossible
from profiler.heldout import nearest, noise_floor
from profiler.records import Relation
from profiler.training import train
from profiler.training_data import merged, training_data
from tests.fakes.measurements import made_up_observations, made_up_profiles
from tests.fakes.profiles import HOST, SAME_CPU, SAME_LLC

PROFILES = made_up_profiles(4)
OBSERVATIONS = made_up_observations(PROFILES)


def test_what_was_measured_again_of_a_pair_is_held_out_with_it() -> None:
    twice = [*OBSERVATIONS, *(replace(one, slowdown=one.slowdown * 1.1) for one in reversed(OBSERVATIONS))]
    data = training_data(twice, PROFILES, HOST)

    for out in data.folds(7):
        held = {(frozenset(pair), one.relations[0]) for pair, one, is_out in zip(
            data.pairs, data.observations, out, strict=True) if is_out}  # fmt: skip
        kept = {(frozenset(pair), one.relations[0]) for pair, one, is_out in zip(
            data.pairs, data.observations, out, strict=True) if not is_out}  # fmt: skip
        assert not held & kept
        assert held


def test_without_a_workload_it_is_neither_victim_nor_aggressor() -> None:
    data = training_data(OBSERVATIONS, PROFILES, HOST)

    kept = data.without({"w1", "w2"})

    assert {name for pair, is_kept in zip(data.pairs, kept, strict=True) if is_kept for name in pair} == {"w0", "w3"}
    assert kept.sum() == 8


def test_observations_with_cache_ways_are_not_taken_for_those_without() -> None:
    partitioned = [replace(one, isolation="combined", slowdown=1.0) for one in OBSERVATIONS]

    assert training_data([*OBSERVATIONS, *partitioned], PROFILES, HOST).observations == tuple(OBSERVATIONS)
    with pytest.raises(TrainingImpossible, match="without cache ways of their own"):
        training_data([replace(one, isolation="cat") for one in OBSERVATIONS], PROFILES, HOST)


def test_the_noise_floor_is_the_spread_measured_however_small() -> None:
    calm = [replace(one, spread=0.001) for one in OBSERVATIONS]

    assert noise_floor(training_data(calm, PROFILES, HOST).spreads()) == pytest.approx(0.6745 * 0.001, rel=0.01)


def test_variants_of_one_program_do_not_stand_in_for_each_other() -> None:
    """w3 is w2 with another name: only held out together does either show what is not known without both."""
    three = {name: PROFILES[name] for name in ("w0", "w1", "w2")}
    odd = [one for one in made_up_observations(three, beyond_prior=3.0) if one.relations == (SAME_LLC,)]
    named = {"w0": "w0", "w1": "w1", "w2": "w3"}
    twin = [
        replace(one, victim=named[one.victim], aggressors=(named[one.aggressors[0]],))
        for one in odd
        if "w2" in {one.victim, *one.aggressors}
    ]
    profiles = {**three, "w3": replace(PROFILES["w2"], name="w3")}

    scores = train([*odd, *twin], profiles, HOST, families={"w2": "same", "w3": "same"}).manifest.scores

    assert scores.lowo is not None
    assert scores.families is not None
    assert scores.families.mean > 1.1 * scores.lowo.mean
    assert training_data(odd, profiles, HOST).kinds() == [{"w0"}, {"w1"}, {"w2"}]


def test_the_nearest_observation_is_looked_up_in_scaled_columns() -> None:
    nan = np.nan
    known = np.array([[0.0, 1e9, nan, 5], [1.0, 2e9, nan, 5], [0.9, 2e9, nan, 5]], np.float32)
    target = np.array([1.0, 2.0, 3.0], np.float32)
    rows = np.array([[1.0, 2e9, nan, 9], [0.0, nan, 7, 5], [nan] * 4], np.float32)

    assert nearest(rows, known, target).tolist() == pytest.approx([2.0, 1.0, 2.0])


def test_a_pair_reported_often_counts_once_with_the_spread_of_its_reports() -> None:
    reports = [replace(OBSERVATIONS[0], slowdown=slowdown, spread=None, repetitions=1) for slowdown in (1.0, 2.0, 4.0)]

    (one, *others) = merged([*reports, *OBSERVATIONS[1:]])

    assert len(others) == len(OBSERVATIONS) - 1
    assert one.slowdown == pytest.approx(2.0)
    assert one.spread == pytest.approx(np.std(np.log([1.0, 2.0, 4.0]), ddof=1))
    assert one.repetitions == 3


def test_spreads_of_reports_pool_those_within_and_between() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.normal(mean, 0.1, size) for mean, size in ((0.2, 5), (0.4, 9))]
    told = [
        replace(
            OBSERVATIONS[0], slowdown=float(np.exp(part.mean())), spread=float(part.std(ddof=1)), repetitions=part.size
        )
        for part in parts
    ]

    (one,) = merged(told)

    together = np.concatenate(parts)
    assert one.slowdown == pytest.approx(np.exp(together.mean()))
    assert one.spread == pytest.approx(together.std(ddof=1))
    assert one.repetitions == 14


def test_both_directions_of_a_pair_are_held_out_together_whatever_their_sizes() -> None:
    """One has one CPU, the other two: of the one's CPUs all are shared, of the other's half."""
    half = Relation(0.5, 0.5, 0.5, 1, 1, 1)
    lopsided = [
        replace(one, relations=(SAME_CPU if one.victim < one.aggressors[0] else half,))
        for one in OBSERVATIONS
        if one.relations == (SAME_CPU,)
    ]
    data = training_data(lopsided, PROFILES, HOST)

    for out in data.folds(7):
        held = {frozenset(pair) for pair, is_out in zip(data.pairs, out, strict=True) if is_out}
        kept = {frozenset(pair) for pair, is_out in zip(data.pairs, out, strict=True) if not is_out}
        assert not held & kept
