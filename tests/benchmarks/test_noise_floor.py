"""The noise of a cell against statsmodels' robust scale and simulated medians."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.robust.scale import mad

from benchmarks.noise_floor import median_half_width_ratio, noise_floor


def test_the_robust_deviation_agrees_with_statsmodels() -> None:
    values = np.random.default_rng(1).normal(1.2, 0.05, 26)

    found = noise_floor(values)

    assert found.robust_cv_ratio == pytest.approx(mad(values) / np.median(values))
    assert found.median == np.median(values)
    assert found.half_width_ratio == median_half_width_ratio(found.robust_cv_ratio, 26)


def test_one_disturbed_run_hardly_moves_it() -> None:
    values = np.random.default_rng(2).normal(1.2, 0.05, 26)

    quiet, disturbed = noise_floor(values), noise_floor([*values[:-1], 40.0])

    assert disturbed.robust_cv_ratio < 1.3 * quiet.robust_cv_ratio


@pytest.mark.parametrize(("n", "tolerance"), [(1, 0.30), (5, 0.10), (26, 0.04), (101, 0.04)])
def test_the_half_width_is_how_far_medians_reach(n: int, tolerance: float) -> None:
    """Simulated: 20,000 medians of n normal values with a coefficient of variation of 5 %."""
    medians = np.median(np.random.default_rng(3).normal(1, 0.05, (20_000, n)), axis=1)

    reach = np.quantile(np.abs(medians - 1), 0.95)

    found = median_half_width_ratio(0.05, n)
    assert found == pytest.approx(reach, rel=tolerance)
    assert found > 0.98 * reach


def test_repetitions_that_mostly_repeat_have_no_known_noise() -> None:
    found = noise_floor([1.2] * 6 + [1.3, 1.1])

    assert found.median == 1.2
    assert math.isnan(found.robust_cv_ratio)
    assert "more than half of the 8 values equal the median" in found.reason


def test_a_ratio_needs_values_above_zero() -> None:
    assert "the least is -1" in noise_floor([-1.0, 1.0, 2.0]).reason


def test_a_median_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="median of 0 values"):
        median_half_width_ratio(0.05, 0)


@given(st.lists(st.floats(0.5, 50), min_size=3, max_size=30), st.floats(0.1, 10))
@settings(deadline=None)
def test_the_noise_of_slowdowns_knows_no_unit(values: list[float], factor: float) -> None:
    once, scaled = noise_floor(values), noise_floor(np.array(values) * factor)

    if not once.reason and not scaled.reason:
        assert scaled.robust_cv_ratio == pytest.approx(once.robust_cv_ratio, rel=1e-6, abs=1e-9)
