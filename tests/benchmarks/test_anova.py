"""Analysis of variance against statsmodels on the same arrays, balanced and not, with and without a block."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from benchmarks.anova import Anova, anova
from benchmarks.sample import FloatArray

Levels = dict[str, list[str]]
ALL = "y ~ C(traditional, Sum) * C(agent, Sum) * C(pinned, Sum)"
PAIRS = "y ~ (C(traditional, Sum) + C(agent, Sum) + C(pinned, Sum)) ** 2"
FACTORS = {"traditional": "cmi", "agent": "124", "pinned": "ny"}


def design(repetitions: int) -> Levels:
    """Give each combination of levels that many times; the repetition is the block."""
    rows = list(itertools.product(*FACTORS.values(), map(str, range(repetitions))))
    return dict(zip([*FACTORS, "block"], map(list, zip(*rows, strict=True)), strict=True))


def simulated(levels: Levels, seed: int) -> FloatArray:
    """Simulate log SF: memory is worse, worse still beside four agents; blocks differ; noise 0.1."""
    rng = np.random.default_rng(seed)
    memory, four = (np.array(levels[name]) == level for name, level in (("traditional", "m"), ("agent", "4")))
    shift = rng.normal(0, 0.05, 1000)[np.array(levels["block"], dtype=int)]
    return np.asarray(0.1 + 0.2 * memory + 0.1 * (memory & four) + shift + rng.normal(0, 0.1, memory.size))


def thinned(levels: Levels, seed: int) -> Levels:
    """Leave out three runs in ten: what failed runs do to a design."""
    kept = np.random.default_rng(seed).uniform(size=len(levels["block"])) > 0.3
    return {name: list(itertools.compress(column, kept)) for name, column in levels.items()}


def without(levels: Levels, *names: str) -> Levels:
    return {name: column for name, column in levels.items() if name not in names}


def assert_agree(found: Anova, values: FloatArray, levels: Levels, formula: str, kind: int) -> None:
    table = anova_lm(ols(formula, pd.DataFrame({"y": values, **levels})).fit(), typ=kind)
    rows = {name.replace("C(", "").replace(", Sum)", ""): row for name, row in table.iterrows()}
    assert {one.name for one in found.terms} == set(rows) - {"Intercept", "Residual"}
    for one in found.terms:
        row = rows[one.name]
        assert one.degrees == row["df"]
        assert one.sum_of_squares == pytest.approx(row["sum_sq"], rel=1e-8, abs=1e-12)
        assert one.f == pytest.approx(row["F"], rel=1e-8)
        assert one.p == pytest.approx(row["PR(>F)"], rel=1e-6)
    assert found.residual_sum_of_squares == pytest.approx(rows["Residual"]["sum_sq"])
    assert found.residual_degrees == rows["Residual"]["df"]


@pytest.mark.parametrize("kind", ["II", "III"])
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("block", [True, False])
def test_the_table_agrees_with_statsmodels(*, kind: Literal["II", "III"], balanced: bool, block: bool) -> None:
    levels = design(8) if balanced else thinned(design(8), 1)
    values = simulated(levels, 2)

    found = anova(values, without(levels, "block"), block=levels["block"] if block else None, kind=kind)

    assert_agree(found, values, levels, ALL + (" + C(block, Sum)" if block else ""), len(kind))


def test_interactions_stop_at_the_order_asked_for() -> None:
    levels = thinned(design(5), 3)
    values = simulated(levels, 4)

    found = anova(values, without(levels, "block"), order=2)

    assert_agree(found, values, levels, PAIRS, 3)
    assert len(found.terms) == 6


def test_two_levels_are_a_t_test() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.normal(0.3, 1, 20), rng.normal(0, 1, 15)

    found = anova([*first, *second], {"group": ["a"] * 20 + ["b"] * 15}).term("group")

    theirs = stats.ttest_ind(first, second)
    assert (found.f, found.p) == pytest.approx((theirs.statistic**2, theirs.pvalue))


def test_effect_sizes_follow_their_definitions() -> None:
    levels = design(6)

    found = anova(simulated(levels, 6), without(levels, "block"), block=levels["block"])

    noise, total = found.residual_sum_of_squares / found.residual_degrees, found.total_sum_of_squares
    for one in found.terms:
        squares = one.sum_of_squares
        assert one.eta_squared == pytest.approx(squares / total)
        assert one.partial_eta_squared == pytest.approx(
            one.f * one.degrees / (one.f * one.degrees + found.residual_degrees)
        )
        assert one.omega_squared == pytest.approx((squares - one.degrees * noise) / (total + noise))
    assert found.total_sum_of_squares == pytest.approx(np.var(simulated(levels, 6)) * found.n)
    assert sum(one.eta_squared for one in found.terms) == pytest.approx(found.r_squared)


def test_omega_squared_is_without_the_bias_of_eta_squared() -> None:
    """Simulated: 200 times three groups of six without any difference."""
    tables = [
        anova(np.random.default_rng(seed).normal(size=18), {"group": list("abc" * 6)}).term("group")
        for seed in range(200)
    ]

    assert np.mean([one.eta_squared for one in tables]) > 0.08
    assert abs(np.mean([one.omega_squared for one in tables])) < 0.03


def test_a_block_takes_what_machines_differ_by_out_of_the_noise() -> None:
    levels = design(8)
    values = simulated(levels, 7) + np.array(levels["block"], dtype=float)

    blind = anova(values, without(levels, "block")).term("traditional")
    blocked = anova(values, without(levels, "block"), block=levels["block"]).term("traditional")

    assert blind.p > 0.05
    assert blocked.p < 1e-6


def test_one_block_is_no_block() -> None:
    levels = design(4)
    values = simulated(levels, 8)

    found = anova(values, without(levels, "block"), block=["one"] * len(values))

    assert found == anova(values, without(levels, "block"))


def test_terms_are_found_by_their_factors_in_any_order() -> None:
    levels = design(4)
    found = anova(simulated(levels, 9), without(levels, "block"))

    assert found.term("agent", "traditional").name == "traditional:agent"
    with pytest.raises(KeyError, match="no term 'colour'"):
        found.term("colour")


def test_an_empty_cell_is_told() -> None:
    levels = design(4)
    kept = [not (one == "m" and two == "4") for one, two in zip(levels["traditional"], levels["agent"], strict=True)]
    fewer = {name: list(itertools.compress(column, kept)) for name, column in levels.items()}

    found = anova(simulated(fewer, 1), without(fewer, "block"))

    assert found.terms == ()
    assert found.reason.startswith("1 of 9 combinations of traditional:agent are without a value")
    assert len(anova(simulated(fewer, 1), without(fewer, "block"), order=1).terms) == 3


def test_cells_measured_once_leave_no_noise() -> None:
    levels = design(1)

    found = anova(simulated(levels, 1), without(levels, "block"))

    assert "18 values for 18 parameters leave no noise" in found.reason
    assert math.isnan(found.r_squared)


def test_a_block_that_is_a_factor_in_disguise_is_told() -> None:
    levels = design(4)

    found = anova(simulated(levels, 1), without(levels, "block"), block=levels["agent"])

    assert "cannot be told apart" in found.reason


def test_values_without_noise_have_shares_and_no_test() -> None:
    found = anova([1.0, 1.0, 2.0, 2.0], {"group": list("aabb")})

    assert found.term("group").eta_squared == pytest.approx(1)
    assert math.isnan(found.term("group").p)
    assert "explain every value exactly" in found.reason


def test_levels_that_fit_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="as many levels of 'agent'"):
        anova([1.0, 2.0, 3.0], {"agent": ["a", "b"]})
    with pytest.raises(ValueError, match="names other than 'block'"):
        anova([1.0, 2.0], {"block": ["a", "b"]})


@given(st.lists(st.floats(-3, 3), min_size=36, max_size=36), st.floats(0.01, 100), st.floats(-10, 10))
@settings(deadline=None, max_examples=50)
def test_shares_of_a_balanced_design_add_up_and_know_no_unit(values: list[float], factor: float, shift: float) -> None:
    levels = without(design(2), "block")

    found, moved = anova(values, levels), anova(np.array(values) * factor + shift, levels)

    if not found.reason and not moved.reason and np.ptp(values) > 1e-3:
        assert sum(one.eta_squared for one in found.terms) <= 1 + 1e-9
        assert all(one.eta_squared >= 0 for one in found.terms)
        assert [one.eta_squared for one in moved.terms] == pytest.approx(
            [one.eta_squared for one in found.terms], abs=1e-6
        )
