"""How far two measurements differ, and whether that is more than their own spread. Pure.

A feature repeats if it differs by at most a tenth (of the larger one, or of what is negligible) or by no more than two
standard errors of its spread. A profile is noisy beside the run before it if the median feature, or the rate, of which
all slowdowns are made, differs by more than a tenth, whatever their spread. Its note names what did not repeat.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from profiler.procfs import GroupSample, features_over
from profiler.records import Feature, Quality, WorkloadProfile

REPEATABLE_RATIO = 0.1  #: the median feature of two runs, and their rate, may differ by that much
_RATE = "rate_per_s"
_NAMED = 5
_SPREADS = 2.0  # standard errors that a difference must exceed to count

#: Below these a feature is next to nothing, and twice next to nothing is no difference.
_NEGLIGIBLE = {
    "cpu_cores": 0.02,
    "cpu_utilisation_ratio": 0.02,
    "system_time_ratio": 0.02,
    "voluntary_switches_per_s": 20.0,
    "involuntary_switches_per_s": 20.0,
    "minor_faults_per_s": 50.0,
    "major_faults_per_s": 5.0,
    "rss_bytes": float(1 << 20),
    "io_read_bytes_per_s": float(64 << 10),
    "io_write_bytes_per_s": float(64 << 10),
    "cache_pressure_ratio": 0.1,
    "tool_time_ratio": 0.02,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One feature of two profiles; None = unknown there."""

    name: str
    first: float | None
    second: float | None
    ratio: float | None  #: second / first; None where one is unknown or the first is 0
    beyond_spread: bool | None  #: None = one of them has no spread to compare with


def compare(first: WorkloadProfile, second: WorkloadProfile) -> tuple[Difference, ...]:
    """Set two profiles side by side, feature by feature, in the order of the first."""
    ours, theirs = ({one.name: one for one in profile.features} for profile in (first, second))
    return tuple(_difference(name, ours.get(name), theirs.get(name)) for name in dict.fromkeys((*ours, *theirs)))


def median_difference(first: Sequence[Feature], second: Sequence[Feature]) -> float:
    """Give the median over common features of |a - b| / max(|a|, |b|, what is negligible); NaN without common ones."""
    theirs = {one.name: one.value for one in second}
    found = [_apart(one.name, one.value, theirs[one.name]) for one in first if one.name in theirs]
    return statistics.median(found) if found else math.nan


def rate_difference(first: Sequence[Feature], second: Sequence[Feature]) -> float:
    """Give how far the rates differ, as `median_difference` counts it; NaN unless both are known."""
    rates = [[one for one in features if one.name == _RATE] for features in (first, second)]
    return median_difference(*rates)


def unrepeated(first: Sequence[Feature], second: Sequence[Feature]) -> tuple[tuple[str, float], ...]:
    """Name the common features that did not repeat and how far they differ, the farthest first."""
    theirs = {one.name: one for one in second}
    found = []
    for one in first:
        if (other := theirs.get(one.name)) is None:
            continue
        apart = _apart(one.name, one.value, other.value)
        if apart > REPEATABLE_RATIO and (
            one.name == _RATE or _difference(one.name, one, other).beyond_spread is not False
        ):
            found.append((one.name, apart))
    return tuple(sorted(found, key=lambda pair: (-pair[1], pair[0])))


def beside_the_last(before: WorkloadProfile, found: WorkloadProfile) -> WorkloadProfile:
    """Mark a profile by the one it replaces, if that is of the same CPUs and host: noisy, and what did not repeat."""
    if (before.host_fingerprint, before.cpus) != (found.host_fingerprint, found.cpus):
        return found
    notes = [found.note] if found.note else []
    quality = found.quality
    if (apart := median_difference(before.features, found.features)) > REPEATABLE_RATIO:  # NaN compares false
        notes.append(
            f"the median feature differs by {apart:.0%} from the run before it: not the same workload, or a noisy host"
        )
    rate = rate_difference(before.features, found.features)
    if rate > REPEATABLE_RATIO:
        notes.append(f"the rate differs by {rate:.0%} from the run before it")
    if quality is Quality.STABLE and (apart > REPEATABLE_RATIO or rate > REPEATABLE_RATIO):
        quality = Quality.NOISY
    if others := [f"{name} ({far:.0%})" for name, far in unrepeated(before.features, found.features)]:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        notes.append(f"did not repeat: {', '.join(others[:_NAMED])}{more}")
    return replace(found, quality=quality, note="; ".join(notes))


def halves_apart(samples: Sequence[GroupSample], cpus: int) -> str:
    """Say so if the halves of a window describe two workloads; empty if they agree, or are too short to tell."""
    middle = len(samples) // 2
    if len(samples) < 5:
        return ""
    first, second = features_over(samples[: middle + 1], cpus), features_over(samples[middle:], cpus)
    apart = median_difference(first, second)
    if not apart > REPEATABLE_RATIO:
        return ""
    return f"the median feature differs by {apart:.0%} between the window's halves"


def _difference(name: str, first: Feature | None, second: Feature | None) -> Difference:
    ratio = beyond = None
    if first is not None and second is not None:
        ratio = second.value / first.value if first.value else None
        if first.spread is not None and second.spread is not None:
            error = math.hypot(_standard_error(first), _standard_error(second))
            beyond = abs(first.value - second.value) > _SPREADS * error
    return Difference(
        name=name,
        first=first.value if first else None,
        second=second.value if second else None,
        ratio=ratio,
        beyond_spread=beyond,
    )


def _standard_error(one: Feature) -> float:
    return (one.spread or 0.0) / math.sqrt(one.samples)


def _apart(name: str, first: float, second: float) -> float:
    scale = max(abs(first), abs(second), _NEGLIGIBLE.get(name, 0.0))
    return abs(first - second) / scale if scale else 0.0
