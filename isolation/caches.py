"""Caches as domains: which CPUs share one, how large it is. Reads cpuN/cache/indexM below a sysfs root."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from isolation.cpuset import CpuSet
from isolation.sysfs import numbered, read_cpus, read_number, read_text

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_LOWEST_SHARED_LEVEL = 2  # a first-level cache is never the last one that others share


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheDomain:
    """Online CPUs that share one cache (sysfs cache/index*/shared_cpu_map)."""

    id: int  #: unique among the caches it is listed with
    level: int
    size_bytes: int | None
    ways: int | None
    cpus: CpuSet
    kernel_id: int | None = None  #: the domain id that resctrl uses for it; None = the kernel names none


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuCache:
    """One cache that holds data, as one CPU sees it; cpus may be offline."""

    level: int
    kernel_id: int | None
    size_bytes: int | None
    ways: int | None
    cpus: CpuSet


def read_caches(folder: Path, core: CpuSet) -> tuple[CpuCache, ...]:
    """Return the data and unified caches of the CPU with this folder; core = the CPUs of its core.

    Itanium kernels print an empty map for a cache that nobody else shares: it is the core's.
    """
    found = []
    for _, path in numbered(folder / "cache", "index"):
        level = read_number(path / "level")
        shared = read_cpus(path / "shared_cpu_map", path / "shared_cpu_list")
        if level is None or shared is None or read_text(path / "type") == "Instruction":
            continue
        size = re.fullmatch(r"(\d+)([KMG]?)", read_text(path / "size") or "")
        found.append(
            CpuCache(
                level=level,
                kernel_id=read_number(path / "id"),
                size_bytes=int(size[1]) * _UNITS[size[2]] or None if size else None,
                ways=read_number(path / "ways_of_associativity") or None,  # 0 = fully associative or not told
                cpus=shared or core,
            )
        )
    return tuple(found)


def last_level(caches: Mapping[int, Iterable[CpuCache]]) -> tuple[CacheDomain, ...]:
    """Group CPUs by the last cache that each of them names, of whatever level that is."""
    last = {cpu: max(own, key=lambda one: one.level, default=None) for cpu, own in caches.items()}
    return _domains({cpu: one for cpu, one in last.items() if one and one.level >= _LOWEST_SHARED_LEVEL})


def of_level(caches: Mapping[int, Iterable[CpuCache]], level: int) -> tuple[CacheDomain, ...]:
    """Group CPUs by their cache of this level; CPUs without one are in no domain."""
    chosen = {cpu: next((one for one in own if one.level == level), None) for cpu, own in caches.items()}
    return _domains({cpu: one for cpu, one in chosen.items() if one})


def _domains(cache_of: Mapping[int, CpuCache]) -> tuple[CacheDomain, ...]:
    """Return one domain per cache; its id is the kernel's where that is unique, else the position."""
    members: dict[tuple[int, CpuSet], list[int]] = {}
    for cpu, cache in sorted(cache_of.items()):
        members.setdefault((cache.level, cache.cpus), []).append(cpu)
    first = {key: cache_of[cpus[0]] for key, cpus in members.items()}
    told = [cache.kernel_id for cache in first.values() if cache.kernel_id is not None and cache.kernel_id >= 0]
    ids = told if len(set(told)) == len(first) else range(len(first))
    return tuple(
        CacheDomain(
            id=number,
            level=cache.level,
            size_bytes=cache.size_bytes,
            ways=cache.ways,
            cpus=CpuSet.of(members[key]),
            kernel_id=cache.kernel_id,
        )
        for number, (key, cache) in zip(ids, first.items(), strict=True)
    )
