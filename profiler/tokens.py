"""Features of an LLM agent from its progress events. Pure.

An interval between consecutive tokens of one stream is a pause if a turn, a prefill or a tool call lies in it,
otherwise it is a TBT. Tokens that came out at once share their interval equally.
TTFT = first token of a turn - turn; TTLT = last token of a turn - turn, only of turns that another one follows.
burstiness index = sigma / mu of all intervals, pauses included; of several streams, their intervals together.
duty cycle = share of the window that lies within a TBT of any stream; tool time is per stream.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from profiler.progress import MOST_TOKENS_AT_ONCE, ProgressEvent
from profiler.records import PROFILE_FEATURES, Feature, Source

_PAUSES = frozenset({"turn", "prefill", "tool"})


class RateBasis(StrEnum):
    """Which number tells how fast a workload is; decided once for it, or windows would not be comparable."""

    DECODING = "decoding"  #: `steady_rate`: 1 / time between tokens
    WORK = "work"  #: work per second, as its progress lines count it


def token_features(events: Sequence[ProgressEvent], start_s: float, end_s: float) -> tuple[Feature, ...]:
    """Give what the events between two moments tell; nothing for a workload that makes no tokens."""
    inside = sorted((one for one in _as_served(events) if start_s <= one.t_s <= end_s), key=lambda event: event.t_s)
    if end_s <= start_s or not any(event.kind == "token" for event in inside):
        return ()
    streams = _streams(inside)
    gaps = [gap for stream in streams for gap in _gaps(stream)]
    made = [gap for gap in gaps if not gap.is_pause]
    between_s = [each_s for gap in made for each_s in gap.each_s]
    turns = [_turns(stream) for stream in streams]
    first_s, last_s = ([one for times in turns for one in times[which]] for which in (0, 1))
    prefills = [event for event in inside if event.kind == "prefill" and event.tokens > 0 and event.seconds > 0]
    tools_s = [_within(event, start_s) for event in inside if event.kind == "tool" and event.seconds >= 0]
    kv = [event.bytes for event in inside if event.kind == "kv" and event.bytes >= 0]
    window_s = end_s - start_s
    found: list[tuple[str, float, float | None, int]] = []
    for name, values in (("ttft", first_s), ("ttlt", last_s), ("tbt", between_s)):
        if values:
            found.append((f"{name}_s", statistics.median(values), _spread(values), len(values)))
            found.append((f"{name}_p99_s", quantile(values, 0.99), None, len(values)))
    if made:
        if (total_s := sum(gap.seconds for gap in made)) > 0:
            found.append(("decode_tokens_per_s", sum(gap.tokens for gap in made) / total_s, None, len(between_s)))
        found.append(("duty_cycle_ratio", min(1.0, _covered_s(made) / window_s), None, len(between_s)))
    if prefills:
        rate = sum(event.tokens for event in prefills) / sum(event.seconds for event in prefills)
        found.append(("prefill_tokens_per_s", rate, None, len(prefills)))
    intervals = between_s + [gap.seconds for gap in gaps if gap.is_pause]
    if (index := burstiness(intervals)) is not None:
        found.append(("burstiness_index", index, None, len(intervals)))
    found.append(("tool_time_ratio", min(1.0, sum(tools_s) / window_s / len(streams)), None, len(tools_s)))
    if kv:
        found.append(("kv_bytes", max(kv), None, len(kv)))
    return tuple(
        Feature(name=name, value=value, spread=spread, source=Source.TOKENS, window_s=window_s, samples=max(1, samples))
        for name, value, spread, samples in found
        if PROFILE_FEATURES[name][0] <= value <= PROFILE_FEATURES[name][1]
    )


def burstiness(intervals_s: Sequence[float]) -> float | None:
    """Give sigma / mu of intervals; None with fewer than two, or when all are zero."""
    if len(intervals_s) < 2 or (mean := statistics.fmean(intervals_s)) <= 0:
        return None
    return math.sqrt(statistics.fmean((one - mean) ** 2 for one in intervals_s)) / mean


def rate_basis(events: Sequence[ProgressEvent], start_s: float, end_s: float, slice_s: float) -> RateBasis:
    """Decide from a solo window what slices of `slice_s` shall compare: decoding speed if most of them hold one.

    Whoever measures then leaves out a slice without it, instead of comparing it with another quantity.
    """
    slices = int((end_s - start_s) / slice_s + 1e-9)
    told = sum(
        steady_rate(events, start_s + number * slice_s, start_s + (number + 1) * slice_s) is not None
        for number in range(slices)
    )
    return RateBasis.DECODING if 2 * told > slices else RateBasis.WORK


def steady_rate(events: Sequence[ProgressEvent], start_s: float, end_s: float) -> float | None:
    """Give decode speed of a stream between two moments, 1 / median TBT; None with fewer than three intervals.

    Unlike tokens per second it does not depend on where the pauses for tools happen to fall. The median shrugs off
    interruptions; who shares a CPU suffers just those, so there take the mean of `between_tokens_s`.
    """
    first = bisect_right(events, start_s, key=lambda event: event.t_s)
    inside = [event for event in events[first:] if event.t_s <= end_s]
    gaps = [gap for stream in _streams(inside) for gap in _gaps(stream) if not gap.is_pause]
    between_s = [each_s for gap in gaps for each_s in gap.each_s]
    if len(between_s) < 3 or (middle_s := statistics.median(between_s)) <= 0:
        return None
    return 1.0 / middle_s


def between_tokens_s(events: Sequence[ProgressEvent], start_s: float, end_s: float, seen_s: float) -> list[float]:
    """Give the times between tokens that begin between two moments, pauses left out; `seen_s` = when we looked away.

    One that nobody saw the end of counts as long as it was seen if that is longer than the mean of the others: a stall
    must not vanish, nor a fraction pass for a whole. A tool call under way then cannot be told from a stall.
    """
    told = [one for one in events if one.t_s <= seen_s and (one.kind == "token" or one.kind in _PAUSES)]
    return [each_s for stream in _streams(told) for each_s in _begun_s(stream, start_s, end_s, seen_s)]


def _begun_s(told: Sequence[ProgressEvent], start_s: float, end_s: float, seen_s: float) -> list[float]:
    """Give `between_tokens_s` of one stream."""
    first = bisect_left(told, start_s, key=lambda event: event.t_s)
    if first == len(told):
        return [seen_s - start_s] if told and told[-1].kind == "token" else []
    found: list[float] = []
    token_s: float | None = None
    for event in told[first:]:
        if token_s is not None and event.kind == "token":
            found.extend(_Gap(token_s, event.t_s, _count(event), is_pause=False).each_s)
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


@dataclass(frozen=True, slots=True)
class _Gap:
    """From one token of a stream to those that came next."""

    start_s: float
    end_s: float
    tokens: float  #: that came out at its end; a fraction where the server counts others than it sends
    is_pause: bool

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    @property
    def each_s(self) -> list[float]:
        """Its length for each of its tokens."""
        return [self.seconds / self.tokens] * max(1, round(self.tokens))


def _count(event: ProgressEvent) -> float:
    return min(event.tokens, float(MOST_TOKENS_AT_ONCE)) if event.tokens > 0 else 1.0  # NaN compares false


def _as_served(events: Sequence[ProgressEvent]) -> Sequence[ProgressEvent]:
    """Let the lines of each turn share the tokens that the server says it made, where it says so."""
    told = list(events)
    lines: dict[int, list[int]] = {}
    for place, event in enumerate(events):
        if event.kind == "turn":
            lines[event.stream] = []
        elif event.kind == "token":
            lines.setdefault(event.stream, []).append(place)
        elif event.kind == "usage" and event.tokens > 0 and (places := lines.pop(event.stream, [])):
            share = event.tokens / sum(_count(events[one]) for one in places)
            for one in places:
                told[one] = dataclasses.replace(events[one], tokens=_count(events[one]) * share)
    return told


def _streams(events: Sequence[ProgressEvent]) -> list[list[ProgressEvent]]:
    """Split events by stream; at least one, possibly empty."""
    found: dict[int, list[ProgressEvent]] = {}
    for event in events:
        found.setdefault(event.stream, []).append(event)
    return list(found.values()) or [[]]


def _gaps(inside: Sequence[ProgressEvent]) -> list[_Gap]:
    """Give what lies between consecutive tokens of one stream."""
    gaps: list[_Gap] = []
    last_s: float | None = None
    paused = False
    for event in inside:
        if event.kind in _PAUSES:
            paused = True
        elif event.kind == "token":
            if last_s is not None:
                gaps.append(_Gap(last_s, event.t_s, _count(event), paused))
            last_s, paused = event.t_s, False
    return gaps


def _covered_s(gaps: Sequence[_Gap]) -> float:
    """Give the time that lies within any of them."""
    total_s, until_s = 0.0, -math.inf
    for gap in sorted(gaps, key=lambda one: one.start_s):
        total_s += max(0.0, gap.end_s - max(gap.start_s, until_s))
        until_s = max(until_s, gap.end_s)
    return total_s


def _within(event: ProgressEvent, start_s: float) -> float:
    """Give how much of a tool call lies after that moment; its line is written when it ends."""
    return min(event.seconds, event.t_s - start_s)


def _turns(inside: Sequence[ProgressEvent]) -> tuple[list[float], list[float]]:
    """Give time to first token of each turn and time to last token of each turn that is over, of one stream."""
    tokens_s = [event.t_s for event in inside if event.kind == "token"]
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
    """Give the sample's standard deviation, in floats: statistics.stdev counts in fractions, nine times slower."""
    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    return math.sqrt(math.fsum((one - mean) ** 2 for one in values) / (len(values) - 1))
