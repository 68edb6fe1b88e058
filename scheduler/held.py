"""What the daemon must remember of a live placement besides the placement itself, and its form in the journal."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from isolation.enforcer import Applied, Target, ThreadState, Undo
from isolation.process import ProcessIdentity
from isolation.spec import IsolationSpec
from isolation.topology import Topology
from scheduler import wire
from scheduler.journal import Entry
from scheduler.placement import Decision, Placement, PlacementState


@dataclass(frozen=True, slots=True)
class Held:
    """Who was placed, and how things were before."""

    target: Target
    undo: Undo
    request_id: str
    repaired_at_s: float | None = None  #: CLOCK_MONOTONIC of the last repair of foreign drift
    born: tuple[ThreadState, ...] = ()  #: main threads of descendants seen since, each with what it should go back to

    def entry(self, placement: Placement, boot_id: str) -> Entry:
        """Make the journal's record."""
        return Entry(
            name=placement.name,
            state=str(placement.state),
            record=wire.placement_to_bytes(placement),
            target=json.dumps(
                {
                    "processes": [asdict(one) for one in self.target.processes],
                    "cgroup_path": self.target.cgroup_path,
                }
            ),
            undo=self.undo.to_json(),
            boot_id=boot_id,
            request_id=self.request_id,
        )

    @classmethod
    def from_entry(cls, entry: Entry) -> Held:
        """Read back; raises ValueError, KeyError or TypeError for a damaged record."""
        stored = json.loads(entry.target)
        processes = tuple(ProcessIdentity(**one) for one in stored["processes"])
        target = Target(processes=processes, cgroup_path=stored["cgroup_path"])
        return cls(target, Undo.from_json(entry.undo), entry.request_id)


def spec_of(decision: Decision) -> IsolationSpec:
    """Give the wish a decision stands for."""
    return IsolationSpec(
        cpus=decision.cpus,
        mems=decision.mems,
        cache_ways=decision.cache_ways,
        memory_bandwidth=decision.memory_bandwidth,
    )


def shortage(decision: Decision, host: Topology) -> str:
    """Say which CPUs of a decision the host cannot give now; "" = it gives all."""
    missing, left = decision.cpus - host.usable, decision.cpus & host.usable
    if not missing:
        return ""
    if left:
        return f"CPUs {missing} are offline: it runs on {left} until they are back"
    return f"all its CPUs ({missing}) are offline: it shares CPUs {host.usable} with everybody until they are back"


def outcome_of(placement: Placement, applied: Applied, host: Topology) -> Placement:
    """Give the placement after the kernel was read back."""
    notes = []
    if told := shortage(placement.decision, host):
        notes.append(told)
    if applied.narrowed:
        notes.append(f"{len(applied.narrowed)} threads keep a narrower CPU mask of their own")
    if applied.missed:
        notes.append(f"{len(applied.missed)} threads could not be caught yet")
    if not applied.mems_applied:
        mems = placement.decision.mems
        notes.append(f"memory stays where it is: {placement.mechanism} cannot bind it to nodes {mems}, cgroups can")
    if applied.mems_refused:  # what is answered is what is so
        notes.append(applied.mems_refused)
        placement = replace(placement, decision=replace(placement.decision, mems=None))
    if applied.class_refused:
        notes.append(f"without cache ways and bandwidth caps: {applied.class_refused}")
        placement = replace(placement, decision=replace(placement.decision, cache_ways=(), memory_bandwidth=()))
    if applied.overlapping:
        others = ", ".join(map(repr, applied.overlapping))
        notes.append(f"some of its cache ways are not its own: resctrl groups of other tools have them too ({others})")
    state = PlacementState.ACTIVE if applied.complete else PlacementState.PARTIAL
    return replace(placement, state=state, threads=applied.threads, notes=tuple(notes))


def sentence_of(placement: Placement) -> str:
    """Say in one line where it sits, for the event log."""
    where = f"{placement.threads} threads on CPUs {placement.decision.cpus} by {placement.mechanism}"
    return f"{where}; {placement.decision.fallback}" if placement.decision.fallback else where
