"""Changes of placements that stay: rebalancing, and cache ways that follow who is there. On the writer thread."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import replace
from typing import NamedTuple

from isolation.cpuset import CpuSet, NodeSet
from isolation.enforcer import Enforcer
from isolation.errors import OutOfRmids, ResctrlBusy
from isolation.page_migration import Ended, turn_budget
from scheduler.backoff import Backoff
from scheduler.errors import JournalFailed
from scheduler.held import Held, outcome_of, spec_of
from scheduler.journal import Entry, Journal
from scheduler.ledger import Ledger
from scheduler.placement import LIVE, Decision, Placement, PlacementState
from scheduler.planner import allotted, memory_nodes, rebalance
from scheduler.predictor import Predictor
from scheduler.view import View, Viewer
from scheduler.ways import Allotment, apportion

_log = logging.getLogger("cotenant.moves")
_SETTLED = frozenset({PlacementState.ACTIVE, PlacementState.PARTIAL})


class _Dealt(NamedTuple):
    """What shares depend on; the last is kept because a ledger keeps what was worked out of it."""

    ledger: Ledger
    predictor: Predictor
    fixed: frozenset[str]  #: who is not ours to change now
    changing: Ledger  #: without those

    def is_of(self, view: View, fixed: frozenset[str]) -> bool:
        """Tell whether all is as it was."""
        return self.ledger is view.ledger and self.predictor is view.predictor and self.fixed == fixed


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
        owes: Callable[[str], bool],
        checkpoint: Callable[[str], None],
    ) -> None:
        """`save` keeps what the journal cannot take now until it can; `owes` tells whether it keeps any for a name."""
        self._enforcer = enforcer
        self._journal = journal
        self._viewer = viewer
        self._held = held
        self._entry = entry
        self._save = save
        self._owes = owes
        self._checkpoint = checkpoint
        self._migrated_at_s = time.monotonic()
        self._given_up: dict[str, tuple[float, CpuSet, NodeSet]] = {}  # by name: where its memory could not be brought
        self._told: dict[str, tuple[float, str]] = {}  # by name: the failure that was told last, and of which placement
        self._backoff = Backoff()  # of those whose share could not be given
        self._dealt: _Dealt | None = None  # what the shares were dealt by last

    def turn(self) -> None:
        """Let one turn pass: what failed is tried again after ever more of them."""
        self._backoff.turn()
        self._backoff.keep(self._held.keys())
        self._given_up = {name: one for name, one in self._given_up.items() if name in self._held}
        self._told = {name: one for name, one in self._told.items() if name in self._held}

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
            if validate_only:
                moved.append(replace(before, decision=decision, etag=uuid.uuid4().hex[:16]))
            else:
                moved.append(self.move(before, decision))
        return tuple(moved), result.cost_before, result.cost_after

    def apportion(self) -> None:
        """Give everybody the cache ways and bandwidth that the rule of ways.py says for those who are here now.

        Who loses ways comes before who gains some. Those that are not ours to change now get none and are not planned
        for. A failure leaves that placement as it was and stops nobody else; it is tried again when somebody came or
        went, and after ever more turns. So is a class refused for want of one.
        """
        view = self._viewer.current()
        fixed = frozenset(
            one.name for one in view.placements.values() if one.state in LIVE and not self._follows(one, view)
        )
        known = self._dealt
        if known is None or not known.is_of(view, fixed):
            self._backoff.hurry()
            changing = view.ledger
            for name in fixed:
                changing = changing.without(name)
            known = self._dealt = _Dealt(view.ledger, view.predictor, fixed, changing)
        wanted = apportion(known.changing, view.predictor)
        due = [one for one, allotment in self._changes(wanted) if self._backoff.due(one.name, _matter(one, allotment))]
        refused, changed = self._give(wanted, {one.name for one in due})
        if refused and changed:
            self._give(wanted, refused)  # classes that the others left may be free now

    def _follows(self, placement: Placement, view: View) -> bool:
        """Tell whether a placement is one that changes with who is here, now or once it is completed.

        One that was placed when there was no resctrl cannot be sent home from a class, so it gets none.
        """
        held = self._held.get(placement.name)
        recorded = held is None or held.undo.resctrl is not None or view.ledger.controls is None
        ours = placement.mechanism == self._enforcer.mechanism
        return recorded and ours and placement.state in _SETTLED | {PlacementState.APPLYING}

    def _changes(self, wanted: Mapping[str, Allotment]) -> list[tuple[Placement, Allotment]]:
        """List whose share is another one now, those first who lose some."""
        nothing, view = Allotment(), self._viewer.current()
        changes = [
            (one, wanted.get(name, nothing))
            for name, one in view.placements.items()
            if one.state in _SETTLED
            and name in self._held
            and self._follows(one, view)
            and not self._owes(name)
            and _allotment(one.decision) != wanted.get(name, nothing)
        ]
        return sorted(changes, key=lambda change: _grows(_allotment(change[0].decision), change[1]))

    def _give(self, wanted: Mapping[str, Allotment], names: Collection[str]) -> tuple[set[str], bool]:
        """Give those who are named their shares; return who was refused a class, and whether anybody changed."""
        refused: set[str] = set()
        changed = False
        for before, allotment in self._changes(wanted):
            if before.name not in names:
                continue
            try:
                done = self.move(before, allotted(before.decision, allotment))
            except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this placement alone
                self._backoff.failed(before.name, _matter(before, allotment))
                if isinstance(error, JournalFailed):  # nothing was begun; all else is told by move
                    self._is_news(before, str(error))
                if is_locked(error):
                    break  # the others would wait as long, in vain
                continue
            if _allotment(done.decision) == allotment:
                self._backoff.succeeded(before.name)
            else:
                refused.add(before.name)
                self._backoff.failed(before.name, _matter(before, allotment))
            changed = changed or done.decision != before.decision
        return refused, changed

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
            if wanted is None or self._owes(before.name):
                continue
            try:
                report = self._enforcer.migrate(self._held[before.name].target, wanted, turn_budget(rate, since_s))
                if report is None:  # nobody is in its group now
                    continue
                if report.ended is Ended.COMPLETE:
                    self._bind(before, wanted)
            except (JournalFailed, ResctrlBusy):  # says nothing about its memory
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, nothing was bound; it stays as it is
                self._give_up(before, wanted, f"its memory cannot be moved to nodes {wanted}: {error}")
                continue
            return

    def _bind(self, before: Placement, nodes: NodeSet) -> None:
        done = self.move(before, replace(before.decision, mems=nodes))
        if done.decision.mems is None:
            self._give_up(done, nodes, done.notes[-1] if done.notes else "it could not be bound")

    def _awaited_nodes(self, placement: Placement) -> NodeSet | None:
        """Return the nodes a placement waits to be bound to; None = it does not wait."""
        if placement.state not in _SETTLED or placement.decision.mems is not None or placement.name not in self._held:
            return None
        topology, decision = self._viewer.current().ledger.topology, placement.decision
        wanted = memory_nodes(topology, decision.cpus, placement.request.memory_bytes)
        given_up = self._given_up.get(placement.name) == (placement.created_unix_s, decision.cpus, wanted)
        return None if given_up or placement.mechanism != self._enforcer.mechanism else wanted

    def _give_up(self, placement: Placement, wanted: NodeSet, detail: str) -> None:
        self._given_up[placement.name] = (placement.created_unix_s, placement.decision.cpus, wanted)
        entry = self._entry(placement, self._held[placement.name])
        self._save(placement.name, lambda: self._journal.update(entry, (time.time(), "refused", detail)))

    def move(self, before: Placement, decision: Decision) -> Placement:
        """Apply another decision for a placement; when that fails it sits where it sat."""
        held, host = self._held[before.name], self._enforcer.topology
        etag = uuid.uuid4().hex[:16]
        intended = replace(before, decision=decision, state=PlacementState.APPLYING, etag=etag)
        self._checkpoint("move: save intent")
        self._journal.update(self._entry(intended, held))
        self._checkpoint("move: apply")
        try:
            applied = self._enforcer.apply(
                before.name,
                held.target,
                spec_of(decision).within(host),
                held.undo,
                previous=spec_of(before.decision).within(host),
            )
        except Exception as error:  # the enforcer took its steps back
            detail = f"{_change(before.decision, decision)} failed: {error}"
            event = (time.time(), "refused", detail) if self._is_news(before, detail) else None
            entry = self._entry(before, held)
            self._save(before.name, lambda: self._journal.update(entry, event))
            raise
        self._checkpoint("move: save outcome")
        done = outcome_of(intended, applied, host)
        unchanged = replace(done, etag=before.etag, threads=before.threads) == before  # a class refused once more
        if unchanged:
            done = replace(done, etag=before.etag)
        else:
            self._told.pop(before.name, None)
        self._viewer.put(done)  # also when it cannot be saved at once: the intent, which is saved, says the same
        entry, detail = self._entry(done, held), _change(before.decision, done.decision)
        event = None if unchanged else (time.time(), "placed", detail)
        self._save(before.name, lambda: self._journal.update(entry, event))
        return done

    def _is_news(self, placement: Placement, detail: str) -> bool:
        """Tell whether a failure is another one than the last of this placement, and log it then; called in except."""
        news = (placement.created_unix_s, detail)
        if self._told.get(placement.name) == news:
            return False
        self._told[placement.name] = news
        _log.exception("it stays as it was", extra={"workload": placement.name})
        return True


def _matter(placement: Placement, allotment: Allotment) -> Hashable:
    """Return what is to be tried again: a share, for one placement of that name."""
    return placement.created_unix_s, allotment.cache_ways, allotment.memory_bandwidth


def is_locked(error: Exception) -> bool:
    """Tell whether another program kept the lock of resctrl for longer than we wait, which is seconds each time."""
    return isinstance(error, ResctrlBusy) and not isinstance(error, OutOfRmids)


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
