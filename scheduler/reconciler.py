"""Belief against kernel: finishes what a crash left half done, repairs foreign drift once, notices the end."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from google.protobuf.message import DecodeError

from isolation.enforcer import Applied, Enforcer
from isolation.errors import IsolationError, MechanismMissing, ResctrlBusy
from isolation.kernelfs import HOST_FILES, KernelFiles
from isolation.machine import HOST_MACHINE, Machine
from isolation.process import boot_id
from isolation.spec import IsolationSpec
from isolation.topology import Topology
from scheduler import wire
from scheduler.backoff import Backoff
from scheduler.controller import Controller
from scheduler.errors import JournalFailed, SchedulerError
from scheduler.held import Held, outcome_of, sentence_of, spec_of
from scheduler.hotplug import Hotplug
from scheduler.journal import Entry, Journal
from scheduler.moves import is_locked
from scheduler.placement import LIVE, Placement, PlacementState
from scheduler.view import Viewer
from scheduler.writer import Writer

_log = logging.getLogger("cotenant.reconciler")
_CONTEST_WINDOW_S = 300.0
_WORDED = (IsolationError, SchedulerError, OSError)  #: errors whose text says all


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
        files: KernelFiles = HOST_FILES,
        machine: Machine = HOST_MACHINE,
    ) -> None:
        self._controller = controller
        self._enforcer = enforcer
        self._journal = journal
        self._viewer = viewer
        self._writer = writer
        self._held = held
        self._boot_id = boot_id(files=files)
        self._hotplug = Hotplug(machine=machine, enforcer=enforcer, journal=journal, viewer=viewer)
        self._told: dict[tuple[str, Hashable], str] = {}  # by name and matter: the failure that was told last
        self._orphans: set[str] = set()  # groups of ours that no record knows, as of the last turn
        self._locked = ""  # why resctrl cannot be written in this turn
        self._backoff = Backoff()  # of what could not be set right

    def reconcile(self) -> None:
        """Compare belief with kernel for every live placement and repair once."""
        self._writer.run(self._reconcile)

    def recover(self) -> None:
        """Finish or undo what an earlier daemon left; runs before anything is served."""
        self._writer.run(self._recover)

    def give_back(self) -> tuple[str, ...]:
        """Release all there is, for a daemon without a successor; name those that could not be."""
        return self._writer.run(self._give_back)

    def _give_back(self) -> tuple[str, ...]:
        self._locked = ""
        left = []
        for name, placement in list(self._viewer.current().placements.items()):
            held = self._held.get(name)
            if held is None or placement.state not in LIVE:
                continue
            try:
                self._release(placement, held, "released")
            except Exception:  # noqa: BLE001 - whatever it is, it concerns this one alone
                _log.exception("could not be given back", extra={"workload": name})
                left.append(name)
        return tuple(left)

    def _reconcile(self) -> None:
        self._locked = ""
        self._backoff.turn()
        self._backoff.keep(self._held.keys())
        self._guarded("", self._controller.pay, "journal")
        self._guarded("", self._hotplug.notice, "host")
        with self._enforcer.looking_once():
            for name, placement in list(self._viewer.current().placements.items()):
                held = self._held.get(name)
                if held is not None and placement.state in LIVE and not self._controller.owes(name):
                    self._guarded(name, partial(self._reconcile_one, placement, held), placement.created_unix_s)
        self._guarded("", self._remove_orphans, "orphans")
        self._share_out()
        if not self._locked:
            self._guarded("", self._controller.migrate_memory, "memory")
        self._told = {key: told for key, told in self._told.items() if not key[0] or key[0] in self._held}

    def _share_out(self) -> None:
        if not self._locked:
            self._guarded("", self._remove_empty_classes, "classes")
        if not self._locked:
            self._guarded("", self._controller.apportion, "shares")

    def _remove_empty_classes(self) -> None:
        if told := self._enforcer.remove_empty_classes():
            raise IsolationError("; ".join(told))

    def _guarded(self, name: str, work: Callable[[], None], matter: Hashable) -> None:
        """Let the failure of one placement stop neither the others nor the start; it is tried again at every turn."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this one alone
            self._note_lock(error)
            told = str(error) if isinstance(error, _WORDED) else f"{type(error).__name__}: {error}"
            if self._told.get((name, matter)) != told:  # once, not every few seconds
                self._told[name, matter] = told
                _log.exception("not in order; trying again", extra={"workload": name})
                self._tell(name, f"not in order, trying again: {told}")
        else:
            self._told.pop((name, matter), None)

    def _note_lock(self, error: Exception) -> None:
        if is_locked(error):
            self._locked = str(error)

    @contextmanager
    def _waiting_once(self, placement: Placement, held: Held) -> Iterator[None]:
        """Wait for the lock of resctrl once a turn, not for each placement; raises ResctrlBusy at once afterwards."""
        if self._locked and held.undo.resctrl is not None and spec_of(placement.decision).wants_class:
            raise ResctrlBusy(self._locked)
        try:
            yield
        except ResctrlBusy as error:
            self._note_lock(error)
            raise

    def _tell(self, name: str, detail: str) -> None:
        try:
            self._journal.event(name, time.time(), "refused", detail)
        except JournalFailed:
            _log.exception("event could not be saved", extra={"workload": name})

    def _reconcile_one(self, placement: Placement, held: Held) -> None:
        if placement.state is PlacementState.RELEASING:
            self._finish(placement, held, "released")
            return
        now = self._refreshed(placement, held)
        if now is None:
            self._finish(placement, held, "gone")
        elif now.undo.mechanism is not self._enforcer.mechanism:
            raise MechanismMissing(
                f"{placement.name!r} was placed by {str(now.undo.mechanism)!r}, the daemon now uses "
                f"{str(self._enforcer.mechanism)!r}: it stays as it is, unchecked; "
                "start the daemon as it was started then"
            )
        elif placement.state is PlacementState.APPLYING:
            self._roll_forward(placement, now)
        elif placement.state is not PlacementState.CONTESTED:
            if (before := self._hotplug.earlier(placement.name)) is not None:
                self._fit(placement, now, before)
            else:
                self._repair(placement, now)

    def _finish(self, placement: Placement, held: Held, kind: str) -> None:
        with self._waiting_once(placement, held):
            self._controller.finish_release(placement, held, kind)

    def _apply(self, placement: Placement, held: Held, previous: IsolationSpec | None = None) -> Applied:
        with self._waiting_once(placement, held):
            spec = self._hotplug.spec(placement)
            return self._enforcer.apply(placement.name, held.target, spec, held.undo, previous=previous)

    def _refreshed(self, placement: Placement, held: Held) -> Held | None:
        """Note who was born and who took over; None = nobody is left."""
        now = self._controller.targets.refreshed(held)
        if now is None:
            return None
        self._held[placement.name] = now
        if now.target != held.target:  # only this is saved: a restart must know whom to look for
            self._journal.update(self._entry(placement, now))
        return now

    def _fit(self, placement: Placement, held: Held, before: Topology) -> None:
        """Set a placement up for the host as it is now, after CPUs or nodes came or went; no drift of anybody's."""
        spec, previous = self._hotplug.spec(placement), spec_of(placement.decision).within(before)
        matter = (placement.created_unix_s, spec, previous)
        if not self._backoff.due(placement.name, matter):
            return
        if (decision := self._hotplug.replanned(placement)) is not None:
            try:
                with self._waiting_once(placement, held):
                    self._controller.move(placement, decision)
            except IsolationError:  # told by move; it makes do with what is left
                _log.exception("no move off CPUs that went offline", extra={"workload": placement.name})
            else:
                self._hotplug.settled(placement.name)
                return
        if spec == previous and not self._enforcer.verify(held.target, spec, held.undo):
            self._hotplug.settled(placement.name)
            return
        try:
            applied = self._apply(placement, held, previous)
        except IsolationError as error:  # taken back; tried again, ever more rarely
            self._failed(placement, matter, error)
            self._keep_partial(placement, held, f"could not be fitted to the CPUs that are online: {error}")
            return
        self._backoff.succeeded(placement.name)
        self._hotplug.settled(placement.name)
        done = outcome_of(placement, applied, self._enforcer.topology)
        self._change(done, held, "hotplug", self._hotplug.note(done) or f"as wished again: {sentence_of(done)}")

    def _failed(self, placement: Placement, matter: Hashable, error: IsolationError) -> None:
        if not is_locked(error):  # that is over with the lock, and waited for once a turn
            self._backoff.failed(placement.name, matter)

    def _keep_partial(self, placement: Placement, held: Held, detail: str) -> None:
        if placement.state is not PlacementState.PARTIAL:
            self._change(replace(placement, state=PlacementState.PARTIAL), held, "partial", detail)

    def _repair(self, placement: Placement, held: Held) -> None:
        spec = self._hotplug.spec(placement)
        drifts = self._enforcer.verify(held.target, spec, held.undo)
        if not drifts and placement.state is not PlacementState.PARTIAL:
            return
        now_s = time.monotonic()
        foreign = [one for one in drifts if not one.blameless]
        told = "; ".join(str(one) for one in foreign[:4])
        if foreign and held.repaired_at_s is not None and now_s - held.repaired_at_s < _CONTEST_WINDOW_S:
            self._change(replace(placement, state=PlacementState.CONTESTED), held, "contested", told)
            return
        matter = (placement.created_unix_s, spec, drifts)
        if not self._backoff.due(placement.name, matter):
            return
        try:
            applied = self._apply(placement, held)
        except IsolationError as error:  # taken back; tried again, ever more rarely
            self._failed(placement, matter, error)
            self._keep_partial(placement, held, f"repair failed: {error}")
            return
        self._backoff.succeeded(placement.name)
        done = outcome_of(placement, applied, self._enforcer.topology)
        if foreign:
            held = replace(held, repaired_at_s=now_s)
            self._held[placement.name] = held
        if foreign or done.state is not placement.state:
            self._change(done, held, "drift" if foreign else "placed", told or sentence_of(done))
        else:
            self._viewer.put(done)

    def _change(self, placement: Placement, held: Held, kind: str, detail: str) -> None:
        changed = replace(placement, etag=uuid.uuid4().hex[:16])
        self._journal.update(self._entry(changed, held), (time.time(), kind, detail))
        self._viewer.put(changed)

    def _recover(self) -> None:
        found: list[tuple[Placement, Held, Entry]] = []
        for entry in self._journal.entries():
            try:
                found.append((wire.placement_from_bytes(entry.record), Held.from_entry(entry), entry))
            except (ValueError, KeyError, TypeError, AttributeError, DecodeError) as error:
                # never lose a record that cannot be read, never let it stop the start
                _log.exception("placement record unreadable", extra={"workload": entry.name})
                self._controller.reserve(entry.name)
                self._tell(entry.name, f"record unreadable, left alone with its group: {error}")
        for placement, held, entry in sorted(found, key=lambda one: one[0].created_unix_s):
            self._guarded(entry.name, partial(self._recover_one, placement, held, entry), placement.created_unix_s)
        self._controller.expire()
        self._guarded("", self._remove_orphans, "orphans")
        self._share_out()

    def _remove_orphans(self) -> None:
        """Remove empty groups that no record knows; one that still holds threads is nobody's to end, and told once."""
        orphans = {
            one for one in self._enforcer.groups() if one not in self._held and not self._controller.reserved(one)
        }
        for group in sorted(orphans):
            try:
                self._enforcer.remove_orphan(group)
            except IsolationError as error:
                if group not in self._orphans:
                    _log.warning("a group that no record knows stays: %s", error, extra={"workload": group})
                    self._tell(group, f"not in order, trying again: {error}")
        self._orphans = orphans

    def _recover_one(self, placement: Placement, held: Held, entry: Entry) -> None:
        if placement.state not in LIVE:
            self._viewer.put(placement)
            return
        if entry.boot_id != self._boot_id:  # a reboot ended every process and every group
            gone = replace(placement, state=PlacementState.RELEASED, etag=uuid.uuid4().hex[:16], threads=0)
            self._journal.update(self._entry(gone, held), (time.time(), "gone", "the host was rebooted"))
            self._viewer.put(gone)
            return
        self._held[placement.name] = held
        self._viewer.put(placement)
        self._hotplug.adopt(placement)
        if placement.state is PlacementState.RELEASING:
            self._release(placement, held, "recovered")
            return
        now = self._refreshed(placement, held)
        if now is None and placement.state is PlacementState.APPLYING and self._is_first(held):
            self._controller.take_back(placement, held, ("gone", "it ended before it was placed"))
        elif now is None:
            self._release(placement, held, "recovered")
        elif placement.state is PlacementState.APPLYING:
            self._roll_forward(placement, now)

    def _release(self, placement: Placement, held: Held, kind: str) -> None:
        """Finish a release; one that fails is one to finish at the next turns."""
        leaving = replace(placement, state=PlacementState.RELEASING)
        self._viewer.put(leaving)
        self._finish(leaving, held, kind)

    def _is_first(self, held: Held) -> bool:
        """Tell whether what was begun is the placing itself, which nobody was answered yet, and not a later move."""
        known = self._journal.answered(held.request_id) if held.request_id else None
        return known is not None and known[1] is None

    def _roll_forward(self, placement: Placement, held: Held) -> None:
        if held.undo.mechanism is not self._enforcer.mechanism:
            return  # neither to be completed nor to be undone by other means; each turn tells so
        try:
            applied = self._apply(placement, held)
        except IsolationError as error:
            if is_locked(error):  # to give back would wait for it as well
                raise
            if self._is_first(held):  # what was done before the crash is not among the steps taken back
                self._controller.take_back(placement, held, ("recovered", f"undone: {error}"))
            else:  # a move: the caller relies on its placement, so it stays and is tried again
                self._change(
                    replace(placement, state=PlacementState.PARTIAL),
                    held,
                    "partial",
                    f"move could not be completed: {error}",
                )
            return
        done = outcome_of(placement, applied, self._enforcer.topology)
        self._journal.settle(
            self._entry(done, held), wire.placement_to_bytes(done), (time.time(), "recovered", sentence_of(done))
        )
        self._viewer.put(done)

    def _entry(self, placement: Placement, held: Held) -> Entry:
        return held.entry(placement, self._boot_id)
