"""Token features against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.progress import ProgressEvent
from profiler.records import Source
from profiler.tokens import (
    RateBasis,
    between_tokens_s,
    burstiness,
    quantile,
    rate_basis,
    steady_rate,
    token_features,
)

# two turns: request at 1.0, first token 1.5, then every 0.1 s; a tool for 1 s; request at 3.0, tokens at 3.3 and 3.5
RUN = [
    ProgressEvent(1.0, "turn"),
    ProgressEvent(1.4, "prefill", tokens=40, seconds=0.4),
    *(ProgressEvent(t, "token") for t in (1.5, 1.6, 1.7, 1.8)),
    ProgressEvent(1.9, "kv", bytes=1000),
    ProgressEvent(2.9, "tool", seconds=1.0),
    ProgressEvent(3.0, "turn"),
    ProgressEvent(3.2, "prefill", tokens=10, seconds=0.1),
    ProgressEvent(3.3, "token"),
    ProgressEvent(3.5, "token"),
    ProgressEvent(3.6, "kv", bytes=1500),
]


def test_features_of_two_turns_are_those_computed_by_hand() -> None:
    found = {one.name: one.value for one in token_features(RUN, 0.0, 5.0)}
    intervals = [0.1, 0.1, 0.1, 1.5, 0.2]
    mean = sum(intervals) / 5
    sigma = math.sqrt(sum((one - mean) ** 2 for one in intervals) / 5)

    assert found == pytest.approx(
        {
            "ttft_s": (0.5 + 0.3) / 2,
            "ttft_p99_s": 0.3 + 0.99 * 0.2,
            "ttlt_s": 0.8,
            "ttlt_p99_s": 0.8,
            "tbt_s": 0.1,
            "tbt_p99_s": 0.1 + 0.97 * 0.1,
            "decode_tokens_per_s": 4 / 0.5,
            "prefill_tokens_per_s": 50 / 0.5,
            "burstiness_index": sigma / mean,
            "duty_cycle_ratio": 0.5 / 5,
            "tool_time_ratio": 1 / 5,
            "kv_bytes": 1500,
        }
    )


def test_every_token_feature_says_where_it_comes_from() -> None:
    assert {(one.source, one.window_s) for one in token_features(RUN, 0.0, 5.0)} == {(Source.TOKENS, 5.0)}


def test_even_tokens_have_no_burstiness() -> None:
    events = [ProgressEvent(float(t), "token") for t in range(10)]
    found = {one.name: one.value for one in token_features(events, 0.0, 9.0)}

    assert found["burstiness_index"] == 0
    assert found["duty_cycle_ratio"] == 1
    assert "ttft_s" not in found, "no request was seen, so its first token is unknown"


def test_a_workload_without_tokens_has_no_token_features() -> None:
    assert token_features([], 0, 1) == ()
    assert token_features([ProgressEvent(0.5, "tool", seconds=0.1)], 0, 1) == ()
    assert token_features(RUN, 9, 10) == ()


def test_decode_speed_does_not_depend_on_pauses() -> None:
    assert steady_rate(RUN, 0.0, 5.0) == pytest.approx(10.0)
    assert steady_rate(RUN, 2.5, 5.0) is None


def test_times_between_tokens_are_those_that_begin_in_the_window() -> None:
    even = [ProgressEvent(t / 10, "token") for t in range(100)]

    assert between_tokens_s(even, 1.0, 1.95, seen_s=2.5) == pytest.approx([0.1] * 10)
    assert between_tokens_s(even, 1.0, 1.95, seen_s=1.95) == pytest.approx([0.1] * 9), "a fraction is no whole"
    assert between_tokens_s(RUN, 0.0, 5.0, seen_s=3.6) == pytest.approx([0.1, 0.1, 0.1, 0.2]), "pauses are left out"


def test_a_stall_that_nobody_saw_the_end_of_counts_as_long_as_it_was_seen() -> None:
    stalled = [ProgressEvent(t / 10, "token") for t in range(11)]

    assert between_tokens_s(stalled, 0.5, 3.0, seen_s=3.1) == pytest.approx([0.1] * 5 + [2.1])
    assert between_tokens_s(stalled, 2.0, 3.0, seen_s=3.1) == pytest.approx([1.1]), "it began before the window"
    assert between_tokens_s([*stalled, ProgressEvent(1.1, "tool")], 2.0, 3.0, seen_s=3.1) == []
    assert between_tokens_s([], 2.0, 3.0, seen_s=3.1) == []


def test_two_streams_are_not_taken_for_one() -> None:
    """Two agents, each a token every 0.1 s, half a step apart; the second calls a tool for the second half."""
    first = [ProgressEvent(t / 10, "token", stream=0) for t in range(21)]
    second = [ProgressEvent(t / 10 + 0.05, "token", stream=1) for t in range(11)]
    tool = ProgressEvent(1.99, "tool", seconds=0.9, stream=1)
    events = sorted([*first, *second, tool], key=lambda event: event.t_s)
    found = {one.name: one.value for one in token_features(events, 0.0, 2.0)}

    assert found["tbt_s"] == pytest.approx(0.1)
    assert found["burstiness_index"] == pytest.approx(0, abs=1e-9)
    assert found["duty_cycle_ratio"] == pytest.approx(1.0), "one of them always makes tokens"
    assert found["tool_time_ratio"] == pytest.approx(0.45 / 2), "0.9 of 2 s of one of two agents"
    assert steady_rate(events, 0.0, 2.0) == pytest.approx(10.0)
    assert between_tokens_s(events, 0.0, 0.5, seen_s=0.62) == pytest.approx([0.1] * 11)


def test_a_pause_of_one_stream_is_none_of_the_other() -> None:
    events = [
        ProgressEvent(0.0, "token", stream=0),
        ProgressEvent(0.1, "token", stream=1),
        ProgressEvent(0.2, "tool", seconds=0.1, stream=1),
        ProgressEvent(0.5, "token", stream=0),
        ProgressEvent(0.6, "token", stream=1),
    ]

    assert between_tokens_s(events, 0.0, 0.55, seen_s=0.6) == pytest.approx([0.5])


def test_tokens_that_come_at_once_share_their_interval() -> None:
    events = [ProgressEvent(float(t), "token", tokens=4 if t else 1) for t in range(6)]
    found = {one.name: (one.value, one.samples) for one in token_features(events, 0.0, 5.0)}

    assert found["tbt_s"] == (0.25, 20)
    assert found["decode_tokens_per_s"] == (4.0, 20)
    assert steady_rate(events, 0.0, 5.0) == 4.0


def test_the_count_of_the_server_corrects_a_turn_that_began_before_the_window() -> None:
    """Ten lines for 25 tokens: each line stands for 2.5, two lines of the next turn, not told yet, for one each."""
    lines = [ProgressEvent(float(t), "token") for t in range(10)]
    next_turn = [ProgressEvent(10.0, "turn"), ProgressEvent(11.0, "token"), ProgressEvent(12.0, "token")]
    events = [ProgressEvent(-1.0, "turn"), *lines, ProgressEvent(9.1, "usage", tokens=25), *next_turn]
    found = {one.name: one.value for one in token_features(events, 4.5, 20.0)}

    assert found["decode_tokens_per_s"] == pytest.approx((4 * 2.5 + 1) / (4 + 1))
    assert found["ttft_s"] == 1.0


def test_a_tool_that_began_before_the_window_counts_for_its_part_inside() -> None:
    events = [ProgressEvent(1.0, "tool", seconds=10.0), ProgressEvent(1.5, "token"), ProgressEvent(2.0, "token")]
    found = {one.name: one.value for one in token_features(events, 0.0, 4.0)}

    assert found["tool_time_ratio"] == 0.25


def test_the_rate_of_a_workload_is_decided_once_for_all_slices() -> None:
    steady = [ProgressEvent(t / 10, "token") for t in range(100)]
    slow = [ProgressEvent(t * 0.4, "token") for t in range(25)]
    rare = [one for start in (0.0, 5.0) for one in (ProgressEvent(start + t / 100, "token") for t in range(90))]

    assert rate_basis(steady, 0.0, 9.9, slice_s=0.5) is RateBasis.DECODING
    assert rate_basis(slow, 0.0, 9.6, slice_s=0.5) is RateBasis.WORK
    assert rate_basis(slow, 0.0, 9.6, slice_s=2.0) is RateBasis.DECODING
    assert rate_basis(rare, 0.0, 10.0, slice_s=0.5) is RateBasis.WORK, "four slices of twenty hold tokens"
    assert rate_basis([], 0.0, 10.0, slice_s=0.5) is RateBasis.WORK
    assert rate_basis(steady, 0.0, 0.4, slice_s=0.5) is RateBasis.WORK, "no whole slice was seen"


@given(st.lists(st.floats(0, 1e3), min_size=2))
def test_burstiness_agrees_with_numpy(intervals: list[float]) -> None:
    mean = float(np.mean(intervals))

    if mean > 0:
        assert burstiness(intervals) == pytest.approx(float(np.std(intervals)) / mean, abs=1e-6)
    else:
        assert burstiness(intervals) is None


@given(st.lists(st.floats(0, 1e3), min_size=1), st.floats(0, 1))
def test_quantiles_agree_with_numpy(values: list[float], share: float) -> None:
    assert quantile(values, share) == pytest.approx(float(np.quantile(values, share)), abs=1e-9)


@given(
    st.lists(
        st.builds(
            ProgressEvent,
            st.floats(0, 100),
            st.sampled_from(["turn", "token", "tool", "prefill", "kv", "usage", "else"]),
            st.floats(-1, 1e6),
            st.floats(-1, 1e6) | st.just(math.nan),
            st.floats(-1, 1e15) | st.just(math.nan),
            st.integers(0, 2),
        )
    )
)
def test_any_events_give_valid_features_or_none(events: list[ProgressEvent]) -> None:
    names = [one.name for one in token_features(events, 0.0, 50.0)]

    assert len(set(names)) == len(names)
