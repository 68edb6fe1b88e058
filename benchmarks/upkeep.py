"""How long one turn of the reconciler takes over many placements that are in order: what an idle daemon costs."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.timing import timed_us
from isolation.enforcer import Enforcer
from isolation.topology import Topology
from profiler.host import host_traits
from profiler.registry import ModelRegistry
from profiler.store import ProfileStore
from scheduler.controller import Controller
from scheduler.held import Held
from scheduler.journal import Journal
from scheduler.placement import WorkloadRequest
from scheduler.reconciler import Reconciler
from scheduler.view import Viewer
from scheduler.writer import Writer


@contextmanager
def _processes(count: int) -> Iterator[list[int]]:
    with ExitStack() as stack:
        pids = []
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen(["sleep", "3600"]))
            stack.callback(process.kill)
            pids.append(process.pid)
        yield pids


def time_turns(topology: Topology, *, placements: int, turns: int) -> list[float]:
    """Place that many sleeping processes by what a daemon is made of, then time turns, in microseconds.

    Raises RuntimeError when a turn found anything to tell, for then it was more than a look.
    """
    enforcer = Enforcer.for_host(topology, prefix=f"cotenant-upkeep-{os.getpid()}")
    with tempfile.TemporaryDirectory(prefix="cotenant-upkeep-") as folder, _processes(placements) as pids:
        state = Path(folder)
        journal, writer, held = Journal(state / "journal.db"), Writer(), dict[str, Held]()
        viewer = Viewer(
            topology=topology,
            host=host_traits(topology),
            profiles=ProfileStore(state / "profiles"),
            models=ModelRegistry(state / "models"),
        )
        uids = frozenset({os.geteuid()})
        controller = Controller(
            enforcer=enforcer, journal=journal, viewer=viewer, writer=writer, held=held, allowed_uids=uids
        )
        reconciler = Reconciler(
            controller=controller, enforcer=enforcer, journal=journal, viewer=viewer, writer=writer, held=held
        )
        try:
            for number, pid in enumerate(pids):
                request = WorkloadRequest(name=f"w{number}", cpus=1, pids=(pid,))
                controller.place(f"place-{number}", b"place", request, allow_best_effort=True)
            told = len(journal.events(0, 10 * placements))
            times_us = [timed_us(reconciler.reconcile) for _ in range(turns)]
            if news := journal.events(0, 10 * placements)[told:]:
                raise RuntimeError(f"placements were not left alone: {news[0]}")
            return times_us
        finally:
            for number in range(placements):
                if f"w{number}" in held:
                    controller.release(f"release-{number}", b"release", f"w{number}", "")
            writer.close()
            journal.close()
