"""Several neighbours at once: how pairwise slowdowns add up. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from profiler.errors import RecordInvalid


def compose(slowdowns: Sequence[float], counts: Sequence[float] | None = None) -> float:
    """Add up the excesses: 1 + sum of count (SF - 1); nobody beside it = 1. Without counts each counts once.

    Adding is exact for what costs most here: n hogs on one CPU each double the victim in pairs, and together
    make it 1 + n times slower (multiplying would say 2 to the n). Values below 1 are noise or a gift of one
    neighbour: they do not pay for the harm of another. If none is above 1 the largest stands.
    """
    if slowdowns and not (min(slowdowns) > 0 and math.isfinite(sum(slowdowns))):  # a NaN hides from min, not from sum
        raise RecordInvalid(f"slowdowns {list(slowdowns)}: each must be finite and above 0")
    often = [1.0] * len(slowdowns) if counts is None else counts
    harmful = [count * (slowdown - 1.0) for slowdown, count in zip(slowdowns, often, strict=True) if slowdown > 1.0]
    return 1.0 + math.fsum(harmful) if harmful else max(slowdowns, default=1.0)
