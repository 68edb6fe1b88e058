"""Draw a host as text: packages, NUMA nodes, caches, cores, CPUs, and who sits where. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from isolation.caches import CacheDomain
from isolation.cpuset import CpuSet, NodeSet
from isolation.topology import Cpu, NumaNode, Topology

_FREE = "."
_LONGEST_NAME = 24
_NARROWEST = 40
_INDENT = 4


def draw_host(topology: Topology, occupants: Mapping[int, Sequence[str]], width: int = 100) -> str:
    """Return the map, one box per package; occupants = names by CPU id, "." = nobody of ours.

    A core is [CPU who | CPU who]; where a row is too long, cores with the same occupants are drawn as one.
    """
    inner = max(width, _NARROWEST) - 4
    lines = _heading(topology)
    for package in sorted({cpu.package for cpu in topology.cpus}):
        mine = [cpu for cpu in topology.cpus if cpu.package == package]
        lines.append("+" + f"- package {package} ".ljust(inner + 2, "-") + "+")
        lines += [f"| {line.ljust(inner)} |" for line in _package(topology, mine, occupants, inner)]
    lines.append("+" + "-" * (inner + 2) + "+")
    return "\n".join([*lines, *_notes(topology)])


def _heading(topology: Topology) -> list[str]:
    cores = len({cpu.core for cpu in topology.cpus})
    packages = len({cpu.package for cpu in topology.cpus})
    counts = [
        _count(len(topology.cpus), "CPU"),
        _count(cores, "core"),
        _count(packages, "package"),
        _count(len(topology.nodes), "NUMA node"),
        _count(len(topology.llc_domains), "cache domain"),
    ]
    return [f"{topology.cpu_model}: {', '.join(counts)}"]


def _package(
    topology: Topology, cpus: Sequence[Cpu], occupants: Mapping[int, Sequence[str]], width: int
) -> Iterator[str]:
    nodes = {node.id: node for node in topology.nodes}
    domains = {domain.id: domain for domain in topology.llc_domains}
    for node in sorted({cpu.node for cpu in cpus}):
        yield _node_line(nodes[node])
        here = [cpu for cpu in cpus if cpu.node == node]
        for llc in sorted({cpu.llc for cpu in here}, key=lambda one: -1 if one is None else one):
            members = [cpu for cpu in here if cpu.llc == llc]
            yield f"  {_llc_line(None if llc is None else domains[llc], members)}"
            plain = _cells(members, occupants, merged=False)
            fits = len(" ".join(plain)) <= width - _INDENT
            yield from _rows(plain if fits else _cells(members, occupants, merged=True), width)


def _cells(cpus: Iterable[Cpu], occupants: Mapping[int, Sequence[str]], *, merged: bool) -> list[str]:
    """Return one text per core; merged = per run of cores whose CPUs have the same occupants, thread by thread."""
    cores: dict[int, list[int]] = {}
    for cpu in cpus:
        cores.setdefault(cpu.core, []).append(cpu.id)
    runs: list[tuple[tuple[str, ...], list[list[int]]]] = []
    for core in sorted(cores):
        who = tuple(_who(occupants.get(cpu, ())) for cpu in sorted(cores[core]))
        if merged and runs and runs[-1][0] == who:
            runs[-1][1].append(sorted(cores[core]))
        else:
            runs.append((who, [sorted(cores[core])]))
    cells = []
    for who, members in runs:
        threads = (CpuSet.of(core[position] for core in members) for position in range(len(who)))
        inside = " | ".join(f"{_ids(ids)} {name}" for ids, name in zip(threads, who, strict=True))
        cells.append(f"[{inside}]" + (f" = {len(members)} cores" if len(members) > 1 else ""))
    return cells


def _rows(cells: Iterable[str], width: int) -> Iterator[str]:
    row = " " * _INDENT
    for cell in cells:
        text = cell if len(cell) <= width - _INDENT else cell[: width - _INDENT - 4] + "...]"
        if row.strip() and len(row) + 1 + len(text) > width:
            yield row
            row = " " * _INDENT
        row += f" {text}" if row.strip() else text
    yield row


def _who(names: Sequence[str]) -> str:
    text = "+".join(sorted(names)) or _FREE
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 2] + ".."


def _ids(cpus: CpuSet) -> str:
    """Format CPU ids; a long run of equal steps, as some firmware numbers them, as "0,4..76"."""
    ids = list(cpus)
    steps = {after - before for before, after in pairwise(ids)}
    return f"{ids[0]},{ids[1]}..{ids[-1]}" if len(ids) > 3 and len(steps) == 1 and steps != {1} else str(cpus)


def _node_line(node: NumaNode) -> str:
    return f"node {node.id}: {_size(node.memory_bytes) if node.memory_bytes != 0 else 'no memory'}"


def _llc_line(domain: CacheDomain | None, here: Sequence[Cpu]) -> str:
    if domain is None:
        return "no shared cache known"
    ways = f", {domain.ways} ways" if domain.ways else ""
    elsewhere = domain.cpus - CpuSet.of(cpu.id for cpu in here)
    shared = f", also of {_count(len(elsewhere), 'CPU')} elsewhere" if elsewhere else ""
    return f"L{domain.level} {domain.id}: {_size(domain.size_bytes)}{ways}{shared}"


def _notes(topology: Topology) -> list[str]:
    """Return what the boxes cannot show, one line each."""
    notes = [f"node {node.id}: {_elsewhere(topology, node)}" for node in topology.nodes if not node.cpus]
    notes += [f"CPUs {kind.cpus}: {kind.name}" for kind in topology.core_kinds]
    dies = _shared(topology, {cpu.id: cpu.die for cpu in topology.cpus})
    if len(dies) > len({cpu.package for cpu in topology.cpus}):
        notes.append(f"dies: {' '.join(str(die) for die in dies)}")
    clusters = [domain for domain in topology.l2_domains if len({*_cores(topology, domain.cpus)}) > 1]
    if clusters and any(domain.level > 2 for domain in topology.llc_domains):
        notes.append(f"L2 shared by cores: {' '.join(str(domain.cpus) for domain in clusters)}")
    if topology.usable_mems is not None:
        held = NodeSet.of(node.id for node in topology.nodes) - topology.usable_mems
        notes += [f"nodes {held}: memory not usable by this process"] if held else []
    named = {
        "offline": topology.offline,
        "isolated from the scheduler": topology.isolated,
        "not usable by this process": topology.online - topology.usable,
    }
    return notes + [f"CPUs {cpus}: {what}" for what, cpus in named.items() if cpus]


def _elsewhere(topology: Topology, node: NumaNode) -> str:
    """Describe a node without CPUs and where it is near."""
    what = f"{_size(node.memory_bytes)} of memory without CPUs" if node.memory_bytes != 0 else "neither memory nor CPUs"
    if node.device_memory:
        return f"{_size(node.memory_bytes)} of a device's memory"
    far = dict(zip((other.id for other in topology.nodes), node.distances, strict=False))
    homes = sorted((far[other.id], other.id) for other in topology.nodes if other.cpus and other.id in far)
    return f"{what}, nearest node {homes[0][1]} (distance {homes[0][0]})" if homes else what


def _shared(topology: Topology, groups: Mapping[int, int | None]) -> list[CpuSet]:
    """Return the CPUs of each group, lowest first; None = in no group."""
    names = sorted({group for group in groups.values() if group is not None})
    return [CpuSet.of(cpu.id for cpu in topology.cpus if groups[cpu.id] == name) for name in names]


def _cores(topology: Topology, cpus: CpuSet) -> Iterator[int]:
    return (cpu.core for cpu in topology.cpus if cpu.id in cpus)


def _size(count_bytes: int | None) -> str:
    """Format bytes for people; unknown stays unknown."""
    if count_bytes is None:
        return "size unknown"
    for unit, divisor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count_bytes >= divisor:
            return f"{count_bytes / divisor:.1f} {unit}"
    return f"{count_bytes} B"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
