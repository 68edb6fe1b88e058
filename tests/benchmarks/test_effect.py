"""Cohen's d and its interval against statsmodels, another inversion of noncentral t, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from statsmodels.stats.meta_analysis import effectsize_smd
from statsmodels.stats.weightstats import CompareMeans

from benchmarks.effect import compare_groups, independent_d, paired_d
from benchmarks.sample import FloatArray

SAMPLES = st.lists(st.floats(-5, 5), min_size=2, max_size=30)


def simulated(seed: int, n: int = 26, *, mean: float = 0.0, spread: float = 1.0) -> FloatArray:
    return np.random.default_rng(seed).normal(mean, spread, n)


def statsmodels_g(first: FloatArray, second: FloatArray) -> float:
    """Hedges' g by statsmodels, which uses the usual approximation of the correction."""
    g, _ = effectsize_smd(first.mean(), first.std(ddof=1), first.size, second.mean(), second.std(ddof=1), second.size)
    return float(g)


@pytest.mark.parametrize("seed", range(4))
def test_d_of_two_groups_agrees_with_statsmodels(seed: int) -> None:
    first, second = simulated(seed, 26, mean=0.8), simulated(seed + 100, 20, spread=1.3)

    found = independent_d(first, second)

    assert found.d * (1 - 3 / (4 * 44 - 1)) == pytest.approx(statsmodels_g(first, second))


@pytest.mark.parametrize("mean", [-3.0, -0.5, 0.0, 0.3, 0.8, 30.0])
def test_intervals_agree_with_another_inversion_of_noncentral_t(mean: float) -> None:
    """Cdflib's own inversion, which SciPy keeps beside the distribution that is used here."""
    first, second = simulated(1, 26, mean=mean), simulated(2, 20)
    scale = math.sqrt(1 / 26 + 1 / 20)

    pooled, paired = independent_d(first, second), paired_d(first)

    for found, degrees, unit in ((pooled, 44, scale), (paired, 25, 1 / math.sqrt(26))):
        expected = [special.nctdtrinc(degrees, share, found.d / unit) * unit for share in (0.975, 0.025)]
        assert [found.lower, found.upper] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_paired_d_is_t_over_the_root_of_n() -> None:
    values = simulated(3, mean=0.4)

    found = paired_d(values, against=0.1)

    assert found.kind == "d_z"
    assert found.d == pytest.approx((values.mean() - 0.1) / values.std(ddof=1))


def test_intervals_hold_the_true_effect_about_as_often_as_they_say() -> None:
    """Simulated: 200 pairs of groups of 26 whose true d is 0.8."""
    found = [independent_d(simulated(seed, mean=0.8), simulated(seed + 1000)) for seed in range(200)]

    held = sum(one.lower <= 0.8 <= one.upper for one in found) / len(found)
    assert 0.91 <= held <= 0.98


def test_two_groups_are_compared_in_four_ways_that_agree() -> None:
    first, second = simulated(4, 54, mean=0.5), simulated(5, 60, spread=0.5)

    found = compare_groups(first, second, alternative="greater")

    ends = CompareMeans.from_data(first, second).tconfint_diff(usevar="unequal")
    assert (found.difference.lower, found.difference.upper) == pytest.approx(ends)
    assert found.difference.estimate == pytest.approx(first.mean() - second.mean())
    assert found.effect == independent_d(first, second)
    assert found.welch.p < 0.001
    assert found.mann_whitney.p < 0.001


@given(SAMPLES, SAMPLES)
@settings(deadline=None)
def test_d_turns_its_sign_when_the_groups_change_places(first: list[float], second: list[float]) -> None:
    there, back = independent_d(first, second), independent_d(second, first)

    assert (there.d, there.lower, there.upper) == pytest.approx((-back.d, -back.upper, -back.lower), nan_ok=True)
    assert there.reason.replace("group 1", "group 2") == back.reason.replace("group 1", "group 2")


@given(SAMPLES, st.floats(0.1, 10), st.floats(-10, 10))
@settings(deadline=None)
def test_d_knows_neither_unit_nor_origin(values: list[float], factor: float, shift: float) -> None:
    first, second = np.array(values), np.array(values) ** 2
    there = independent_d(first, second)
    moved = independent_d(first * factor + shift, second * factor + shift)

    if not there.reason and not moved.reason and abs(there.d) < 100:
        assert moved.d == pytest.approx(there.d, rel=1e-6, abs=1e-9)
        assert there.lower <= there.d <= there.upper
