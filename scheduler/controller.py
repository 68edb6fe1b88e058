"""The writer's work: intent saved, applied, read back, saved.

Everything that changes the kernel or the journal runs on the one writer thread; reads use the current View.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from isolation.enforcer import Enforcer
from isolation.errors import SchemataRejected, SpecInvalid, UndoFailed
from isolation.kernelfs import HOST_FILES, KernelFiles
from isolation.process import boot_id
from scheduler import wire
from scheduler.errors import EtagStale, JournalFailed, PlacementExists, PlacementMissing, RequestIdReused
from scheduler.held import Held, outcome_of, sentence_of, spec_of
from scheduler.journal import Entry, Event, Journal
from scheduler.moves import Moves
from scheduler.placement import LIVE, Decision, Placement, PlacementState, WorkloadRequest
from scheduler.planner import plan
from scheduler.targets import Targets
from scheduler.view import View, Viewer
from scheduler.writer import Writer

_log = logging.getLogger("cotenant.controller")


class Controller:
    """Places and releases; one instance owns journal and kernel."""

    def __init__(
        self,
        *,
        enforcer: Enforcer,
        journal: Journal,
        viewer: Viewer,
        writer: Writer,
        held: dict[str, Held],
        allowed_uids: frozenset[int] | None,
        files: KernelFiles = HOST_FILES,
        checkpoint: Callable[[str], None] = lambda _label: None,
    ) -> None:
        """`checkpoint` is called before each store or kernel step: tests of crashes end the process there."""
        self._enforcer = enforcer
        self._journal = journal
        self._viewer = viewer
        self._writer = writer
        self.targets = Targets(enforcer=enforcer, allowed_uids=allowed_uids, files=files)
        self._checkpoint = checkpoint
        self._held = held
        self._boot_id = boot_id(files=files)
        self._reserved: set[str] = set()  # names of stored records that cannot be read: they must not be overwritten
        #: By placement, or request: what the journal could not save when it was due.
        self._owed: dict[str, Callable[[], None]] = {}
        self._moves = Moves(
            enforcer=enforcer,
            journal=journal,
            viewer=viewer,
            held=held,
            entry=self._entry,
            save=self._save,
            owes=self.owes,
            checkpoint=checkpoint,
        )

    # --- reads ------------------------------------------------------------------------------

    def view(self) -> View:
        """Give the current picture."""
        return self._viewer.current()

    def preview(self, request: WorkloadRequest, *, allow_best_effort: bool) -> Placement:
        """Plan and touch nothing; processes that are named are checked all the same."""
        self._refuse_live_name(request.name)
        self.targets.identify(request, self._held)
        return self._planned(self._decide(request, allow_best_effort=allow_best_effort), request)

    def get(self, name: str) -> Placement:
        """Give one placement; raises PlacementMissing."""
        if found := self.view().placements.get(name):
            return found
        live = ", ".join(sorted(self.view().placements)) or "none"
        raise PlacementMissing(f"no placement is called {name!r}; there are: {live}")

    def events(self, after: int, limit: int) -> tuple[Event, ...]:
        """Give stored events after a sequence number."""
        return self._journal.events(after, limit)

    def happened_since(self, time_unix_s: float) -> bool:
        """Tell whether anybody was placed, moved, released or found elsewhere since then."""
        return self._journal.happened_since(time_unix_s)

    # --- changes, each on the writer thread --------------------------------------------------

    def place(self, request_id: str, digest: bytes, request: WorkloadRequest, *, allow_best_effort: bool) -> Placement:
        """Place a workload; the same request_id and body gives the stored answer."""
        return self._writer.run(lambda: self._place(request_id, digest, request, allow_best_effort=allow_best_effort))

    def release(self, request_id: str, digest: bytes, name: str, etag: str) -> Placement:
        """Restore the exact earlier state; raises PlacementMissing, EtagStale."""
        return self._writer.run(lambda: self._release(request_id, digest, name, etag))

    def rebalance(
        self, *, max_moves: int, min_gain: float, validate_only: bool
    ) -> tuple[tuple[Placement, ...], float, float]:
        """Move those placements whose new place lowers the total predicted cost enough."""

        def job() -> tuple[tuple[Placement, ...], float, float]:
            if validate_only:
                return self._moves.rebalance(max_moves=max_moves, min_gain=min_gain, validate_only=True)
            self.pay()
            moved, before, after = self._moves.rebalance(max_moves=max_moves, min_gain=min_gain, validate_only=False)
            self._moves.apportion()
            return tuple(self.get(one.name) for one in moved), before, after

        return self._writer.run(job)

    def once(self, request_id: str, digest: bytes, work: Callable[[], bytes]) -> bytes:
        """Run a change that needs no intent; its answer is kept for repeats of the request."""

        def job() -> bytes:
            if (earlier := self._earlier(request_id, digest)) is not None:
                return earlier
            answer = work()
            self._journal.answer(request_id, digest, answer)
            return answer

        return self._writer.run(job)

    def move(self, before: Placement, decision: Decision) -> Placement:
        """Apply another decision for a placement; on the writer thread, for the reconciler."""
        return self._moves.move(before, decision)

    # --- place -------------------------------------------------------------------------------

    def _place(self, request_id: str, digest: bytes, request: WorkloadRequest, *, allow_best_effort: bool) -> Placement:
        if (earlier := self._earlier(request_id, digest)) is not None:
            return wire.placement_from_bytes(earlier)
        self.pay()
        self._refuse_live_name(request.name)
        target = self.targets.identify(request, self._held)
        decision = self._decide(request, allow_best_effort=allow_best_effort)
        undo = self._enforcer.snapshot(request.name, target)
        self.targets.refuse_overlap(target, undo, self._held)
        intended = replace(
            self._planned(decision, request),
            state=PlacementState.APPLYING,
            mechanism=str(self._enforcer.mechanism),
            created_unix_s=time.time(),
        )
        held = Held(target, undo, request_id)
        self._checkpoint("place: save intent")
        self._journal.intend(self._entry(intended, held), digest)
        self._checkpoint("place: apply")
        try:
            try:
                applied = self._enforcer.apply(request.name, target, spec_of(decision), undo)
            except (SchemataRejected, SpecInvalid):  # resctrl is not what it was a moment ago: plan with what it is
                self._viewer.offer(self._enforcer.controls())
                intended = replace(intended, decision=self._decide(request, allow_best_effort=allow_best_effort))
                self._journal.update(self._entry(intended, held))
                applied = self._enforcer.apply(request.name, target, spec_of(intended.decision), undo)
        except UndoFailed as error:  # the earlier state is still needed: the reconciler goes on restoring it
            self.keep_releasing(intended, held, ("refused", str(error)))
            raise
        except Exception as error:  # whoever is answered with an error must not be placed later
            self._checkpoint("place: forget")
            self.forget(request.name, request_id, ("refused", str(error)))
            raise
        self._checkpoint("place: save outcome")
        done = outcome_of(intended, applied, self._enforcer.topology)
        try:
            self._journal.settle(
                self._entry(done, held), wire.placement_to_bytes(done), (time.time(), "placed", sentence_of(done))
            )
        except Exception as error:  # what is not saved did not happen
            self.take_back(intended, held, ("refused", str(error)))
            raise
        self._checkpoint("place: answer")
        self._held[request.name] = held
        self._viewer.put(done)
        self._moves.apportion()
        return self._answer_anew(done, request_id, digest)

    def _answer_anew(self, answered: Placement, request_id: str, digest: bytes) -> Placement:
        """Give the placement as it is after all shares were dealt out, also to those who repeat the request."""
        now = self.get(answered.name)
        if now != answered:
            answer = wire.placement_to_bytes(now)
            self._save(f"answer to {request_id}", lambda: self._journal.answer(request_id, digest, answer))
        return now

    def apportion(self) -> None:
        """Look what resctrl offers now and share it out among those who are here; once a turn, on the writer thread."""
        self._moves.turn()
        self._viewer.offer(self._enforcer.controls())
        self._moves.apportion()

    def migrate_memory(self) -> None:
        """Go on moving memory to where it belongs, if that is allowed; on the writer thread."""
        self._moves.migrate_memory()

    def _decide(self, request: WorkloadRequest, *, allow_best_effort: bool) -> Decision:
        view = self.view()
        profile = view.profile_of(request)
        return plan(request, profile, view.ledger, view.predictor, allow_best_effort=allow_best_effort)

    def _planned(self, decision: Decision, request: WorkloadRequest) -> Placement:
        return Placement(
            request=request,
            decision=decision,
            state=PlacementState.PLANNED,
            etag=uuid.uuid4().hex[:16],
            mechanism="",
            threads=0,
            notes=(),
            created_unix_s=0.0,
        )

    def _refuse_live_name(self, name: str) -> None:
        if name in self._reserved:
            raise PlacementExists(
                f"{name!r} is the name of a stored placement that this daemon keeps but cannot read; "
                "choose another name"
            )
        existing = self.view().placements.get(name)
        if existing is not None and existing.state in LIVE:
            raise PlacementExists(
                f"{name!r} is placed already (CPUs {existing.decision.cpus}, {existing.state}); "
                "release it first or choose another name"
            )

    # --- what came to nothing; also for the reconciler, on the writer thread -------------------

    def take_back(self, placement: Placement, held: Held, event: tuple[str, str]) -> None:
        """Restore the earlier state and forget the placement; what cannot be restored now is kept as RELEASING."""
        try:
            self._enforcer.release(held.undo, shared=self._shares(placement.name))
        except Exception as error:  # noqa: BLE001 - whatever it is, the earlier state is still needed
            _log.exception("giving back failed; trying again", extra={"workload": placement.name})
            self.keep_releasing(placement, held, (event[0], f"{event[1]}; and giving back failed: {error}"))
            return
        self.forget(placement.name, held.request_id, event)

    def forget(self, name: str, request_id: str, event: tuple[str, str]) -> None:
        """Drop an intent that came to nothing."""
        self._held.pop(name, None)
        self._viewer.drop(name)
        self._save(name, lambda: self._journal.forget(name, request_id, (time.time(), *event)))

    def keep_releasing(self, placement: Placement, held: Held, event: tuple[str, str]) -> None:
        """Hold on to the earlier state until the reconciler has restored it; nobody is answered then."""
        leaving = replace(placement, state=PlacementState.RELEASING, etag=uuid.uuid4().hex[:16])
        request_id, held = held.request_id, replace(held, request_id="")
        self._held[placement.name] = held
        self._viewer.put(leaving)
        entry = self._entry(leaving, held)
        self._save(placement.name, lambda: self._journal.abandon(entry, request_id, (time.time(), *event)))

    def pay(self) -> None:
        """Save what the journal could not take when it was due; raises JournalFailed while it still cannot.

        Comes before every further change, so that no old entry is written over a newer one.
        """
        for name, write in list(self._owed.items()):
            write()
            del self._owed[name]

    def owes(self, name: str) -> bool:
        """Tell whether something about a placement still waits to be saved; until then it must not change again."""
        return name in self._owed

    def reserve(self, name: str) -> None:
        """Keep a name from being placed: its stored record cannot be read and must not be lost."""
        self._reserved.add(name)

    def reserved(self, name: str) -> bool:
        """Tell whether a stored record that cannot be read has this name."""
        return name in self._reserved

    def expire(self) -> None:
        """Drop the oldest placements that are over."""
        if names := self._viewer.surplus():
            try:
                self._journal.drop(names)
            except JournalFailed:  # the next one that ends tries again
                _log.exception("old placements could not be dropped")
                return
            self._viewer.drop(*names)

    def _save(self, name: str, write: Callable[[], None]) -> None:
        try:
            write()
        except JournalFailed:
            _log.exception("saving failed; trying again before the next change", extra={"workload": name})
            self._owed[name] = write
        else:
            self._owed.pop(name, None)  # what was due before is older

    # --- release -----------------------------------------------------------------------------

    def _release(self, request_id: str, digest: bytes, name: str, etag: str) -> Placement:
        if (earlier := self._earlier(request_id, digest)) is not None:
            return wire.placement_from_bytes(earlier)
        self.pay()
        begun = self._journal.answered(request_id) is not None  # a repeat: the first try itself changed the etag
        placement = self.get(name)
        if etag and etag != placement.etag and not begun:
            raise EtagStale(f"{name!r} has etag {placement.etag}, not {etag}: read it again before releasing it")
        held = self._held.get(name)
        if placement.state not in LIVE or held is None:
            raise PlacementMissing(f"{name!r} was released already ({placement.state})")
        held = replace(held, request_id=request_id)
        leaving = replace(placement, state=PlacementState.RELEASING, etag=uuid.uuid4().hex[:16])
        self._checkpoint("release: save intent")
        self._journal.intend(self._entry(leaving, held), digest)
        self._held[name] = held  # whoever finishes it answers this request
        self._viewer.put(leaving)
        done = self.finish_release(leaving, held, "released")
        self._moves.apportion()
        return done

    def finish_release(self, leaving: Placement, held: Held, kind: str) -> Placement:
        """Restore and settle; on the writer thread, also for the reconciler."""
        self._checkpoint("release: restore")
        released = self._enforcer.release(held.undo, shared=self._shares(leaving.name))
        notes = tuple(f"left over: {one}" for one in released.left_over)
        done = replace(leaving, state=PlacementState.RELEASED, etag=uuid.uuid4().hex[:16], threads=0, notes=notes)
        self._checkpoint("release: save outcome")
        detail = f"{released.restored} threads as before, {released.gone} ended meanwhile"
        self._journal.settle(
            self._entry(done, held),
            wire.placement_to_bytes(done),
            (time.time(), kind, "; ".join((detail, *notes))),
        )
        self._checkpoint("release: answer")
        self._held.pop(leaving.name, None)
        self._viewer.put(done)
        self.expire()
        return done

    def _shares(self, name: str) -> bool:
        """Tell whether another placement may be in the same resctrl group: any that has cache ways or bandwidth."""
        live = (one for one in self.view().placements.values() if one.name != name and one.name in self._held)
        return any(spec_of(one.decision).wants_class for one in live)

    # --- small parts -------------------------------------------------------------------------

    def _earlier(self, request_id: str, digest: bytes) -> bytes | None:
        found = self._journal.answered(request_id)
        if found is None:
            return None
        if found[0] != digest:
            raise RequestIdReused(
                f"request_id {request_id!r} was used for another request; choose a new one for each change"
            )
        return found[1]

    def _entry(self, placement: Placement, held: Held) -> Entry:
        return held.entry(placement, self._boot_id)
