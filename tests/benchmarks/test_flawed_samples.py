"""Every statistic on samples that cannot be computed with: NaN and a reason, never a warning or NumPy's own error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.anova import anova
from benchmarks.correlation import pearson, spearman
from benchmarks.effect import compare_groups, independent_d, paired_d
from benchmarks.inference import kruskal_wallis, levene, mann_whitney, paired_t, signed_rank, welch
from benchmarks.interval import bootstrap_interval, median_interval
from benchmarks.noise_floor import noise_floor

OTHER = [1.1, 1.3, 1.2, 1.6, 1.4, 1.5, 1.0, 1.7]
N = len(OTHER)

#: name -> what is computed of a sample of N values, and the fields that then are unknown
STATISTICS: dict[str, tuple[Callable[[Any], Any], tuple[str, ...]]] = {
    "median_interval": (median_interval, ("lower", "upper")),
    "mean_interval": (lambda values: bootstrap_interval(np.mean, values), ("lower", "upper")),
    "paired_t": (paired_t, ("statistic", "p")),
    "paired_d": (paired_d, ("d", "lower", "upper")),
    "noise_floor": (noise_floor, ("robust_cv_ratio", "half_width_ratio")),
    "anova": (lambda values: anova(values, {"half": [i % 2 for i in range(len(values))]}), ("r_squared",)),
    "pearson": (lambda values: pearson(values, OTHER[: len(values)]), ("r", "p", "lower")),
    "spearman": (lambda values: spearman(values, OTHER[: len(values)]), ("r", "p", "lower")),
    "signed_rank": (signed_rank, ("statistic", "p")),
    "welch": (lambda values: welch(values, OTHER), ("statistic", "p")),
    "mann_whitney": (lambda values: mann_whitney(OTHER, values), ("statistic", "p")),
    "kruskal_wallis": (lambda values: kruskal_wallis([OTHER, values]), ("statistic", "p")),
    "levene": (lambda values: levene([OTHER, values]), ("statistic", "p")),
    "independent_d": (lambda values: independent_d(values, OTHER), ("d", "lower")),
    "difference": (lambda values: compare_groups(values, OTHER).difference, ("estimate", "lower")),
}
#: these need a spread within the one sample
SPREAD = list(STATISTICS)[:8]
NAMES = pytest.mark.parametrize("name", STATISTICS)


def assert_unknown(name: str, values: list[float], reason: str) -> None:
    compute, fields = STATISTICS[name]
    found = compute(values)
    assert reason in found.reason
    assert all(math.isnan(getattr(found, field)) for field in fields)


@NAMES
@pytest.mark.parametrize("count", [0, 1])
def test_too_few_values(name: str, count: int) -> None:
    assert_unknown(name, [1.2] * count, ("0 values", "1 value")[count])


@NAMES
@pytest.mark.parametrize("unknown", [math.nan, math.inf, -math.inf])
def test_an_unknown_among_the_values(name: str, unknown: float) -> None:
    assert_unknown(name, [*OTHER[:-1], unknown], "1 unknown (NaN) or infinite among 8 values")


@pytest.mark.parametrize("name", SPREAD)
@pytest.mark.parametrize("value", [0.0, 1.2, -1e300])
def test_values_without_spread(name: str, value: float) -> None:
    assert_unknown(name, [value] * N, "no spread")


@pytest.mark.parametrize("name", SPREAD)
def test_values_that_differ_by_rounding_only(name: str) -> None:
    assert_unknown(name, [1.2, 1.2 + 2e-16] * (N // 2), "no spread")


@pytest.mark.parametrize("compute", [welch, independent_d, lambda one, two: levene([one, two])])
def test_two_groups_without_any_spread(compute: Callable[[Any, Any], Any]) -> None:
    assert compute([1.2] * 5, [1.3] * 5).reason == "no group has any spread"


@pytest.mark.parametrize("compute", [mann_whitney, lambda one, two: kruskal_wallis([one, two])])
def test_groups_that_are_one_value(compute: Callable[[Any, Any], Any]) -> None:
    assert "all values of all groups are 1.2" in compute([1.2] * 5, [1.2] * 5).reason


def test_signed_ranks_of_no_difference() -> None:
    assert signed_rank([0.0] * 5).reason == "0 of the 5 differences are not 0, 2 are needed"


def test_one_group_alone_is_not_compared() -> None:
    assert kruskal_wallis([OTHER]).reason == "1 group: at least 2 are compared"
    assert levene([OTHER]).reason == "1 group: at least 2 are compared"


def test_distances_from_the_median_without_spread() -> None:
    assert "have no spread within any group" in levene([[1.0, 2.0], [3.0, 5.0]]).reason


def test_a_factor_of_one_level() -> None:
    found = anova(OTHER, {"agent": ["single"] * N})

    assert found.reason == "'agent': one level only, nothing to compare"


@NAMES
@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=N, max_size=N))
@settings(max_examples=40, deadline=None)
def test_any_finite_values_give_numbers_or_a_reason(name: str, values: list[float]) -> None:
    compute, fields = STATISTICS[name]

    found = compute(values)

    assert found.reason or all(math.isfinite(getattr(found, field)) for field in fields)


def test_every_result_is_frozen_and_slotted() -> None:
    for compute, _ in STATISTICS.values():
        found = compute(np.array(OTHER))
        assert not hasattr(found, "__dict__")
        with pytest.raises(dataclasses.FrozenInstanceError):
            found.reason = "changed"
