"""Which CPU sets are worth scoring for a request. Pure and deterministic.

Small hosts: every set. Larger ones: inside each cache domain, node, package and the whole host, the sets that a few
orders of its CPUs begin with: the quiet ones first spread over cores or filling cores, the ones beside each present
neighbour, even over the caches or cache by cache. Of sets with the same relation to every resident and the same shape,
the one with the lowest ids stands for all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from isolation.cpuset import CpuSet
from isolation.topology import Cpu
from scheduler.errors import NotEnoughCpus
from scheduler.ledger import Ledger

MOST = 200  # sets given at most
_MOST_COMBINATIONS = 256  # up to here every set is looked at
_MOST_NEIGHBOURS = 12  # orders "beside this neighbour first"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A CPU set with its shape; of two sets of one size, the one with the lower ids has the lower `order`."""

    cpus: CpuSet
    nodes: int  #: NUMA nodes touched
    packages: int  #: packages touched
    cores: int  #: physical cores touched
    caches: int  #: last-level caches touched
    local_memory: bool  #: at least one of the nodes has memory
    occupied: int  #: residents on its CPUs, one on two CPUs counted twice
    order: int
    meets: tuple[tuple[int, int, int], ...]  #: groups that share anything: index, relation toward it, relation back


@dataclass(frozen=True, slots=True)
class _Unit:
    """What is handed out as one piece: a CPU, or all CPUs of a core."""

    cpus: CpuSet
    first: int  #: lowest CPU
    core: int
    turn: int  #: position among the units of its core
    cache: int
    busy: int  #: residents on it
    core_busy: int  #: residents on its core
    cache_busy: int  #: residents in its last-level cache
    occupants: tuple[int, ...]  #: groups of residents on it


_Key = Callable[[_Unit], tuple[int, ...]]


def candidates(ledger: Ledger, cpus: int, *, whole_cores: bool) -> tuple[Choice, ...]:
    """List up to 200 CPU sets of the wanted size inside the usable CPUs, the most compact and quiet first.

    With whole_cores, as few whole cores as hold `cpus` CPUs: the set is larger when the threads of a core do not
    divide it. CPUs the kernel was told to isolate take part only where the others do not suffice, because the kernel
    balances no load there. Raises NotEnoughCpus.
    """
    return ledger.derive(("candidates", cpus, whole_cores), lambda: _candidates(ledger, cpus, whole_cores))


def _candidates(ledger: Ledger, wanted: int, whole_cores: bool) -> tuple[Choice, ...]:  # noqa: FBT001
    topology = ledger.topology
    usable = topology.usable & CpuSet.of(cpu.id for cpu in topology.cpus)
    units = _units(ledger, usable - topology.isolated, whole_cores)
    if _size(units) < wanted:
        units = _units(ledger, usable, whole_cores)
    if _size(units) < wanted:
        raise NotEnoughCpus(_shortage(ledger, usable, units, wanted, whole_cores))
    best: dict[object, Choice] = {}
    for mask in _distinct(_sets(ledger, units, wanted)):
        choice = _choice(ledger, CpuSet(mask))
        shape = (choice.nodes, choice.packages, choice.cores, choice.caches, choice.local_memory, mask.bit_count())
        likeness = (*shape, choice.meets)
        present = best.get(likeness)
        if present is None and len(best) == MOST:
            break
        if present is None or choice.order < present.order:
            best[likeness] = choice
    return tuple(best.values())


def _distinct(masks: Iterable[int]) -> Iterator[int]:
    seen: set[int] = set()
    for mask in masks:
        if mask not in seen:
            seen.add(mask)
            yield mask
        if len(seen) == 2 * _MOST_COMBINATIONS:
            return


def _sets(ledger: Ledger, units: list[_Unit], wanted: int) -> Iterator[int]:
    sizes = {len(unit.cpus) for unit in units}
    if len(sizes) == 1:
        pieces = -(-wanted // sizes.pop())
        if math.comb(len(units), pieces) <= _MOST_COMBINATIONS:
            for chosen in itertools.combinations(sorted(units, key=_spread), pieces):
                yield sum(unit.cpus.mask for unit in chosen)
            return
    regions = _regions(ledger, units, wanted)
    neighbours = list(dict.fromkeys(unit.occupants for unit in sorted(units, key=_spread)))[:_MOST_NEIGHBOURS]
    orders: list[_Key] = [_spread, _filled, _cache_by_cache, *map(_beside, neighbours), _threads_last]
    for order in orders:
        for region in regions:
            yield _take(sorted(region, key=order), wanted)
    for region in regions:
        yield _take(_even(region), wanted)


def _spread(unit: _Unit) -> tuple[int, ...]:
    return (unit.busy, unit.core_busy, unit.turn, unit.cache_busy, unit.first)


def _threads_last(unit: _Unit) -> tuple[int, ...]:
    return (unit.turn, unit.busy, unit.core_busy, unit.cache_busy, unit.first)


def _filled(unit: _Unit) -> tuple[int, ...]:
    return (unit.core_busy, unit.cache_busy, unit.core, unit.turn)


def _cache_by_cache(unit: _Unit) -> tuple[int, ...]:
    return (unit.cache_busy, unit.cache, *_spread(unit))


def _beside(occupants: tuple[int, ...]) -> _Key:
    return lambda unit: (unit.occupants != occupants, *_spread(unit))


def _even(region: list[_Unit]) -> list[_Unit]:
    """Order units so that every cache gives one before any gives a second."""
    rank: dict[int, int] = {}
    turns: list[tuple[int, int, _Unit]] = []
    for position, unit in enumerate(sorted(region, key=_spread)):
        rank[unit.cache] = rank.get(unit.cache, 0) + 1
        turns.append((rank[unit.cache], position, unit))
    return [unit for *_, unit in sorted(turns, key=lambda turn: turn[:2])]


def _take(ordered: list[_Unit], wanted: int) -> int:
    mask = 0
    for unit in ordered:
        if mask.bit_count() >= wanted:
            break
        mask |= unit.cpus.mask
    return mask


def _regions(ledger: Ledger, units: list[_Unit], wanted: int) -> list[list[_Unit]]:
    """Give the units of each cache domain, node, package and the host that are large enough, smallest first."""
    topology, reach = ledger.topology, ledger.sharing.reach
    masks = [
        *dict.fromkeys(reach(1 << cpu.id).llc for cpu in topology.cpus),
        *(node.cpus.mask for node in topology.nodes),
        *dict.fromkeys(reach(1 << cpu.id).package for cpu in topology.cpus),
        topology.online.mask,
    ]
    found: dict[tuple[_Unit, ...], None] = {}
    for mask in masks:
        inside = tuple(unit for unit in units if not unit.cpus.mask & ~mask)
        if _size(inside) >= wanted:
            found.setdefault(inside)
    return sorted((list(one) for one in found), key=lambda one: (_size(one), one[0].first))


def _size(units: Iterable[_Unit]) -> int:
    return sum(len(unit.cpus) for unit in units)


def _units(ledger: Ledger, pool: CpuSet, whole_cores: bool) -> list[_Unit]:  # noqa: FBT001
    reach = ledger.sharing.reach
    crowds = [(group.cpus.mask, len(group.members)) for group in ledger.groups]
    busy_by_mask: dict[int, int] = {}

    def busy(mask: int) -> int:
        if mask not in busy_by_mask:
            busy_by_mask[mask] = sum(count for cpus, count in crowds if cpus & mask)
        return busy_by_mask[mask]

    units: list[_Unit] = []
    turns: dict[int, int] = {}
    for cpu in ledger.topology.cpus:
        near = reach(1 << cpu.id)
        mask = near.core if whole_cores else 1 << cpu.id
        if mask & ~pool.mask or (whole_cores and cpu.core in turns):
            continue
        turns[cpu.core] = turns.get(cpu.core, -1) + 1
        units.append(
            _Unit(
                cpus=CpuSet(mask),
                first=(mask & -mask).bit_length() - 1,
                core=cpu.core,
                turn=turns[cpu.core],
                cache=(near.llc & -near.llc).bit_length(),
                busy=busy(mask),
                core_busy=busy(near.core),
                cache_busy=busy(near.llc),
                occupants=tuple(index for index, (cpus, _) in enumerate(crowds) if cpus & mask),
            )
        )
    return units


def _choice(ledger: Ledger, cpus: CpuSet) -> Choice:
    by_id: dict[int, Cpu] = ledger.derive("cpus by id", lambda: {cpu.id: cpu for cpu in ledger.topology.cpus})
    chosen = [by_id[cpu] for cpu in cpus]
    nodes = {cpu.node for cpu in chosen}
    width = ledger.topology.online.mask.bit_length()
    code, reach = ledger.sharing.code, ledger.sharing.reach
    near = reach(cpus.mask)
    anything = near.llc | near.node | near.package
    others = [group.cpus.mask for group in ledger.groups]
    return Choice(
        cpus=cpus,
        nodes=len(nodes),
        packages=len({cpu.package for cpu in chosen}),
        cores=len({cpu.core for cpu in chosen}),
        caches=len({reach(1 << cpu.id).llc for cpu in chosen}),
        local_memory=any(node.id in nodes and node.memory_bytes != 0 for node in ledger.topology.nodes),
        occupied=sum(ledger.occupancy[cpu] for cpu in cpus),
        # Read backwards, a mask with lower ids is the larger number.
        order=-int(f"{cpus.mask:0{width}b}"[::-1], 2),
        meets=tuple(
            (index, code(cpus.mask, mask), code(mask, cpus.mask))
            for index, mask in enumerate(others)
            if mask & anything
        ),
    )


def _shortage(ledger: Ledger, usable: CpuSet, units: list[_Unit], wanted: int, whole_cores: bool) -> str:  # noqa: FBT001
    if not whole_cores:
        return f"{wanted} CPUs were asked for, {len(usable)} are usable here ({usable}): ask for at most {len(usable)}"
    threads = max(ledger.sharing.reach(1 << cpu.id).core.bit_count() for cpu in ledger.topology.cpus)
    return (
        f"{wanted} CPUs on whole cores need {-(-wanted // threads)} cores of {threads} CPUs; this host has "
        f"{len(units)} whole cores usable (usable CPUs: {usable}): ask for at most {_size(units)} CPUs, "
        "or not for whole cores"
    )
