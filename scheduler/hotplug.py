"""CPUs that go offline and come back: who sat on them is moved, makes do with fewer, or shares those that are left.

A placement keeps its decision, so it is as wished again once its CPUs are back. Runs on the writer thread.
"""

from __future__ import annotations

import time

from isolation.enforcer import Enforcer
from isolation.machine import Machine
from isolation.spec import IsolationSpec
from isolation.topology import Topology
from scheduler.errors import NoFeasiblePlacement, NotEnoughCpus, NotEnoughMemory
from scheduler.held import shortage, spec_of
from scheduler.journal import Journal
from scheduler.placement import LIVE, Decision, Placement
from scheduler.planner import plan
from scheduler.view import Viewer


class Hotplug:
    """Notices that the host changed its shape, and says what that means for each placement."""

    def __init__(self, *, machine: Machine, enforcer: Enforcer, journal: Journal, viewer: Viewer) -> None:
        self._machine = machine
        self._enforcer = enforcer
        self._journal = journal
        self._viewer = viewer
        self._revision: object = None
        self._settling = True
        self._waiting: dict[str, Topology] = {}  # by name: the host as it was when the placement was last in order

    def notice(self) -> None:
        """Look whether CPUs or nodes came or went: two short reads, and the whole shape only after a change.

        It is read once more at the next call, since the kernel takes its time to tell all files and groups.
        """
        revision = self._machine.revision()
        if revision == self._revision and not self._settling:
            return
        now, before = self._machine.topology(), self._enforcer.topology
        self._settling, self._revision = revision != self._revision, revision
        if now == before:
            return
        self._enforcer.topology = now
        self._viewer.renew(now)
        for name, placement in self._viewer.current().placements.items():
            if placement.state in LIVE:
                self._waiting.setdefault(name, before)
        if told := _difference(before, now):
            self._journal.event("", time.time(), "host", told)

    def earlier(self, name: str) -> Topology | None:
        """Return the host for which a placement is still set up; None = the present one."""
        return self._waiting.get(name)

    def settled(self, name: str) -> None:
        """Note that a placement fits the present host."""
        self._waiting.pop(name, None)

    def adopt(self, placement: Placement) -> None:
        """Take over a placement of an earlier daemon, whose CPUs may have gone offline meanwhile."""
        if self.note(placement):
            self._waiting[placement.name] = self._enforcer.topology

    def spec(self, placement: Placement) -> IsolationSpec:
        """Give what of a placement's wish the present host can hold."""
        return spec_of(placement.decision).within(self._enforcer.topology)

    def replanned(self, placement: Placement) -> Decision | None:
        """Choose another place for one that has fewer CPUs than it asked for; None = it is fine, or there is none.

        Nobody is pushed over a bound for it.
        """
        view = self._viewer.current()
        left = placement.decision.cpus & self._enforcer.topology.usable
        resident = view.ledger.resident(placement.name)
        if len(left) >= placement.request.cpus or resident is None:
            return None
        others = view.ledger.without(placement.name)
        try:
            return plan(placement.request, resident.profile, others, view.predictor, allow_best_effort=True)
        except (NoFeasiblePlacement, NotEnoughCpus, NotEnoughMemory):
            return None

    def note(self, placement: Placement) -> str:
        """Say which CPUs a placement has to do without; "" = none."""
        return shortage(placement.decision, self._enforcer.topology)


def _difference(before: Topology, now: Topology) -> str:
    parts = [
        f"CPUs {cpus} {what}"
        for cpus, what in (
            (before.usable - now.usable, "went offline, or are not ours to use any more"),
            (now.usable - before.usable, "came online"),
        )
        if cpus
    ]
    return "; ".join(parts)
