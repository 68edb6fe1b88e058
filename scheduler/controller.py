"""The writer's work: intent saved, applied, read back, saved.

Everything that changes the kernel or the journal runs on the one writer thread; reads use the current View.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from isolation.enforcer import Enforcer, Target
from isolation.errors import IsolationError
from isolation.process import boot_id, identify
from scheduler import wire
from scheduler.errors import (
    EtagStale,
    JournalFailed,
    PlacementExists,
    PlacementMissing,
    RequestIdReused,
    RequestInvalid,
    Violation,
)
from scheduler.held import Held, outcome_of, sentence_of, spec_of
from scheduler.journal import Entry, Event, Journal
from scheduler.placement import LIVE, Decision, Placement, PlacementState, WorkloadRequest
from scheduler.planner import plan, rebalance
from scheduler.view import View, Viewer
from scheduler.writer import Writer


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
        checkpoint: Callable[[str], None] = lambda _label: None,
    ) -> None:
        """`checkpoint` is called before each store or kernel step: tests of crashes end the process there."""
        self._enforcer = enforcer
        self._journal = journal
        self._viewer = viewer
        self._writer = writer
        self._allowed_uids = allowed_uids
        self._checkpoint = checkpoint
        self._held = held
        self._boot_id = boot_id()

    # --- reads ------------------------------------------------------------------------------

    def view(self) -> View:
        """Give the current picture."""
        return self._viewer.current()

    def preview(self, request: WorkloadRequest, *, allow_best_effort: bool) -> Placement:
        """Plan and touch nothing; processes that are named are checked all the same."""
        self._refuse_live_name(request.name)
        self._identify(request)
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
        return self._writer.run(
            lambda: self._rebalance(max_moves=max_moves, min_gain=min_gain, validate_only=validate_only)
        )

    def once(self, request_id: str, digest: bytes, work: Callable[[], bytes]) -> bytes:
        """Run a change that needs no intent; its answer is kept for repeats of the request."""

        def job() -> bytes:
            if (earlier := self._earlier(request_id, digest)) is not None:
                return earlier
            answer = work()
            self._journal.answer(request_id, digest, answer)
            return answer

        return self._writer.run(job)

    def note_event(self, workload: str, kind: str, detail: str) -> None:
        """Save one event."""
        self._writer.run(lambda: self._journal.event(workload, time.time(), kind, detail))

    # --- place -------------------------------------------------------------------------------

    def _place(self, request_id: str, digest: bytes, request: WorkloadRequest, *, allow_best_effort: bool) -> Placement:
        if (earlier := self._earlier(request_id, digest)) is not None:
            return wire.placement_from_bytes(earlier)
        self._refuse_live_name(request.name)
        target = self._identify(request)
        decision = self._decide(request, allow_best_effort=allow_best_effort)
        undo = self._enforcer.snapshot(request.name, target)
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
            applied = self._enforcer.apply(request.name, target, spec_of(decision), undo)
        except IsolationError as error:
            self._checkpoint("place: forget")
            self._journal.forget(request.name, request_id, (time.time(), "refused", str(error)))
            raise
        self._checkpoint("place: save outcome")
        done = outcome_of(intended, applied)
        try:
            self._journal.settle(
                self._entry(done, held), wire.placement_to_bytes(done), (time.time(), "placed", sentence_of(done))
            )
        except JournalFailed:
            self._enforcer.release(undo)  # what is not saved did not happen
            raise
        self._checkpoint("place: answer")
        self._held[request.name] = held
        self._viewer.put(done)
        return done

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

    def _identify(self, request: WorkloadRequest) -> Target:
        taken = {process.pid: name for name, held in tuple(self._held.items()) for process in held.target.processes}
        for pid in request.pids:
            if owner := taken.get(pid):
                raise RequestInvalid(
                    (Violation("workload.pids.pids", f"{pid} belongs to placement {owner!r}; release that first"),)
                )
        processes = tuple(identify(pid, allowed_uids=self._allowed_uids) for pid in request.pids)
        return Target(processes=processes, cgroup_path=request.cgroup_path)

    def _refuse_live_name(self, name: str) -> None:
        existing = self.view().placements.get(name)
        if existing is not None and existing.state in LIVE:
            raise PlacementExists(
                f"{name!r} is placed already (CPUs {existing.decision.cpus}, {existing.state}); "
                "release it first or choose another name"
            )

    # --- release -----------------------------------------------------------------------------

    def _release(self, request_id: str, digest: bytes, name: str, etag: str) -> Placement:
        if (earlier := self._earlier(request_id, digest)) is not None:
            return wire.placement_from_bytes(earlier)
        placement = self.get(name)
        if etag and etag != placement.etag:
            raise EtagStale(f"{name!r} has etag {placement.etag}, not {etag}: read it again before releasing it")
        held = self._held.get(name)
        if placement.state not in LIVE or held is None:
            raise PlacementMissing(f"{name!r} was released already ({placement.state})")
        held = replace(held, request_id=request_id)
        leaving = replace(placement, state=PlacementState.RELEASING, etag=uuid.uuid4().hex[:16])
        self._checkpoint("release: save intent")
        self._journal.intend(self._entry(leaving, held), digest)
        self._viewer.put(leaving)
        return self.finish_release(leaving, held, "released")

    def finish_release(self, leaving: Placement, held: Held, kind: str) -> Placement:
        """Restore and settle; on the writer thread, also for the reconciler."""
        self._checkpoint("release: restore")
        released = self._enforcer.release(held.undo)
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
        return done

    # --- rebalance ---------------------------------------------------------------------------

    def _rebalance(
        self, *, max_moves: int, min_gain: float, validate_only: bool
    ) -> tuple[tuple[Placement, ...], float, float]:
        view = self.view()
        requests = {name: one.request for name, one in view.placements.items() if one.state is PlacementState.ACTIVE}
        result = rebalance(view.ledger, requests, view.predictor, max_moves=max_moves, min_gain=min_gain)
        moved = []
        for name, decision in result.moves:
            before = view.placements[name]
            after = replace(before, decision=decision, etag=uuid.uuid4().hex[:16])
            if not validate_only:
                after = self._move(before, after)
            moved.append(after)
        return tuple(moved), result.cost_before, result.cost_after

    def _move(self, before: Placement, after: Placement) -> Placement:
        held = self._held[before.name]
        intended = replace(after, state=PlacementState.APPLYING)
        self._checkpoint("move: save intent")
        self._journal.update(self._entry(intended, held))
        self._checkpoint("move: apply")
        try:
            applied = self._enforcer.apply(
                before.name, held.target, spec_of(after.decision), held.undo, previous=spec_of(before.decision)
            )
        except IsolationError as error:  # the enforcer took its steps back: it sits where it sat
            detail = f"move to CPUs {after.decision.cpus} failed: {error}"
            self._journal.update(self._entry(before, held), (time.time(), "refused", detail))
            raise
        self._checkpoint("move: save outcome")
        done = outcome_of(intended, applied)
        self._journal.update(
            self._entry(done, held),
            (time.time(), "placed", f"moved from CPUs {before.decision.cpus} to {after.decision.cpus}"),
        )
        self._viewer.put(done)
        return done

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
