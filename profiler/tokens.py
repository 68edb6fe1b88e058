"""Features of an LLM agent from its progress events. Pure.

An interval between consecutive tokens is a pause if a turn, a prefill or a tool call lies in it, otherwise it is a TBT.
TTFT = first token of a turn - turn; TTLT = last token of a turn - turn, only of turns that another one follows.
burstiness index = sigma / mu of all intervals, pauses included; duty cycle = sum of TBT / window.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from profiler.progress import ProgressEvent
from profiler.records import PROFILE_FEATURES, Feature, Source

_PAUSES = frozenset({"turn", "prefill", "tool"})


def token_features(events: Sequence[ProgressEvent], start_s: float, end_s: float) -> tuple[Feature, ...]:
    """Give what the events between two moments tell; nothing for a workload that makes no tokens."""
    inside = sorted((event for event in events if start_s <= event.t_s <= end_s), key=lambda event: event.t_s)
    tokens_s = [event.t_s for event in inside if event.kind == "token"]
    if not tokens_s or end_s <= start_s:
        return ()
    intervals, between_s = _intervals(inside)
    first_s, last_s = _turns(inside, tokens_s)
    prefills = [event for event in inside if event.kind == "prefill" and event.tokens > 0 and event.seconds > 0]
    tools = [event.seconds for event in inside if event.kind == "tool" and event.seconds >= 0]
    kv = [event.bytes for event in inside if event.kind == "kv" and event.bytes >= 0]
    window_s = end_s - start_s
    found: list[tuple[str, float, float | None, int]] = []
    if first_s:
        found.append(("ttft_s", statistics.median(first_s), _spread(first_s), len(first_s)))
    if last_s:
        found.append(("ttlt_s", statistics.median(last_s), _spread(last_s), len(last_s)))
    if between_s:
        found.append(("tbt_s", statistics.median(between_s), _spread(between_s), len(between_s)))
        found.append(("tbt_p99_s", quantile(between_s, 0.99), None, len(between_s)))
        if (total_s := sum(between_s)) > 0:
            found.append(("decode_tokens_per_s", len(between_s) / total_s, None, len(between_s)))
        found.append(("duty_cycle_ratio", min(1.0, sum(between_s) / window_s), None, len(between_s)))
    if prefills:
        rate = sum(event.tokens for event in prefills) / sum(event.seconds for event in prefills)
        found.append(("prefill_tokens_per_s", rate, None, len(prefills)))
    if len(intervals) >= 2 and (mean := statistics.fmean(intervals)) > 0:
        found.append(("burstiness_index", statistics.pstdev(intervals) / mean, None, len(intervals)))
    found.append(("tool_time_ratio", min(1.0, sum(tools) / window_s), None, len(tools)))
    if kv:
        found.append(("kv_bytes", max(kv), None, len(kv)))
    return tuple(
        Feature(name=name, value=value, spread=spread, source=Source.TOKENS, window_s=window_s, samples=max(1, samples))
        for name, value, spread, samples in found
        if PROFILE_FEATURES[name][0] <= value <= PROFILE_FEATURES[name][1]
    )


def steady_rate(events: Sequence[ProgressEvent], start_s: float, end_s: float) -> float | None:
    """Give decode speed between two moments, 1 / median TBT; None with fewer than three intervals.

    Unlike tokens per second it does not depend on where the pauses for tools happen to fall. The median shrugs off
    interruptions; who shares a CPU suffers just those, so there take the mean of `between_tokens_s`.
    """
    first = bisect_right(events, start_s, key=lambda event: event.t_s)
    inside = [event for event in events[first:] if event.t_s <= end_s]
    _, between_s = _intervals(inside)
    if len(between_s) < 3 or (middle_s := statistics.median(between_s)) <= 0:
        return None
    return 1.0 / middle_s


def between_tokens_s(events: Sequence[ProgressEvent], start_s: float, end_s: float, seen_s: float) -> list[float]:
    """Give the times between tokens that begin between two moments, pauses left out; `seen_s` = when we looked away.

    One that nobody saw the end of counts as long as it was seen if that is longer than the mean of the others: a stall
    must not vanish, nor a fraction pass for a whole. A tool call under way then cannot be told from a stall.
    """
    told = [one for one in events if one.t_s <= seen_s and (one.kind == "token" or one.kind in _PAUSES)]
    first = bisect_left(told, start_s, key=lambda event: event.t_s)
    if first == len(told):
        return [seen_s - start_s] if told and told[-1].kind == "token" else []
    found: list[float] = []
    token_s: float | None = None
    for event in told[first:]:
        if token_s is not None and event.kind == "token":
            found.append(event.t_s - token_s)
        token_s = event.t_s if event.kind == "token" and event.t_s <= end_s else None
    if token_s is not None and (not found or seen_s - token_s > statistics.fmean(found)):
        found.append(seen_s - token_s)
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """Interpolate linearly between the sorted values, as numpy does."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _intervals(inside: Sequence[ProgressEvent]) -> tuple[list[float], list[float]]:
    """Give all intervals between consecutive tokens, and those that are no pause."""
    intervals: list[float] = []
    between_s: list[float] = []
    last_s: float | None = None
    paused = False
    for event in inside:
        if event.kind in _PAUSES:
            paused = True
        elif event.kind == "token":
            if last_s is not None:
                intervals.append(event.t_s - last_s)
                if not paused:
                    between_s.append(event.t_s - last_s)
            last_s, paused = event.t_s, False
    return intervals, between_s


def _turns(inside: Sequence[ProgressEvent], tokens_s: Sequence[float]) -> tuple[list[float], list[float]]:
    """Give time to first token of each turn and time to last token of each turn that is over."""
    starts_s = [event.t_s for event in inside if event.kind == "turn"]
    first_s: list[float] = []
    last_s: list[float] = []
    for number, start_s in enumerate(starts_s):
        is_over = number + 1 < len(starts_s)
        first, end = bisect_right(tokens_s, start_s), len(tokens_s)
        if is_over:
            end = bisect_right(tokens_s, starts_s[number + 1])
        if first < end:
            first_s.append(tokens_s[first] - start_s)
            if is_over:
                last_s.append(tokens_s[end - 1] - start_s)
    return first_s, last_s


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
