"""A placement's wish in the words of the resctrl that is mounted. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from isolation.errors import SpecInvalid
from isolation.resctrl_info import BandwidthControl, ResctrlInfo
from isolation.resctrl_schemata import Amount, Schemata
from isolation.spec import IsolationSpec, MemoryBandwidth


def schemata_of(spec: IsolationSpec, info: ResctrlInfo) -> Schemata:
    """Translate the wish, every domain named: what is not restricted gets all that there is.

    With CDP, code and data get the same ways. Raises SpecInvalid for a cache or a unit that this resctrl does not
    have; a mount with other options has other units, and old numbers mean nothing in them.
    """
    amounts: dict[str, dict[int, Amount]] = {
        cache.resource: {
            domain: cache.available(domain)
            for domain in cache.domains
            if len(cache.available(domain)) >= max(cache.min_cbm_bits, 1)  # else others hold it all: leave it as it is
        }
        for cache in info.caches
    }
    for ways in spec.cache_ways:
        level = [name for name in (f"L{ways.level}{kind}" for kind in ("", "CODE", "DATA")) if name in amounts]
        offered = {domain for cache in info.caches if cache.resource in level for domain in cache.domains}
        if ways.cache_id not in offered:
            lacking = _has(level or [f"L{ways.level}"], info)
            raise SpecInvalid(f"cache_ways {str(ways.mask)!r} for L{ways.level} cache {ways.cache_id}: {lacking}")
        for name in level:
            amounts[name][ways.cache_id] = ways.mask
    control = info.bandwidth()
    if control is not None:
        amounts[control.resource] = {**control.unlimited}
    for cap in spec.memory_bandwidth:
        if control is None or cap.cache_id not in control.domains:
            raise SpecInvalid(f"memory_bandwidth for cache {cap.cache_id}: {_has(['MB'], info)}")
        amounts[control.resource][cap.cache_id] = _amount(cap, control)
    return Schemata.of(amounts)


def must_be_alone(spec: IsolationSpec) -> bool:
    """Tell whether no other workload may share its class: the kernel adds up the bytes that a class moves."""
    return any(cap.bytes_per_s is not None for cap in spec.memory_bandwidth)


def _amount(cap: MemoryBandwidth, control: BandwidthControl) -> int:
    unit_bytes_per_s = control.unit.bytes_per_s
    if cap.bytes_per_s is not None and unit_bytes_per_s is not None:
        return -(-cap.bytes_per_s // unit_bytes_per_s)
    if cap.percent is not None and unit_bytes_per_s is None:
        return cap.percent
    raise SpecInvalid(f"{cap}: bandwidth is limited in {control.unit.value} here, and the two cannot be converted")


def _has(resources: Sequence[str], info: ResctrlInfo) -> str:
    """Say what this resctrl can control instead."""
    offers = [f"{one.resource} of domains {', '.join(map(str, one.domains))}" for one in info.caches]
    offers += [f"{one.resource} of domains {', '.join(map(str, one.domains))}" for one in info.bandwidths]
    return f"resctrl offers no {'/'.join(resources)} there; it controls {'; '.join(offers) or 'nothing'}"
