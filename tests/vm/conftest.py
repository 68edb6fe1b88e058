"""What the suites on a booted kernel share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.daemon_process import DaemonProcess
from cotenant import Client
from isolation.cgroup import find_hierarchy
from isolation.resctrl_info import find_resctrl
from isolation.topology import read_topology


@pytest.fixture(scope="session")
def mount() -> Path:
    """Return the top of cgroup v2 on a machine with two memory nodes."""
    hierarchy = find_hierarchy()
    if hierarchy is None or hierarchy.version != 2:
        pytest.skip("needs cgroup v2 with the cpuset controller; make test-vm boots such a kernel")
    if sum(bool(node.cpus) for node in read_topology().nodes) < 2:
        pytest.skip("needs two NUMA nodes with CPUs; make test-vm boots such a machine")
    return Path(hierarchy.mount)


@pytest.fixture(scope="module")
def resctrl() -> Path:
    """Return where resctrl is mounted."""
    found = find_resctrl()
    if found is None or not (found.path / "info").is_dir():
        pytest.skip("needs a mounted resctrl; make test-vm boots such a kernel")
    return found.path


@pytest.fixture(scope="session")
def client(mount: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Return a client of one daemon for all: under emulation it takes half a minute to start."""
    assert mount.exists()
    state = tmp_path_factory.mktemp("daemon") / "s"
    with DaemonProcess(state, "--mechanism", "cgroup_v2") as daemon, Client(daemon.socket) as connected:
        yield connected
