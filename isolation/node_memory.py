"""Memory by NUMA node: amounts as values, and what each node of this host has free. Reads sysfs; knows no process."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from isolation.cpuset import NodeSet
from isolation.kernelfs import HOST_FILES, KernelFiles

_FIELD = re.compile(r"^(?:Node\s+\d+\s+)?([A-Za-z_]+(?:\([a-z]+\))?):\s+(\d+) kB$", re.MULTILINE)
_MARGIN_SHARE = 32  # of a node's memory: the kernel's own reserves and what others take meanwhile
_LEAST_MARGIN_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class NodeBytes:
    """Bytes by NUMA node, lowest node first; a node without any is not listed."""

    parts: tuple[tuple[int, int], ...] = ()  #: (node, bytes)

    @classmethod
    def of(cls, found: Mapping[int, int]) -> NodeBytes:
        """Take the amounts by node."""
        return cls(tuple(sorted((node, amount) for node, amount in found.items() if amount)))

    @classmethod
    def sum(cls, amounts: Iterable[NodeBytes]) -> NodeBytes:
        """Add them node by node."""
        found: dict[int, int] = {}
        for amount in amounts:
            for node, held in amount:
                found[node] = found.get(node, 0) + held
        return cls.of(found)

    @classmethod
    def most(cls, amounts: Iterable[NodeBytes]) -> NodeBytes:
        """Take the largest of each node."""
        found: dict[int, int] = {}
        for amount in amounts:
            for node, held in amount:
                found[node] = max(found.get(node, 0), held)
        return cls.of(found)

    @property
    def total_bytes(self) -> int:
        """On all nodes."""
        return sum(held for _, held in self.parts)

    def inside(self, nodes: NodeSet) -> int:
        """Return the bytes on these nodes."""
        return sum(held for node, held in self.parts if node in nodes)

    def outside(self, nodes: NodeSet) -> int:
        """Return the bytes on all other nodes."""
        return self.total_bytes - self.inside(nodes)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.parts)

    def __str__(self) -> str:
        """Say it as in "4.1 GiB on node 0, 12 MiB on node 1"."""
        return ", ".join(f"{size_text(held)} on node {node}" for node, held in self.parts) or "nothing on any node"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeMemory:
    """What one node has, now. Amounts change all the time, totals from boot to boot."""

    node: int
    total_bytes: int
    free_bytes: int  #: what new pages can take at once: see `read_node_memory`

    @property
    def margin_bytes(self) -> int:
        """Return what is to stay free whatever we move there: a 32nd of the node, at least 64 MiB."""
        return max(self.total_bytes // _MARGIN_SHARE, _LEAST_MARGIN_BYTES)


def read_node_memory(*, files: KernelFiles = HOST_FILES, root: str = "") -> tuple[NodeMemory, ...]:
    """Return the nodes that have memory, lowest first, from nodeN/meminfo; from /proc/meminfo where there is but one.

    For that one has all that there is, and some hypervisors tell the node a part of it.

    Free is MemFree and Inactive(file) without the pages that must be written to disk first (Dirty, Writeback): the
    kernel drops those before it fails. Active(file) is not counted though it could be dropped too: a model that is
    being read lives there.
    """
    folder = f"{root}/sys/devices/system/node"
    try:
        names = [name for name in files.folders(folder) if re.fullmatch(r"node\d{1,6}", name)]
    except FileNotFoundError:
        names = []
    paths = {int(name.removeprefix("node")): f"{folder}/{name}/meminfo" for name in names}
    if len(paths) <= 1:
        paths = {next(iter(paths), 0): f"{root}/proc/meminfo"}
    found = []
    for node, path in sorted(paths.items()):
        told = {name: int(kilobytes) << 10 for name, kilobytes in _FIELD.findall(files.read(path))}
        if told.get("MemTotal"):
            clean = told.get("Inactive(file)", 0) - told.get("Dirty", 0) - told.get("Writeback", 0)
            free = told.get("MemFree", 0) + max(clean, 0)
            found.append(NodeMemory(node=node, total_bytes=told["MemTotal"], free_bytes=free))
    return tuple(found)


def size_text(amount_bytes: float) -> str:
    """Say bytes for people: "4.1 GiB"."""
    for unit, divisor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if amount_bytes >= divisor:
            return f"{amount_bytes / divisor:.1f} {unit}"
    return f"{amount_bytes:.0f} bytes"
