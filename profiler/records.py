"""The words of measurement as frozen values: profile, relation, observation, prediction.

Slowdown is defined here and nowhere else: SF = T_co / T_solo for the same work, for rates
rate_solo / rate_co. 1 = unharmed, 2 = takes twice as long.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from profiler.errors import RecordInvalid

PROFILE_SCHEMA_VERSION = 2  # 1: first version; 2: the steady window


class Source(StrEnum):
    """Where a number came from."""

    PERF = "perf_event"
    RESCTRL = "resctrl"
    PROCFS = "procfs"
    PROBE = "probe"
    TOKENS = "tokens"
    PROGRESS = "progress"


class Quality(StrEnum):
    """How far a profile may be trusted."""

    STABLE = "stable"
    UNSTABLE = "unstable"  #: the rate still moved at the end of the window
    NOISY = "noisy"  #: the host was busy with something else, or the run before gave other numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One measured number with its origin."""

    name: str  #: one of PROFILE_FEATURES
    value: float
    spread: float | None  #: standard deviation over the samples, unit of value; None = one sample
    source: Source
    window_s: float
    samples: int

    def __post_init__(self) -> None:
        if self.name not in PROFILE_FEATURES:
            raise RecordInvalid(f"feature {self.name!r} is not one of {', '.join(PROFILE_FEATURES)}")
        if not math.isfinite(self.value):
            raise RecordInvalid(f"feature {self.name} is {self.value}: leave unknown features out")
        low, high = PROFILE_FEATURES[self.name]
        if not low <= self.value <= high:
            raise RecordInvalid(f"feature {self.name} is {self.value:g}, allowed are {low:g} to {high:g}")
        if self.spread is not None and not (math.isfinite(self.spread) and self.spread >= 0):
            raise RecordInvalid(f"spread of {self.name} is {self.spread}, must be finite and at least 0")
        if not (math.isfinite(self.window_s) and self.window_s >= 0):
            raise RecordInvalid(f"window of {self.name} is {self.window_s} s, must be finite and at least 0")


#: Every feature a profile may hold: unit in the name, allowed range. Order is part of the model's schema.
PROFILE_FEATURES: dict[str, tuple[float, float]] = {
    "rate_per_s": (0.0, 1e15),  # the workload's own progress
    "cpu_cores": (0.0, 8192.0),  # CPU time per wall time
    "cpu_utilisation_ratio": (0.0, 1.05),  # cpu_cores / CPUs given
    "system_time_ratio": (0.0, 1.0),  # kernel share of CPU time
    "threads": (0.0, 1e6),
    "voluntary_switches_per_s": (0.0, 1e9),
    "involuntary_switches_per_s": (0.0, 1e9),
    "minor_faults_per_s": (0.0, 1e10),
    "major_faults_per_s": (0.0, 1e9),
    "rss_bytes": (0.0, 1e15),
    "io_read_bytes_per_s": (0.0, 1e13),
    "io_write_bytes_per_s": (0.0, 1e13),
    "ipc": (0.0, 20.0),
    "llc_misses_per_kinstr": (0.0, 1000.0),
    "llc_footprint_bytes": (0.0, 1e12),
    "memory_bytes_per_s": (0.0, 1e14),
    "cache_pressure_ratio": (0.0, 2.0),  # reporter's loss beside it / beside full pressure
    "cache_sensitivity_sf": (0.2, 100.0),  # own slowdown beside full pressure on another CPU, same LLC
    "ttft_s": (0.0, 1e5),  # median
    "ttft_p99_s": (0.0, 1e5),
    "tbt_s": (0.0, 1e5),  # median
    "tbt_p99_s": (0.0, 1e5),
    "ttlt_s": (0.0, 1e6),  # median
    "ttlt_p99_s": (0.0, 1e6),
    "decode_tokens_per_s": (0.0, 1e7),
    "prefill_tokens_per_s": (0.0, 1e8),
    "burstiness_index": (0.0, 1e4),
    "duty_cycle_ratio": (0.0, 1.0),  # share of the window in which tokens were made
    "tool_time_ratio": (0.0, 1.0),
    "kv_bytes": (0.0, 1e13),
    # own slowdown beside random reads over a part of the LLC, and beside a copier that works for a part of the time
    "cache_eighth_sf": (0.2, 100.0),
    "cache_quarter_sf": (0.2, 100.0),
    "cache_half_sf": (0.2, 100.0),
    "cache_full_sf": (0.2, 100.0),
    "stream_quarter_sf": (0.2, 100.0),
    "stream_half_sf": (0.2, 100.0),
    "llc_references_per_kinstr": (0.0, 10000.0),
    "stalled_cycles_ratio": (0.0, 1.0),
    "cpu_pressure_ratio": (0.0, 1.0),  # share of the time in which somebody of it waited (PSI some)
    "memory_pressure_ratio": (0.0, 1.0),
    "io_pressure_ratio": (0.0, 1.0),
}


def measured(
    name: str, value: float, source: Source, window_s: float, samples: Sequence[float] = ()
) -> tuple[Feature, ...]:
    """Make a feature, with the spread of its samples; none where the value is unknown or outside its definition."""
    low, high = PROFILE_FEATURES[name]
    if not low <= value <= high:
        return ()
    spread = statistics.stdev(samples) if len(samples) > 1 else None
    count = max(1, len(samples))
    return (Feature(name=name, value=value, spread=spread, source=source, window_s=window_s, samples=count),)


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyWindow:
    """The part of a run that a profile describes."""

    start_s: float  #: after the workload was started, or watching began
    length_s: float
    decided_by: str  #: why it may be taken for steady, or that it may not

    def __post_init__(self) -> None:
        if not all(math.isfinite(one) and one >= 0 for one in (self.start_s, self.length_s)):
            raise RecordInvalid(
                f"window from {self.start_s} s for {self.length_s} s: both must be finite and at least 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadProfile:
    """What one workload does alone on `cpus` CPUs of one class of host."""

    name: str
    cpus: int
    features: tuple[Feature, ...]
    host_fingerprint: str
    created_unix_s: float
    quality: Quality = Quality.STABLE
    note: str = ""
    window: SteadyWindow | None = None  #: None = not told, as in profiles of schema version 1
    schema_version: int = PROFILE_SCHEMA_VERSION

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features]
        if len(set(names)) != len(names):
            raise RecordInvalid(f"profile {self.name!r} holds a feature twice: {sorted(names)}")
        if self.cpus < 1:
            raise RecordInvalid(f"profile {self.name!r} says {self.cpus} CPUs, must be at least 1")

    def value(self, name: str) -> float:
        """Give a feature's value, NaN when unknown."""
        found = self.feature(name)
        return math.nan if found is None else found.value

    def feature(self, name: str) -> Feature | None:
        """Give a feature with its spread; None when it was not measured."""
        for (
            feature
        ) in self.features:  # a loop: this is asked for in every decision, and a generator takes twice the time
            if feature.name == name:
                return feature
        return None


@dataclass(frozen=True, slots=True)
class Relation:
    """Shares (0 to 1) of the victim's CPUs that share each resource with the aggressor; never falling in this order."""

    same_cpu: float
    same_core: float
    same_l2: float
    same_llc: float
    same_node: float
    same_package: float

    def __post_init__(self) -> None:
        shares = (self.same_cpu, self.same_core, self.same_l2, self.same_llc)
        if not all(0.0 <= share <= 1.0 for share in (*shares, self.same_node, self.same_package)):
            raise RecordInvalid(f"{self}: every share must lie between 0 and 1")
        if any(first > second for first, second in itertools.pairwise(shares)):
            raise RecordInvalid(f"{self}: who shares a CPU also shares its core, L2 and LLC")


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One measured (victim, aggressors, relations) -> slowdown of the victim, from one host."""

    victim: str  #: profile name
    aggressors: tuple[str, ...]  #: profile names, one or more
    relations: tuple[Relation, ...]  #: one per aggressor
    slowdown: float  #: SF, above 0
    spread: float | None  #: standard deviation of log SF over repetitions; None = one repetition
    repetitions: int
    window_s: float
    host_fingerprint: str
    created_unix_s: float
    isolation: str = "none"  #: none, pinning, cat or combined
    origin: str = "measured"  #: measured, reported (by a client) or simulated

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slowdown) and self.slowdown > 0):
            raise RecordInvalid(f"slowdown {self.slowdown} of {self.victim!r} must be finite and above 0")
        if self.spread is not None and not (math.isfinite(self.spread) and self.spread >= 0):
            raise RecordInvalid(f"spread {self.spread} of {self.victim!r} must be finite and at least 0, or None")
        if self.repetitions < 1 or not (math.isfinite(self.window_s) and self.window_s >= 0):
            raise RecordInvalid(
                f"{self.victim!r}: {self.repetitions} repetitions of {self.window_s} s are no measurement"
            )
        if not self.aggressors or len(self.aggressors) != len(self.relations):
            raise RecordInvalid(f"{self.victim!r} needs one relation for each of its {len(self.aggressors)} aggressors")


DISK_WAKE_WAIT_S = 0.0009  #: of Linux 6.18, where nothing is calibrated


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTraits:
    """What prediction needs to know of the host."""

    fingerprint: str
    llc_bytes: float  #: NaN when unknown
    memory_bytes_per_s: float  #: peak of one LLC domain; NaN until calibrated
    smt_cost_sf: float = 1.6  #: slowdown of two busy SMT siblings; assumed until calibrated
    disk_wake_wait_s: float = DISK_WAKE_WAIT_S  #: wait per wake-up of who forces writes to disk
    effective_llc_bytes: float = math.nan  #: what one thread gets to keep of the cache; NaN until calibrated


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowdownEstimate:
    """Predicted slowdown factor of one victim beside one aggressor, with its parts (factors, multiplied together)."""

    slowdown: float
    lower: float
    upper: float
    prior: float
    time_sharing: float
    smt: float
    cache: float
    bandwidth: float
    learned: float
    far_from_training: bool
