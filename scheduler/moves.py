"""Changes of placements that stay: rebalancing, and cache ways that follow who is there. On the writer thread."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace

from isolation.cpuset import CpuSet, NodeSet
from isolation.enforcer import Enforcer
from isolation.errors import IsolationError
from isolation.page_migration import Ended, turn_budget
from scheduler.errors import JournalFailed
from scheduler.held import Held, outcome_of, spec_of
from scheduler.journal import Entry, Journal
from scheduler.ledger import Ledger
from scheduler.placement import Decision, Placement, PlacementState
from scheduler.planner import allotted, memory_nodes, rebalance
from scheduler.predictor import Predictor
from scheduler.view import Viewer
from scheduler.ways import Allotment, apportion

_log = logging.getLogger("cotenant.moves")
_SETTLED = frozenset({PlacementState.ACTIVE, PlacementState.PARTIAL})


class Moves:
    """Moves one placement after the other: intent saved, applied, read back, saved."""

    def __init__(
        self,
        *,
        enforcer: Enforcer,
        journal: Journal,
        viewer: Viewer,
        held: dict[str, Held],
        entry: Callable[[Placement, Held], Entry],
        save: Callable[[str, Callable[[], None]], None],
        checkpoint: Callable[[str], None],
    ) -> None:
        """`save` keeps what the journal cannot take now until it can."""
        self._enforcer = enforcer
        self._journal = journal
        self._viewer = viewer
        self._held = held
        self._entry = entry
        self._save = save
        self._checkpoint = checkpoint
        self._migrated_at_s = time.monotonic()
        self._given_up: dict[str, tuple[CpuSet, NodeSet]] = {}  # by name: where its memory could not be brought
        self._told: dict[str, str] = {}  # by name: the failure that was told last
        self._shared_out: tuple[Ledger, Predictor] | None = None  # those that everybody has the share of

    def rebalance(
        self, *, max_moves: int, min_gain: float, validate_only: bool
    ) -> tuple[tuple[Placement, ...], float, float]:
        """Move those placements whose new place lowers the total predicted cost enough."""
        view = self._viewer.current()
        requests = {
            name: one.request
            for name, one in view.placements.items()
            if one.state is PlacementState.ACTIVE and one.mechanism == self._enforcer.mechanism
        }
        result = rebalance(view.ledger, requests, view.predictor, max_moves=max_moves, min_gain=min_gain)
        moved = []
        for name, decision in result.moves:
            before = view.placements[name]
            after = replace(before, decision=decision, etag=uuid.uuid4().hex[:16])
            if not validate_only:
                after = self.move(before, after)
            moved.append(after)
        return tuple(moved), result.cost_before, result.cost_after

    def apportion(self) -> None:
        """Give everybody the cache ways and bandwidth that the rule of ways.py says for those who are here now.

        Who loses ways comes before who gains some. A failure leaves that placement as it was, stops nobody else, and
        is tried again at the next call; a class refused for want of one, when somebody came or went.
        """
        view = self._viewer.current()
        known = self._shared_out
        if known is not None and known[0] is view.ledger and known[1] is view.predictor:
            return
        wanted = apportion(view.ledger, view.predictor)
        good = self._give(wanted)
        if any(self._without(name, allotment) for name, allotment in wanted.items()):
            good = self._give(wanted)  # classes that the others left may be free now
        now = self._viewer.current()
        self._shared_out = (now.ledger, now.predictor) if good else None

    def _give(self, wanted: Mapping[str, Allotment]) -> bool:
        changes = [
            (one, wanted.get(name, Allotment()))
            for name, one in self._viewer.current().placements.items()
            if one.state in _SETTLED
            and name in self._held
            and one.mechanism == self._enforcer.mechanism
            and _allotment(one.decision) != wanted.get(name, Allotment())
        ]
        good = True
        for before, allotment in sorted(changes, key=lambda change: _grows(_allotment(change[0].decision), change[1])):
            decision = allotted(before.decision, allotment)
            try:
                self.move(before, replace(before, decision=decision, etag=uuid.uuid4().hex[:16]))
            except (IsolationError, JournalFailed) as error:
                good = False
                if self._told.get(before.name) != str(error):  # once, not at every turn
                    self._told[before.name] = str(error)
                    _log.exception("cache ways stay as they are", extra={"workload": before.name})
            else:
                self._told.pop(before.name, None)
        return good

    def _without(self, name: str, allotment: Allotment) -> bool:
        """Tell whether a placement was refused the class it should have."""
        placement = self._viewer.current().placements.get(name)
        return placement is not None and allotment != Allotment() == _allotment(placement.decision)

    def migrate_memory(self) -> None:
        """Move pages of one placement toward its memory nodes, within the rate, and bind it when they are there.

        One placement at a time, the oldest first: the rate is the host's. One that cannot be bound after a whole pass
        is left alone until it is moved or placed again.
        """
        rate = self._enforcer.migration_bytes_per_s
        since_s, self._migrated_at_s = time.monotonic() - self._migrated_at_s, time.monotonic()
        if not rate:
            return
        for before in self._viewer.current().placements.values():
            wanted = self._awaited_nodes(before)
            if wanted is None:
                continue
            try:
                report = self._enforcer.migrate(self._held[before.name].target, wanted, turn_budget(rate, since_s))
            except IsolationError as error:  # nothing was bound; it stays as it is
                self._give_up(before, wanted, f"its memory cannot be moved to nodes {wanted}: {error}")
                continue
            if report is not None and report.ended is Ended.COMPLETE:
                decision = replace(before.decision, mems=wanted)
                done = self.move(before, replace(before, decision=decision, etag=uuid.uuid4().hex[:16]))
                if done.decision.mems is None:
                    self._give_up(done, wanted, done.notes[-1] if done.notes else "it could not be bound")
            return

    def _awaited_nodes(self, placement: Placement) -> NodeSet | None:
        """Return the nodes a placement waits to be bound to; None = it does not wait."""
        if placement.state not in _SETTLED or placement.decision.mems is not None or placement.name not in self._held:
            return None
        topology, decision = self._viewer.current().ledger.topology, placement.decision
        wanted = memory_nodes(topology, decision.cpus, placement.request.memory_bytes)
        given_up = self._given_up.get(placement.name) == (decision.cpus, wanted)
        return None if given_up or placement.mechanism != self._enforcer.mechanism else wanted

    def _give_up(self, placement: Placement, wanted: NodeSet, detail: str) -> None:
        self._given_up[placement.name] = (placement.decision.cpus, wanted)
        entry = self._entry(placement, self._held[placement.name])
        self._save(placement.name, lambda: self._journal.update(entry, (time.time(), "refused", detail)))

    def move(self, before: Placement, after: Placement) -> Placement:
        """Apply another decision for a placement; when that fails it sits where it sat."""
        held, host = self._held[before.name], self._enforcer.topology
        intended = replace(after, state=PlacementState.APPLYING)
        self._checkpoint("move: save intent")
        self._journal.update(self._entry(intended, held))
        self._checkpoint("move: apply")
        try:
            applied = self._enforcer.apply(
                before.name,
                held.target,
                spec_of(after.decision).within(host),
                held.undo,
                previous=spec_of(before.decision).within(host),
            )
        except IsolationError as error:  # the enforcer took its steps back
            detail = f"{_change(before.decision, after.decision)} failed: {error}"
            entry = self._entry(before, held)
            self._save(before.name, lambda: self._journal.update(entry, (time.time(), "refused", detail)))
            raise
        self._checkpoint("move: save outcome")
        done = outcome_of(intended, applied, host)
        self._viewer.put(done)  # also when it cannot be saved at once: the intent, which is saved, says the same
        entry, detail = self._entry(done, held), _change(before.decision, done.decision)
        self._save(before.name, lambda: self._journal.update(entry, (time.time(), "placed", detail)))
        return done


def _allotment(decision: Decision) -> Allotment:
    return Allotment(cache_ways=decision.cache_ways, memory_bandwidth=decision.memory_bandwidth)


def _grows(before: Allotment, after: Allotment) -> bool:
    """Tell whether any cache gives more ways than before; who is not restricted has all."""
    had = {one.cache_id: one.mask for one in before.cache_ways}
    has = {one.cache_id: one.mask for one in after.cache_ways}
    return any(cache not in has or not had[cache].covers(has[cache]) for cache in had)


def _change(before: Decision, after: Decision) -> str:
    """Say in one line what a move changed."""
    said = []
    if before.cpus != after.cpus:
        said.append(f"moved from CPUs {before.cpus} to {after.cpus}")
    if before.mems != after.mems:
        said.append(f"memory nodes from {before.mems or 'any'} to {after.mems or 'any'}")
    if before.cache_ways != after.cache_ways:
        said.append(f"cache ways from {_ways(before)} to {_ways(after)}")
    if before.memory_bandwidth != after.memory_bandwidth:
        said.append("memory bandwidth caps changed")
    return ", ".join(said) or "nothing changed"


def _ways(decision: Decision) -> str:
    return ";".join(f"{one.cache_id}={one.mask}" for one in decision.cache_ways) or "all"
