"""Who is protected by which bound, and what a refusal says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.errors import NoFeasiblePlacement
from tests.fakes.crowds import TWO_CPUS, put, seat
from tests.fakes.predictions import hog, idler, make_profile


def test_a_residents_bound_sends_the_newcomer_elsewhere_and_is_named() -> None:
    ledger = seat(TWO_CPUS, "chat", "1", idler("chat", cpu_utilisation_ratio=0.8), max_slowdown=1.1)
    ledger = seat(seat(ledger, "one", "0", hog("a")), "two", "0", hog("b"))

    decision = put(ledger, hog())

    assert str(decision.cpus) == "0"
    assert decision.explanation.decided_by == "bounds kept"
    assert decision.explanation.binding_constraint.startswith("max_slowdown of 'chat': up to 1.72x predicted, 1.10x")
    assert decision.explanation.candidates[1].reason == decision.explanation.binding_constraint


def test_the_upper_end_must_fit_not_the_middle() -> None:
    ledger = seat(TWO_CPUS, "a", "0-1", hog())  # doubles it on every CPU

    assert put(ledger, hog("b"), max_slowdown=2.5, width=1.2).cpus
    with pytest.raises(NoFeasiblePlacement):
        put(ledger, hog("b"), max_slowdown=2.1, width=1.2)


def test_a_refusal_names_bound_owner_prediction_limit_and_nearest_cpus() -> None:
    ledger = seat(seat(TWO_CPUS, "a", "0", hog("a")), "chat", "1", hog("chat", tbt_p99_s=0.1), tbt_ms=120.0)

    with pytest.raises(NoFeasiblePlacement) as refused:
        put(ledger, hog(), max_slowdown=1.9)

    assert str(refused.value) == (
        "no place for 'new' on 1 CPU: every CPU set breaks a bound; nearest is CPU 0, where max_slowdown of 'new': "
        "up to 2.20x predicted, 1.90x allowed; raise the bound, release a neighbour or allow best effort"
    )


def test_a_refusal_for_a_neighbours_sake_speaks_milliseconds_and_offers_no_best_effort() -> None:
    ledger = seat(TWO_CPUS, "chat", "0-1", hog("chat", tbt_p99_s=0.1), tbt_ms=120.0)

    with pytest.raises(NoFeasiblePlacement) as refused:
        put(ledger, hog(), best_effort=True)

    said = str(refused.value)
    assert "tbt_ms of 'chat': up to 160 ms predicted (1.60x of 100 ms alone), 120 ms allowed" in said
    assert "best effort" not in said


def test_best_effort_gives_up_the_newcomers_own_bound_and_says_so() -> None:
    ledger = seat(TWO_CPUS, "a", "0-1", hog())

    decision = put(ledger, hog("b"), max_slowdown=1.5, best_effort=True)

    assert decision.best_effort
    assert decision.explanation.binding_constraint == "max_slowdown of 'new': up to 2.20x predicted, 1.50x allowed"
    assert "best effort, because its bound cannot be kept" in decision.explanation.summary


def test_best_effort_is_not_used_where_a_place_keeps_every_bound() -> None:
    decision = put(seat(TWO_CPUS, "a", "0", hog()), hog("b"), max_slowdown=1.5, best_effort=True)

    assert not decision.best_effort
    assert str(decision.cpus) == "1"


def test_a_resident_over_its_bound_is_not_made_worse_but_bars_nobody_elsewhere() -> None:
    ledger = seat(TWO_CPUS, "sore", "0", hog("sore"), max_slowdown=1.2)
    ledger = seat(ledger, "bully", "0", hog("bully"))
    for name in ("c", "d", "e"):
        ledger = seat(ledger, name, "1", hog(name))

    decision = put(ledger, hog())

    assert str(decision.cpus) == "1"
    assert decision.explanation.candidates[1].cost < decision.explanation.candidates[0].cost
    assert "it is over already and must not get worse" in decision.explanation.binding_constraint


@pytest.mark.parametrize(
    ("quantile", "allowed_ms", "fits"),
    [
        (None, 50.0, True),
        (None, 40.0, False),
        (0.99, 50.0, True),
        (0.99, 40.0, False),
        (0.5, 23.0, True),
        (0.5, 21.0, False),
        (0.95, 40.0, False),  # between the two: on the tail, the careful side
        (0.51, 40.0, False),
        (0.1, 23.0, True),
        (0.1, 21.0, False),
        (0.999, 40.0, False),  # the nearest there is
    ],
)
def test_a_token_bound_is_judged_on_the_tail_or_the_median_by_its_quantile(
    quantile: float | None, allowed_ms: float, *, fits: bool
) -> None:
    ledger = seat(TWO_CPUS, "a", "0-1", hog())  # upper end 2.2x: tail 44 ms, median 22 ms
    tokens = make_profile("agent", cpu_utilisation_ratio=1.0, tbt_s=0.010, tbt_p99_s=0.020)

    if fits:
        assert put(ledger, tokens, tbt_ms=allowed_ms, quantile=quantile).cpus
    else:
        with pytest.raises(NoFeasiblePlacement, match=r"tbt_ms (\(.*\) )?of 'new'"):
            put(ledger, tokens, tbt_ms=allowed_ms, quantile=quantile)


def test_the_tightest_of_several_bounds_counts() -> None:
    ledger = seat(TWO_CPUS, "a", "0-1", hog())
    agent = make_profile("agent", cpu_utilisation_ratio=1.0, ttft_s=1.0, ttlt_s=10.0)

    assert put(ledger, agent, ttft_ms=2300.0, ttlt_ms=23_000.0).cpus
    with pytest.raises(NoFeasiblePlacement, match="ttlt_ms of 'new': up to 22000 ms predicted"):
        put(ledger, agent, ttft_ms=2300.0, ttlt_ms=21_000.0)


def test_a_bound_that_cannot_be_judged_is_reported_not_passed_in_silence() -> None:
    ledger = seat(TWO_CPUS, "mute", "0-1", hog("mute"), ttft_ms=5.0)

    decision = put(ledger, None, tbt_ms=1.0)

    assert "not judged: tbt_ms (there is no profile) of 'new'" in decision.explanation.summary
    assert "ttft_ms (profile 'mute' holds no ttft_s) of 'mute'" in decision.explanation.summary


@pytest.mark.parametrize(
    ("quantile", "said"),
    [
        (None, ""),
        (0.5, ""),
        (0.99, ""),
        (0.95, "quantile 0.95 judged on the P99"),
        (0.999, "quantile 0.999 judged on the P99"),
        (0.25, "quantile 0.25 judged on the median"),
    ],
)
def test_a_bound_judged_on_another_quantile_than_its_own_says_so(quantile: float | None, said: str) -> None:
    tokens = make_profile("agent", cpu_utilisation_ratio=1.0, tbt_s=0.010, tbt_p99_s=0.020)

    summary = put(TWO_CPUS, tokens, tbt_ms=100.0, quantile=quantile).explanation.summary

    assert ("not at their own quantile" in summary) == bool(said)
    assert said in summary


def test_a_refusal_names_the_quantile_a_bound_was_judged_on() -> None:
    tokens = make_profile("agent", cpu_utilisation_ratio=1.0, tbt_s=0.010, tbt_p99_s=0.020)

    with pytest.raises(NoFeasiblePlacement, match=r"tbt_ms \(quantile 0.9 judged on the P99\) of 'new': up to 44 ms"):
        put(seat(TWO_CPUS, "a", "0-1", hog()), tokens, tbt_ms=30.0, quantile=0.9)


@pytest.mark.parametrize(("quantile", "judged"), [(None, True), (0.5, True), (0.4, True), (0.95, False), (0.99, False)])
def test_first_and_last_token_are_judged_on_the_median_and_never_stand_in_for_a_tail(
    quantile: float | None, *, judged: bool
) -> None:
    ledger = seat(TWO_CPUS, "a", "0-1", hog())
    agent = make_profile("agent", cpu_utilisation_ratio=1.0, ttft_s=1.0)

    if judged:
        with pytest.raises(NoFeasiblePlacement, match="ttft_ms"):
            put(ledger, agent, ttft_ms=2000.0, quantile=quantile)
    else:
        summary = put(ledger, agent, ttft_ms=2000.0, quantile=quantile).explanation.summary
        assert f"not judged: ttft_ms (only its median is profiled, not quantile {quantile})" in summary


@pytest.mark.parametrize(
    ("fingerprint", "said"),
    [("elsewhere", "was taken on another class of host (elsewhere, this is"), ("", "does not say on which class")],
)
def test_milliseconds_from_another_host_are_not_judged_but_a_slowdown_is(fingerprint: str, said: str) -> None:
    ledger = seat(TWO_CPUS, "a", "0-1", hog())
    moved = replace(hog("moved", tbt_p99_s=0.1), host_fingerprint=fingerprint)

    decision = put(ledger, moved, tbt_ms=120.0)

    assert said in decision.fallback
    assert f"not judged: tbt_ms (profile 'moved' {said}" in decision.explanation.summary
    with pytest.raises(NoFeasiblePlacement, match="max_slowdown of 'new'"):
        put(ledger, moved, max_slowdown=1.2)


def test_a_residents_milliseconds_from_another_host_are_not_judged_either() -> None:
    moved = replace(hog("moved", tbt_p99_s=0.1), host_fingerprint="elsewhere")
    ledger = seat(TWO_CPUS, "chat", "0-1", moved, tbt_ms=120.0)

    summary = put(ledger, hog()).explanation.summary

    assert "not judged: tbt_ms (profile 'moved' was taken on another class of host" in summary
    assert "of 'chat'" in summary
