"""A controller and a reconciler on the fake kernel, with a real journal that can be told to fail."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from isolation.cpuset import CpuSet, NodeSet
from isolation.enforcer import Mechanism
from isolation.topology import Topology
from profiler.records import HostTraits, WorkloadProfile
from profiler.registry import ModelRegistry
from profiler.store import ProfileStore
from scheduler.controller import Controller
from scheduler.errors import JournalFailed
from scheduler.held import Held
from scheduler.journal import Journal
from scheduler.placement import Placement, WorkloadRequest
from scheduler.reconciler import Reconciler
from scheduler.view import Viewer
from scheduler.writer import Writer
from tests.fakes.hotplug import FakeMachine
from tests.fakes.kernel import FakeGroup
from tests.fakes.machines import make_topology
from tests.fakes.predictions import hog
from tests.fakes.resctrl import FakeResctrl

TOPOLOGY = make_topology(cores_per_llc=2)  # CPUs 0-1, node 0


class PowerCut(BaseException):
    """The daemon ends here; nothing of it may run any more."""


class SickKernel(FakeResctrl):
    """Answers EIO when asked for a path that holds one of `unreadable`; resctrl is not mounted unless told so."""

    def __init__(self, *, cpus: str, mems: str, version: int, closids: int, caches: int = 1) -> None:
        self.unreadable: tuple[str, ...] = ()
        domains = tuple(range(caches))
        super().__init__(cpus=cpus, mems=mems, version=version, domains=domains, closids=max(closids, 1))
        self.mounted = closids > 0

    def read(self, path: str) -> str:
        self._refuse(path)
        return super().read(path)

    def folders(self, path: str) -> tuple[str, ...]:
        self._refuse(path)
        return super().folders(path)

    def _refuse(self, path: str) -> None:
        if any(part in path for part in self.unreadable):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)


class FailingJournal(Journal):
    """Saves nothing whose description starts with one of `refused`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.refused: tuple[str, ...] = ()

    @contextmanager
    def _transaction(self, what: str) -> Iterator[sqlite3.Connection]:
        if what.startswith(self.refused):
            raise JournalFailed(f"{what} could not be saved: disk full")
        with super()._transaction(what) as db:
            yield db


class Desk:
    """One fake host and the daemon's writer on it; `restart` is a new daemon after kill -9."""

    def __init__(
        self,
        folder: Path,
        *,
        version: int = 1,
        mechanism: Mechanism | None = None,
        topology: Topology = TOPOLOGY,
        closids: int = 0,
        kernel: SickKernel | None = None,
    ) -> None:
        """`closids` above 0 = resctrl is mounted and has so many classes, the default one among them."""
        self.kernel = kernel or SickKernel(cpus=str(topology.online), mems="0", version=version, closids=closids)
        self.kernel._next_pid = 30_000 if os.getpid() < 20_000 else 10_000  # far from our own, which is refused
        if version == 2:
            self.kernel.groups["/"].subtree.add("cpuset")
        self.machine = FakeMachine(self.kernel, topology)
        self.folder = folder
        self.cut_at = ""
        self.at: dict[str, Callable[[], None]] = {}  # called at a checkpoint
        self._number = 0
        self._store = ProfileStore(folder / "profiles")
        self._models = ModelRegistry(folder / "models")
        self.restart(mechanism)

    def restart(self, mechanism: Mechanism | None = None) -> None:
        """Begin anew from the journal."""
        self.cut_at = ""
        self.topology = self.machine.topology()
        self.enforcer = self.kernel.enforcer(self.topology, mechanism=mechanism)
        self.journal = FailingJournal(self.folder / "journal.db")
        self.viewer = Viewer(
            topology=self.topology,
            host=HostTraits(fingerprint="imaginary", llc_bytes=32e6, memory_bytes_per_s=20e9),
            profiles=self._store,
            models=self._models,
        )
        self.held: dict[str, Held] = {}
        writer = Writer()
        self.controller = Controller(
            enforcer=self.enforcer,
            journal=self.journal,
            viewer=self.viewer,
            writer=writer,
            held=self.held,
            allowed_uids=None,
            files=self.kernel,
            checkpoint=self._checkpoint,
        )
        self.reconciler = Reconciler(
            controller=self.controller,
            enforcer=self.enforcer,
            journal=self.journal,
            viewer=self.viewer,
            writer=writer,
            held=self.held,
            files=self.kernel,
            machine=self.machine,
        )
        self.reconciler.recover()

    def group(self, path: str, cpus: str = "0-1") -> None:
        """Make a group of somebody else's."""
        self.kernel.groups[path] = FakeGroup(CpuSet.parse(cpus), NodeSet.parse("0"))

    def place(
        self,
        name: str,
        *pids: int,
        cpus: int = 1,
        request_id: str = "",
        cgroup_path: str | None = None,
        profile: WorkloadProfile | None = None,
    ) -> Placement:
        """Place a hog, or what the profile says."""
        found = profile or hog(name)
        request = WorkloadRequest(name=name, cpus=cpus, pids=pids, cgroup_path=cgroup_path, inline_profile=found)
        return self.controller.place(request_id or self._fresh(), b"place", request, allow_best_effort=True)

    def release(self, name: str, *, request_id: str = "", etag: str = "") -> Placement:
        """Release a placement."""
        return self.controller.release(request_id or self._fresh(), b"release", name, etag)

    def rebalance(self) -> tuple[Placement, ...]:
        """Rebalance without a limit that matters."""
        return self.controller.rebalance(max_moves=4, min_gain=0.01, validate_only=False)[0]

    def state(self, name: str) -> str:
        """Say the state of a placement; "" = there is none."""
        found = self.viewer.current().placements.get(name)
        return "" if found is None else str(found.state)

    def stored(self, name: str) -> str:
        """Say the state of a placement in the journal."""
        return next((entry.state for entry in self.journal.entries() if entry.name == name), "")

    def cpus(self, pid: int) -> set[str]:
        """Say where the threads of a process may run."""
        return {str(self.kernel.allowed(tid)) for tid in self.kernel.processes[pid].threads}

    def turns(self, count: int) -> None:
        """Let the reconciler take so many turns."""
        for _ in range(count):
            self.reconciler.reconcile()

    def events(self, name: str) -> list[tuple[str, str]]:
        """Give kind and detail of all events of a workload."""
        return [(one.kind, one.detail) for one in self.journal.events(0, 10_000) if one.workload == name]

    def kinds(self, name: str) -> list[str]:
        """Give the kinds of all events of a workload."""
        return [kind for kind, _ in self.events(name)]

    def fail_next(self, code: int, *, after: int = 0, count: int = 1) -> None:
        """Let changes of the kernel fail, beginning after so many that succeed."""
        first = self.kernel.steps + 1 + after
        self.kernel.fail_at = dict.fromkeys(range(first, first + count), code)

    def _fresh(self) -> str:
        self._number += 1
        return f"request-{self._number}"

    def _checkpoint(self, label: str) -> None:
        if label == self.cut_at:
            raise PowerCut
        if label in self.at:
            self.at.pop(label)()
