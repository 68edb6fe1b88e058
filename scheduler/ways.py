"""Who gets which cache ways, and is held to how much memory bandwidth. Pure: same ledger, same answer.

A simple rule until prediction chooses; predictions do not count its effect. It looks at the third-level caches that
resctrl can divide (resource L3, or L3CODE and L3DATA alike), each with the workloads whose CPUs touch it:

hungry      gains from cache (cache_sensitivity_sf >= 1.05), or that is unknown and its footprint is known.
streaming   gains nothing (sensitivity < 1.05; or unknown, and a footprint of twice the cache) and takes a lot:
            cache_pressure_ratio >= 0.2, footprint >= half the cache, or a tenth of the peak memory bandwidth.
the others  are not restricted: all ways, and no class of service.

A cache is divided only where a hungry workload there has a predicted cache factor (the prior's) above 1.05 beside one
that the division keeps off: harm done by workloads that are not restricted, or among those that share a part, would
stay. Streaming workloads share a few ways (a tenth, rounded up, at least min_cbm_bits) at one end of the cache: where
hardware writes too (shareable_bits), or the top. The rest is divided among the hungry in proportion to footprints (each
at most the cache; unknown: pressure times cache; unknown too: the mean of the others), none below min_cbm_bits.

Hungry workloads on the same CPUs of the cache share one part, as large as their footprints together: they take turns
there, the prior sees no gain in keeping them apart, and copies of a service then need one class, not one each. Parts
lie in the order of their lowest CPU, so that neither names nor arrival move anybody. When there are more parts than
ways, the smallest are put into one last part. Ways that others hold for themselves are left out; masks have no gaps,
also where the hardware would take them. Who has a part in one of several caches gets all ways of the others.

Classes of service are few (controls.closids, one of them the kernel's default). When there are too many, first classes
that agree wherever both run become one, each naming the caches of the other: that costs nobody anything. Then, where
most parts are, the smallest are merged; then caps of the smallest demands go; then divisions. A cap in bytes is never
shared: the kernel adds up whatever a class moves. Bandwidth: see scheduler/throttles.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple

from isolation.resctrl_info import CacheControl, ResctrlInfo
from isolation.resctrl_mask import WayMask
from isolation.spec import CacheWays, MemoryBandwidth
from profiler.records import WorkloadProfile
from scheduler.classes import ServiceClass, Share, classes_needed, joined_classes
from scheduler.ledger import Group, Ledger
from scheduler.partition import partition
from scheduler.placement import Resident, Slo
from scheduler.predictor import Predictor
from scheduler.throttles import Demand, throttles

_GAIN_SF = 1.05  # below, cache is not worth dividing
_TAKES_PRESSURE_RATIO = 0.2
_TAKES_CACHE_SHARE = 0.5
_TAKES_PEAK_SHARE = 0.1
_STREAMING_CACHES = 2.0  # a footprint of so many caches cannot be held anyway


class Rule(Enum):
    """Why a workload has the ways it has in one cache."""

    BY_FOOTPRINT = "its share by footprint"
    STREAMING = "the few that streaming workloads share"
    REST = "all of them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """Cache ways and bandwidth of one workload; empty = not restricted."""

    cache_ways: tuple[CacheWays, ...] = ()
    memory_bandwidth: tuple[MemoryBandwidth, ...] = ()
    rules: Mapping[int, Rule] = field(default_factory=dict, compare=False)  #: by cache id, where it runs


class _Use(Enum):
    HUNGRY = 1
    STREAMING = 2
    OTHER = 3


class _Cache(NamedTuple):
    id: int
    cpus: int
    control: CacheControl | None  #: None = bandwidth only
    run: WayMask  #: what can be divided; no way = nothing
    size_bytes: float  #: infinite when unknown


class _Tenant(NamedTuple):
    """One group of residents in one cache."""

    number: int  #: of the group
    group: Group
    cpus: int  #: those in this cache
    use: _Use
    wants_bytes: int | None  #: of cache, all members together
    demand: Demand


_Tenants = dict[int, tuple[_Tenant, ...]]  # by cache


class _Limits(NamedTuple):
    """How much of the rule the classes of service suffice for."""

    parts: Mapping[int, int]  #: most parts for the hungry, by cache; -1 = not divided
    uncapped: frozenset[int] = frozenset()  #: groups whose caps were given up


def apportion(ledger: Ledger, predictor: Predictor) -> Mapping[str, Allotment]:
    """Give every resident its allotment; kept with the ledger as long as the predictor is the same."""

    def make() -> Mapping[str, Allotment]:
        controls = ledger.controls
        found: Mapping[int, Allotment] = {}
        if controls is not None:
            gaining = _gaining(ledger, predictor)
            found = _apportioned(ledger, controls, _tenants(ledger), gaining, range(len(ledger.groups)))
        nothing = Allotment()
        return {
            name: found.get(number, nothing) for number, group in enumerate(ledger.groups) for name in group.members
        }

    return ledger.derive(("allotments", predictor), make)


def allotment_of(newcomer: Resident, ledger: Ledger, predictor: Predictor) -> Allotment:
    """Give what the newcomer would get, as `apportion` of the ledger with it would, at the cost of one workload."""
    controls = ledger.controls
    if controls is None:
        return Allotment()
    if ledger.resident(newcomer.name) is not None:
        ledger = ledger.without(newcomer.name)
    number, group = _joined(newcomer, ledger.groups)
    tenants = dict(_tenants(ledger))
    pairs = []
    for cache in _caches(ledger):
        if one := _tenant(number, group, cache, ledger.peak_bytes_per_s):
            present = tuple(other for other in tenants[cache.id] if other.number != number)
            tenants[cache.id] = (*present, one)
            pairs += [(cache.id, one, other) for other in present]
            pairs += [(cache.id, other, one) for other in present]
    gaining = _gaining(ledger, predictor) | _harmed(ledger, predictor, pairs)
    return _apportioned(ledger, controls, tenants, gaining, [number])[number]


def _joined(newcomer: Resident, groups: Sequence[Group]) -> tuple[int, Group]:
    """Give the group that the newcomer would be in, and its number."""
    for number, group in enumerate(groups):
        alike = (group.cpus, group.slo, group.weight) == (newcomer.cpus, newcomer.slo, newcomer.weight)
        if alike and group.profile == newcomer.profile:
            return number, replace(group, members=(*group.members, newcomer.name))
    own = Group(
        profile=newcomer.profile,
        cpus=newcomer.cpus,
        slo=newcomer.slo,
        weight=newcomer.weight,
        members=(newcomer.name,),
    )
    return len(groups), own


# --- who is there, and what it is like ---------------------------------------------------------


def _caches(ledger: Ledger) -> tuple[_Cache, ...]:
    return ledger.derive("caches", lambda: tuple(_found(ledger)))


def _found(ledger: Ledger) -> Iterable[_Cache]:
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
            yield _Cache(one.kernel_id, one.cpus.mask, control, run, float(one.size_bytes or math.inf))


def _tenants(ledger: Ledger) -> _Tenants:
    def make() -> _Tenants:
        return {
            cache.id: tuple(
                one
                for number, group in enumerate(ledger.groups)
                if (one := _tenant(number, group, cache, ledger.peak_bytes_per_s))
            )
            for cache in _caches(ledger)
        }

    return ledger.derive("tenants", make)


def _tenant(number: int, group: Group, cache: _Cache, peak: float | None) -> _Tenant | None:
    cpus = group.cpus.mask & cache.cpus
    if not cpus:
        return None
    members, profile = len(group.members), group.profile
    if profile is None:
        return _Tenant(number, group, cpus, _Use.OTHER, None, Demand(math.nan, members, _bound(group.slo)))
    bytes_per_s = profile.value("memory_bytes_per_s")
    use, wants = _use(profile, cache.size_bytes, bytes_per_s, peak)
    demand = Demand(bytes_per_s * cpus.bit_count() / len(group.cpus), members, _bound(group.slo))
    return _Tenant(number, group, cpus, use, None if wants is None else wants * members, demand)


def _bound(slo: Slo) -> bool:
    return any(one is not None for one in (slo.ttft_ms, slo.tbt_ms, slo.ttlt_ms, slo.max_slowdown))


def _use(
    profile: WorkloadProfile, size_bytes: float, bytes_per_s: float, peak: float | None
) -> tuple[_Use, int | None]:
    """Tell the kind of workload, and how much of the cache it wants; comparisons with unknown numbers do not hold."""
    sensitivity, pressure = profile.value("cache_sensitivity_sf"), profile.value("cache_pressure_ratio")
    footprint = profile.value("llc_footprint_bytes")
    wants = pressure * size_bytes if math.isnan(footprint) else footprint
    wants_bytes = round(min(wants, size_bytes)) if math.isfinite(wants) else None
    if sensitivity >= _GAIN_SF:
        return _Use.HUNGRY, wants_bytes
    if math.isnan(sensitivity) and not footprint >= _STREAMING_CACHES * size_bytes:
        return (_Use.HUNGRY if footprint > 0 else _Use.OTHER), wants_bytes
    takes = (
        pressure >= _TAKES_PRESSURE_RATIO
        or footprint >= _TAKES_CACHE_SHARE * size_bytes
        or (peak is not None and bytes_per_s >= _TAKES_PEAK_SHARE * peak)
    )
    return (_Use.STREAMING if takes else _Use.OTHER), wants_bytes


# --- where dividing is worth it ----------------------------------------------------------------


def _gaining(ledger: Ledger, predictor: Predictor) -> frozenset[int]:
    def make() -> frozenset[int]:
        pairs = [
            (cache_id, victim, aggressor)
            for cache_id, tenants in _tenants(ledger).items()
            for victim in tenants
            for aggressor in tenants
        ]
        return _harmed(ledger, predictor, pairs)

    return ledger.derive(("gaining", predictor), make)


def _harmed(ledger: Ledger, predictor: Predictor, pairs: Sequence[tuple[int, _Tenant, _Tenant]]) -> frozenset[int]:
    """Name the caches in which a victim is harmed by an aggressor that a division would keep off it."""
    asked = [(cache_id, victim, aggressor) for cache_id, victim, aggressor in pairs if _parted(victim, aggressor)]
    code, unpack = ledger.sharing.code, ledger.sharing.unpack
    found = predictor.estimate_many(
        [(one.group.profile, other.group.profile, unpack(code(one.cpus, other.cpus))) for _, one, other in asked]
    )
    return frozenset(cache_id for (cache_id, _, _), one in zip(asked, found, strict=True) if one.cache > _GAIN_SF)


def _parted(victim: _Tenant, aggressor: _Tenant) -> bool:
    if victim.use is not _Use.HUNGRY or aggressor.use is _Use.OTHER:
        return False
    return aggressor.use is _Use.STREAMING or aggressor.cpus != victim.cpus


# --- dividing ----------------------------------------------------------------------------------


def _apportioned(
    ledger: Ledger, controls: ResctrlInfo, tenants: _Tenants, gaining: frozenset[int], wanted: Iterable[int]
) -> dict[int, Allotment]:
    """Give the allotments of the wanted groups, with no more classes than there are."""
    caches, budget = _caches(ledger), max(controls.closids - 1, 0)
    limits = _Limits({cache.id: len(cache.run) for cache in caches})
    while True:
        classes = _classes(ledger, controls, tenants, gaining, limits)
        if classes_needed(classes) <= budget:
            break
        joined = joined_classes(classes)
        if (needed := classes_needed(joined)) <= budget:
            classes = joined
            break
        limits = _tightened(limits, classes, caches, tenants, needed - budget)
    found = {}
    for number in wanted:
        own = classes[number].shares if number in classes else {}
        rules = {
            cache.id: _rule(own[cache.id].ways, cache, one)
            for cache in caches
            for one in tenants[cache.id]
            if one.number == number and cache.id in own and own[cache.id].ways
        }
        found[number] = Allotment(
            cache_ways=tuple(CacheWays(cache_id=key, mask=own[key].ways) for key in sorted(own) if own[key].ways),
            memory_bandwidth=tuple(cap for key in sorted(own) if (cap := own[key].cap) is not None),
            rules=rules,
        )
    return found


def _rule(mask: WayMask, cache: _Cache, tenant: _Tenant) -> Rule:
    if mask == cache.run:
        return Rule.REST
    return Rule.STREAMING if tenant.use is _Use.STREAMING else Rule.BY_FOOTPRINT


def _classes(
    ledger: Ledger, controls: ResctrlInfo, tenants: _Tenants, gaining: frozenset[int], limits: _Limits
) -> dict[int, ServiceClass]:
    """Say what each group gets in every cache where it runs, if it gets anything at all."""
    bandwidth, peak, caches = controls.bandwidth(), ledger.peak_bytes_per_s, _caches(ledger)
    masks: dict[int, dict[int, WayMask]] = {}
    caps: dict[int, dict[int, MemoryBandwidth]] = {}
    for cache in caches:
        present = tenants[cache.id]
        masks[cache.id] = _divided(cache, present, limits.parts[cache.id]) if cache.id in gaining else {}
        caps[cache.id] = {}
        if bandwidth is not None and peak is not None and cache.id in bandwidth.domains:
            found = throttles(cache.id, {one.number: one.demand for one in present}, bandwidth, peak)
            caps[cache.id] = {number: cap for number, cap in found.items() if number not in limits.uncapped}
    parted = {number for given in masks.values() for number in given}
    capped = {number for given in caps.values() for number in given}
    shares: dict[int, dict[int, Share]] = {}
    sizes: dict[int, int] = {}
    for cache in caches:
        for one in tenants[cache.id]:
            if one.number in parted or one.number in capped:
                ways = masks[cache.id].get(one.number, cache.run if one.number in parted else WayMask())
                shares.setdefault(one.number, {})[cache.id] = Share(ways, caps[cache.id].get(one.number))
                sizes[one.number] = one.demand.members
    return {number: ServiceClass(own, sizes[number]) for number, own in shares.items()}


def _divided(cache: _Cache, tenants: Sequence[_Tenant], most: int) -> dict[int, WayMask]:
    """Give masks to the hungry and the streaming, by group number; the hungry in the order of their lowest CPU."""
    if cache.control is None:
        return {}
    streaming = [one for one in tenants if one.use is _Use.STREAMING]
    hungry = [one for one in tenants if one.use is _Use.HUNGRY]
    counted = [(one.wants_bytes, one.demand.members) for one in hungry if one.wants_bytes is not None]
    usual = sum(wants for wants, _ in counted) // sum(members for _, members in counted) if counted else 1
    parts: dict[tuple[int, int], int] = {}
    for one in hungry:
        key = (one.cpus & -one.cpus, one.cpus)
        parts[key] = parts.get(key, 0) + (one.demand.members * usual if one.wants_bytes is None else one.wants_bytes)
    order = sorted(parts)
    found = partition(cache.run, cache.control, [parts[key] for key in order], streaming=bool(streaming), most=most)
    if found is None:
        return {}
    mask_of = dict(zip((cpus for _, cpus in order), found.parts, strict=False))
    masks = {one.number: mask_of[one.cpus] for one in hungry if one.cpus in mask_of}
    return masks | {one.number: found.streaming for one in streaming}


def _tightened(
    limits: _Limits,
    classes: Mapping[int, ServiceClass],
    caches: Sequence[_Cache],
    tenants: _Tenants,
    excess: int,
) -> _Limits:
    """Ask for less: fewer parts where most are, then fewer caps, then the streaming kept apart only, then nothing."""
    parts = {
        cache.id: len(
            {
                classes[one.number].shares[cache.id].ways
                for one in tenants[cache.id]
                if one.use is _Use.HUNGRY and one.number in classes
            }
            - {WayMask(), cache.run}
        )
        for cache in caches
    }
    most = max(parts.values(), default=0)
    if most > 1:
        return limits._replace(
            parts={key: most - 1 if parts[key] == most else limit for key, limit in limits.parts.items()}
        )
    capped = {
        (one.demand.bytes_per_s, one.cpus, min(one.group.members), one.number)
        for cache in caches
        for one in tenants[cache.id]
        if one.number in classes and classes[one.number].shares[cache.id].cap is not None
    }
    if capped:
        return limits._replace(uncapped=limits.uncapped | {one[-1] for one in sorted(capped)[:excess]})
    return limits._replace(parts=dict.fromkeys(limits.parts, 0 if most else -1))
