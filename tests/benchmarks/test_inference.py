"""Tests of hypotheses against statsmodels, and against counting all cases by hand, on the same arrays."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.oneway import anova_oneway
from statsmodels.stats.weightstats import DescrStatsW, ttest_ind

from benchmarks.inference import (
    Significance,
    holm,
    kruskal_wallis,
    levene,
    mann_whitney,
    paired_t,
    pooled_t,
    signed_rank,
    welch,
)
from benchmarks.sample import Alternative, FloatArray

#: our word -> the word of statsmodels
WORDS: dict[Alternative, str] = {"two-sided": "two-sided", "greater": "larger", "less": "smaller"}
P_VALUES = st.lists(st.floats(0, 1) | st.just(math.nan), max_size=30)


def simulated(seed: int, n: int = 26, *, mean: float = 0.0, spread: float = 0.1) -> FloatArray:
    """Simulate logarithms of slowdowns."""
    return np.random.default_rng(seed).normal(mean, spread, n)


@pytest.mark.parametrize("alternative", WORDS)
@pytest.mark.parametrize("seed", range(3))
def test_the_paired_t_test_agrees_with_statsmodels(seed: int, alternative: Alternative) -> None:
    values = simulated(seed, mean=0.03)

    found = paired_t(values, alternative=alternative)

    statistic, p, degrees = DescrStatsW(values).ttest_mean(0, alternative=WORDS[alternative])
    assert (found.statistic, found.p, *found.degrees) == pytest.approx((statistic, p, degrees))
    assert found.n == 26


def test_the_paired_t_test_of_logarithms_is_the_one_of_two_columns() -> None:
    solo_s, together_s = np.exp(simulated(1)), np.exp(simulated(2, mean=0.2))

    found = paired_t(np.log(together_s / solo_s), against=math.log(1.05), alternative="greater")

    theirs = stats.ttest_rel(np.log(together_s), np.log(solo_s) + math.log(1.05), alternative="greater")
    assert (found.statistic, found.p) == pytest.approx((theirs.statistic, theirs.pvalue))


@pytest.mark.parametrize("alternative", WORDS)
def test_signed_ranks_agree_with_counting_all_signs(alternative: Alternative) -> None:
    values = simulated(3, 9, mean=0.05)

    found = signed_rank(values, alternative=alternative)

    ranks = stats.rankdata(np.abs(values))
    sums = [float(ranks[list(signs)].sum()) for signs in itertools.product([False, True], repeat=9)]
    seen = float(ranks[values > 0].sum())
    above, below = (float(np.mean(found_sums)) for found_sums in (np.array(sums) >= seen, np.array(sums) <= seen))
    expected = {"greater": above, "less": below, "two-sided": min(1, 2 * min(above, below))}
    assert found.p == pytest.approx(expected[alternative])


def test_signed_ranks_leave_out_what_does_not_differ() -> None:
    values = simulated(4, 12, mean=0.05)

    found = signed_rank([*values, 0.0, 0.0])

    assert (found.n, found.p) == (12, signed_rank(values).p)


@pytest.mark.parametrize("alternative", WORDS)
@pytest.mark.parametrize(("compare", "variances"), [(welch, "unequal"), (pooled_t, "pooled")])
def test_t_of_two_groups_agrees_with_statsmodels(
    compare: Callable[..., Significance], variances: str, alternative: Alternative
) -> None:
    first, second = simulated(5, 26, mean=0.1), simulated(6, 20, spread=0.3)

    found = compare(first, second, alternative=alternative)

    statistic, p, degrees = ttest_ind(first, second, alternative=WORDS[alternative], usevar=variances)
    assert (found.statistic, found.p, *found.degrees) == pytest.approx((statistic, p, degrees))
    assert found.sizes == (26, 20)


def test_the_pooled_t_of_strata_is_the_regression_with_a_constant_for_each() -> None:
    """Simulated: five strata of their own level, six values of each group in each."""
    levels = np.repeat(np.linspace(-2, 2, 5), 6)
    first, second = levels + simulated(8, 30, mean=0.05), levels + simulated(9, 30)
    middles = np.repeat((first.reshape(5, 6).mean(axis=1) + second.reshape(5, 6).mean(axis=1)) / 2, 6)

    found = pooled_t(first - middles, second - middles, strata=5)

    group = np.repeat([1.0, 0.0], 30)
    constants = np.tile(np.repeat(np.eye(5), 6, axis=0), (2, 1))
    theirs = OLS(np.concatenate([first, second]), np.column_stack([group, constants])).fit()
    assert (found.statistic, found.p, *found.degrees) == pytest.approx(
        (theirs.tvalues[0], theirs.pvalues[0], theirs.df_resid)
    )


def test_strata_of_one_value_each_leave_no_noise() -> None:
    assert "leave no noise" in pooled_t([0.1, 0.2], [0.3, 0.5], strata=3).reason


def test_welchs_t_takes_one_group_without_spread() -> None:
    second = simulated(7)

    found = welch([0.1] * 26, second)

    expected = (0.1 - second.mean()) / (second.std(ddof=1) / math.sqrt(26))
    assert (found.statistic, *found.degrees) == pytest.approx((expected, 25))


@pytest.mark.parametrize("alternative", WORDS)
def test_mann_whitney_agrees_with_counting_all_splits(alternative: Alternative) -> None:
    first, second = simulated(8, 5, mean=0.1), simulated(9, 6)

    found = mann_whitney(first, second, alternative=alternative)

    ranks = stats.rankdata(np.concatenate([first, second]))
    seen = ranks[:5].sum()
    sums = np.array([sum(one) for one in itertools.combinations(ranks, 5)])
    above, below = float(np.mean(sums >= seen)), float(np.mean(sums <= seen))
    expected = {"greater": above, "less": below, "two-sided": min(1, 2 * min(above, below))}
    assert found.p == pytest.approx(expected[alternative])
    assert found.statistic == seen - 15


def test_kruskal_wallis_agrees_with_its_formula() -> None:
    groups = [simulated(10, 20), simulated(11, 15, mean=0.1), simulated(12, 26)]

    found = kruskal_wallis(groups)

    parts = np.split(stats.rankdata(np.concatenate(groups)), [20, 35])
    h = 12 / (61 * 62) * sum(one.sum() ** 2 / one.size for one in parts) - 3 * 62
    assert (found.statistic, found.p, *found.degrees) == pytest.approx((h, stats.chi2.sf(h, 2), 2))


def test_levene_is_the_anova_of_distances_from_the_median() -> None:
    groups = [simulated(13), simulated(14, 20, spread=0.2), simulated(15, 15)]

    found = levene(groups)

    theirs = anova_oneway([np.abs(one - np.median(one)) for one in groups], use_var="equal")
    assert (found.statistic, found.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    assert found.degrees == (2, 58)


@pytest.mark.parametrize("n", [1, 2, 5, 54])
def test_holm_agrees_with_statsmodels(n: int) -> None:
    known = np.random.default_rng(n).uniform(size=n) ** 4

    found = holm([*known, math.nan])

    assert found[:-1] == pytest.approx(multipletests(known, method="holm")[1])
    assert math.isnan(found[-1])


@given(P_VALUES)
@settings(deadline=None)
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values: list[float]) -> None:
    given_p, found = np.array(p_values), holm(p_values)

    known = ~np.isnan(given_p)
    order = np.argsort(given_p[known], kind="stable")
    assert np.array_equal(np.isnan(found), ~known)
    assert np.all(found[known] >= given_p[known])
    assert np.all(found[known] <= 1)
    assert np.all(np.diff(found[known][order]) >= 0)


def test_holm_refuses_what_is_no_probability() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.01, 1.5])


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30))
@settings(deadline=None)
def test_both_sides_of_a_t_test_share_one_truth(values: list[float]) -> None:
    both, greater, less = (paired_t(values, alternative=one) for one in WORDS)

    if not both.reason:
        assert greater.p + less.p == pytest.approx(1)
        assert both.p == pytest.approx(2 * min(greater.p, less.p))
