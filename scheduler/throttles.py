"""Who is held to how much memory bandwidth in one last-level cache domain. Pure.

The rule, until prediction chooses: only where the peak is known, the known demands add up to more than it, and
somebody in the domain was promised a bound. Whoever has a bound is left alone; the others are held to what those leave,
each in proportion to its own demand. Who spans several domains asks each for its share of CPUs there. In percent that
is one number for all of a domain, taken of the own demand of each: Intel throttles cores and promises no bytes. What is
not known to ask for memory is not held. Nor is one on a core of somebody with a bound, where all threads of a core get
the lowest cap (thread_throttle_mode "max"): that would hold the one it is to protect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from isolation.resctrl_info import BandwidthControl, BandwidthUnit
from isolation.spec import MemoryBandwidth


class Demand(NamedTuple):
    """What alike workloads ask of the memory behind one cache."""

    bytes_per_s: float  #: of one of them; NaN = unknown
    members: int
    bound: bool  #: they were promised something


def throttles(
    cache_id: int, demands: Mapping[int, Demand], control: BandwidthControl, peak_bytes_per_s: float
) -> dict[int, MemoryBandwidth]:
    """Cap those without a bound, by the key of their demand; who is not named stays free."""
    known = {key: one for key, one in demands.items() if one.bytes_per_s > 0}
    capped = {key: one for key, one in known.items() if not one.bound}
    promised = _sum([one for one in known.values() if one.bound])
    wanted = _sum(list(capped.values()))
    if not capped or not any(one.bound for one in demands.values()) or promised + wanted <= peak_bytes_per_s:
        return {}
    share = max(0.0, peak_bytes_per_s - promised) / wanted
    caps = {key: _cap(cache_id, one.bytes_per_s, share, control) for key, one in capped.items()}
    return {key: cap for key, cap in caps.items() if cap is not None}


def _cap(cache_id: int, demand: float, share: float, control: BandwidthControl) -> MemoryBandwidth | None:
    """Round up to what the kernel keeps; None where that is all it asks for."""
    unit = control.unit.bytes_per_s
    if unit is None:
        percent = max(control.rounded(_up(100 * share)), control.min_bandwidth)
        return MemoryBandwidth(cache_id=cache_id, percent=percent) if percent < 100 else None
    least = 1 if control.unit is BandwidthUnit.MIB_PER_S else control.min_bandwidth
    amount = max(control.rounded(_up(demand * share / unit)), least)
    return MemoryBandwidth(cache_id=cache_id, bytes_per_s=amount * unit) if amount * unit < demand else None


def _up(value: float) -> int:
    """Round up, but not what only arithmetic left above a whole number."""
    return math.ceil(round(value, 6))


def _sum(demands: Sequence[Demand]) -> float:
    """Add up exactly: in whatever order, and however they are grouped."""
    return math.fsum(bytes_per_s for one in demands for bytes_per_s in [one.bytes_per_s] * one.members)
