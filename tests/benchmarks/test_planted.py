"""What the statistics find in simulated experiments: planted effects, and next to nothing where none is planted.

All arrays are simulated: 54 cells (3 traditional x 3 agent x 2 isolation x 3 concurrency) of log slowdowns.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from benchmarks.anova import anova
from benchmarks.correlation import pearson, spearman
from benchmarks.effect import compare_groups
from benchmarks.inference import holm, kruskal_wallis, mann_whitney, paired_t, signed_rank
from benchmarks.interval import median_interval
from benchmarks.noise_floor import noise_floor
from benchmarks.sample import FloatArray

CELLS = list(itertools.product("cmi", "124", "np", [1, 4, 16]))
REPETITIONS = 26
NOISE = 0.05  # of log SF
MEMORY = np.array([traditional == "m" for traditional, *_ in CELLS])
PINNED = np.array([isolation == "p" for *_, isolation, _ in CELLS])


def simulated(seed: int, *, memory: float = 0.0, relief: float = 0.0) -> FloatArray:
    """Simulate [cell, repetition]: memory adds to log SF, pinning takes a share of it away."""
    planted = memory * MEMORY * (1 - relief * PINNED)
    noise = np.random.default_rng(seed).normal(0, NOISE, (len(CELLS), REPETITIONS))
    return np.asarray(planted[:, None] + noise)


def table(values: FloatArray) -> dict[str, float]:
    """Give the p of each term."""
    repetitions = values.shape[1]
    columns = zip(*(cell for cell in CELLS for _ in range(repetitions)), strict=True)
    names = ("traditional", "agent", "isolation", "concurrency")
    found = anova(
        values.ravel(),
        dict(zip(names, map(list, columns), strict=True)),
        block=list(range(repetitions)) * len(CELLS),
        order=2,
    )
    return {one.name: one.p for one in found.terms}


def test_planted_slowdowns_are_found_in_just_their_cells() -> None:
    values = simulated(1, memory=0.2, relief=0.5)

    found = holm([paired_t(cell, alternative="greater").p for cell in values]) < 0.05
    by_rank = holm([signed_rank(cell, alternative="greater").p for cell in values]) < 0.05

    assert np.array_equal(found, MEMORY)
    assert np.array_equal(by_rank, MEMORY)


def test_intervals_of_cells_hold_what_was_planted() -> None:
    values = simulated(2, memory=0.2, relief=0.5)

    intervals = [median_interval(np.exp(cell)) for cell in values]

    planted = np.exp(0.2 * MEMORY * (1 - 0.5 * PINNED))
    held = sum(one.lower <= true <= one.upper for one, true in zip(intervals, planted, strict=True))
    assert held >= 47  # of 54: fewer has a probability of 0.2 % at 95 %


def test_the_table_finds_the_planted_terms_and_no_other() -> None:
    adjusted = holm(list((found := table(simulated(3, memory=0.1, relief=0.5))).values()))

    significant = {name for name, p in zip(found, adjusted, strict=True) if p < 0.01}

    assert significant == {"traditional", "isolation", "traditional:isolation"}


def test_groups_of_cells_differ_by_the_planted_effect() -> None:
    values = simulated(4, memory=0.8 * NOISE)

    found = compare_groups(values[MEMORY].ravel(), values[~MEMORY].ravel(), alternative="greater")

    assert found.welch.p < 1e-6
    assert found.effect.lower < 0.8 < found.effect.upper
    assert found.difference.lower < 0.8 * NOISE < found.difference.upper


def test_the_noise_is_what_was_planted() -> None:
    cells = [noise_floor(np.exp(cell)).robust_cv_ratio for cell in simulated(5)]

    assert np.median(cells) == pytest.approx(NOISE, rel=0.1)


def test_burstiness_planted_in_the_sensitivity_of_cells_is_found() -> None:
    rng = np.random.default_rng(6)
    burstiness = rng.uniform(0.2, 2.0, len(CELLS))
    slowdown = 1 + 0.2 * burstiness + rng.normal(0, 0.08, len(CELLS))

    assert pearson(burstiness, slowdown, alternative="greater").lower > 0.6
    assert spearman(burstiness, slowdown, alternative="greater").lower > 0.6
    assert pearson(burstiness, rng.permutation(slowdown)).p > 0.05


def test_without_effects_hardly_one_campaign_in_twenty_raises_an_alarm() -> None:
    """40 campaigns of 54 cells with nothing planted; uncorrected, nearly all raise one."""
    p_values = np.array([[paired_t(cell).p for cell in simulated(seed)] for seed in range(100, 140)])

    alarms = np.mean([np.any(holm(row) < 0.05) for row in p_values])
    deviation = math.sqrt(0.05 * 0.95 / p_values.size)

    assert np.mean(p_values < 0.05) == pytest.approx(0.05, abs=3.5 * deviation)
    assert np.mean(np.any(p_values < 0.05, axis=1)) > 0.85
    assert alarms < 0.1


def test_terms_without_effect_are_significant_as_often_as_chance_has_it() -> None:
    """60 campaigns of 5 repetitions with nothing planted: 11 terms each, the block among them."""
    p_values = np.array([list(table(simulated(seed)[:, :5]).values()) for seed in range(300, 360)])

    assert np.mean(p_values < 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean([np.any(holm(row) < 0.05) for row in p_values]) < 0.15


def test_comparisons_without_effect_are_significant_as_often_as_chance_has_it() -> None:
    """400 comparisons of cells with nothing planted, by four tests."""
    cells = np.random.default_rng(7).normal(0, NOISE, (400, 3, REPETITIONS))

    found = np.array(
        [
            (
                signed_rank(one).p,
                mann_whitney(one, two).p,
                kruskal_wallis([one, two, three]).p,
                pearson(one, two).p,
            )
            for one, two, three in cells
        ]
    )

    deviation = math.sqrt(0.05 * 0.95 / len(cells))
    assert np.mean(found < 0.05, axis=0) == pytest.approx([0.05] * 4, abs=3.5 * deviation)
