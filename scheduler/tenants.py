"""Who runs on which last-level cache, and what it wants of it: hungry, streaming, or neither (see ways.py). Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from isolation.resctrl_info import CacheControl
from isolation.resctrl_mask import WayMask
from profiler.records import WorkloadProfile
from scheduler.ledger import Group, Ledger
from scheduler.placement import Slo
from scheduler.throttles import Demand

GAIN_SF = 1.05  #: below, cache is not worth dividing
_TAKES_PRESSURE_RATIO = 0.2
_TAKES_CACHE_SHARE = 0.5
_TAKES_PEAK_SHARE = 0.1
_STREAMING_CACHES = 2.0  # a footprint of so many caches cannot be held anyway


class Use(Enum):
    """What a workload does with a cache."""

    HUNGRY = 1
    STREAMING = 2
    OTHER = 3


class Cache(NamedTuple):
    """A cache as resctrl knows it."""

    id: int
    cpus: int
    control: CacheControl | None  #: None = bandwidth only
    run: WayMask  #: what can be divided; no way = nothing
    size_bytes: float  #: infinite when unknown


class Tenant(NamedTuple):
    """One group of residents in one cache."""

    number: int  #: of the group
    group: Group
    cpus: int  #: those in this cache
    use: Use
    wants_bytes: int | None  #: of cache, all members together
    demand: Demand


Tenants = dict[int, tuple[Tenant, ...]]  # by cache


def caches_of(ledger: Ledger) -> tuple[Cache, ...]:
    """List the caches that resctrl can divide, or whose bandwidth it can cap; kept with the ledger."""
    return ledger.derive("caches", lambda: tuple(_found(ledger)))


def _found(ledger: Ledger) -> Iterable[Cache]:
    """List the third-level caches that resctrl knows by an id that is theirs alone."""
    controls = ledger.controls
    if controls is None:
        return
    ways, bandwidth = controls.cache("L3") or controls.cache("L3CODE"), controls.bandwidth()
    domains = [one for one in ledger.topology.llc_domains if one.level == 3]
    ids = Counter(one.kernel_id for one in domains)
    for one in domains:
        if one.kernel_id is None or ids[one.kernel_id] > 1:
            continue
        control = ways if ways is not None and one.kernel_id in ways.domains else None
        if control is not None or (bandwidth is not None and one.kernel_id in bandwidth.domains):
            run = WayMask() if control is None else control.available(one.kernel_id)
            if control is not None and len(run) < control.min_cbm_bits:  # others hold nearly all
                run = WayMask()
            yield Cache(one.kernel_id, one.cpus.mask, control, run, float(one.size_bytes or math.inf))


def tenants_of(ledger: Ledger) -> Tenants:
    """Say which groups run on each of them; kept with the ledger."""

    def make() -> Tenants:
        return {
            cache.id: tuple(
                one
                for number, group in enumerate(ledger.groups)
                if (one := tenant_of(number, group, cache, ledger.peak_bytes_per_s))
            )
            for cache in caches_of(ledger)
        }

    return ledger.derive("tenants", make)


def tenant_of(number: int, group: Group, cache: Cache, peak: float | None) -> Tenant | None:
    """Say what a group is like in a cache; None = it has no CPU there."""
    cpus = group.cpus.mask & cache.cpus
    if not cpus:
        return None
    members, profile = len(group.members), group.profile
    if profile is None:
        return Tenant(number, group, cpus, Use.OTHER, None, Demand(math.nan, members, _bound(group.slo)))
    bytes_per_s = profile.value("memory_bytes_per_s")
    use, wants = _use(profile, cache.size_bytes, bytes_per_s, peak)
    demand = Demand(bytes_per_s * cpus.bit_count() / len(group.cpus), members, _bound(group.slo))
    return Tenant(number, group, cpus, use, None if wants is None else wants * members, demand)


def _bound(slo: Slo) -> bool:
    return any(one is not None for one in (slo.ttft_ms, slo.tbt_ms, slo.ttlt_ms, slo.max_slowdown))


def _use(profile: WorkloadProfile, size_bytes: float, bytes_per_s: float, peak: float | None) -> tuple[Use, int | None]:
    """Tell the kind of workload, and how much of the cache it wants; comparisons with unknown numbers do not hold."""
    sensitivity, pressure = profile.value("cache_sensitivity_sf"), profile.value("cache_pressure_ratio")
    footprint = profile.value("llc_footprint_bytes")
    wants = pressure * size_bytes if math.isnan(footprint) else footprint
    wants_bytes = round(min(wants, size_bytes)) if math.isfinite(wants) else None
    if sensitivity >= GAIN_SF:
        return Use.HUNGRY, wants_bytes
    if math.isnan(sensitivity) and not footprint >= _STREAMING_CACHES * size_bytes:
        return (Use.HUNGRY if footprint > 0 else Use.OTHER), wants_bytes
    takes = (
        pressure >= _TAKES_PRESSURE_RATIO
        or footprint >= _TAKES_CACHE_SHARE * size_bytes
        or (peak is not None and bytes_per_s >= _TAKES_PEAK_SHARE * peak)
    )
    return (Use.STREAMING if takes else Use.OTHER), wants_bytes
