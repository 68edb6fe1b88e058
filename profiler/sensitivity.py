"""What probes estimated of a workload, with intervals: its sensitivity curve, footprint and bandwidth. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from profiler.picture import told_bytes, told_rate
from profiler.records import Feature, Source, WorkloadProfile

_WIDTH = 16
_SCALES_SF = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 100.0)  # where the bars may be full


@dataclass(frozen=True, slots=True)
class Level:
    """One step of pressure by a program on another CPU of the same cache."""

    kind: str  #: a program of profiler/probes.py
    cache_ratio: float  #: its bytes as a part of the cache
    time_ratio: float  #: the part of the time for which it works

    def size_bytes(self, llc_bytes: int) -> int:
        """Give how much memory its program uses beside a cache of that size."""
        return max(1 << 16, int(self.cache_ratio * llc_bytes))

    def __str__(self) -> str:
        if self.kind == "reader":
            part = "all" if self.cache_ratio == 1 else Fraction(self.cache_ratio)
            return f"reads over {part} of the cache"
        return f"copying, {self.time_ratio:.0%} of the time"


#: The sensitivity curve: feature -> pressure, in rising order of each kind.
SENSITIVITY: dict[str, Level] = {
    "cache_eighth_sf": Level("reader", 1 / 8, 1.0),
    "cache_quarter_sf": Level("reader", 1 / 4, 1.0),
    "cache_half_sf": Level("reader", 1 / 2, 1.0),
    "cache_full_sf": Level("reader", 1.0, 1.0),
    "stream_quarter_sf": Level("pressure", 4.0, 0.25),
    "stream_half_sf": Level("pressure", 4.0, 0.5),
    "cache_sensitivity_sf": Level("pressure", 4.0, 1.0),
}
_AMOUNTS = {
    "llc_footprint_bytes": ("cache footprint", told_bytes),
    "memory_bytes_per_s": ("memory traffic", told_rate),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeEstimate:
    """A value and its interval, value less and plus its spread; None = the probes could not tell how sure they are."""

    name: str
    what: str
    value: float
    low: float | None
    high: float | None
    samples: int

    @classmethod
    def of(cls, feature: Feature, what: str) -> ProbeEstimate:
        """Take it from a feature; nothing here can be below 0."""
        known = feature.spread is not None
        return cls(
            name=feature.name,
            what=what,
            value=feature.value,
            low=max(0.0, feature.value - (feature.spread or 0.0)) if known else None,
            high=feature.value + (feature.spread or 0.0) if known else None,
            samples=feature.samples,
        )


def sensitivity_curve(profile: WorkloadProfile) -> tuple[ProbeEstimate, ...]:
    """Give the levels that were measured, in rising order."""
    found = {one.name: one for one in profile.features}
    return tuple(ProbeEstimate.of(found[name], str(level)) for name, level in SENSITIVITY.items() if name in found)


def amounts(profile: WorkloadProfile) -> tuple[ProbeEstimate, ...]:
    """Give footprint and bandwidth as probes estimated them; what a counter measured is no estimate."""
    return tuple(
        ProbeEstimate.of(one, _AMOUNTS[one.name][0])
        for one in profile.features
        if one.name in _AMOUNTS and one.source is Source.PROBE
    )


def told_amount(one: ProbeEstimate) -> tuple[str, str]:
    """Write an amount and its interval with their unit."""
    tell = _AMOUNTS[one.name][1]
    return tell(one.value), "?" if one.low is None or one.high is None else f"{tell(one.low)} to {tell(one.high)}"


def told_slowdown(one: ProbeEstimate) -> tuple[str, str]:
    """Write a slowdown factor and its interval."""
    return f"{one.value:.2f}", "?" if one.low is None or one.high is None else f"{one.low:.2f} to {one.high:.2f}"


def bars(curve: tuple[ProbeEstimate, ...]) -> tuple[float, list[str]]:
    """Draw what each level costs beyond 1, with the interval behind it; gives the factor that fills a bar, and bars."""
    most = max((one.value if one.high is None else one.high for one in curve), default=1.0)
    full = next((scale for scale in _SCALES_SF if most <= scale), math.ceil(most))

    def cells(factor: float) -> int:
        return round(min(1.0, max(0.0, factor - 1) / (full - 1)) * _WIDTH)

    drawn = []
    for one in curve:
        sure = cells(one.value if one.low is None else one.low)
        seen, most_cells = cells(one.value), cells(one.value if one.high is None else one.high)
        drawn.append(f"{'█' * sure}{'▓' * (seen - sure)}{'░' * (most_cells - seen)}")
    return full, drawn
