"""Correlations against regressions by statsmodels, and their intervals against formula and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.tools import add_constant

from benchmarks.correlation import coefficient, pearson, rank_coefficient, spearman
from benchmarks.sample import FloatArray

PAIRS = st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=4, max_size=30)


def simulated(seed: int, n: int = 54, *, r: float = 0.6) -> tuple[FloatArray, FloatArray]:
    """Simulate n pairs whose true correlation is r."""
    x, noise = np.random.default_rng(seed).normal(size=(2, n))
    return x, r * x + math.sqrt(1 - r * r) * noise


@pytest.mark.parametrize("seed", range(4))
def test_pearson_agrees_with_the_regression_and_fishers_formula(seed: int) -> None:
    x, y = simulated(seed)

    found = pearson(x, y)

    line = OLS(y, add_constant(x)).fit()
    reach = stats.norm.ppf(0.975) / math.sqrt(54 - 3)
    z = math.atanh(found.r)
    assert found.r**2 == pytest.approx(line.rsquared)
    assert found.p == pytest.approx(line.pvalues[1])
    assert (found.lower, found.upper) == pytest.approx((math.tanh(z - reach), math.tanh(z + reach)))
    assert found.n == 54


@pytest.mark.parametrize("seed", range(4))
def test_spearman_agrees_with_the_regression_of_ranks(seed: int) -> None:
    x, y = simulated(seed)

    found = spearman(x, np.exp(y))

    line = OLS(stats.rankdata(y), add_constant(stats.rankdata(x))).fit()
    assert found.r == pytest.approx(math.sqrt(line.rsquared))
    assert found.p == pytest.approx(line.pvalues[1])
    assert found.lower < found.r < found.upper
    assert found.method == "bootstrap percentile"


def test_one_sided_p_halves_and_the_interval_stays_two_sided() -> None:
    x, y = simulated(1, r=0.3)

    both, greater, less = (pearson(x, y, alternative=one) for one in ("two-sided", "greater", "less"))

    assert greater.p == pytest.approx(both.p / 2)
    assert less.p == pytest.approx(1 - greater.p)
    assert (greater.lower, greater.upper) == (both.lower, both.upper)
    assert spearman(x, y, alternative="greater").p == pytest.approx(spearman(x, y).p / 2)


def test_intervals_hold_the_true_correlation_about_as_often_as_they_say() -> None:
    """Simulated: 150 times 54 pairs of r = 0.6, whose rank correlation is 6 / pi * asin(r / 2)."""
    rho = 6 / math.pi * math.asin(0.3)
    pairs = [simulated(seed) for seed in range(150)]

    by_value = [pearson(*pair) for pair in pairs]
    by_rank = [spearman(*pair, resamples=400) for pair in pairs]

    assert 0.90 <= sum(one.lower <= 0.6 <= one.upper for one in by_value) / 150 <= 0.98
    assert 0.90 <= sum(one.lower <= rho <= one.upper for one in by_rank) / 150 <= 0.98


def test_points_on_a_line_have_a_coefficient_and_no_interval() -> None:
    x = [1.0, 2.0, 3.0, 5.0, 8.0, 13.0]

    for found in (pearson(x, [-2 * one for one in x]), spearman(x, [-(one**3) for one in x])):
        assert found.r == pytest.approx(-1)
        assert math.isnan(found.lower)
        assert "one line" in found.reason


def test_three_pairs_have_a_coefficient_and_no_interval() -> None:
    found = pearson([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])

    assert found.r == pytest.approx(0.5)
    assert math.isnan(found.upper)
    assert found.reason == "3 pairs give no interval, at least 4 do"


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="equally many, not 3 and 4"):
        pearson([1, 2, 3], [1, 2, 3, 4])


@given(PAIRS)
@settings(deadline=None)
def test_many_at_once_are_what_each_is_alone(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, dtype=float).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return

    assert coefficient(np.stack([x, y]), np.stack([y, x])) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
    assert rank_coefficient(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
