"""Captured trees of real machines and the pictures that hwloc drew of them, both beside the project if at all."""

from __future__ import annotations

import re
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from isolation.cpuset import CpuSet
from isolation.topology import Topology

SHARED = Path(__file__).parents[3] / "shared/data"
TOPOLOGY = SHARED / "topology"
RESCTRL = SHARED / "resctrl"

#: The files that are read at all, so that unpacking stays quick.
_READ = re.compile(
    r"/sys/devices/cpu_\w+/cpus"
    r"|/sys/devices/system/cpu/(online|present|isolated)$"
    r"|/sys/devices/system/cpu/cpu\d+/(online|topology/|cpu_capacity|regs/)"
    r"|/sys/devices/system/cpu/cpu\d+/cache/index\d+/(id|level|shared_cpu_\w+|size|type|ways_of_associativity)"
    r"|/sys/devices/system/cpu/(cpufreq/policy\d+|cpu\d+/cpufreq)/base_frequency"
    r"|/sys/devices/system/node/node\d+/(cpulist|cpumap|distance|meminfo)"
    r"|/proc/(cpuinfo|meminfo|mounts|self/|driver/nvidia/gpus/.*numa_)"
    r"|/(cpus|mems|cgroup\.controllers|cpuset\.[a-z_.]*(cpus|mems)[a-z.]*)$"
)
_MEMORY = frozenset({"NUMANode", "MemCache"})
_LINE = re.compile(r"^( *)(\w+)(?:\[[^]]*])?(?:\(\w+\))?(?: L#(\d+))?(?: \((?:P#(\d+))?.*)?$")


def unpack(archive: Path, root: Path) -> Path:
    """Write what is read of the tree below the root; the archive's one folder is left out."""
    with tarfile.open(archive) as tar:
        for one in tar:
            path = root / one.name.partition("/")[2]
            content = tar.extractfile(one) if one.isfile() and _READ.search(one.name) else None
            if content is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
            elif one.issym() and path.name == "cpufreq":  # each CPU's leads to its policy
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(one.linkname)
    return root


@dataclass(slots=True, eq=False)
class Drawn:
    """One object of a picture and the CPUs in it."""

    kind: str
    number: int | None
    logical: int | None
    above: list[Drawn]
    memory_bytes: int | None = None
    cpus: set[int] = field(default_factory=set)


@dataclass(slots=True, kw_only=True)
class Picture:
    """What hwloc drew: sets of CPUs by kind of object; nodes by number."""

    name: str
    options: str
    objects: list[Drawn]
    kinds: frozenset[frozenset[int]]  #: of cores, where the picture tells several apart
    distances: dict[tuple[int, int], int]  #: by node numbers

    def count(self, *kinds: str) -> int:
        return sum(one.kind in kinds for one in self.objects)

    def sets(self, *kinds: str) -> set[frozenset[int]]:
        return {frozenset(one.cpus) for one in self.objects if one.kind in kinds}

    def nodes(self) -> dict[int, Drawn]:
        return {one.number or 0: one for one in self.objects if one.kind == "NUMANode"}


def pictures_of(archive: Path) -> Iterator[Picture]:
    """Read all pictures that were drawn of this tree."""
    for test in sorted(archive.parent.glob("*.test")):
        told = dict(re.findall(r"^(\w+):\s*(.*)$", test.read_text(encoding="utf-8"), re.MULTILINE))
        if told["source"] == archive.name:
            text = (archive.parent / told["target"]).read_text(encoding="utf-8")
            read = _console if told["target"].endswith(".console") else _xml
            objects, kinds, distances = read(text)
            _fill(objects)
            yield Picture(
                name=test.stem,
                options=told.get("options", ""),
                objects=objects,
                kinds=frozenset(kinds) if len(kinds) > 1 else frozenset(),
                distances=distances,
            )


_Content = tuple[list[Drawn], list[frozenset[int]], dict[tuple[int, int], int]]


def _fill(objects: list[Drawn]) -> None:
    for one in objects:
        if one.kind == "PU" and one.number is not None:
            for holder in (one, *one.above):
                holder.cpus.add(one.number)
    for one in objects:
        if one.kind == "NUMANode":
            one.cpus = next((holder.cpus for holder in reversed(one.above) if holder.kind not in _MEMORY), set())


def _console(text: str) -> _Content:
    """Read the indented lines up to the summary, then the kinds of CPUs and the distances."""
    drawing, mark, summary = text.partition("depth 0:")
    objects: list[Drawn] = []
    stack: list[tuple[int, Drawn]] = []
    for line in drawing.splitlines():
        if found := _LINE.match(line):
            depth = len(found[1])
            while stack and stack[-1][0] >= depth:
                stack.pop()
            logical, number = (int(text) if text else None for text in (found[3], found[4]))
            one = Drawn(found[2], number, logical, [above for _, above in stack])
            objects.append(one)
            stack.append((depth, one))
    assert mark or len(objects) > 1
    kinds = [_cpus(found) for found in re.findall(r"^CPU kind #\d+ .*cpuset (\S+)$", summary, re.MULTILINE)]
    return objects, kinds, _matrix(summary, {one.logical: one.number or 0 for one in objects if one.kind == "NUMANode"})


def _matrix(summary: str, numbers: dict[int | None, int]) -> dict[tuple[int, int], int]:
    found = re.search(r"^Relative latency matrix .*NUMALatency.*\n index(.*)\n((?: +\d+.*\n)+)", summary, re.MULTILINE)
    if found is None:
        return {}
    order = [numbers[int(index)] for index in found[1].split()]
    rows = [[int(cell) for cell in row.split()] for row in found[2].splitlines()]
    return {(numbers[row[0]], to): cell for row in rows for to, cell in zip(order, row[1:], strict=True)}


def _xml(text: str) -> _Content:
    objects: list[Drawn] = []

    def walk(element: ET.Element, above: list[Drawn]) -> None:
        number, memory = (int(text) if (text := element.get(key)) else None for key in ("os_index", "local_memory"))
        one = Drawn(element.get("type", ""), number, None, above, memory)
        objects.append(one)
        for child in element.findall("object"):
            walk(child, [*above, one])

    top = ET.fromstring(text)  # noqa: S314 - a file that lies beside the project
    for child in top.findall("object"):
        walk(child, [])
    kinds = [_cpus(one.get("cpuset", "")) for one in top.findall("cpukind")]
    distances: dict[tuple[int, int], int] = {}
    for one in top.findall("distances2[@name='NUMALatency']"):
        order = [int(word) for part in one.findall("indexes") for word in (part.text or "").split()]
        cells = [int(word) for part in one.findall("u64values") for word in (part.text or "").split()]
        distances = {
            (source, target): cells[row * len(order) + column]
            for row, source in enumerate(order)
            for column, target in enumerate(order)
        }
    return objects, kinds, distances


def _cpus(mask: str) -> frozenset[int]:
    """Read hwloc's map: words of 32 bits, highest first; an empty word is zero."""
    words = [int(word or "0", 16) for word in mask.split(",")]
    bits = sum(word << 32 * place for place, word in enumerate(reversed(words)))
    return frozenset(bit for bit in range(bits.bit_length()) if bits >> bit & 1)


def consistent(topology: Topology) -> None:
    """Hold what every reader of a topology may rely on."""
    ids = [cpu.id for cpu in topology.cpus]
    assert ids == sorted(set(ids))
    assert CpuSet.of(ids) == topology.online
    assert topology.usable <= topology.online
    assert not topology.offline & topology.online
    for domains in (topology.llc_domains, topology.l2_domains):
        assert len({domain.id for domain in domains}) == len(domains)
    assert sum(len(domain.cpus) for domain in topology.llc_domains) == sum(cpu.llc is not None for cpu in topology.cpus)
    assert sum(len(domain.cpus) for domain in topology.l2_domains) in {
        0,
        sum(cpu.l2 is not None for cpu in topology.cpus),
    }
    assert sum(len(node.cpus) for node in topology.nodes) == len(topology.cpus)
    assert sum(len(kind.cpus) for kind in topology.core_kinds) in {0, len(topology.cpus)}
    cpus_of_llc = {domain.id: domain.cpus for domain in topology.llc_domains}
    cpus_of_node = {node.id: node.cpus for node in topology.nodes}
    for cpu in topology.cpus:
        assert cpu.core in topology.online
        assert cpu.id in cpus_of_node[cpu.node]
        assert cpu.llc is None or cpu.id in cpus_of_llc[cpu.llc]
    for node in topology.nodes:
        assert len(node.distances) in {0, len(topology.nodes)}
