"""Real daemons and real processes for the tests of this layer, and its writer on fake kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.daemon_process import DaemonProcess
from cotenant import Client, CotenantError
from isolation.enforcer import Enforcer, Mechanism
from isolation.topology import read_topology
from tests.fakes.desk import Desk

THREADED = """
import threading, time
for _ in range(6):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
print("ready", flush=True)
time.sleep(600)
"""


class Victim:
    """A process with threads, and what the kernel says of each."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", THREADED], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert b"ready\n" == self.process.stdout.readline()
        self.pid = self.process.pid

    def state(self) -> dict[int, tuple[str, str]]:
        """Give (allowed CPUs, cgroups) of every thread."""
        found = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            status = (task / "status").read_text()
            cpus = next(line.split()[1] for line in status.splitlines() if line.startswith("Cpus_allowed_list"))
            found[int(task.name)] = (cpus, (task / "cgroup").read_text())
        return found

    def cpus(self) -> set[str]:
        """Give the distinct CPU lists of all threads."""
        return {cpus for cpus, _ in self.state().values()}

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def victim() -> Iterator[Victim]:
    made = Victim()
    yield made
    made.end()


def mechanisms() -> list[str]:
    """Name what this host and this user can do."""
    best = str(Enforcer.for_host(read_topology()).mechanism)
    return ["affinity"] if best == "affinity" else [best, "affinity"]


@pytest.fixture(params=["cgroup", "affinity"])
def mechanism(request: pytest.FixtureRequest) -> str:
    found = mechanisms()
    if request.param == "cgroup":
        if len(found) == 1:
            pytest.skip("no cpuset cgroup can be written here: root and a mounted cpuset controller are needed")
        return found[0]
    return "affinity"


_WAYS = [(1, None), (2, None), (1, Mechanism.AFFINITY)]


@pytest.fixture(params=_WAYS, ids=["v1", "v2", "affinity"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    version, mechanism = request.param
    return Desk(tmp_path, version=version, mechanism=mechanism)


@pytest.fixture(params=_WAYS[:2], ids=["v1", "v2"])
def cgroups(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    version, mechanism = request.param
    return Desk(tmp_path, version=version, mechanism=mechanism)


@pytest.fixture(scope="session", autouse=True)
def _quick_reconciler() -> Iterator[None]:
    before = os.environ.get("COTENANT_RECONCILE_S")
    os.environ["COTENANT_RECONCILE_S"] = "0.2"
    yield
    if before is None:
        del os.environ["COTENANT_RECONCILE_S"]
    else:
        os.environ["COTENANT_RECONCILE_S"] = before


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("d") / "s") as running:
        yield running


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[Client]:
    with Client(daemon.socket) as connected:
        yield connected
        for placement in list(connected.placements()):
            try:
                connected.release(placement.name)
            except CotenantError as error:  # its process has ended and the daemon released it meanwhile
                if error.reason != "PLACEMENT_MISSING":
                    raise
