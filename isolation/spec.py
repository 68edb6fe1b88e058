"""The wish: what one workload is to be confined to. Values only; the enforcer makes it true."""

from __future__ import annotations

from dataclasses import dataclass

from isolation.cpuset import CpuSet, NodeSet
from isolation.errors import SpecInvalid
from isolation.topology import Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationSpec:
    """CPUs and memory nodes for one workload; no mems = leave memory placement as it is."""

    cpus: CpuSet
    mems: NodeSet | None = None

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
