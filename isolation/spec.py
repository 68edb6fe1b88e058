"""The wish: what one workload is to be confined to. Values only; the enforcer makes it true."""

from __future__ import annotations

from dataclasses import dataclass

from isolation.cpuset import CpuSet, NodeSet
from isolation.errors import SpecInvalid
from isolation.resctrl_mask import WayMask
from isolation.topology import Topology


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class CacheWays:
    """Ways of one cache, for code and data alike."""

    cache_id: int  #: resctrl's domain id (CacheDomain.kernel_id)
    mask: WayMask
    level: int = 3  #: 2 where cores or clusters share an L2 whose ways can be given


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class MemoryBandwidth:
    """A cap on memory bandwidth in one last-level cache domain, in one of two units that cannot be converted."""

    cache_id: int
    percent: int | None = None  #: of what the cores could ask for: Intel throttles, and promises no bytes
    bytes_per_s: int | None = None  #: AMD, and Intel with the mount option mba_MBps

    def __post_init__(self) -> None:
        if (self.percent is None) == (self.bytes_per_s is None):
            raise SpecInvalid(f"{self}: a bandwidth cap is either percent or bytes_per_s, exactly one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationSpec:
    """CPUs, memory nodes, cache ways and bandwidth for one workload; what is not named stays as it is.

    A last-level cache that is not named among several that are holds no restriction for the workload.
    """

    cpus: CpuSet
    mems: NodeSet | None = None
    cache_ways: tuple[CacheWays, ...] = ()
    memory_bandwidth: tuple[MemoryBandwidth, ...] = ()

    @property
    def wants_class(self) -> bool:
        """Whether it needs a class of service of its own: resctrl's word for a group with ways or bandwidth."""
        return bool(self.cache_ways or self.memory_bandwidth)

    def within(self, topology: Topology) -> IsolationSpec:
        """Return what of it the host can hold while some of its CPUs, nodes or caches are offline.

        Nothing of the CPUs left = all that are usable: a workload runs somewhere, whatever happens.
        """
        mems = None if self.mems is None else self.mems & NodeSet.of(node.id for node in topology.memory_nodes)
        caches = {domain.kernel_id for domain in topology.llc_domains}
        known = {2: {domain.kernel_id for domain in topology.l2_domains}, 3: caches}
        return IsolationSpec(
            cpus=self.cpus & topology.usable or topology.usable,
            mems=mems or None,
            cache_ways=tuple(one for one in self.cache_ways if one.cache_id in known.get(one.level, ())),
            memory_bandwidth=tuple(one for one in self.memory_bandwidth if one.cache_id in caches),
        )

    def check(self, topology: Topology) -> None:
        """Raise SpecInvalid if this host cannot hold it, naming field, value and what exists."""
        if not self.cpus:
            raise SpecInvalid("cpus is empty: a workload needs at least one CPU")
        if absent := self.cpus - topology.usable:
            raise SpecInvalid(f"cpus {self.cpus} holds {absent}, not usable here; usable are {topology.usable}")
        if self.mems is not None:
            if not self.mems:
                raise SpecInvalid("mems is empty: leave it unset or name at least one node")
            nodes = NodeSet.of(node.id for node in topology.nodes)
            if absent_nodes := self.mems - nodes:
                raise SpecInvalid(f"mems {self.mems} holds node {absent_nodes}, absent here; nodes are {nodes}")
            allowed = topology.usable_mems
            if allowed is not None and (barred := self.mems - allowed):
                raise SpecInvalid(
                    f"mems {self.mems} holds node {barred}, not allowed to this process; it may use {allowed}"
                )
