"""What physics alone says a neighbour costs, as four factors of at least 1 each; their product is the prior slowdown.

Pure. The trees learn only what this leaves over, so that a handful of observations cannot do harm. The factors:

time sharing   u = demand per CPU (cpu_utilisation_ratio; unknown = 1, a hog). The kernel shares fairly: each side may
               have half a CPU, or whatever the other leaves: fair = max(1/2, 1 - u_a). f = u_v / min(u_v, fair), which
               is 1 while u_v + u_a <= 1. Who forces writes to the disk pays at each wake-up too: since EEVDF (Linux
               6.6) it waits until the running one's tick, while whom a timer, a pipe or the network wakes runs at once
               (redis, 12,500 wake-ups a second, lost 4 % beside a hog). With n wake-ups per second and CPU, at most
               one for each 4 KiB written, the time for the same work stretches by s = 1 + n u_other wait, so
               f_v = s_v * f(u_v, u_a / s_a): 7,800 direct disk accesses a second became 8 times slower beside a hog,
               and cost the hog 2 % instead of 20 %.
               Only the share same_cpu of the victim's CPUs suffers: 1 + same_cpu (f_v - 1).
smt            Busy siblings cost smt_cost_sf: 1 + (smt_cost_sf - 1) u_v u_a (same_core - same_cpu).
cache          Two threads of one CPU never run at once, so only same_llc - same_cpu counts ("beside"). With probes, as
               Bubble-Up does (Mars et al., MICRO 2011): 1 + e p beside, e = sensitivity_sf - 1, p = pressure_ratio,
               at most 1: no neighbour presses harder than the probe at full pressure did. Both are measured with
               noise, which products of two only add to, so each counts as far as it stands out of its own spread s:
               x / (1 + (s / x)^2) (as Wiener's filter does). Without them, from footprints: the share that does not
               fit, o = max(0, 1 - llc / (f_v + f_a)), and 1 + o beside: a workload pushed out wholly takes twice as
               long (assumed). Unknown = 1.
bandwidth      The rule of time sharing, with u = memory_bytes_per_s / peak and the share "beside". The streaming probe
               takes bandwidth as well as cache, so a cache factor that rests on probes already holds it: then 1.
               Unknown = 1.

Rises with the aggressor's demands and with the victim's sensitivity. Does not rise with same_cpu: sharing a CPU can be
better than thrashing a shared cache from two of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from profiler.records import HostTraits, Relation, WorkloadProfile

#: Raise it with every change of these formulas: what a model's trees learned is left over from the earlier ones.
PRIOR_VERSION = 2
PRIOR_HALF_WIDTH_LOG = math.log(1.5)  #: of the interval of log SF where nothing is calibrated: the prior alone
_DISK_BLOCK_BYTES = 4096  # less is not written at once


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorParts:
    """Factors of the prior, each at least 1."""

    time_sharing: float
    smt: float
    cache: float
    bandwidth: float

    @property
    def slowdown(self) -> float:
        """Multiply the factors."""
        return self.time_sharing * self.smt * self.cache * self.bandwidth


def prior(
    victim: WorkloadProfile | None, aggressor: WorkloadProfile | None, relation: Relation, host: HostTraits
) -> PriorParts:
    """Say what the victim suffers beside one aggressor, from profiles and relation alone."""
    utilisation_v = utilisation(victim)
    utilisation_a = utilisation(aggressor)
    waiting_v = 1.0 + disk_wakes_per_s(victim) * utilisation_a * host.disk_wake_wait_s
    waiting_a = 1.0 + disk_wakes_per_s(aggressor) * utilisation_v * host.disk_wake_wait_s
    shared = waiting_v * fair_share_factor(utilisation_v, utilisation_a / waiting_a)
    beside = relation.same_llc - relation.same_cpu
    cache = _probed_cache_excess(victim, aggressor)
    probed = not math.isnan(cache)
    if not probed:
        known = host.llc_bytes if math.isnan(host.effective_llc_bytes) else host.effective_llc_bytes
        cache = _footprint_excess(victim, aggressor, known)
    bandwidth = math.nan if probed else _bandwidth_factor(victim, aggressor, host.memory_bytes_per_s)
    return PriorParts(
        time_sharing=_weighted(shared - 1.0, relation.same_cpu),
        smt=_weighted(
            (max(1.0, host.smt_cost_sf) - 1.0) * utilisation_v * utilisation_a, relation.same_core - relation.same_cpu
        ),
        cache=_weighted(cache, beside),
        bandwidth=_weighted(bandwidth - 1.0, beside),
    )


def _value(profile: WorkloadProfile | None, name: str) -> float:
    return math.nan if profile is None else profile.value(name)


def utilisation(profile: WorkloadProfile | None) -> float:
    """Give the demand per CPU, 0 to 1; a workload we know nothing of counts as a hog."""
    value = _value(profile, "cpu_utilisation_ratio")
    return 1.0 if math.isnan(value) else min(value, 1.0)


def disk_wakes_per_s(profile: WorkloadProfile | None) -> float:
    """Give wake-ups per second and CPU that writing to the disk can account for; unknown counts as none."""
    wakes = _value(profile, "voluntary_switches_per_s")
    written = _value(profile, "io_write_bytes_per_s") / _DISK_BLOCK_BYTES
    known = profile is not None and not (math.isnan(wakes) or math.isnan(written))
    return min(wakes, written) / profile.cpus if known and profile is not None else 0.0


def fair_share_factor(demand_v: float, demand_a: float) -> float:
    """Slow the victim to what max-min fairness leaves it of a resource of size 1; NaN if a demand is unknown."""
    if math.isnan(demand_v) or math.isnan(demand_a):
        return math.nan
    fair = max(0.5, 1.0 - min(1.0, demand_a))
    return max(1.0, min(1.0, demand_v) / fair)


def _probed_cache_excess(victim: WorkloadProfile | None, aggressor: WorkloadProfile | None) -> float:
    """Give e p; NaN when a probe did not tell."""
    sensitivity = _standing_out(victim, "cache_sensitivity_sf", 1.0)
    pressure = _standing_out(aggressor, "cache_pressure_ratio", 0.0)
    return sensitivity * min(pressure, 1.0)  # in this order NaN stays


def _standing_out(profile: WorkloadProfile | None, name: str, neutral: float) -> float:
    """Give how far a feature lies above its neutral value, as far as its spread does not explain it; NaN = unknown."""
    feature = None if profile is None else profile.feature(name)
    if feature is None or math.isnan(feature.value):
        return math.nan
    above = feature.value - neutral
    if above <= 0.0:
        return 0.0
    noise = (feature.spread or 0.0) / above
    return above / (1.0 + noise * noise)


def _footprint_excess(victim: WorkloadProfile | None, aggressor: WorkloadProfile | None, llc_bytes: float) -> float:
    wanted = _value(victim, "llc_footprint_bytes") + _value(aggressor, "llc_footprint_bytes")
    if math.isnan(wanted) or math.isnan(llc_bytes):
        return math.nan
    return max(0.0, 1.0 - llc_bytes / wanted) if wanted > 0 else 0.0


def _bandwidth_factor(victim: WorkloadProfile | None, aggressor: WorkloadProfile | None, peak: float) -> float:
    if math.isnan(peak) or peak <= 0:
        return math.nan
    return fair_share_factor(
        _value(victim, "memory_bytes_per_s") / peak, _value(aggressor, "memory_bytes_per_s") / peak
    )


def _weighted(excess: float, share: float) -> float:
    """Give 1 + share * excess; an unknown excess costs nothing, and no factor is below 1."""
    return 1.0 if math.isnan(excess) else 1.0 + max(0.0, excess) * max(0.0, share)
