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

Classes of service are few (controls.closids; one is the kernel's default, others may be other tools'). When there are
too many, first classes that agree wherever both run become one, each naming the caches of the other: that costs
nobody anything. Then, where most parts are, the smallest are merged; then caps of the smallest demands go; then
divisions. A cap in bytes is never shared: the kernel adds up whatever a class moves. Bandwidth: see
scheduler/throttles.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple

from isolation.cpuset import CpuSet
from isolation.resctrl_info import ResctrlInfo
from isolation.resctrl_mask import WayMask
from isolation.spec import CacheWays, MemoryBandwidth
from scheduler.classes import ServiceClass, Share, classes_needed, joined_classes
from scheduler.ledger import Group, Ledger
from scheduler.partition import partition
from scheduler.placement import Resident
from scheduler.predictor import Predictor
from scheduler.tenants import GAIN_SF, Cache, Tenant, Tenants, Use, caches_of, tenant_of, tenants_of
from scheduler.throttles import throttles


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
            found = _apportioned(ledger, controls, tenants_of(ledger), gaining, range(len(ledger.groups)))
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

    def make() -> Allotment:
        number, group = _joined(newcomer, ledger.groups)
        tenants = dict(tenants_of(ledger))
        pairs = []
        for cache in caches_of(ledger):
            if one := tenant_of(number, group, cache, ledger.peak_bytes_per_s):
                present = tuple(other for other in tenants[cache.id] if other.number != number)
                tenants[cache.id] = (*present, one)
                pairs += [(cache.id, one, other) for other in present]
                pairs += [(cache.id, other, one) for other in present]
        gaining = _gaining(ledger, predictor) | _harmed(ledger, predictor, pairs)
        return _apportioned(ledger, controls, tenants, gaining, [number])[number]

    alike = (predictor.key(newcomer.profile), newcomer.cpus, newcomer.slo, newcomer.weight)
    return ledger.derive(("allotment", predictor, alike), make)


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


# --- where dividing is worth it ----------------------------------------------------------------


def _gaining(ledger: Ledger, predictor: Predictor) -> frozenset[int]:
    def make() -> frozenset[int]:
        pairs = [
            (cache_id, victim, aggressor)
            for cache_id, tenants in tenants_of(ledger).items()
            for victim in tenants
            for aggressor in tenants
        ]
        return _harmed(ledger, predictor, pairs)

    return ledger.derive(("gaining", predictor), make)


def _harmed(ledger: Ledger, predictor: Predictor, pairs: Sequence[tuple[int, Tenant, Tenant]]) -> frozenset[int]:
    """Name the caches in which a victim is harmed by an aggressor that a division would keep off it."""
    asked = [(cache_id, victim, aggressor) for cache_id, victim, aggressor in pairs if _parted(victim, aggressor)]
    code, unpack = ledger.sharing.code, ledger.sharing.unpack
    found = predictor.estimate_many(
        [(one.group.profile, other.group.profile, unpack(code(one.cpus, other.cpus))) for _, one, other in asked]
    )
    return frozenset(cache_id for (cache_id, _, _), one in zip(asked, found, strict=True) if one.cache > GAIN_SF)


def _parted(victim: Tenant, aggressor: Tenant) -> bool:
    if victim.use is not Use.HUNGRY or aggressor.use is Use.OTHER:
        return False
    return aggressor.use is Use.STREAMING or aggressor.cpus != victim.cpus


# --- dividing ----------------------------------------------------------------------------------


def _apportioned(
    ledger: Ledger, controls: ResctrlInfo, tenants: Tenants, gaining: frozenset[int], wanted: Iterable[int]
) -> dict[int, Allotment]:
    """Give the allotments of the wanted groups, with no more classes than there are."""
    caches, budget = caches_of(ledger), max(controls.closids - 1 - controls.foreign_groups, 0)
    caps = _caps(ledger, controls, tenants)
    limits = _Limits({cache.id: len(cache.run) for cache in caches})
    while True:
        classes = _classes(caches, tenants, gaining, caps, limits)
        if classes_needed(classes.values()) <= budget:
            break
        joined = joined_classes(classes)
        if (needed := classes_needed(joined.values())) <= budget:
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


def _rule(mask: WayMask, cache: Cache, tenant: Tenant) -> Rule:
    if mask == cache.run:
        return Rule.REST
    return Rule.STREAMING if tenant.use is Use.STREAMING else Rule.BY_FOOTPRINT


def _caps(ledger: Ledger, controls: ResctrlInfo, tenants: Tenants) -> dict[int, dict[int, MemoryBandwidth]]:
    """Say who is held to what, by cache and group."""
    bandwidth, peak = controls.bandwidth(), ledger.peak_bytes_per_s
    if bandwidth is None or peak is None:
        return {cache_id: {} for cache_id in tenants}
    return {
        cache_id: {
            number: cap
            for number, cap in throttles(cache_id, {one.number: one.demand for one in present}, bandwidth, peak).items()
            if not (bandwidth.thread_throttle_mode == "max" and _meets_bound(ledger, number, present))
        }
        if cache_id in bandwidth.domains
        else {}
        for cache_id, present in tenants.items()
    }


def _meets_bound(ledger: Ledger, number: int, present: Sequence[Tenant]) -> bool:
    """Tell whether a group is on a core with one that was promised a bound."""
    own = next(one for one in present if one.number == number)
    cores = 0
    for cpu in CpuSet(own.cpus):
        cores |= ledger.sharing.reach(1 << cpu).core
    return any(cores & other.cpus for other in present if other.demand.bound)


def _classes(
    caches: Sequence[Cache],
    tenants: Tenants,
    gaining: frozenset[int],
    caps: Mapping[int, Mapping[int, MemoryBandwidth]],
    limits: _Limits,
) -> dict[int, ServiceClass]:
    """Say what each group gets in every cache where it runs, if it gets anything at all."""
    masks = {
        cache.id: _divided(cache, tenants[cache.id], limits.parts[cache.id]) if cache.id in gaining else {}
        for cache in caches
    }
    parted = {number for given in masks.values() for number in given}
    capped = {number for given in caps.values() for number in given} - limits.uncapped
    shares: dict[int, dict[int, Share]] = {}
    sizes: dict[int, int] = {}
    for cache in caches:
        for one in tenants[cache.id]:
            if one.number in parted or one.number in capped:
                ways = masks[cache.id].get(one.number, cache.run if one.number in parted else WayMask())
                cap = caps[cache.id].get(one.number) if one.number in capped else None
                shares.setdefault(one.number, {})[cache.id] = Share(ways, cap)
                sizes[one.number] = one.demand.members
    return {number: ServiceClass.of(own, sizes[number]) for number, own in shares.items()}


def _divided(cache: Cache, tenants: Sequence[Tenant], most: int) -> dict[int, WayMask]:
    """Give masks to the hungry and the streaming, by group number; the hungry in the order of their lowest CPU."""
    if cache.control is None:
        return {}
    streaming = [one for one in tenants if one.use is Use.STREAMING]
    hungry = [one for one in tenants if one.use is Use.HUNGRY]
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
    caches: Sequence[Cache],
    tenants: Tenants,
    excess: int,
) -> _Limits:
    """Ask for less: fewer parts where most are, then fewer caps, then the streaming kept apart only, then nothing."""
    parts = {
        cache.id: len(
            {
                classes[one.number].shares[cache.id].ways
                for one in tenants[cache.id]
                if one.use is Use.HUNGRY and one.number in classes
            }
            - {WayMask(), cache.run}
        )
        for cache in caches
    }
    most = max(parts.values(), default=0)
    if most > 1:
        return limits._replace(parts=dict.fromkeys(limits.parts, most - 1))
    capped = {
        one.number: one.demand.bytes_per_s
        for cache in caches
        for one in tenants[cache.id]
        if one.number in classes and classes[one.number].shares[cache.id].cap is not None
    }
    if capped:  # equal demands fare equally: neither names nor arrival decide
        least = sorted(capped.values())[:excess][-1]
        return limits._replace(uncapped=limits.uncapped | {key for key, demand in capped.items() if demand <= least})
    return limits._replace(parts=dict.fromkeys(limits.parts, 0 if most else -1))
