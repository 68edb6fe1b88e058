"""The machine's shape as frozen values, read from sysfs below a root path."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path

from isolation.caches import CacheDomain, last_level, of_level, read_caches
from isolation.core_kinds import CoreKind, read_core_kinds
from isolation.cpuset import CpuSet, NodeSet
from isolation.errors import TopologyUnreadable
from isolation.restriction import read_restriction
from isolation.sysfs import numbered, read_cpus, read_field, read_list, read_number, read_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """One logical CPU. Ids are the kernel's; None = the kernel does not say.

    Core, die, cluster and l2 are named by the lowest CPU number in them, so they are unique on the host.
    """

    id: int
    core: int
    package: int  #: the kernel's number where it tells packages apart, else counted from 0
    node: int
    l2: int | None
    llc: int | None  #: id of its domain in Topology.llc_domains
    die: int | None = None
    cluster: int | None = None  #: cores that share an L2 or the tags of an L3 (topology/cluster_cpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaNode:
    """One memory node; cpus is empty for memory without CPUs."""

    id: int
    memory_bytes: int | None  #: 0 for a node of CPUs without memory
    cpus: CpuSet
    distances: tuple[int, ...]  #: to each node in the order of Topology.nodes; empty = not told
    device_memory: bool = False  #: memory of a graphics card, which the kernel lists as a node but is no place to work


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Packages, caches, cores and nodes of one host; only online CPUs are in `cpus`."""

    cpus: tuple[Cpu, ...]
    llc_domains: tuple[CacheDomain, ...]
    nodes: tuple[NumaNode, ...]
    online: CpuSet
    offline: CpuSet
    isolated: CpuSet
    usable: CpuSet  #: online and allowed to this process by its own cpuset (Cpus_allowed_list)
    cpu_model: str
    kernel: str
    usable_mems: NodeSet | None = None  #: nodes this process may take memory from; None = all
    l2_domains: tuple[CacheDomain, ...] = ()
    core_kinds: tuple[CoreKind, ...] = ()  #: weakest first; empty = all alike, or not told

    @property
    def memory_nodes(self) -> tuple[NumaNode, ...]:
        """Nodes that may hold a workload's memory: they have some, it is no device's, and it is allowed to us."""
        return tuple(
            node
            for node in self.nodes
            if node.memory_bytes != 0
            and not node.device_memory
            and (self.usable_mems is None or node.id in self.usable_mems)
        )

    @property
    def fingerprint(self) -> str:
        """Name this shape of machine: equal for equal CPUs, caches and nodes, whatever the memory sizes or kernel.

        Memory totals change from boot to boot and kernels by update, so neither may void what was learned here.
        """
        shape: list[object] = [
            self.cpu_model,
            [[cpu.id, cpu.core, cpu.package, cpu.node, cpu.l2, cpu.llc] for cpu in self.cpus],
            [[llc.id, llc.level, llc.size_bytes, llc.ways, str(llc.cpus)] for llc in self.llc_domains],
            [[node.id, str(node.cpus), node.distances] for node in self.nodes],
        ]
        if self.core_kinds:
            shape.append([str(kind.cpus) for kind in self.core_kinds])
        return hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:16]


def read_topology(root: Path = Path("/")) -> Topology:
    """Read the machine whose /sys and /proc lie below the root; missing files mean unknown.

    Raises TopologyUnreadable when not even one CPU is found. Ids with gaps, CPUs without caches, nodes without
    CPUs and firmware that contradicts itself all load: a CPU ends up in exactly one core, package, node and at
    most one cache domain of a level.
    """
    system = root / "sys/devices/system"
    folders = dict(numbered(system / "cpu", "cpu"))
    online = _online(root, system / "cpu", folders)
    if not online:
        raise TopologyUnreadable(
            f"no CPU found below {str(system / 'cpu')!r}, nor in {str(root / 'proc/cpuinfo')!r}; is sysfs mounted?"
        )
    known = {cpu: folders[cpu] / "topology" for cpu in online if cpu in folders}
    cores, packages, dies = _cores(known, online), _packages(known, online), _dies(known, online)
    clusters = _named_by_lowest(_told(known, "cluster_cpus"), online)
    siblings: dict[int, CpuSet] = {}
    for cpu, core in cores.items():
        siblings[core] = siblings.get(core, CpuSet()) | CpuSet.of([cpu])
    caches = {cpu: read_caches(folders[cpu], siblings[cores[cpu]]) for cpu in known}
    llcs, l2s = last_level(caches), of_level(caches, 2)
    nodes = _nodes(root, system / "node", online, packages)
    node_of = {cpu: node.id for node in nodes for cpu in node.cpus}
    llc_of = {cpu: domain.id for domain in llcs for cpu in domain.cpus}
    l2_of = {cpu: min(domain.cpus) for domain in l2s for cpu in domain.cpus}
    allowed = read_restriction(root)
    return Topology(
        cpus=tuple(
            Cpu(
                id=cpu,
                core=cores[cpu],
                package=packages[cpu],
                node=node_of[cpu],
                l2=l2_of.get(cpu),
                llc=llc_of.get(cpu),
                die=dies.get(cpu),
                cluster=clusters.get(cpu),
            )
            for cpu in online
        ),
        llc_domains=llcs,
        l2_domains=l2s,
        nodes=nodes,
        core_kinds=read_core_kinds(root, folders, online),
        online=online,
        offline=(read_list(system / "cpu/present") or CpuSet.of(folders)) - online,
        isolated=read_list(system / "cpu/isolated") or CpuSet(),
        usable=online if allowed.cpus is None else online & allowed.cpus,
        usable_mems=allowed.mems,
        cpu_model=_model(read_text(root / "proc/cpuinfo") or ""),
        kernel=read_text(root / "proc/sys/kernel/osrelease") or "unknown",
    )


def _online(root: Path, folder: Path, folders: Mapping[int, Path]) -> CpuSet:
    listed = read_list(folder / "online")
    if listed:
        return listed
    if folders:
        return CpuSet.of(cpu for cpu, path in folders.items() if read_text(path / "online") != "0")
    cpuinfo = read_text(root / "proc/cpuinfo") or ""
    return CpuSet.of(int(number) for number in re.findall(r"^processor\s*:\s*(\d{1,4})$", cpuinfo, re.MULTILINE))


def _told(known: Mapping[int, Path], *names: str) -> dict[int, CpuSet]:
    """Return the CPUs that each CPU names as its own under the first of these names it has."""
    found = {
        cpu: read_cpus(*(path / form for name in names for form in (name, f"{name}_list")))
        for cpu, path in known.items()
    }
    return {cpu: cpus for cpu, cpus in found.items() if cpus}


def _named_by_lowest(told: Mapping[int, Hashable], online: CpuSet) -> dict[int, int]:
    """Put CPUs that tell the same into one group, named by its lowest CPU: a partition, whatever they tell."""
    lowest: dict[Hashable, int] = {}
    return {cpu: lowest.setdefault(told[cpu], cpu) for cpu in online if cpu in told}


def _cores(known: Mapping[int, Path], online: CpuSet) -> dict[int, int]:
    """Group SMT siblings; a CPU that names none is a core of its own.

    Modules of AMD's Bulldozer count as siblings for Linux but as cores by their core_id: they are cores here.
    """
    siblings = _told(known, "core_cpus", "thread_siblings")
    ids = {cpu: read_number(path / "core_id") for cpu, path in known.items()}
    told: dict[int, Hashable] = {cpu: -cpu - 1 for cpu in online}
    for cpu, cpus in siblings.items():
        members = cpus & online
        mixed = len({ids.get(one) for one in members}) > 1
        told[cpu] = (members, ids[cpu] if mixed else None)
    return _named_by_lowest(told, online)


def _packages(known: Mapping[int, Path], online: CpuSet) -> dict[int, int]:
    """Return the package of each CPU: by the CPUs each names, else by the id it names, else all are one.

    Numbers are the kernel's if each package has its own; some firmware says -1 for all, or 0 for several.
    """
    siblings = _told(known, "package_cpus", "core_siblings")
    ids = {cpu: read_number(known[cpu] / "physical_package_id") if cpu in known else None for cpu in online}
    told: dict[int, Hashable] = {cpu: siblings[cpu] & online if cpu in siblings else ids[cpu] for cpu in online}
    groups = _named_by_lowest(told, online)
    kernel = {lowest: ids[lowest] for lowest in groups.values()}
    unique = len(set(kernel.values())) == len(kernel) and all(
        number is not None and number >= 0 for number in kernel.values()
    )
    counted = {lowest: number for number, lowest in enumerate(kernel)}
    return {cpu: (kernel[lowest] or 0) if unique else counted[lowest] for cpu, lowest in groups.items()}


def _dies(known: Mapping[int, Path], online: CpuSet) -> dict[int, int]:
    """Group CPUs by die, where the kernel numbers dies (-1 = it has no word for them here)."""
    told = _told({cpu: path for cpu, path in known.items() if (read_number(path / "die_id") or 0) >= 0}, "die_cpus")
    return _named_by_lowest(told, online)


def _nodes(root: Path, folder: Path, online: CpuSet, packages: Mapping[int, int]) -> tuple[NumaNode, ...]:
    """Read the nodes; a CPU that several name goes to the lowest of them.

    One that none names (its node is offline) goes to the first that has CPUs of its package, or else to the first.
    """
    paths = list(numbered(folder, "node"))
    if not paths:
        return (NumaNode(id=0, memory_bytes=_memory(root / "proc/meminfo"), cpus=online, distances=(10,)),)
    claims = [(read_cpus(path / "cpumap", path / "cpulist") or CpuSet()) & online for _, path in paths]
    left = online
    for position, claim in enumerate(claims):
        claims[position] = claim & left
        left = left - claim
    homes = {packages[cpu]: position for position, claim in reversed(list(enumerate(claims))) for cpu in claim}
    for cpu in left:
        position = homes.get(packages[cpu], 0)
        claims[position] = claims[position] | CpuSet.of([cpu])
    devices = _device_nodes(root)
    return tuple(
        NumaNode(
            id=number,
            memory_bytes=_node_memory(root, path, alone=len(paths) == 1),
            cpus=claim,
            distances=_distances(path / "distance", len(paths)),
            device_memory=number in devices and not claim,
        )
        for (number, path), claim in zip(paths, claims, strict=True)
    )


def _device_nodes(root: Path) -> frozenset[int]:
    """Return the nodes that are the memory of NVIDIA cards on POWER9."""
    told = (read_field(path, "Node") for path in (root / "proc/driver/nvidia/gpus").glob("*/numa_status"))
    return frozenset(int(number) for number in told if number and number.isdecimal())


def _distances(path: Path, count: int) -> tuple[int, ...]:
    """Read one number per online node; a line with fewer or more cannot be told which is which."""
    found = tuple(int(part) for part in (read_text(path) or "").split() if part.isdecimal())
    return found if len(found) == count else ()


def _node_memory(root: Path, folder: Path, *, alone: bool) -> int | None:
    """Return what a node has; the only one has all that there is, of which some hypervisors tell the node a part."""
    told, whole = _memory(folder / "meminfo"), _memory(root / "proc/meminfo") if alone else None
    return max(told, whole) if told is not None and whole is not None else told


def _memory(path: Path) -> int | None:
    found = re.search(r"MemTotal:\s*(\d+) kB", read_text(path) or "")
    return int(found[1]) * 1024 if found else None


def _model(cpuinfo: str) -> str:
    """Return the model as /proc/cpuinfo tells it: each architecture has its own words for it."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    for name in ("model name", "cpu model", "cpu", "Processor", "family", "Hardware"):
        if fields.get(name):
            return fields[name]
    arm = [f"{name.removeprefix('CPU ')} {fields[name]}" for name in ("CPU implementer", "CPU part") if name in fields]
    return " ".join(arm) or "unknown"
