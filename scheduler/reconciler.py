"""Belief against kernel: finishes what a crash left half done, repairs foreign drift once, notices the end."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import replace

from isolation.enforcer import Enforcer
from isolation.errors import IsolationError
from isolation.process import boot_id
from scheduler import wire
from scheduler.controller import Controller
from scheduler.held import Held, outcome_of, sentence_of, spec_of
from scheduler.journal import Entry, Journal
from scheduler.placement import LIVE, Placement, PlacementState
from scheduler.view import Viewer
from scheduler.writer import Writer

_log = logging.getLogger("cotenant.reconciler")
_CONTEST_WINDOW_S = 300.0


class Reconciler:
    """Runs its work on the writer thread, so it never races with a request."""

    def __init__(
        self,
        *,
        controller: Controller,
        enforcer: Enforcer,
        journal: Journal,
        viewer: Viewer,
        writer: Writer,
        held: dict[str, Held],
    ) -> None:
        self._controller = controller
        self._enforcer = enforcer
        self._journal = journal
        self._viewer = viewer
        self._writer = writer
        self._held = held
        self._boot_id = boot_id()

    def reconcile(self) -> None:
        """Compare belief with kernel for every live placement and repair once."""
        self._writer.run(self._reconcile)

    def recover(self) -> None:
        """Finish or undo what an earlier daemon left; runs before anything is served."""
        self._writer.run(self._recover)

    def _reconcile(self) -> None:
        for name, placement in list(self._viewer.current().placements.items()):
            held = self._held.get(name)
            if held is None or placement.state not in LIVE:
                continue
            if not held.alive(self._enforcer):
                self._controller.finish_release(placement, held, "gone")
            elif placement.state is PlacementState.RELEASING:
                self._controller.finish_release(placement, held, "released")
            elif placement.state is not PlacementState.CONTESTED:
                self._repair(placement, held)

    def _repair(self, placement: Placement, held: Held) -> None:
        spec = spec_of(placement.decision)
        drifts = self._enforcer.verify(held.target, spec, held.undo)
        if not drifts and placement.state is not PlacementState.PARTIAL:
            return
        now_s = time.monotonic()
        told = "; ".join(str(one) for one in drifts[:4])
        if drifts and held.repaired_at_s is not None and now_s - held.repaired_at_s < _CONTEST_WINDOW_S:
            contested = replace(placement, state=PlacementState.CONTESTED, etag=uuid.uuid4().hex[:16])
            self._journal.update(self._entry(contested, held), (time.time(), "contested", told))
            self._viewer.put(contested)
            return
        try:
            applied = self._enforcer.apply(placement.name, held.target, spec, held.undo)
        except IsolationError as error:  # taken back; tried again at the next turn
            if placement.state is not PlacementState.PARTIAL:
                partial = replace(placement, state=PlacementState.PARTIAL, etag=uuid.uuid4().hex[:16])
                self._journal.update(self._entry(partial, held), (time.time(), "partial", f"repair failed: {error}"))
                self._viewer.put(partial)
            return
        done = outcome_of(placement, applied)
        if drifts:
            held = replace(held, repaired_at_s=now_s)
            done = replace(done, etag=uuid.uuid4().hex[:16])
        self._held[placement.name] = held
        if drifts or done.state is not placement.state:
            self._journal.update(self._entry(done, held), (time.time(), "drift" if drifts else "placed", told))
        self._viewer.put(done)

    def _recover(self) -> None:
        for entry in self._journal.entries():
            try:
                placement = wire.placement_from_bytes(entry.record)
                held = Held.from_entry(entry)
            except (ValueError, KeyError, TypeError) as error:
                # never lose a record that cannot be read, never let it stop the start
                _log.exception("placement record unreadable", extra={"workload": entry.name})
                self._journal.event(entry.name, time.time(), "recovered", f"record unreadable, left alone: {error}")
                continue
            self._recover_one(placement, held, entry.boot_id)
        known = set(self._held)
        for group in self._enforcer.groups():
            if group not in known:
                self._enforcer.remove_orphan(group)

    def _recover_one(self, placement: Placement, held: Held, booted: str) -> None:
        if placement.state not in LIVE:
            self._viewer.put(placement)
            return
        if booted != self._boot_id:  # a reboot ended every process and every group
            gone = replace(placement, state=PlacementState.RELEASED)
            self._journal.update(self._entry(gone, held), (time.time(), "gone", "the host was rebooted"))
            self._viewer.put(gone)
            return
        self._held[placement.name] = held
        self._viewer.put(placement)
        if placement.state is PlacementState.RELEASING or not held.alive(self._enforcer):
            self._controller.finish_release(placement, held, "recovered")
        elif placement.state is PlacementState.APPLYING:
            self._roll_forward(placement, held)

    def _roll_forward(self, placement: Placement, held: Held) -> None:
        try:
            applied = self._enforcer.apply(placement.name, held.target, spec_of(placement.decision), held.undo)
        except IsolationError as error:
            self._enforcer.release(held.undo)  # what was done before the crash is not among the steps taken back
            self._held.pop(placement.name, None)
            self._journal.forget(placement.name, held.request_id, (time.time(), "recovered", f"undone: {error}"))
            self._viewer.drop(placement.name)
            return
        done = outcome_of(placement, applied)
        self._journal.settle(
            self._entry(done, held), wire.placement_to_bytes(done), (time.time(), "recovered", sentence_of(done))
        )
        self._viewer.put(done)

    def _entry(self, placement: Placement, held: Held) -> Entry:
        return held.entry(placement, self._boot_id)
