"""Machines that do not exist, for tests of decisions."""

from __future__ import annotations

from isolation.caches import CacheDomain
from isolation.cpuset import CpuSet
from isolation.topology import Cpu, NumaNode, Topology


def make_topology(
    *,
    packages: int = 1,
    nodes_per_package: int = 1,
    llcs_per_node: int = 1,
    cores_per_llc: int = 2,
    threads_per_core: int = 1,
    llc_size_bytes: int | None = 32 * 1024**2,
    llc_ways: int | None = 16,
    node_memory_bytes: int | None = 64 * 1024**3,
    usable: CpuSet | None = None,
) -> Topology:
    """Build a regular machine, numbered as Linux does: first threads of all cores, then their siblings."""
    nodes = packages * nodes_per_package
    llcs = nodes * llcs_per_node
    cores = llcs * cores_per_llc
    cpus = tuple(
        Cpu(
            id=cpu,
            core=cpu % cores,
            package=cpu % cores // cores_per_llc // llcs_per_node // nodes_per_package,
            node=cpu % cores // cores_per_llc // llcs_per_node,
            l2=cpu % cores,
            llc=cpu % cores // cores_per_llc,
        )
        for cpu in range(cores * threads_per_core)
    )
    online = CpuSet.of(cpu.id for cpu in cpus)
    return Topology(
        cpus=cpus,
        llc_domains=tuple(
            CacheDomain(
                id=llc,
                level=3,
                size_bytes=llc_size_bytes,
                ways=llc_ways,
                cpus=CpuSet.of(cpu.id for cpu in cpus if cpu.llc == llc),
                kernel_id=llc,
            )
            for llc in range(llcs)
        ),
        nodes=tuple(
            NumaNode(
                id=node,
                memory_bytes=node_memory_bytes,
                cpus=CpuSet.of(cpu.id for cpu in cpus if cpu.node == node),
                distances=tuple(
                    10 if other == node else 12 if other // nodes_per_package == node // nodes_per_package else 21
                    for other in range(nodes)
                ),
            )
            for node in range(nodes)
        ),
        online=online,
        offline=CpuSet(),
        isolated=CpuSet(),
        usable=online if usable is None else usable,
        cpu_model="Imaginary CPU",
        kernel="6.1.0",
    )
