"""Who sits where on one host, as a value. Pure.

Residents that are alike to the planner (same profile, CPUs, promise and weight) form one group, so that sixty-four
copies of a service cost as much thought as one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from isolation.cpuset import CpuSet
from isolation.resctrl_info import ResctrlInfo
from isolation.topology import Topology
from profiler.records import Relation, WorkloadProfile
from scheduler.placement import Resident, Slo
from scheduler.sharing import Sharing

T = TypeVar("T")

_UNSEEN = object()
_MOST_DERIVED = 64  # a list of candidates per size asked for, a table and a share per newcomer's profile, a few more


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Residents alike in everything the planner looks at; members in the order they came."""

    profile: WorkloadProfile | None
    cpus: CpuSet
    slo: Slo
    weight: float
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ledger:
    """The host and its residents; a change gives a new ledger, and dataclasses.replace one of another host state.

    Residents may hold CPUs that went offline since: those share nothing with anybody.
    """

    topology: Topology
    residents: tuple[Resident, ...] = ()
    controls: ResctrlInfo | None = field(default=None, kw_only=True, hash=False)  #: what resctrl offers; None = nothing
    peak_bytes_per_s: float | None = field(default=None, kw_only=True)  #: memory of one LLC domain; None = unknown
    _sharing: Sharing | None = field(default=None, repr=False, compare=False)
    _derived: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self._sharing is None:
            object.__setattr__(self, "_sharing", Sharing(self.topology))

    @property
    def sharing(self) -> Sharing:
        """Relations on this host; ledgers made from one another share its memo."""
        return cast("Sharing", self._sharing)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Residents merged by what the planner looks at, in the order the first of each came."""
        return self.derive("groups", lambda: _merged(self.residents))

    @property
    def occupancy(self) -> tuple[int, ...]:
        """Number of residents on each CPU, index = CPU number up to the highest one online."""
        return self.derive("occupancy", self._occupancy)

    def derive(self, key: Hashable, make: Callable[[], T]) -> T:
        """Give what `make` builds from this ledger. It is kept: a ledger never changes, so neither does the answer."""
        known = self._derived.get(key, _UNSEEN)
        if known is _UNSEEN:
            if len(self._derived) >= _MOST_DERIVED:
                self._derived.clear()
            known = self._derived[key] = make()
        return cast("T", known)

    def resident(self, name: str) -> Resident | None:
        """Find a resident by name."""
        return next((resident for resident in self.residents if resident.name == name), None)

    def occupants(self, cpu: int) -> tuple[str, ...]:
        """Name the residents that may run on a CPU."""
        return tuple(resident.name for resident in self.residents if cpu in resident.cpus)

    def with_resident(self, resident: Resident) -> Ledger:
        """Add a resident; one of the same name is replaced and keeps its place in the order."""
        if self.resident(resident.name) is None:
            return replace(self, residents=(*self.residents, resident))
        changed = tuple(resident if one.name == resident.name else one for one in self.residents)
        return replace(self, residents=changed)

    def without(self, name: str) -> Ledger:
        """Take a resident off; a name nobody has changes nothing."""
        return replace(self, residents=tuple(one for one in self.residents if one.name != name))

    def relation(self, victim_cpus: CpuSet, aggressor_cpus: CpuSet) -> Relation:
        """Say which share of the victim's CPUs shares each resource with the aggressor's."""
        return self.sharing.relation(victim_cpus, aggressor_cpus)

    def _occupancy(self) -> tuple[int, ...]:
        counts = [0] * self.topology.online.mask.bit_length()
        for group in self.groups:
            for cpu in group.cpus & self.topology.online:
                counts[cpu] += len(group.members)
        return tuple(counts)


def _merged(residents: tuple[Resident, ...]) -> tuple[Group, ...]:
    profiles: dict[object, list[WorkloadProfile | None]] = {}
    groups: dict[tuple[object, int, int, Slo, float], list[Resident]] = {}
    for resident in residents:
        label = None if resident.profile is None else (resident.profile.name, resident.profile.created_unix_s)
        # Equal labels do not make equal profiles: clients send profiles of their own. Hashing one is slow, so compare.
        known = profiles.setdefault(label, [])
        if resident.profile not in known:
            known.append(resident.profile)
        key = (label, known.index(resident.profile), resident.cpus.mask, resident.slo, resident.weight)
        groups.setdefault(key, []).append(resident)
    return tuple(
        Group(
            profile=alike[0].profile,
            cpus=alike[0].cpus,
            slo=alike[0].slo,
            weight=alike[0].weight,
            members=tuple(one.name for one in alike),
        )
        for alike in groups.values()
    )
