"""Which CPUs of a host share which resource: the relation of any two CPU sets. Pure.

Whoever shares a CPU shares its core, L2 and last-level cache too. What the kernel does not tell is taken from what it
does tell: an unknown L2 counts as the core's own, an unknown last-level cache as one per package.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple, TypeVar

from isolation.cpuset import CpuSet
from isolation.topology import Cpu, Topology
from profiler.records import Relation

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_WIDTH = 14  # bits of one count: CpuSet holds ids below 8192
_COUNT = (1 << _WIDTH) - 1
COMMON_CPUS = _COUNT  #: the bits of a `Sharing.code` that count common CPUs
_LONGEST_MEMO = 200_000  # entries; a 256-CPU host with 128 residents and 200 candidates needs a quarter of it


class Reach(NamedTuple):
    """Bit masks of all CPUs that share a resource with a CPU set, the set itself included."""

    core: int
    l2: int
    llc: int
    node: int
    package: int


class Sharing:
    """The fixed part of every relation question on one host, with a bounded memo of answers."""

    def __init__(self, topology: Topology) -> None:
        self._reach_of_cpu = _reaches(topology)
        self._reach: dict[int, Reach] = {}
        self._codes: dict[tuple[int, int], int] = {}
        self._relations: dict[int, Relation] = {}

    def reach(self, mask: int) -> Reach:
        """Widen a CPU mask to everything that shares with it; a CPU that went offline shares with nobody."""
        known = self._reach.get(mask)
        if known is not None:
            return known
        core = l2 = llc = node = package = mask
        for cpu in CpuSet(mask):
            near = self._reach_of_cpu.get(cpu)
            if near is not None:
                core, l2, llc = core | near.core, l2 | near.l2, llc | near.llc
                node, package = node | near.node, package | near.package
        known = Reach(core, l2, llc, node, package)
        _remember(self._reach, mask, known)
        return known

    def code(self, victim: int, aggressor: int) -> int:
        """Pack a relation of two CPU masks into one number, 0 = nothing shared.

        The planner compares tens of thousands of relations in a decision; a number hashes ten times as fast.
        """
        pair = (victim, aggressor)
        known = self._codes.get(pair)
        if known is None:
            reach = self.reach(aggressor)
            known = (victim & aggressor).bit_count()
            for shift, mask in enumerate(reach, 1):
                known |= (victim & mask).bit_count() << shift * _WIDTH
            if known:
                known |= victim.bit_count() << 6 * _WIDTH
            _remember(self._codes, pair, known)
        return known

    @staticmethod
    def whole(code: int) -> bool:
        """Tell whether the aggressor of a `code` may run on all of the victim's CPUs."""
        return code > 0 and code & _COUNT == code >> 6 * _WIDTH

    def unpack(self, code: int) -> Relation:
        """Give the relation a number of `code` stands for."""
        known = self._relations.get(code)
        if known is None:
            cpus = (code >> 6 * _WIDTH) or 1
            known = Relation(*((code >> shift * _WIDTH & _COUNT) / cpus for shift in range(6)))
            _remember(self._relations, code, known)
        return known

    def relation(self, victim: CpuSet, aggressor: CpuSet) -> Relation:
        """Say which share of the victim's CPUs shares each resource with the aggressor's."""
        return self.unpack(self.code(victim.mask, aggressor.mask))


def _remember(memo: dict[K, V], key: K, value: V) -> None:
    if len(memo) >= _LONGEST_MEMO:
        memo.clear()
    memo[key] = value


def _reaches(topology: Topology) -> dict[int, Reach]:
    cores = _gather(topology, lambda cpu: cpu.core)
    l2s = _gather(topology, lambda cpu: cpu.l2)
    nodes = _gather(topology, lambda cpu: cpu.node)
    packages = _gather(topology, lambda cpu: cpu.package)
    llcs = {domain.id: domain.cpus.mask for domain in topology.llc_domains}
    reaches: dict[int, Reach] = {}
    for cpu in topology.cpus:
        core = cores[cpu.core]
        # Each level holds the one below, also where the kernel contradicts itself.
        l2 = core | (0 if cpu.l2 is None else l2s[cpu.l2])
        llc = l2 | (packages[cpu.package] if cpu.llc is None else llcs.get(cpu.llc, 0))
        reaches[cpu.id] = Reach(core, l2, llc, nodes[cpu.node], packages[cpu.package])
    return reaches


def _gather(topology: Topology, key: Callable[[Cpu], K]) -> dict[K, int]:
    masks: dict[K, int] = {}
    for cpu in topology.cpus:
        masks[key(cpu)] = masks.get(key(cpu), 0) | 1 << cpu.id
    return masks
