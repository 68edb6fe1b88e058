"""Baselines: what other learners make of the same data, without a look at what is held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from profiler.baselines import random_forest_residuals, ridge_residuals
from profiler.features import FEATURE_NAMES
from profiler.heldout import HeldOut
from profiler.training_data import TrainingData, training_data
from tests.fakes.measurements import made_up_observations, made_up_profiles
from tests.fakes.profiles import HOST

Learner = Callable[[TrainingData, list[HeldOut]], list[np.ndarray]]
PROFILES = made_up_profiles(6)
REAL = training_data(made_up_observations(PROFILES), PROFILES, HOST)
COUNT = 80
HELD = np.arange(0, COUNT, 4)


def simulated(target: np.ndarray, rows: np.ndarray) -> TrainingData:
    """Give observations with made-up features and slowdowns; every margin is 0.3."""
    return replace(
        REAL,
        rows=rows.astype(np.float32),
        margin=np.full(COUNT, 0.3, np.float32),
        target=(0.3 + target).astype(np.float32),
        weight=np.ones(COUNT, np.float32),
    )


def held(data: TrainingData, *, far: bool = False) -> HeldOut:
    nothing = np.zeros(len(HELD))
    return HeldOut(HELD, nothing, nothing, nothing, nothing, np.full(len(HELD), far))


def made_up_rows() -> np.ndarray:
    rows = np.random.default_rng(3).uniform(-1, 1, (COUNT, len(FEATURE_NAMES)))
    rows[:, 5] = np.nan  # a counter this host does not have
    rows[::7, 6] = np.nan
    return rows


def test_each_is_good_at_what_it_is_made_for() -> None:
    rows = made_up_rows()
    line, step = rows[:, 0] - 0.5 * rows[:, 1], np.where(rows[:, 0] > 0, 1.0, 0.0)

    def worst(target: np.ndarray) -> tuple[float, float]:
        data = simulated(target, rows)
        (linear,), (trees,) = ridge_residuals(data, [held(data)]), random_forest_residuals(data, [held(data)], 0)
        return float(np.abs(linear).mean()), float(np.abs(trees).mean())

    on_line, on_step = worst(line), worst(step)

    assert on_line[0] < 0.1 * on_line[1]
    assert on_step[1] < 0.5 * on_step[0]


@pytest.mark.parametrize("learner", [ridge_residuals, lambda data, rounds: random_forest_residuals(data, rounds, 0)])
def test_what_is_held_out_is_not_looked_at(learner: Learner) -> None:
    rows = made_up_rows()
    target = rows[:, 0].copy()
    data = simulated(target, rows)
    target[HELD] += 5.0
    other = simulated(target, rows)

    (before,), (after,) = learner(data, [held(data)]), learner(other, [held(other)])

    np.testing.assert_allclose(before - after, 5.0, rtol=1e-5)


@pytest.mark.parametrize("learner", [ridge_residuals, lambda data, rounds: random_forest_residuals(data, rounds, 0)])
def test_far_from_training_the_prior_stands_for_them_as_for_the_model(learner: Learner) -> None:
    rows = made_up_rows()
    data = simulated(rows[:, 0], rows)

    (found,) = learner(data, [held(data, far=True)])

    np.testing.assert_allclose(found, -rows[HELD, 0], atol=1e-6)
