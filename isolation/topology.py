"""The machine's shape as frozen values, read from sysfs below a root path."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from isolation.cpuset import CpuSet
from isolation.errors import CpuSetInvalid, TopologyUnreadable

_UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3}
_LOWEST_SHARED_LEVEL = 2  # a first-level cache is never the last one that others share


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

    @property
    def fingerprint(self) -> str:
        """Name this shape of machine: equal for equal CPUs, caches and nodes, whatever the memory sizes or kernel.

        Memory totals change from boot to boot and kernels by update, so neither may void what was learned here.
        """
        shape = [
            self.cpu_model,
            [[cpu.id, cpu.core, cpu.package, cpu.node, cpu.l2, cpu.llc] for cpu in self.cpus],
            [[llc.id, llc.level, llc.size_bytes, llc.ways, str(llc.cpus)] for llc in self.llc_domains],
            [[node.id, str(node.cpus), node.distances] for node in self.nodes],
        ]
        return hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:16]


def read_topology(root: Path = Path("/")) -> Topology:
    """Read the machine whose /sys and /proc lie below the root; missing files mean unknown.

    Raises TopologyUnreadable when not even one CPU is found. Ids with gaps, CPUs without caches, nodes without
    CPUs and firmware that contradicts itself all load: a CPU ends up in exactly one core, package, node and at
    most one LLC domain.
    """
    system = root / "sys/devices/system"
    folders = {int(path.name[3:]): path for path in (system / "cpu").glob("cpu[0-9]*") if path.name[3:].isdecimal()}
    cpuinfo = _text(root / "proc/cpuinfo") or ""
    online = _online(system / "cpu", folders, cpuinfo)
    if not online:
        raise TopologyUnreadable(
            f"no CPU found below {str(system / 'cpu')!r}, nor in {str(root / 'proc/cpuinfo')!r}; is sysfs mounted?"
        )
    nodes = _nodes(root, system / "node", online)
    node_of = {cpu: node.id for node in nodes for cpu in node.cpus}
    caches = {cpu: _caches(folders[cpu]) for cpu in online if cpu in folders}
    domains = _llc_domains(caches, online)
    llc_of = {cpu: domain.id for domain in domains for cpu in domain.cpus}
    allowed = _status_cpus(root / "proc/self/status")
    present = _list(system / "cpu/present") or CpuSet.of(folders)
    return Topology(
        cpus=tuple(
            Cpu(
                id=cpu,
                core=min(_siblings(folders.get(cpu), online) or CpuSet.of([cpu])),
                package=_package(folders.get(cpu)),
                node=node_of[cpu],
                l2=_second_level(caches.get(cpu, ()), online),
                llc=llc_of.get(cpu),
            )
            for cpu in online
        ),
        llc_domains=domains,
        nodes=nodes,
        online=online,
        offline=present - online,
        isolated=_list(system / "cpu/isolated") or CpuSet(),
        usable=online if allowed is None else online & allowed,
        cpu_model=_model(cpuinfo),
        kernel=_text(root / "proc/sys/kernel/osrelease") or "unknown",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cache:
    """One cache as one CPU sees it."""

    level: int
    id: int | None
    size_bytes: int | None
    ways: int | None
    cpus: CpuSet


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # absent, or a file the kernel refuses to read out (an attribute without a value)
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    try:
        return int(text) if text else None
    except ValueError:
        return None


def _list(path: Path) -> CpuSet | None:
    text = _text(path)
    try:
        return CpuSet.parse(text.replace("\0", "")) if text is not None else None
    except CpuSetInvalid:
        return None


def _list_or_map(folder: Path, *names: str) -> CpuSet | None:
    """Read NAME_list, or the bit map NAME of older kernels ("00000000,00001111")."""
    for name in names:
        found = _list(folder / f"{name}_list") or _list(folder / name.replace("map", "list"))
        bits = (_text(folder / name) or "").replace(",", "")
        if found is None and re.fullmatch(r"[0-9a-fA-F]{1,2048}", bits):
            found = CpuSet(int(bits, 16))
        if found:
            return found
    return None


def _online(folder: Path, folders: Mapping[int, Path], cpuinfo: str) -> CpuSet:
    listed = _list(folder / "online")
    if listed:
        return listed
    if folders:
        return CpuSet.of(cpu for cpu, path in folders.items() if _text(path / "online") != "0")
    return CpuSet.of(int(number) for number in re.findall(r"^processor\s*:\s*(\d{1,4})$", cpuinfo, re.MULTILINE))


def _siblings(folder: Path | None, online: CpuSet) -> CpuSet | None:
    found = None if folder is None else _list_or_map(folder / "topology", "core_cpus", "thread_siblings")
    return None if found is None else found & online


def _package(folder: Path | None) -> int:
    found = None if folder is None else _number(folder / "topology/physical_package_id")
    return max(found or 0, 0)  # -1 = the firmware does not say: one package


def _caches(folder: Path) -> tuple[_Cache, ...]:
    found = []
    for path in sorted((folder / "cache").glob("index[0-9]*")):
        level, shared = _number(path / "level"), _list_or_map(path, "shared_cpu_map")
        if level is None or not shared or _text(path / "type") == "Instruction":
            continue
        size = re.fullmatch(r"(\d+)([KMG]?)", _text(path / "size") or "")
        found.append(
            _Cache(
                level=level,
                id=_number(path / "id"),
                size_bytes=int(size[1]) * _UNITS.get(size[2], 1) or None if size else None,
                ways=_number(path / "ways_of_associativity") or None,  # 0 = fully associative or not told
                cpus=shared,
            )
        )
    return tuple(found)


def _second_level(caches: tuple[_Cache, ...], online: CpuSet) -> int | None:
    return next((min(cache.cpus & online, default=None) for cache in caches if cache.level == 2), None)


def _llc_domains(caches: Mapping[int, tuple[_Cache, ...]], online: CpuSet) -> tuple[LlcDomain, ...]:
    """Group CPUs by the last-level cache each of them names; ids are the kernel's if it gives unique ones."""
    groups: dict[tuple[int, CpuSet], list[int]] = {}
    first: dict[tuple[int, CpuSet], _Cache] = {}
    for cpu in online:
        last = max(caches.get(cpu, ()), key=lambda cache: cache.level, default=None)
        if last is not None and last.level >= _LOWEST_SHARED_LEVEL:
            key = (last.level, last.cpus)
            groups.setdefault(key, []).append(cpu)
            first.setdefault(key, last)
    told = [cache.id for cache in first.values() if cache.id is not None]
    unique = len(set(told)) == len(first)
    ids = told if unique else list(range(len(first)))
    return tuple(
        LlcDomain(id=one, level=cache.level, size_bytes=cache.size_bytes, ways=cache.ways, cpus=CpuSet.of(groups[key]))
        for one, (key, cache) in zip(ids, first.items(), strict=True)
    )


def _nodes(root: Path, folder: Path, online: CpuSet) -> tuple[NumaNode, ...]:
    """Read the nodes; a CPU that none names goes to the first, one that several name to the lowest of them."""
    paths = sorted((int(path.name[4:]), path) for path in folder.glob("node[0-9]*") if path.name[4:].isdecimal())
    if not paths:
        return (NumaNode(id=0, memory_bytes=_memory(root / "proc/meminfo"), cpus=online, distances=(10,)),)
    claims = [(_list_or_map(path, "cpumap") or CpuSet()) & online for _, path in paths]
    left = online
    for position, claim in enumerate(claims):
        claims[position] = claim & left
        left = left - claim
    claims[0] = claims[0] | left
    return tuple(
        NumaNode(
            id=number,
            memory_bytes=_memory(path / "meminfo"),
            cpus=claim,
            distances=tuple(int(part) for part in (_text(path / "distance") or "").split() if part.isdecimal()),
        )
        for (number, path), claim in zip(paths, claims, strict=True)
    )


def _memory(path: Path) -> int | None:
    found = re.search(r"MemTotal:\s*(\d+) kB", _text(path) or "")
    return int(found[1]) * 1024 if found else None


def _status_cpus(path: Path) -> CpuSet | None:
    found = re.search(r"^Cpus_allowed_list:\s*(\S+)$", _text(path) or "", re.MULTILINE)
    return CpuSet.parse(found[1]) if found else None


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
