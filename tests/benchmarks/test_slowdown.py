"""Slowdowns as paired ratios of one run."""

from __future__ import annotations

import math

import pytest

from benchmarks.runs import Phase
from benchmarks.slowdown import slowdown, solo_drift, tail_sensitivity, work_ratio
from tests.fakes.campaigns import bracketed, simulated_run


def test_ordinary_work_compares_rates_with_the_mean_of_both_solo_windows() -> None:
    run = simulated_run(readings=bracketed("memory", {"rate_per_s": (100.0, 50.0, 300.0)}))

    # the time for one unit alone: mean of 1/100 and 1/300 s; together 1/50 s
    assert slowdown(run, "memory") == pytest.approx((1 / 50) / ((1 / 100 + 1 / 300) / 2))
    assert solo_drift(run.readings, "memory") == pytest.approx(3.0)


def test_agents_compare_the_time_until_the_same_token() -> None:
    times_s = ((0.5, 0.6, 0.7), (1.0, 1.5), (0.5, 0.8, 0.9))
    run = simulated_run(readings=bracketed("single", {"token_times_s": times_s, "rate_per_s": (9.0, 9.0, 9.0)}))

    assert slowdown(run, "single") == pytest.approx(1.5 / 0.7)
    assert solo_drift(run.readings, "single") == pytest.approx(0.9 / 0.7)


@pytest.mark.parametrize(
    "values",
    [
        {"rate_per_s": (100.0, None, 100.0)},
        {"rate_per_s": (0.0, 50.0, 100.0)},
        {"token_times_s": ((0.1,), (), (0.1,))},
        {"token_times_s": ((), (), ())},
        {},
    ],
)
def test_what_a_window_did_not_tell_is_unknown(values: dict[str, tuple[object, object, object]]) -> None:
    run = simulated_run(readings=bracketed("x", values))

    assert math.isnan(slowdown(run, "x"))
    assert math.isnan(slowdown(run, "absent"))


def test_two_runs_compare_the_time_for_the_same_work() -> None:
    slow = simulated_run(readings=bracketed("memory", {"rate_per_s": (100.0, 20.0, 50.0)}))
    fast = simulated_run(readings=bracketed("memory", {"rate_per_s": (200.0, 50.0, 200.0)}))

    assert work_ratio(slow, fast, "memory", (Phase.TOGETHER,)) == pytest.approx(2.5)
    assert work_ratio(slow, fast, "memory", (Phase.BEFORE, Phase.AFTER)) == pytest.approx((1 / 100 + 1 / 50) * 100)
    assert math.isnan(work_ratio(slow, fast, "absent", (Phase.TOGETHER,)))


def test_two_runs_of_agents_compare_the_time_until_the_same_token() -> None:
    long = simulated_run(readings=bracketed("single", {"token_times_s": ((0.1,), (0.5, 0.9, 1.5), (0.1,))}))
    short = simulated_run(readings=bracketed("single", {"token_times_s": ((0.1,), (0.4, 0.6), (0.1,))}))

    assert work_ratio(long, short, "single", (Phase.TOGETHER,)) == pytest.approx(0.9 / 0.6)


def test_tail_sensitivity_is_the_growth_of_the_99th_percentile() -> None:
    run = simulated_run(readings=bracketed("single", {"tbt_p99_s": (0.02, 0.09, 0.04)}))

    assert tail_sensitivity(run, "single") == pytest.approx(2.0)
    assert math.isnan(tail_sensitivity(run, "memory"))
