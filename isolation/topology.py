"""The machine's shape as frozen values, read from sysfs below a root path."""

from __future__ import annotations

from dataclasses import dataclass

from isolation.cpuset import CpuSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """One logical CPU. Ids are the kernel's; None = the kernel does not say."""

    id: int
    core: int  #: unique on the host: lowest CPU number among the SMT siblings
    package: int
    node: int
    l2: int | None  #: index into nothing: lowest CPU number that shares the L2
    llc: int | None  #: id of the LlcDomain


@dataclass(frozen=True, slots=True, kw_only=True)
class LlcDomain:
    """CPUs that share one last-level cache (sysfs cache/index*/shared_cpu_list)."""

    id: int
    level: int
    size_bytes: int | None
    ways: int | None
    cpus: CpuSet


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaNode:
    """One memory node; cpus is empty for memory without CPUs."""

    id: int
    memory_bytes: int | None
    cpus: CpuSet
    distances: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Packages, caches, cores and nodes of one host; only online CPUs are in `cpus`."""

    cpus: tuple[Cpu, ...]
    llc_domains: tuple[LlcDomain, ...]
    nodes: tuple[NumaNode, ...]
    online: CpuSet
    offline: CpuSet
    isolated: CpuSet
    usable: CpuSet  #: online and allowed to this process by its own cpuset (Cpus_allowed_list)
    cpu_model: str
    kernel: str
