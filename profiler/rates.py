"""How fast a workload was between two moments, and what to say when it did not tell."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from profiler.errors import WorkloadFailed
from profiler.findings import Findings
from profiler.metric import Metric
from profiler.output import OutputLog
from profiler.procfs import GroupSample
from profiler.progress import WorkLog
from profiler.records import Quality, Source
from profiler.scrape import ScrapeLog
from profiler.steadiness import SLICE_S, halves_differ
from profiler.tokens import RateBasis, rate_basis, steady_rate


def window_rate(
    log: WorkLog, last_words: Callable[[], str], metric: Metric, samples: Sequence[GroupSample], findings: Findings
) -> str:
    """Add the rate, and say how far it agreed with itself."""
    start_s, end_s = samples[0].t_s, samples[-1].t_s
    rate = covered_rate(log, start_s, end_s)
    if rate is None:
        if log.covered_s is None:
            findings.notes.append("no rate: the command wrote no progress lines and did not end")
            return "it tells no rate"
        began_s, ended_s = log.covered_s
        stalled = f"progress stopped: nothing came in the last {end_s - max(start_s, ended_s):.1f} s of the window"
        if began_s - start_s > end_s - ended_s:
            stalled = f"progress began only {began_s - start_s:.1f} s after the window did"
        if metric.tells_while_running:
            failure = f": {log.failure}" if isinstance(log, ScrapeLog) and log.failure else ""
            raise WorkloadFailed(f"{stalled}{failure}{last_words()}")
        findings.doubt(Quality.UNSTABLE, stalled)
        return stalled
    slices = [covered_rate(log, one.t_s, other.t_s) for one, other in itertools.pairwise(samples)]
    findings.add("rate_per_s", rate, Source.PROGRESS, end_s - start_s, [one for one in slices if one is not None])
    middle_s = (start_s + end_s) / 2
    halves = [speed(log, start_s, middle_s), speed(log, middle_s, end_s)]
    if rate_basis(log.events, start_s, end_s, SLICE_S) is not RateBasis.DECODING:
        halves = [covered_rate(log, start_s, middle_s), covered_rate(log, middle_s, end_s)]
    one, other = halves[0] or 0.0, halves[1] or 0.0
    if rate <= 0:
        findings.doubt(Quality.UNSTABLE, "the rate was 0 for the whole window: it hangs, or waits for something")
    elif halves_differ(one, other):
        findings.doubt(
            Quality.UNSTABLE, f"the rate still moved: {one:.4g} then {other:.4g} per s in the window's halves"
        )
    return f"its halves gave {one:.4g} and {other:.4g} per s"


def speed(log: WorkLog, start_s: float, end_s: float) -> float | None:
    """Give the decoding speed where tokens tell one, otherwise work per second."""
    decoding = steady_rate(log.events, start_s, end_s)
    return decoding if decoding is not None else covered_rate(log, start_s, end_s)


def covered_rate(log: WorkLog, start_s: float, end_s: float) -> float | None:
    """Give work per second over the part of a span that is told; None = less than half of it."""
    covered = log.covered_s
    if covered is None:
        return None
    start, end = max(start_s, covered[0]), min(end_s, covered[1])
    if end - start < (end_s - start_s) / 2:
        return None
    return log.rate_per_s(start, end)


def silence(log: WorkLog, metric: Metric) -> str:
    """Say what did not come, and what to do."""
    if isinstance(log, ScrapeLog):
        return f"no number came: {log.failure or 'the series has no value'};"
    if isinstance(log, OutputLog):
        if log.no_number:
            return f"pattern {metric.pattern!r} matched, but its group held {log.no_number!r}, which is no number;"
        return (
            f"pattern {metric.pattern!r} matched none of {log.lines} lines of output (programs that buffer theirs "
            "need `-- stdbuf -oL COMMAND`)"
        )
    return (
        f"the command wrote no progress lines to $COTENANT_PROGRESS ({log.malformed_lines} malformed ones); see "
        "profiler/progress.py for the format, or leave --metric out; nothing came"
    )
