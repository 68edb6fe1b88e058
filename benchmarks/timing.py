"""How long calls take, and how that is printed: shared by the benchmarks that `make bench` runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

from profiler.tokens import quantile


def timed_us(call: Callable[[], object]) -> float:
    """Return how many microseconds a call takes."""
    started_s = time.perf_counter()
    call()
    return (time.perf_counter() - started_s) * 1e6


def cells(values_us: Sequence[float]) -> tuple[str, str, str]:
    """Return count, median and 99th percentile of times for a table."""
    return str(len(values_us)), f"{median(values_us):,.0f}", f"{quantile(values_us, 0.99):,.0f}"
