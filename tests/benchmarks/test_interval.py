"""Bootstrap intervals against SciPy and plain loops on the same arrays, and against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.correlation import rank_coefficient
from benchmarks.interval import Interval, bootstrap_interval, least_units, median_interval
from benchmarks.sample import FloatArray

SLOWDOWNS = st.lists(st.floats(0.5, 50), min_size=6, max_size=40)


def simulated(seed: int, n: int = 26, *, sf: float = 1.2) -> FloatArray:
    """Simulate slowdowns of one cell, skewed as times are."""
    return np.exp(np.random.default_rng(seed).normal(math.log(sf), 0.1, n))


def width(found: Interval) -> float:
    return found.upper - found.lower


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_of_a_median_agrees_with_scipys_bootstrap_under_another_seed(seed: int) -> None:
    values = simulated(seed)

    found = median_interval(values, resamples=10_000)

    theirs = stats.bootstrap((values,), np.median, method="percentile", rng=99).confidence_interval
    assert found.estimate == np.median(values)
    assert found.lower == pytest.approx(theirs.low, abs=width(found) * 0.1)
    assert found.upper == pytest.approx(theirs.high, abs=width(found) * 0.1)


def test_ninety_five_percent_intervals_hold_the_true_median_about_as_often() -> None:
    """Simulated: 400 cells of 26 runs whose true median is 1.2."""
    found = [median_interval(simulated(seed), resamples=1000) for seed in range(400)]

    held = sum(one.lower <= 1.2 <= one.upper for one in found) / len(found)
    assert 0.91 <= held <= 0.98


def test_a_statistic_of_two_groups_is_resampled_in_each() -> None:
    """The relief that pinning gives: the share of the loss that it takes away."""

    def relief(unpinned: FloatArray, pinned: FloatArray, axis: int) -> FloatArray:
        return np.asarray(1 - (np.median(pinned, axis=axis) - 1) / (np.median(unpinned, axis=axis) - 1))

    unpinned, pinned = simulated(5, sf=2.0), simulated(6, 20, sf=1.5)

    found = bootstrap_interval(relief, unpinned, pinned)

    rng = np.random.default_rng(7)
    drawn = [relief(rng.choice(unpinned, 26), rng.choice(pinned, 20), axis=-1) for _ in range(4000)]
    assert found.n == 46
    assert found.estimate == relief(unpinned, pinned, axis=-1)
    assert (found.lower, found.upper) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=width(found) / 10)


def test_pairs_stay_together() -> None:
    values = simulated(7)

    def difference(first: FloatArray, second: FloatArray, axis: int) -> FloatArray:
        return np.asarray(first.mean(axis=axis) - second.mean(axis=axis))

    paired = bootstrap_interval(difference, values, values + 1, paired=True)
    apart = bootstrap_interval(difference, values, values + 1)

    assert (paired.lower, paired.upper) == pytest.approx((-1, -1))
    assert width(apart) > 0.05


def test_the_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    values = simulated(8)

    assert median_interval(values, seed=1) == median_interval(values, seed=1)
    assert bootstrap_interval(np.mean, values, seed=1).lower != bootstrap_interval(np.mean, values, seed=2).lower


def test_a_resampled_statistic_that_is_often_undefined_gives_no_interval() -> None:
    x = np.array([0.0] * 9 + [1.0])  # 35 % of the resamples lack the one

    found = bootstrap_interval(rank_coefficient, x, simulated(9, 10), paired=True)

    assert math.isfinite(found.estimate)
    assert math.isnan(found.lower)
    assert "undefined in 3" in found.reason


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95, 0.99])
def test_the_fewest_values_are_those_whose_range_can_hold_the_median(confidence: float) -> None:
    n = least_units(confidence)

    # binomial: the median lies outside the range if all n values lie on one side
    assert 1 - 2 * stats.binom.pmf(0, n, 0.5) >= confidence > 1 - 2 * stats.binom.pmf(0, n - 1, 0.5)


def test_too_few_values_give_the_estimate_and_the_reason() -> None:
    few = median_interval([1.0, 1.2, 1.4, 1.1, 1.3])

    assert few.estimate == 1.2
    assert math.isnan(few.lower)
    assert few.reason == "5 values to resample: an interval of 95% needs at least 6"


def test_what_only_a_mistake_in_the_call_can_cause_is_refused() -> None:
    values = simulated(1)
    with pytest.raises(ValueError, match="equally many, not 26 and 25"):
        bootstrap_interval(rank_coefficient, values, values[1:], paired=True)
    with pytest.raises(ValueError, match="confidence 95 "):
        median_interval(values, confidence=95)
    with pytest.raises(ValueError, match="one dimension"):
        median_interval(np.ones((2, 26)))


@given(SLOWDOWNS, st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_the_interval_of_a_median_holds_it_and_lies_among_the_values(values: list[float], seed: int) -> None:
    found = median_interval(values, resamples=500, seed=seed)

    if not found.reason:
        assert min(values) <= found.lower <= found.estimate <= found.upper <= max(values)


@given(SLOWDOWNS, st.floats(0.1, 10))
@settings(max_examples=50, deadline=None)
def test_the_interval_scales_with_the_values(values: list[float], factor: float) -> None:
    once = median_interval(values, resamples=500)
    scaled = median_interval(np.array(values) * factor, resamples=500)

    assert (scaled.lower, scaled.upper) == pytest.approx((once.lower * factor, once.upper * factor), nan_ok=True)
