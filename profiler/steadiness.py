"""When a workload is steady, from slices of its run: pure rules, stated in the profile."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

SLICE_S = 0.5
SLICES = 3  #: that many in a row must agree
RATIO = 0.1  #: of their mean
_IDLE_CORES = 0.05  # CPU use below which a difference is the clock's tick
_GROWTH_RATIO = 0.02  # of memory over the slices; more is loading
_GROWTH_BYTES = 4 << 20
HALVES_RATIO = 0.1  #: by which the halves of a window may differ: no more than two runs may


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Half a second of a run."""

    rate_per_s: float | None  #: of its own progress; None = not told
    cpu_cores: float
    rss_bytes: float


def settled(slices: Sequence[Slice], *, rate_expected: bool) -> str:
    """Say why the last slices may be taken for steady; empty if they may not.

    What tells its progress is judged by that alone, since a program that loads also computes steadily; of what tells
    nothing, CPU use must agree and memory must not grow.
    """
    recent = slices[-SLICES:]
    if len(recent) < SLICES:
        return ""
    rates = [one.rate_per_s for one in recent if one.rate_per_s is not None]
    if len(rates) == SLICES:
        agree = min(rates) > 0 and max(rates) - min(rates) <= RATIO * statistics.fmean(rates)
        return f"its rate agreed within {RATIO:.0%} over {SLICES} slices of {SLICE_S:g} s" if agree else ""
    if rate_expected:
        return ""
    cores = [one.cpu_cores for one in recent]
    memory = [one.rss_bytes for one in recent]
    if max(cores) - min(cores) > max(RATIO * statistics.fmean(cores), _IDLE_CORES):
        return ""
    if max(memory) - memory[0] > max(_GROWTH_RATIO * memory[0], _GROWTH_BYTES):
        return ""
    return f"CPU use agreed within {RATIO:.0%} over {SLICES} slices of {SLICE_S:g} s and memory did not grow"


def halves_differ(first: float, second: float) -> bool:
    """Tell whether the rates of a window's halves are too far apart to be one rate."""
    return abs(first - second) > HALVES_RATIO * (first + second) / 2
