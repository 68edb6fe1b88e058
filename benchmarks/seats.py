"""Where the members of a cell are put under each isolation, and why a host cannot do a cell. Pure.

All members are put into the first last-level cache domain, so that there is something to interfere about; also under
"none" where the host has others, so that cells differ in isolation only. Pinning deals its cores out in turn; where
there are fewer cores than members some share one. Ways are split evenly.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.design import Cell, Isolation
from isolation.cpuset import CpuSet
from isolation.resctrl_info import CacheControl
from isolation.resctrl_mask import WayMask
from isolation.spec import CacheWays, IsolationSpec
from isolation.topology import Topology

_PINNED = frozenset({Isolation.PINNING, Isolation.COMBINED})
_WAYS = frozenset({Isolation.CAT, Isolation.COMBINED})


def seats(cell: Cell, topology: Topology, cache: CacheControl | None) -> Mapping[str, IsolationSpec]:
    """Give what each member is confined to; empty = nothing is done. `cache` is needed where ways are split."""
    home = _home(topology)
    if cell.isolation is Isolation.NONE and home == topology.usable:
        return {}
    if cell.isolation is Isolation.STACKED:
        first = CpuSet.of([min(home)])
        return {member.workload: IsolationSpec(cpus=first) for member in cell.members}
    cpus = _dealt(topology, home, len(cell.members)) if cell.isolation in _PINNED else [home] * len(cell.members)
    ways = _split(topology, home, cache, len(cell.members)) if cell.isolation in _WAYS and cache else None
    return {
        member.workload: IsolationSpec(cpus=cpus[place], cache_ways=(ways[place],) if ways else ())
        for place, member in enumerate(cell.members)
    }


def infeasible(cell: Cell, topology: Topology, cache: CacheControl | None, without: Mapping[Isolation, str]) -> str:
    """Say why this host cannot do the cell; empty = it can. `without` says what the host itself lacks."""
    if reason := without.get(cell.isolation, ""):
        return reason
    home = _home(topology)
    if cell.isolation in _PINNED and len(_cores(topology, home)) < 2:
        return f"one core in the last-level cache domain (CPUs {home}): no core of its own for each member"
    if cell.isolation in _WAYS and cache is not None:
        domain = _domain(topology, home)
        if domain is None:
            return f"the kernel tells no id of the last-level cache of CPUs {home}, so its ways cannot be named"
        least = cache.min_cbm_bits * len(cell.members)
        free = len(cache.available(domain))
        if free < least:
            return f"{free} cache ways are free, {len(cell.members)} members need {least}"
    return ""


def lacking(cache: CacheControl | None, reason: str) -> Mapping[Isolation, str]:
    """Say which isolations a host without control of cache ways cannot do."""
    return {} if cache is not None else dict.fromkeys(_WAYS, reason)


def _home(topology: Topology) -> CpuSet:
    """Give the usable CPUs of the first last-level cache that has two, else of the first, else all."""
    domains = [domain.cpus & topology.usable for domain in topology.llc_domains]
    return next((cpus for cpus in domains if len(cpus) > 1), next((cpus for cpus in domains if cpus), topology.usable))


def _domain(topology: Topology, home: CpuSet) -> int | None:
    """Give the kernel's id of the cache all members share; None = the host does not tell it."""
    return next((domain.kernel_id for domain in topology.llc_domains if domain.cpus & home), None)


def _cores(topology: Topology, home: CpuSet) -> list[CpuSet]:
    """Give the usable CPUs of each core, lowest first."""
    cores: dict[int, list[int]] = {}
    for cpu in topology.cpus:
        if cpu.id in home:
            cores.setdefault(cpu.core, []).append(cpu.id)
    return sorted((CpuSet.of(cpus) for cpus in cores.values()), key=min)


def _dealt(topology: Topology, home: CpuSet, members: int) -> list[CpuSet]:
    cores = _cores(topology, home)
    hands: list[list[int]] = [[] for _ in range(members)]
    for place in range(max(len(cores), members)):
        hands[place % members].extend(cores[place % len(cores)])
    return [CpuSet.of(hand) for hand in hands]


def _split(topology: Topology, home: CpuSet, cache: CacheControl, members: int) -> list[CacheWays]:
    """Cut the longest run of free ways into equal parts; the last takes what is left over."""
    domain = _domain(topology, home)
    if domain is None:
        return []
    free = list(cache.available(domain))
    share = len(free) // members
    return [
        CacheWays(
            cache_id=domain,
            mask=WayMask.run(free[place * share], share if place < members - 1 else len(free) - share * place),
        )
        for place in range(members)
    ]
