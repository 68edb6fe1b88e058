"""A profile as bars: what it does on scales that ordinary workloads fill. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from profiler.records import WorkloadProfile

_WIDTH = 24
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BINARY = ((1 << 40, "Ti"), (1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki"))


@dataclass(frozen=True, slots=True)
class Scale:
    """Where a bar begins and where it is full."""

    label: str
    low: float
    high: float
    unit: str
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Give how much of the bar a value fills, 0 to 1."""
        low, high, here = self.low, self.high, value
        if self.logarithmic:
            low, high, here = math.log(low), math.log(high), math.log(max(value, self.low))
        return min(1.0, max(0.0, (here - low) / (high - low)))


#: In the order drawn. Ratios are linear; what spans decades is logarithmic.
SCALES: dict[str, Scale] = {
    "cpu_utilisation_ratio": Scale("CPU use", 0, 1, "%"),
    "system_time_ratio": Scale("kernel's share", 0, 1, "%"),
    "voluntary_switches_per_s": Scale("waits", 1, 1e5, "/s", logarithmic=True),
    "minor_faults_per_s": Scale("page faults", 1, 1e6, "/s", logarithmic=True),
    "rss_bytes": Scale("memory", 1 << 20, 64 << 30, "B", logarithmic=True),
    "io_read_bytes_per_s": Scale("disk read", 1e4, 1e10, "B/s", logarithmic=True),
    "io_write_bytes_per_s": Scale("disk written", 1e4, 1e10, "B/s", logarithmic=True),
    "ipc": Scale("instructions/cycle", 0, 4, ""),
    "llc_misses_per_kinstr": Scale("cache misses/1000", 0.1, 100, "", logarithmic=True),
    "llc_footprint_bytes": Scale("cache footprint", 64 << 10, 1 << 30, "B", logarithmic=True),
    "memory_bytes_per_s": Scale("memory traffic", 1e7, 1e12, "B/s", logarithmic=True),
    "cache_pressure_ratio": Scale("presses caches", 0, 1, "%"),
    "cache_sensitivity_sf": Scale("suffers, factor", 1, 3, "x"),
    "burstiness_index": Scale("burstiness", 0, 2, ""),
    "duty_cycle_ratio": Scale("tokens, of time", 0, 1, "%"),
    "tool_time_ratio": Scale("tools, of time", 0, 1, "%"),
    "kv_bytes": Scale("KV cache", 1e5, 1e11, "B", logarithmic=True),
}


def draw_profile(profile: WorkloadProfile) -> str:
    """Draw one bar a line; what is unknown is said to be."""
    width = max(len(scale.label) for scale in SCALES.values())
    lines = []
    for name, scale in SCALES.items():
        value = profile.value(name)
        if math.isnan(value):
            lines.append(f"{scale.label:<{width}}  {'·' * _WIDTH}  unknown")
            continue
        filled = round(scale.share(value) * _WIDTH)
        beyond = "+" if value > scale.high else ""
        lines.append(f"{scale.label:<{width}}  {'█' * filled}{' ' * (_WIDTH - filled)}  {_told(value, scale)}{beyond}")
    return "\n".join(lines)


def told_bytes(value: float) -> str:
    """Write an amount of memory."""
    return _prefixed(value, "B", _BINARY)


def told_rate(bytes_per_s: float) -> str:
    """Write a bandwidth."""
    return _prefixed(bytes_per_s, "B/s", _PREFIXES)


def _told(value: float, scale: Scale) -> str:
    if scale.unit == "%":
        return f"{value:.0%}"
    if scale.unit == "B":
        return told_bytes(value)
    return _prefixed(value, scale.unit, _PREFIXES if scale.unit else ())


def _prefixed(value: float, unit: str, prefixes: Sequence[tuple[float, str]]) -> str:
    for size, prefix in prefixes:
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()
