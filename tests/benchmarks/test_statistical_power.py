"""Power against statsmodels, against simulation, and against the plan's own claim."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestIndPower, TTestPower

from benchmarks.sample import Alternative
from benchmarks.statistical_power import least_detectable, power_of

WORDS: dict[Alternative, str] = {"two-sided": "two-sided", "greater": "larger", "less": "smaller"}


def test_the_plan_needs_twenty_six_repetitions() -> None:
    assert power_of(0.8, 25, 25).power < 0.8 < power_of(0.8, 26, 26).power
    assert least_detectable(26, 26).d < 0.8 < least_detectable(25, 25).d


@pytest.mark.parametrize("alternative", WORDS)
@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("d", [-0.8, 0.2, 0.8])
def test_power_agrees_with_statsmodels(d: float, alpha: float, alternative: Alternative) -> None:
    paired = power_of(d, 26, alpha=alpha, alternative=alternative)
    groups = power_of(d, 26, 40, alpha=alpha, alternative=alternative)

    word = WORDS[alternative]
    assert paired.power == pytest.approx(TTestPower().power(d, 26, alpha, alternative=word), abs=1e-9)
    assert groups.power == pytest.approx(TTestIndPower().power(d, 26, alpha, ratio=40 / 26, alternative=word), abs=1e-9)


@pytest.mark.parametrize("n", [3, 26, 200])
def test_the_least_detectable_effect_agrees_with_statsmodels(n: int) -> None:
    expected = TTestIndPower().solve_power(nobs1=n, alpha=0.05, power=0.8)

    assert least_detectable(n, n).d == pytest.approx(expected, rel=1e-4)
    assert least_detectable(n).d == pytest.approx(TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8), rel=1e-4)


def test_power_is_how_often_the_test_finds_the_effect() -> None:
    """Simulated: 4,000 times two groups of 26 whose true d is 0.8."""
    first, second = np.random.default_rng(1).normal(size=(2, 4000, 26))

    found = np.mean(stats.ttest_ind(first + 0.8, second, axis=1).pvalue < 0.05)

    assert power_of(0.8, 26, 26).power == pytest.approx(found, abs=0.02)


@given(st.integers(2, 300), st.floats(0.5, 0.99), st.sampled_from(sorted(WORDS)))
@settings(deadline=None, max_examples=50)
def test_the_least_detectable_effect_has_just_the_power_asked_for(n: int, power: float, side: Alternative) -> None:
    found = least_detectable(n, power=power, alternative=side)

    assert power_of(found.d, n, alternative=side).power == pytest.approx(power, abs=1e-6)
    assert (found.d < 0) == (side == "less")


def test_what_is_unknown_stays_unknown() -> None:
    assert power_of(math.nan, 26).reason == "d is unknown"
    assert math.isnan(power_of(math.nan, 26).power)
    assert "at least 2 values" in power_of(0.8, 1).reason
    assert math.isnan(least_detectable(26, 1).d)
    assert math.isnan(least_detectable(26, 1).power)


def test_what_only_a_mistake_in_the_call_can_cause_is_refused() -> None:
    with pytest.raises(ValueError, match="not of 3"):
        power_of(0.8, 26, 26, 26)
    with pytest.raises(ValueError, match="alpha 5 "):
        power_of(0.8, 26, alpha=5)
    with pytest.raises(ValueError, match=r"power 0\.01"):
        least_detectable(26, power=0.01)
